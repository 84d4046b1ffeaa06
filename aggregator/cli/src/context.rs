//! Which server, and with what right: flags, environment, the context file, and last the demo of this folder.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};
use crate::run::Surroundings;

/// How a server's certificate is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// By the machine's own certificate authorities.
    System,
    /// By these certificates (PEM) alone.
    Pem(String),
}

/// Where to go, and what to show there.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) url: String,
    pub(crate) trust: Trust,
    pub(crate) token: Option<String>,
    /// Where this was found, for `doctor`.
    pub(crate) source: String,
}

/// `~/.config/roost/config.toml`.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// One server somebody logged in to.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    pub(crate) url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// Certificates to trust, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
}

/// `.demo/access.json`, written by `make run`.
#[derive(Clone, Deserialize)]
pub(crate) struct Demo {
    pub(crate) url: String,
    pub(crate) ca: PathBuf,
    #[serde(default)]
    pub(crate) token: Option<String>,
    /// The script that runs the demo's hosts.
    #[serde(default)]
    pub(crate) lab: Option<PathBuf>,
}

/// What the command line says about the server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) url: Option<String>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) context: Option<String>,
}

/// The server to talk to. A token only ever goes to the server it was got for: one from a file is not sent to a `--url`
/// that is not the file's, and one from the environment is not sent where only a file says.
pub(crate) fn resolve(wanted: &Wanted, around: &Surroundings) -> Result<Connection, Failure> {
    let contexts = load(around)?;
    let url = wanted.url.clone().or_else(|| around.var("ROOST_URL"));
    let mut found = match (url, &wanted.context) {
        (Some(url), None) => by_url(url, &contexts, around)?,
        (Some(_), Some(_)) => {
            return Err(Failure::usage("choose a server", "both a URL and a context are given", "give one of them"));
        }
        (None, name) => by_context(name.as_deref(), &contexts, around)?,
    };
    if let Some(path) = wanted.ca.clone().or_else(|| around.var("ROOST_CA").map(PathBuf::from)) {
        found.trust = Trust::Pem(read(&path)?);
    }
    Ok(found)
}

fn by_url(url: String, contexts: &Contexts, around: &Surroundings) -> Result<Connection, Failure> {
    let same = |other: &str| other.trim_end_matches('/') == url.trim_end_matches('/');
    let mut found = match contexts.contexts.iter().find(|(_, context)| same(&context.url)) {
        Some((name, context)) => of_context(name, context),
        None => match demo(around)?.filter(|(_, demo)| same(&demo.url)) {
            Some((path, demo)) => of_demo(&path, demo)?,
            None => Connection { url: url.clone(), trust: Trust::System, token: None, source: "the URL given".into() },
        },
    };
    found.token = around.var("ROOST_TOKEN").or(found.token);
    Ok(found)
}

fn by_context(name: Option<&str>, contexts: &Contexts, around: &Surroundings) -> Result<Connection, Failure> {
    let chosen = name.map(str::to_owned).or_else(|| around.var("ROOST_CONTEXT")).or_else(|| contexts.current.clone());
    if let Some(name) = chosen {
        let context = contexts.contexts.get(&name).ok_or_else(|| {
            Failure::usage(format!("use context {name}"), "there is no such context", "roost context list")
        })?;
        let mut found = of_context(&name, context);
        found.token = around.var("ROOST_TOKEN").or(found.token);
        return Ok(found);
    }
    match demo(around)? {
        Some((path, demo)) => of_demo(&path, demo),
        None => Err(Failure::new(
            Exit::Login,
            "find the server",
            "no --url, no ROOST_URL, no context and no demo here",
            "roost login https://HOST:8443",
        )),
    }
}

fn of_context(name: &str, context: &Context) -> Connection {
    let trust = context.ca.clone().map_or(Trust::System, Trust::Pem);
    Connection { url: context.url.clone(), trust, token: context.token.clone(), source: format!("context {name}") }
}

pub(crate) fn of_demo(path: &Path, demo: Demo) -> Result<Connection, Failure> {
    // Relative paths in the file are meant from the folder that holds `.demo`.
    let ca = path.parent().and_then(Path::parent).map_or_else(|| demo.ca.clone(), |home| home.join(&demo.ca));
    Ok(Connection {
        url: demo.url,
        trust: Trust::Pem(read(&ca)?),
        token: demo.token,
        source: path.display().to_string(),
    })
}

/// The demo of this folder or the nearest above that has one. A file that somebody else could have put there is not used.
pub(crate) fn demo(around: &Surroundings) -> Result<Option<(PathBuf, Demo)>, Failure> {
    let candidates = around.directory.ancestors().map(|folder| folder.join(".demo/access.json"));
    let Some(path) = candidates.into_iter().find(|path| path.is_file()) else { return Ok(None) };
    let owner = fs::metadata(&path).map(|facts| facts.uid()).unwrap_or(u32::MAX);
    if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        return Ok(None);
    }
    let what = || format!("read {}", path.display());
    let text =
        fs::read_to_string(&path).map_err(|cause| Failure::usage(what(), cause.to_string(), "sudo, or make run"))?;
    let demo = serde_json::from_str(&text).map_err(|cause| Failure::usage(what(), cause.to_string(), "make run"))?;
    Ok(Some((path, demo)))
}

/// Where the contexts are kept.
pub(crate) fn path(around: &Surroundings) -> Result<PathBuf, Failure> {
    let home = around.var("XDG_CONFIG_HOME").map(PathBuf::from);
    home.or_else(|| around.var("HOME").map(|home| Path::new(&home).join(".config")))
        .map(|folder| folder.join("roost/config.toml"))
        .ok_or_else(|| Failure::usage("find the context file", "HOME is not set", "set HOME or XDG_CONFIG_HOME"))
}

/// The contexts; none when there is no file.
pub(crate) fn load(around: &Surroundings) -> Result<Contexts, Failure> {
    let Ok(path) = path(around) else { return Ok(Contexts::default()) };
    if !path.exists() {
        return Ok(Contexts::default());
    }
    toml::from_str(&read(&path)?).map_err(|cause| {
        Failure::usage(format!("read {}", path.display()), cause.message().to_owned(), "mend or delete the file")
    })
}

/// Keeps the contexts, readable by their owner alone, all or nothing.
pub(crate) fn save(around: &Surroundings, contexts: &Contexts) -> Result<(), Failure> {
    let path = path(around)?;
    let failed =
        |cause: String| Failure::new(Exit::Failed, format!("write {}", path.display()), cause, "check the folder");
    let text = toml::to_string(contexts).map_err(|cause| failed(cause.to_string()))?;
    write_private(&path, &text).map_err(|cause| failed(cause.to_string()))
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let draft = folder.join(format!(".config.toml.{}", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|cause| {
        Failure::usage(format!("read {}", path.display()), cause.to_string(), "check the path and its mode")
    })
}
