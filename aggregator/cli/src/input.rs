//! From flags to a request.

use std::io::Read;

use clap::ArgMatches;
use roost_registry::{Field, FieldKind, Operation, Place};
use serde_json::{Map, Value, json};

use crate::ask;
use crate::client::Request;
use crate::failure::Failure;
use crate::size;

/// Largest file taken as an input: the server's own bound on bodies.
const LARGEST: u64 = 1 << 20;

/// The request for one operation; `reference` stands for its first path parameter when there are several things to do it to.
pub(crate) fn request(
    operation: &Operation,
    matches: &ArgMatches,
    reference: Option<&str>,
) -> Result<Request, Failure> {
    let (mut request, mut reference) = (Request::default(), reference);
    for segment in operation.path.split('/').skip(1) {
        request.path.push(match segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(name) => reference.take().map(str::to_owned).or_else(|| text(matches, name)).unwrap_or_default(),
            None => segment.to_owned(),
        });
    }
    let mut body = from_file(matches)?;
    for field in operation.fields().filter(|field| field.place != Place::Path) {
        let Some(value) = value(field, matches)? else { continue };
        match field.place {
            Place::Query => request.query.push((field.name.to_owned(), plain(&value))),
            Place::Body | Place::Path => {
                body.insert(field.name.to_owned(), value);
            }
        }
    }
    if operation.inputs.iter().any(|field| field.place == Place::Body) {
        request.body = Some(Value::Object(body));
    }
    Ok(request)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A flag's text, where the command has such a flag and it was given.
pub(crate) fn text(matches: &ArgMatches, id: &str) -> Option<String> {
    matches.try_get_one::<String>(id).ok().flatten().cloned()
}

/// True where the command has such a switch and it was given.
pub(crate) fn switch(matches: &ArgMatches, id: &str) -> bool {
    matches.try_get_one::<bool>(id).ok().flatten().copied().unwrap_or(false)
}

/// A flag's number.
pub(crate) fn number(matches: &ArgMatches, id: &str) -> Option<i64> {
    matches.try_get_one::<i64>(id).ok().flatten().copied()
}

fn texts(matches: &ArgMatches, id: &str) -> Vec<String> {
    matches.try_get_many::<String>(id).ok().flatten().map(|values| values.cloned().collect()).unwrap_or_default()
}

fn value(field: &Field, matches: &ArgMatches) -> Result<Option<Value>, Failure> {
    Ok(match field.kind {
        FieldKind::Secret if !(field.required || switch(matches, field.name) || switch(matches, "password-stdin")) => {
            None
        }
        FieldKind::Secret => Some(json!(ask::password(field.help, switch(matches, "password-stdin"))?)),
        FieldKind::Document => text(matches, field.name).map(|path| file(&path)).transpose()?.map(Value::String),
        FieldKind::Integer | FieldKind::Seconds => number(matches, field.name).map(|number| json!(number)),
        FieldKind::Boolean => matches.try_get_one::<bool>(field.name).ok().flatten().map(|truth| json!(truth)),
        FieldKind::List("disk_spec") => listed(texts(matches, field.name).iter().map(|text| disk(text)))?,
        FieldKind::List("nic_spec") => listed(texts(matches, field.name).iter().map(|text| nic(text)))?,
        FieldKind::Object("boot") => boot(matches),
        FieldKind::TextList => text(matches, field.name).map(|text| text.split(',').map(Value::from).collect()),
        FieldKind::Text | FieldKind::Number | FieldKind::Time | FieldKind::Choice(_) => {
            text(matches, field.name).map(Value::String)
        }
        FieldKind::Object(_) | FieldKind::List(_) | FieldKind::Anything => None,
    })
}

fn listed(values: impl Iterator<Item = Result<Value, Failure>>) -> Result<Option<Value>, Failure> {
    let values = values.collect::<Result<Vec<_>, _>>()?;
    Ok((!values.is_empty()).then_some(Value::Array(values)))
}

/// `blank:10G`, `image:FILE.qcow2`, `image:raw:FILE`. The format is said or stands in the name; it is never guessed.
fn disk(text: &str) -> Result<Value, Failure> {
    let no =
        |why: String| Failure::usage(format!("use --disk {text}"), why, "--disk blank:10G or --disk image:FILE.qcow2");
    match text.split_once(':') {
        Some(("blank", size)) => Ok(json!({"from": "blank", "size_mib": size::mebibytes(size).map_err(no)?})),
        Some(("image", rest)) => {
            let said = rest.split_once(':').filter(|(format, _)| ["raw", "qcow2"].contains(format));
            let named = ["raw", "qcow2"].into_iter().find(|format| rest.ends_with(&format!(".{format}")));
            let (format, path) = said.or_else(|| named.map(|format| (format, rest))).ok_or_else(|| {
                no("the image's format is not clear: say image:raw:FILE or image:qcow2:FILE".to_owned())
            })?;
            Ok(json!({"from": "image", "path": path, "format": format}))
        }
        _ => Err(no("a disk is blank:SIZE or image:FILE".to_owned())),
    }
}

