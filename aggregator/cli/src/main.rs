//! The `roost` command: a client of the REST API. Nouns and verbs come from the registry's table.

mod ask;
mod client;
mod command;
mod context;
mod demo;
mod doctor;
mod events;
mod failure;
mod input;
mod login;
mod out;
mod perform;
mod render;
mod run;
mod size;
#[cfg(test)]
mod story;
mod trust;
mod upgrade;
mod wait;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use crate::out::Out;
use crate::run::Surroundings;

fn main() -> ExitCode {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    let out_tty = stdout.is_terminal();
    let err_tty = stderr.is_terminal();
    let (mut stdout, mut stderr) = (stdout.lock(), io::LineWriter::new(stderr));
    let around = Surroundings::real();
    let colour = out_tty && !around.set("NO_COLOR");
    let mut out = Out::new(&mut stdout, &mut stderr, colour, err_tty);
    let arguments: Vec<_> = std::env::args_os().collect();
    ExitCode::from(run::run(&arguments, &around, &mut out))
}
