//! Restarts this host, once for each time that it is asked, and never while a guest executes.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use roost_protocol::operation::{Failure, FailureCode};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::act::{failure, io_failure};

/// The program only says that the host is to go; one that takes longer has begun all the same.
const WITHIN: Duration = Duration::from_secs(10);
/// A host that still stands after this is not about to go: who asks again is not one whose answer was lost.
const GOES_WITHIN: Duration = Duration::from_secs(60);
/// Letters of what a program said.
const WORDS: usize = 512;
/// QEMU, as distributions call it.
const NAMES: [&str; 3] = ["qemu-system-", "qemu-kvm", "kvm"];

/// What changes guests goes through, unless this host is about to restart; it restarts when nothing is within.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<std::sync::Mutex<Passage>>);

#[derive(Debug, Default)]
struct Passage {
    within: usize,
    shut: Option<Instant>,
}

/// Something that is within; dropping it leaves.
#[derive(Debug)]
pub(crate) struct Within(Gate);

impl Gate {
    /// None: this host is about to restart.
    pub(crate) fn enter(&self) -> Option<Within> {
        let mut passage = self.passage();
        if passage.is_shut() {
            return None;
        }
        passage.within += 1;
        Some(Within(self.clone()))
    }

    /// False, and as it was: something is within.
    pub(super) fn shut(&self) -> bool {
        let mut passage = self.passage();
        if passage.within == 0 {
            passage.shut = Some(Instant::now());
        }
        passage.within == 0
    }

    fn open(&self) {
        self.passage().shut = None;
    }

    /// Whole after every change.
    fn passage(&self) -> std::sync::MutexGuard<'_, Passage> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Passage {
    fn is_shut(&self) -> bool {
        self.shut.is_some_and(|at| at.elapsed() < GOES_WITHIN)
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        self.0.passage().within -= 1;
    }
}

/// What restarts this host.
#[derive(Clone, Debug)]
pub(crate) struct Reboot {
    /// Of now.
    pub(crate) boot: String,
    /// Program and arguments; empty: none may.
    pub(crate) program: Vec<String>,
    pub(crate) proc: PathBuf,
    gate: Gate,
    /// One who asks at a time.
    turn: Arc<Mutex<()>>,
}

impl Reboot {
    pub(crate) fn new(boot: &str, program: &[String], gate: Gate) -> Self {
        Self { boot: boot.into(), program: program.to_vec(), proc: "/proc".into(), gate, turn: Arc::default() }
    }

    /// Done: it has begun. `boot`: the start of this host that is to end.
    pub(crate) async fn begin(&self, boot: &str) -> Result<(), Failure> {
        if boot != self.boot {
            return Err(failure(FailureCode::WrongState, "this host was restarted since that was asked"));
        }
        let Some((program, words)) = self.program.split_first() else {
            let text = "reboot_command is empty in this host's settings: it is not restarted from afar";
            return Err(failure(FailureCode::Unsupported, text));
        };
        let _turn = self.turn.lock().await;
        if self.gate.passage().is_shut() {
            return Ok(());
        }
        if !self.gate.shut() {
            let text = "this host starts, makes, changes or removes a guest just now";
            return Err(failure(FailureCode::WrongState, text));
        }
        let ended = self.if_nothing_executes(program, words).await;
        if ended.is_err() {
            self.gate.open();
        }
        ended
    }

    async fn if_nothing_executes(&self, program: &str, words: &[String]) -> Result<(), Failure> {
        let guests = executing(&self.proc).map_err(|error| io_failure("look for processes of guests", &error))?;
        if let Some(first) = guests.first() {
            let text = format!("{} processes of guests execute on this host, such as process {first}", guests.len());
            return Err(failure(FailureCode::WrongState, text));
        }
        tracing::warn!(program, "this host is restarted, as its aggregator asks");
        run(program, words).await
    }
}

async fn run(program: &str, words: &[String]) -> Result<(), Failure> {
    let mut command = Command::new(program);
    let output = command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).output();
    let Ok(ended) = timeout(WITHIN, output).await else { return Ok(()) };
    let no = |why: String| failure(FailureCode::Unsupported, format!("restart this host by {program}: {why}"));
    let ended = ended.map_err(|error| no(error.to_string()))?;
    if ended.status.success() {
        return Ok(());
    }
    let said: String = String::from_utf8_lossy(&ended.stderr).trim().chars().take(WORDS).collect();
    Err(no(format!("{}: {said}", ended.status)))
}

