//! The command line: nouns, verbs and flags from the registry's table, and the command's own words.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, Command, ValueHint, value_parser};
use roost_registry::{Field, FieldKind, Http, Kind, Operation, Output, PAGE, Place, find, nouns, verbs};

use crate::size;

/// Ways to write an answer.
pub(crate) const OUTPUTS: [&str; 6] = ["table", "wide", "json", "jsonl", "csv", "name"];

/// The whole command.
pub(crate) fn command() -> Command {
    let mut root = Command::new("roost")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Sees and steers a Roost grid")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .infer_long_args(true)
        .args(global())
        .after_help(
            "Exit codes: 0 ok, 1 failed, 2 usage, 3 login, 4 not found, 5 wrong state, 6 timeout, 7 partly done, 130 interrupted",
        );
    for name in nouns() {
        let noun = noun(name);
        root = root.subcommand(if name == "host" { noun.subcommand(upgrade()) } else { noun });
    }
    root = root.subcommands(own());
    if let Some(list) = find("guest.list") {
        let alias = |name: &'static str| operation(Command::new(name).about("Same as `guest list`"), list);
        root = root.subcommand(alias("ls")).subcommand(alias("ps"));
    }
    root.subcommand(explain())
}

fn explain() -> Command {
    let mut all = Command::new("explain").about("Tell why something is as it is").subcommand_required(true);
    if let Some(guest) = explained("guest") {
        all = all.subcommand(operation(Command::new("guest").about("Same as `guest explain`"), guest));
    }
    if let Some(host) = explained("host") {
        let topic = Arg::new("topic").value_name("TOPIC").value_parser(["memory"]).default_value("memory");
        let host = operation(Command::new("host").about("Same as `host explain-memory`"), host);
        all = all.subcommand(host.arg(topic.help("What of the host")));
    }
    all
}

/// What `explain NOUN` is short for.
pub(crate) fn explained(noun: &str) -> Option<&'static Operation> {
    match noun {
        "guest" => find("guest.explain"),
        "host" => find("host.explain_memory"),
        _ => None,
    }
}

fn global() -> Vec<Arg> {
    let option = |id: &'static str, value: &'static str, help: &'static str| {
        Arg::new(id).long(id).value_name(value).help(help).global(true).help_heading("Global options")
    };
    vec![
        option("url", "URL", "Server to talk to [env: ROOST_URL]"),
        option("ca", "FILE", "Believe only these certificates, PEM [env: ROOST_CA]").value_hint(ValueHint::FilePath),
        option("context", "NAME", "Context to use [env: ROOST_CONTEXT]"),
        option("output", "FORM", "How to write the answer").short('o').value_parser(PossibleValuesParser::new(OUTPUTS)),
        option("columns", "NAMES", "Columns to show, separated by commas").value_delimiter(','),
        option("no-headers", "", "Leave the line of headings out").action(ArgAction::SetTrue),
    ]
}

fn noun(name: &'static str) -> Command {
    let mut noun = Command::new(name).subcommand_required(true).arg_required_else_help(true);
    let words: Vec<&str> = verbs(name).map(|(verb, _)| verb).collect();
    noun = noun.about(format!("{}: {}", name.replace('-', " "), words.join(", ")));
    for (verb, entry) in verbs(name) {
        noun = noun.subcommand(operation(Command::new(verb).about(entry.summary), entry));
    }
    noun
}

fn upgrade() -> Command {
    let switch =
        |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let hosts = Arg::new("names").value_name("NAMES").num_args(0..).help("Hosts, by name or id; none: all");
    Command::new("upgrade")
        .about("Bring hosts to their newest image, one after the other")
        .arg(hosts)
        .arg(switch("one-by-one", "Needed unless one host is named"))
        .arg(switch("restart-only", "Look for no image: drain, restart and resume each host"))
        .arg(switch("force", "Begin although another host is away or a guest is not protected"))
        .after_help(
            "A host looks for a newer image, is drained, restarts, and takes part again; the next one follows once all guests \
             are protected as before. A host that comes back with the image before ends it, and so does a guest that can't \
             be handed over. Ctrl-C leaves the host as it is; the same command goes on, but with --restart-only it begins anew: \
             name the hosts that are left. A drained host among those that are meant is taken for one that an earlier run left.",
        )
}

