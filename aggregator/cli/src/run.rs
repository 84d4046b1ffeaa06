//! From the words typed to the exit code.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::ArgMatches;
use clap::error::ErrorKind;
use roost_registry::{Operation, find, find_cli};

use crate::client::Client;
use crate::context::{self, Wanted};
use crate::failure::Failure;
use crate::input::{switch, text};
use crate::out::Out;
use crate::render::Form;
use crate::{command, demo, doctor, events, login, perform, upgrade};

/// What surrounds the command, handed in so that tests have their own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) vars: BTreeMap<String, String>,
    pub(crate) directory: PathBuf,
}

impl Surroundings {
    pub(crate) fn real() -> Self {
        let vars =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self { vars: vars.collect(), directory: std::env::current_dir().unwrap_or_default() }
    }

    /// A variable that is set and not empty.
    pub(crate) fn var(&self, name: &str) -> Option<String> {
        self.vars.get(name).filter(|value| !value.is_empty()).cloned()
    }

    pub(crate) fn set(&self, name: &str) -> bool {
        self.var(name).is_some()
    }
}

/// Runs the command; the answer is its exit code.
pub(crate) fn run(arguments: &[OsString], around: &Surroundings, out: &mut Out<'_>) -> u8 {
    let matches = match command::command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(refused) => return explain(&refused, out),
    };
    match dispatch(&matches, around, out) {
        Ok(()) => 0,
        Err(failure) => {
            failure.show(out);
            failure.exit.code()
        }
    }
}

fn explain(refused: &clap::Error, out: &mut Out<'_>) -> u8 {
    let text = if out.colour { refused.render().ansi().to_string() } else { refused.render().to_string() };
    if matches!(refused.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        out.data(&text);
        return 0;
    }
    out.say(text.trim_end());
    2
}

fn dispatch(matches: &ArgMatches, around: &Surroundings, out: &mut Out<'_>) -> Result<(), Failure> {
    let Some((noun, rest)) = matches.subcommand() else { return Ok(()) };
    match noun {
        "login" => login::login(rest, &wanted(rest), around, out),
        "logout" => login::logout(&wanted(rest), around, out),
        "context" => login::contexts(rest, around, out),
        "events" => events::events(&client(rest, around)?, rest, &form(rest, out), out),
        "api" => perform::api(&client(rest, around)?, rest, out),
        "doctor" => doctor::doctor(&wanted(rest), around, out),
        "completion" => completion(rest, out),
        "version" => {
            out.data(&format!("roost {}\n", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
        "demo" => demo::demo(rest, around, out),
        "ls" | "ps" => find("guest.list").map_or(Ok(()), |list| operation(list, rest, around, out)),
        "explain" => {
            let asked = rest.subcommand().and_then(|(noun, rest)| Some((command::explained(noun)?, rest)));
            asked.map_or(Ok(()), |(explain, rest)| operation(explain, rest, around, out))
        }
        "host" if rest.subcommand_name() == Some("upgrade") => {
            rest.subcommand().map_or(Ok(()), |(_, rest)| upgrade::upgrade(rest, &|| client(rest, around), out))
        }
        _ => {
            let found = rest.subcommand().and_then(|(verb, rest)| Some((find_cli(noun, verb)?, rest)));
            found.map_or(Ok(()), |(found, rest)| operation(found, rest, around, out))
        }
    }
}

fn operation(
    operation: &'static Operation,
    rest: &ArgMatches,
    around: &Surroundings,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let form = form(rest, out);
    perform::perform(operation, rest, &|| client(rest, around), &form, out)
}

/// Which server the flags name.
fn wanted(matches: &ArgMatches) -> Wanted {
    Wanted { url: text(matches, "url"), ca: text(matches, "ca").map(PathBuf::from), context: text(matches, "context") }
}

fn client(matches: &ArgMatches, around: &Surroundings) -> Result<Client, Failure> {
    Client::new(&context::resolve(&wanted(matches), around)?)
}

fn form(matches: &ArgMatches, out: &Out<'_>) -> Form {
    let columns = matches.get_many::<String>("columns").map(|names| names.cloned().collect()).unwrap_or_default();
    Form {
        output: text(matches, "output").unwrap_or_else(|| "table".to_owned()),
        columns,
        no_headers: switch(matches, "no-headers"),
        colour: out.colour,
    }
}

fn completion(matches: &ArgMatches, out: &mut Out<'_>) -> Result<(), Failure> {
    let Some(shell) = matches.get_one::<clap_complete::Shell>("shell") else { return Ok(()) };
    let mut script = Vec::new();
    clap_complete::generate(*shell, &mut command::command(), "roost", &mut script);
    out.data(&String::from_utf8_lossy(&script));
    Ok(())
}