/// Processes of guests, whoever started them.
fn executing(proc: &Path) -> std::io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(proc)? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        match fs::read(path.join("cmdline")) {
            Ok(line) if is_guest(&line) => found.push(pid),
            Ok(_) => {}
            // One that ended meanwhile executes nothing.
            Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32) => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// A QEMU that has a machine: libvirt asks one without what QEMU can do.
fn is_guest(line: &[u8]) -> bool {
    let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let name = words.first().map_or("", |program| program.rsplit('/').next().unwrap_or_default());
    let no_machine = words
        .iter()
        .zip(words.iter().skip(1))
        .any(|(flag, value)| matches!(flag.as_ref(), "-machine" | "-M") && value.split(',').next() == Some("none"));
    let named = |known: &str| if known.ends_with('-') { name.starts_with(known) } else { name == known };
    NAMES.into_iter().any(named) && !no_machine
}

#[cfg(test)]
mod test {
    use super::*;

    /// A program that leaves a letter for each time it is run, and processes as /proc shows them.
    fn rig(lines: &[&str]) -> (tempfile::TempDir, Reboot) {
        let folder = tempfile::tempdir().unwrap();
        for (pid, line) in (1..).zip(lines) {
            let process = folder.path().join(format!("proc/{pid}"));
            fs::create_dir_all(&process).unwrap();
            fs::write(process.join("cmdline"), line.replace(' ', "\0")).unwrap();
        }
        fs::create_dir_all(folder.path().join("proc")).unwrap();
        let script = format!("printf x >> {}/ran", folder.path().display());
        let mut reboot = Reboot::new("now", &["sh".into(), "-c".into(), script], Gate::default());
        reboot.proc = folder.path().join("proc");
        (folder, reboot)
    }

    fn ran(folder: &tempfile::TempDir) -> usize {
        fs::read(folder.path().join("ran")).unwrap_or_default().len()
    }

    #[tokio::test]
    async fn a_host_is_restarted_once_however_often_that_is_asked() {
        let others =
            ["/sbin/init", "/usr/bin/qemu-img convert a b", "/usr/bin/qemu-system-x86_64 -machine none,accel=kvm"];
        let (folder, reboot) = rig(&others);
        for _ in 0..3 {
            reboot.begin("now").await.unwrap();
        }
        assert_eq!(ran(&folder), 1);
        let why = reboot.begin("before").await.unwrap_err();
        assert!(why.code == FailureCode::WrongState && why.text.contains("was restarted since"), "{why:?}");
    }

    #[tokio::test]
    async fn nothing_begins_on_a_host_that_goes_and_it_does_not_go_in_the_middle_of_something() {
        let (folder, reboot) = rig(&["/sbin/init"]);
        let within = reboot.gate.enter().unwrap();
        assert_eq!(reboot.begin("now").await.unwrap_err().code, FailureCode::WrongState);
        drop(within);
        assert!(reboot.gate.enter().is_some(), "a refusal shuts nothing");
        reboot.begin("now").await.unwrap();
        assert_eq!((ran(&folder), reboot.gate.enter().is_some()), (1, false));
        let (folder, mut failing) = rig(&["/sbin/init"]);
        failing.program = vec!["false".into()];
        failing.begin("now").await.unwrap_err();
        assert_eq!((ran(&folder), failing.gate.enter().is_some()), (0, true), "it stays, so guests may start");
    }

    #[tokio::test]
    async fn a_host_on_which_a_guest_executes_is_left_alone() {
        for line in ["/usr/bin/qemu-system-x86_64 -name guest=g", "/usr/libexec/qemu-kvm -S", "kvm -machine q35"] {
            let (folder, reboot) = rig(&["/sbin/init", line]);
            let why = reboot.begin("now").await.unwrap_err();
            assert_eq!((why.code, ran(&folder)), (FailureCode::WrongState, 0), "{line}");
            assert!(why.text.contains("process 2"), "{}", why.text);
        }
    }

    #[tokio::test]
    async fn a_host_that_can_t_be_restarted_says_why_and_may_be_asked_again() {
        let (_folder, mut reboot) = rig(&[]);
        reboot.program = vec!["sh".into(), "-c".into(), "echo access denied >&2; exit 4".into()];
        for _ in 0..2 {
            let why = reboot.begin("now").await.unwrap_err();
            assert!(why.text.contains("access denied"), "{}", why.text);
        }
        reboot.program = vec!["/nowhere/reboot".into()];
        assert!(reboot.begin("now").await.unwrap_err().text.contains("by /nowhere/reboot"));
        reboot.program.clear();
        assert_eq!(reboot.begin("now").await.unwrap_err().code, FailureCode::Unsupported);
    }
}