fn operation(mut command: Command, operation: &'static Operation) -> Command {
    if !operation.detail.is_empty() {
        command = command.after_help(operation.detail);
    }
    for field in operation.fields().filter(|field| wanted(field)) {
        command = command.args(arguments(operation, field));
    }
    if operation.inputs.iter().any(|field| field.place == Place::Body) {
        command = command.arg(
            Arg::new("json")
                .long("json")
                .value_name("FILE")
                .value_hint(ValueHint::FilePath)
                .help("Inputs from a JSON file (- is stdin); flags win over it"),
        );
    }
    if operation.inputs.iter().any(|field| field.kind == FieldKind::Secret) {
        let help = "Read the password from stdin instead of asking for it";
        command = command.arg(Arg::new("password-stdin").long("password-stdin").action(ArgAction::SetTrue).help(help));
    }
    if operation.output == Output::Picture {
        let to = Arg::new("to").long("to").value_name("FILE").value_hint(ValueHint::FilePath);
        command = command.arg(to.help("Write the PNG to this file"));
    }
    if operation.kind == Kind::Slow {
        command = command.args(waiting());
    }
    if asks(operation) {
        command = command.arg(Arg::new("yes").long("yes").short('y').action(ArgAction::SetTrue).help("Don't ask"));
    }
    command
}

/// Inputs that are no flags: pages are followed and forms are made by the command itself.
fn wanted(field: &Field) -> bool {
    let hidden = ["cursor", "offset", "fields", "total", "format"].contains(&field.name);
    !(hidden && PAGE.iter().any(|page| page.name == field.name))
}

/// True where it takes things away for good.
pub(crate) fn asks(operation: &Operation) -> bool {
    operation.method == Http::Delete && (operation.name.ends_with(".delete") || operation.name.ends_with(".remove"))
}

/// True where it takes several things at once.
pub(crate) fn bulk(operation: &Operation) -> bool {
    let paths = operation.inputs.iter().filter(|field| field.place == Place::Path).count();
    paths == 1 && (operation.kind == Kind::Slow || operation.method == Http::Delete)
}

fn waiting() -> [Arg; 2] {
    [
        Arg::new("no-wait").long("no-wait").action(ArgAction::SetTrue).help("Don't wait; print the operation's id"),
        Arg::new("timeout")
            .long("timeout")
            .value_name("TIME")
            .value_parser(size::seconds)
            .help("Stop waiting after this long; the operation goes on"),
    ]
}

/// The flag of a field: `force_after_s` is `--force-after`, `memory_mib` is `--memory`.
pub(crate) fn flag(field: &Field) -> String {
    let bare = match field.kind {
        FieldKind::Seconds => field.name.strip_suffix("_s"),
        FieldKind::Integer => field.name.strip_suffix("_mib"),
        FieldKind::Text
        | FieldKind::Secret
        | FieldKind::Document
        | FieldKind::Number
        | FieldKind::Boolean
        | FieldKind::Time
        | FieldKind::Choice(_)
        | FieldKind::TextList
        | FieldKind::Object(_)
        | FieldKind::List(_)
        | FieldKind::Anything => None,
    };
    bare.unwrap_or(field.name).replace('_', "-")
}

fn arguments(operation: &'static Operation, field: &'static Field) -> Vec<Arg> {
    if field.place == Place::Path {
        let positional =
            Arg::new(field.name).required(true).help(field.help).value_name(field.name.to_ascii_uppercase());
        return vec![if bulk(operation) { positional.num_args(1..) } else { positional }];
    }
    let long = flag(field);
    let full = field.name.replace('_', "-");
    let mut option = Arg::new(field.name).long(long.clone()).help(field.help);
    if full != long {
        option = option.alias(full);
    }
    if field.required && field.kind != FieldKind::Secret {
        option =
            if field.place == Place::Body { option.required_unless_present("json") } else { option.required(true) };
    }
    match field.kind {
        // One that may be left out is asked for where that is wished.
        FieldKind::Secret if !field.required => vec![option.action(ArgAction::SetTrue)],
        FieldKind::Secret => Vec::new(),
        FieldKind::List("disk_spec") => vec![disk()],
        FieldKind::List("nic_spec") => vec![nic()],
        FieldKind::Object("boot") => boot(),
        FieldKind::Boolean => vec![truth(option)],
        FieldKind::Seconds => vec![option.value_name("TIME").value_parser(size::seconds)],
        FieldKind::Integer if field.name.ends_with("_mib") => {
            vec![option.value_name("SIZE").value_parser(size::mebibytes)]
        }
        FieldKind::Integer => vec![option.value_name("N").value_parser(value_parser!(i64))],
        FieldKind::Choice(words) => vec![option.value_parser(PossibleValuesParser::new(words))],
        FieldKind::Document => vec![option.value_name("FILE").value_hint(ValueHint::FilePath)],
        FieldKind::Text | FieldKind::Time | FieldKind::Number | FieldKind::TextList => {
            // `--sort -name` is a value, not a flag.
            vec![option.value_name("TEXT").allow_hyphen_values(field.name == "sort")]
        }
        // Larger inputs come by --json.
        FieldKind::Object(_) | FieldKind::List(_) | FieldKind::Anything => Vec::new(),
    }
}

fn truth(option: Arg) -> Arg {
    option
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .value_parser(value_parser!(bool))
        .value_name("BOOL")
}

