//! How tests of all rooms run programs and wait for what must come.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Generous, as the machine may be loaded.
const SOON: Duration = Duration::from_secs(120);

pub(crate) fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
