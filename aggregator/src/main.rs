//! The `roost-aggregator` program.

mod address;
mod api;
mod auth;
mod clock;
mod config;
mod driver;
mod files;
mod handle;
mod https;
mod init;
mod ledger;
mod listen;
mod look;
mod notify;
mod run;
mod service;
mod snmp;
mod witness;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use config::{Arguments, Command, Config};

fn main() -> ExitCode {
    match command(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do when standard error is closed.
            drop(writeln!(std::io::stderr(), "roost-aggregator: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn command(arguments: Arguments) -> anyhow::Result<()> {
    let config = Config::load(&arguments)?;
    match arguments.command {
        Command::Run => {
            service::log(&config.log)?;
            tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run::run(config))
        }
        Command::Init { admin, admin_password_file, admin_password_stdin } => {
            let password = init::given_password(admin_password_file.as_deref(), admin_password_stdin)?;
            init::init(&config, &admin, password)
        }
        Command::Token { minutes, note } => init::token(&config, minutes, note),
        Command::CheckConfig => Ok(writeln!(std::io::stdout(), "{config:#?}")?),
        Command::Ca => init::print_ca(&config),
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
