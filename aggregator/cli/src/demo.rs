//! `roost demo`: the hosts of `make run`, killed and revived by its own script.

use std::process::Command;

use clap::ArgMatches;

use crate::context;
use crate::failure::{Exit, Failure};
use crate::out::{Out, clean};
use crate::run::Surroundings;

pub(crate) fn demo(matches: &ArgMatches, around: &Surroundings, out: &mut Out<'_>) -> Result<(), Failure> {
    let Some((verb, rest)) = matches.subcommand() else { return Ok(()) };
    let none = |why: &str| Failure::usage("find the demo", why.to_owned(), "make run, then again in that folder");
    let (path, demo) = context::demo(around)?.ok_or_else(|| none("there is no .demo/access.json here or above"))?;
    let lab = demo.lab.ok_or_else(|| none("its access.json names no script"))?;
    // A relative path is meant from the folder that holds `.demo`.
    let home = path.parent().and_then(std::path::Path::parent).unwrap_or(&around.directory);
    let mut command = Command::new(home.join(lab));
    command.arg(verb).current_dir(home);
    if let Ok(Some(host)) = rest.try_get_one::<u8>("host") {
        command.arg(host.to_string());
    }
    let what = format!("run {}", command.get_program().display());
    let failed = |why: String| Failure::new(Exit::Failed, what.clone(), why, "sudo, or make stop and make run");
    let ended = command.output().map_err(|cause| failed(cause.to_string()))?;
    for line in String::from_utf8_lossy(&ended.stdout).lines() {
        out.data(&(clean(line) + "\n"));
    }
    for line in String::from_utf8_lossy(&ended.stderr).lines() {
        out.say(&clean(line));
    }
    if ended.status.success() { Ok(()) } else { Err(failed(ended.status.to_string())) }
}