fn nic(text: &str) -> Result<Value, Failure> {
    match text.split_once('=') {
        Some(("bridge", name)) if !name.is_empty() => Ok(json!({ "bridge": name })),
        None if text == "user" => Ok(json!({})),
        _ => Err(Failure::usage(format!("use --nic {text}"), "a network is bridge=NAME or user", "--nic bridge=br0")),
    }
}

fn boot(matches: &ArgMatches) -> Option<Value> {
    let kernel = text(matches, "kernel")?;
    let mut boot = json!({"from": "kernel", "kernel": kernel, "cmdline": text(matches, "cmdline").unwrap_or_default()});
    if let Some(initrd) = text(matches, "initrd") {
        boot["initrd"] = json!(initrd);
    }
    Some(boot)
}

fn from_file(matches: &ArgMatches) -> Result<Map<String, Value>, Failure> {
    let Some(path) = text(matches, "json") else { return Ok(Map::new()) };
    serde_json::from_str(&file(&path)?)
        .map_err(|cause| Failure::usage(format!("read {path}"), cause.to_string(), "give one JSON object"))
}

/// A file's text, or stdin's where the name is `-`.
pub(crate) fn file(path: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path == "-" {
        std::io::stdin().take(LARGEST).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(LARGEST).read_to_string(&mut text))
    };
    read.map_err(|cause| Failure::usage(format!("read {path}"), cause.to_string(), "check the path"))?;
    Ok(text)
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::command::command;

    fn made(line: &[&str]) -> Result<Request, Failure> {
        let matches = command().try_get_matches_from(line).unwrap();
        let (noun, rest) = matches.subcommand().unwrap();
        let (verb, rest) = rest.subcommand().unwrap();
        let operation = roost_registry::find_cli(noun, verb).unwrap();
        request(operation, rest, Some("web1"))
    }

    #[test]
    fn flags_become_the_request() {
        let line = "roost guest create --name w --memory 1G --disk blank:10G --disk image:a/b.qcow2 --nic user --nic bridge=br0 \
                    --kernel vmlinuz --initrd rd --cmdline console=ttyS0 --start";
        let body = made(&line.split_whitespace().collect::<Vec<_>>()).unwrap().body.unwrap();
        let want = json!({
            "name": "w", "memory_mib": 1024, "start": true,
            "disks": [{"from": "blank", "size_mib": 10240}, {"from": "image", "path": "a/b.qcow2", "format": "qcow2"}],
            "nics": [{}, {"bridge": "br0"}],
            "boot": {"from": "kernel", "kernel": "vmlinuz", "initrd": "rd", "cmdline": "console=ttyS0"},
        });
        assert_eq!(body, want);
        let shutdown = made(&["roost", "guest", "shutdown", "web1", "--force-after", "2m"]).unwrap();
        assert_eq!(shutdown.path, ["guests", "web1", "actions", "shutdown"]);
        assert_eq!(shutdown.body, Some(json!({"force_after_s": 120})));
        let pin = made(&["roost", "backup", "pin", "web1", "p1"]).unwrap();
        assert_eq!(pin.path, ["backup-sets", "web1", "backups", "p1", "actions", "pin"], "only the first is the thing");
        let list = made(&["roost", "guest", "list", "--managed=false", "--sort", "-name"]).unwrap();
        assert_eq!(list.query, [("managed".into(), "false".into()), ("sort".into(), "-name".into())]);
        assert_eq!(list.body, None);
        assert_eq!(made(&["roost", "guest", "delete", "web1", "--keep-disks"]).unwrap().query[0].1, "true");
    }

    #[test]
    fn the_format_of_an_image_is_never_guessed() {
        assert_eq!(disk("image:raw:x.img").unwrap()["format"], "raw");
        for bad in ["image:x.img", "image:", "blank:", "blank:x", "x", "image:vmdk:x"] {
            assert_eq!(disk(bad).unwrap_err().exit.code(), 2, "{bad}");
        }
        for bad in ["bridge=", "br0", "tap=x"] {
            assert!(nic(bad).is_err(), "{bad}");
        }
    }
}