fn disk() -> Arg {
    let help = "blank:10G or image:FILE.qcow2 (or image:raw:FILE); may be given again";
    Arg::new("disks").long("disk").value_name("DISK").action(ArgAction::Append).help(help)
}

fn nic() -> Arg {
    let help = "bridge=NAME or user; may be given again";
    Arg::new("nics").long("nic").value_name("NIC").action(ArgAction::Append).help(help)
}

fn boot() -> Vec<Arg> {
    vec![
        Arg::new("kernel").long("kernel").value_name("FILE").help("Boot this kernel of the host's image folder"),
        Arg::new("initrd").long("initrd").value_name("FILE").requires("kernel").help("with this initial RAM disk"),
        Arg::new("cmdline").long("cmdline").value_name("TEXT").requires("kernel").help("and this command line"),
    ]
}

fn own() -> Vec<Command> {
    vec![login(), Command::new("logout").about("Log out of the context in use"), context(), events(), api()]
        .into_iter()
        .chain([
            Command::new("doctor").about("Check server, certificate, clocks, log-in and hosts"),
            Command::new("completion")
                .about("Print completions for a shell")
                .arg(Arg::new("shell").required(true).value_parser(value_parser!(clap_complete::Shell))),
            Command::new("version").about("Print the version"),
            demo(),
        ])
        .collect()
}

fn login() -> Command {
    Command::new("login")
        .about("Log in and keep the session in a context")
        .arg(Arg::new("server").value_name("URL").help("https://HOST[:PORT] (default: that of the context)"))
        .arg(Arg::new("user").long("user").short('u').help("Name to log in with (default: admin)"))
        .arg(
            Arg::new("name")
                .long("name")
                .help("Name to keep it by (default: the context of this server, or the server's name)"),
        )
        .arg(
            Arg::new("password-stdin")
                .long("password-stdin")
                .action(ArgAction::SetTrue)
                .help("Read the password from stdin"),
        )
        .arg(
            Arg::new("fingerprint")
                .long("fingerprint")
                .help("Believe the server if its grid has this key (64 hex digits)"),
        )
}

fn context() -> Command {
    Command::new("context")
        .about("Servers logged in to")
        .subcommand_required(true)
        .subcommand(Command::new("list").about("List contexts"))
        .subcommand(Command::new("use").about("Use a context from now on").arg(Arg::new("name").required(true)))
        .subcommand(
            Command::new("delete")
                .about("Forget a context; `roost logout` first ends its session")
                .arg(Arg::new("name").required(true)),
        )
}

fn events() -> Command {
    Command::new("events")
        .about("Show what happened, or what happens")
        .arg(Arg::new("follow").long("follow").short('f').action(ArgAction::SetTrue).help("Go on as it happens"))
        .arg(
            Arg::new("since")
                .long("since")
                .value_name("N")
                .value_parser(value_parser!(i64))
                .help("Only after this number"),
        )
        .arg(Arg::new("kind").long("kind").help("Only kinds that start with this"))
        .arg(Arg::new("count").long("count").value_name("N").value_parser(value_parser!(u64)).help("End after so many"))
}

fn api() -> Command {
    Command::new("api")
        .about("Send any request to the API")
        .arg(Arg::new("method").required(true).help("GET, POST, PUT, PATCH or DELETE"))
        .arg(Arg::new("path").required(true).help("Such as /guests?limit=3"))
        .arg(Arg::new("data").long("data").short('d').value_name("JSON").help("Body; @FILE reads it, - is stdin"))
}

fn demo() -> Command {
    let host = || Arg::new("host").required(true).value_name("N").value_parser(value_parser!(u8).range(1..));
    Command::new("demo")
        .about("Play with the hosts of `make run`")
        .subcommand_required(true)
        .subcommand(Command::new("kill-host").about("Cut the power of a demo host").arg(host()))
        .subcommand(Command::new("revive-host").about("Bring a demo host back").arg(host()))
        .subcommand(Command::new("status").about("Show the demo's hosts"))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_has_every_noun_and_verb() {
        let mut command = command();
        command.build();
        command.clone().debug_assert();
        for operation in roost_registry::operations() {
            let Some(cli) = operation.cli else { continue };
            let noun = command.find_subcommand(cli.noun).unwrap();
            assert!(noun.find_subcommand(cli.verb).is_some(), "{}", operation.name);
        }
    }

    #[test]
    fn only_what_is_gone_for_good_is_asked_about() {
        let asked: Vec<&str> = roost_registry::operations().iter().filter(|o| asks(o)).map(|o| o.name).collect();
        let gone = ["host.remove", "guest.delete", "backup_policy.delete", "backup.delete"];
        let access = ["join_token.delete", "user.delete", "api_token.delete"];
        let telling = ["silence.delete", "notifier.delete"];
        assert_eq!(asked, [gone.as_slice(), &telling, &access].concat());
    }
}
