//! A host is dead to all others, but its guest answers where it is probed: nobody goes on with the guest while it does.

use std::path::Path;

use anyhow::{Result, ensure};
use roost_tests::grid::{self, Grid, eventually};

use crate::joined::{PROTECTED, UP_AGAIN, await_protected, is, join_with, make_guest, shows_protected};

/// Where the guest is probed, from each host: for this story nobody but the second home hears it there.
pub(super) const DOOR: &str = "tcp://127.0.0.1:8099";

/// Opens it on that host. Its process, for the other host's sake.
pub(super) fn answer(grid: &Grid, host: u8) -> Result<u32> {
    let server = "exec python3 -m http.server --bind 127.0.0.1 --directory / 8099";
    let pid = grid.lab.spawn(host, Path::new("/dev/null"), &["timeout", "--foreground", "600", "sh", "-c", server])?;
    eventually("the door is open", PROTECTED, || {
        grid.lab
            .exec(host, &["python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 8099), 9)"])
            .map(drop)
    })?;
    Ok(pid)
}

fn alarms(grid: &Grid) -> Result<String> {
    Ok(grid.api.get("/alarms?guest=desk")?.to_string())
}

#[test]
fn real_guest_that_answers_without_a_lease_is_left_where_it_is_until_it_answers_no_more() {
    grid::story(3, |grid| {
        let guards = join_with(grid, 3, "fast")?;
        let guest = make_guest(grid)?;
        let second = await_protected(&guards, guest)?;
        shows_protected(grid, second)?;
        let (server, _) = (answer(grid, second)?, answer(grid, 1)?);
        grid.roost(&["guest", "probe", "desk", "--probes", DOOR])?;
        // The second home has to know of it when it counts.
        eventually("its hosts are told where it answers", PROTECTED, || {
            let shown = grid.api.get("/guests/desk")?;
            ensure!(shown["access"][0]["probe"] == DOOR, "{shown}");
            Ok(())
        })?;
        guards.power_off(1)?;
        eventually("it is said that it answers", PROTECTED, || {
            let told = alarms(grid)?;
            ensure!(told.contains("answers-without-lease"), "{told}");
            let told = grid.roost(&["explain", "guest", "desk"])?;
            ensure!(told.contains("the guests still answer"), "{told}");
            Ok(())
        })?;
        let there = grid.virsh(second, &["list", "--all", "--name"])?;
        ensure!(!there.contains("desk"), "it was taken over: {there}");

        grid.lab.exec(second, &["kill", &server.to_string()])?;
        eventually("the guest runs on its second home", UP_AGAIN, || is(grid, second, "running"))?;
        eventually("the alarm is over", PROTECTED, || {
            let told = alarms(grid)?;
            ensure!(!told.contains("answers-without-lease"), "{told}");
            Ok(())
        })
    })
}
