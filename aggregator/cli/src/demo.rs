//! `roost demo`: the hosts of `make run`, killed and revived by its own script, and what becomes of their guests.

mod timeline;
mod watch;

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ArgMatches;

use crate::client::Client;
use crate::context;
use crate::failure::{Exit, Failure};
use crate::out::{Out, clean};
use crate::run::Surroundings;

pub(crate) fn demo(matches: &ArgMatches, around: &Surroundings, out: &mut Out<'_>) -> Result<(), Failure> {
    let Some((verb, rest)) = matches.subcommand() else { return Ok(()) };
    let none = |why: &str| Failure::usage("find the demo", why.to_owned(), "make run, then again in that folder");
    let (path, demo) = context::demo(around)?.ok_or_else(|| none("there is no .demo/access.json here or above"))?;
    let lab = demo.lab.clone().ok_or_else(|| none("its access.json names no script"))?;
    // A relative path is meant from the folder that holds `.demo`.
    let home = path.parent().and_then(Path::parent).unwrap_or(&around.directory).to_owned();
    let script = Script { program: home.join(lab), home };
    let host = rest.try_get_one::<u8>("host").ok().flatten();
    let client = || Client::new(&context::of_demo(&path, demo)?);
    match (verb, host) {
        ("kill-host", Some(host)) => watch::kill(&client()?, *host, &script, out),
        ("revive-host", Some(host)) => watch::revive(&client()?, *host, &script, out),
        _ => script.run(&[verb], out),
    }
}

/// The script that runs the demo's hosts.
struct Script {
    program: PathBuf,
    home: PathBuf,
}

impl Script {
    fn run(&self, words: &[&str], out: &mut Out<'_>) -> Result<(), Failure> {
        let what = format!("run {}", self.program.display());
        let failed = |why: String| Failure::new(Exit::Failed, what.clone(), why, "sudo, or make stop and make run");
        let ended = Command::new(&self.program).args(words).current_dir(&self.home).output();
        let ended = ended.map_err(|cause| failed(cause.to_string()))?;
        for line in String::from_utf8_lossy(&ended.stdout).lines() {
            out.data(&(clean(line) + "\n"));
        }
        for line in String::from_utf8_lossy(&ended.stderr).lines() {
            out.say(&clean(line));
        }
        if ended.status.success() { Ok(()) } else { Err(failed(ended.status.to_string())) }
    }
}
