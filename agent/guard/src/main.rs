//! The guard of one host: votes on wards, holds the leases of this host's, and stops their guests when a lease ends. The
//! agent may die, hang or be upgraded meanwhile.

mod clock;
mod config;
mod driver;
mod keep;
mod name;
mod outbox;
mod post;
mod privilege;
mod process;
mod question;
mod scribe;
mod seal;
mod store;
mod visitors;
mod watchdog;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::Context;
use clap::Parser;
use nix::sys::mman::{MlockAllFlags, mlockall};
use tracing_subscriber::filter::LevelFilter;

use config::{Arguments, Command, Config};
use driver::Guard;
use store::Opened;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let config = Config::load(arguments.config.as_deref())?;
    match arguments.command {
        Command::Run => run(&config),
        Command::Ask(question) => question::ask(&config, question),
    }
}

fn run(config: &Config) -> anyhow::Result<()> {
    // Not a filter by module: its patterns take a megabyte.
    let level = std::env::var("ROOST_LOG").ok().and_then(|word| word.parse().ok()).unwrap_or(LevelFilter::INFO);
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false).init();
    for folder in [&config.state_dir, &config.run_dir] {
        make_folder(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let opened = Opened::open(&config.state_dir)?;
    let host = match config.host.or(opened.host) {
        Some(host) => host,
        None => {
            tracing::info!("waiting to be told by the agent which host this is");
            let host = name::learn(&config.socket()).context("be told which host this is")?;
            opened.store.name(host)?;
            host
        }
    };
    let mut guard = Guard::new(config, host, opened)?;
    settle();
    tracing::info!("guarding");
    guard.run()?;
    Ok(())
}

/// Keeps all memory, goes before other programs and is not chosen when memory runs out; goes on where that is forbidden.
fn settle() {
    let tried = [
        ("keep all memory", mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE).map_err(Into::into)),
        ("go before other programs", privilege::hurry()),
        ("be spared when memory runs out", fs::write("/proc/self/oom_score_adj", "-1000")),
    ];
    for (what, done) in tried {
        if let Err(why) = done {
            tracing::warn!(%why, "the guard is not allowed to {what}");
        }
    }
}

fn make_folder(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
