//! Copies in folders are made and removed by a process of their own. A folder may be a mount that hangs at any moment, and
//! who hangs in it can neither be cancelled nor always be killed: that must not be the agent.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use roost_protocol::operation::{Failure, FailureCode};

use crate::act::{failure, io_failure};

/// Longest silence of a copy; a flush of all that a host's memory may hold for a slow mount takes less.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// How long a process that was killed has to be gone, before it is left behind.
const GRACE: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Lines of progress that may wait.
const LINES: usize = 64;
/// Most that is heard of what went wrong.
const WORDS: u64 = 4 << 10;
/// How the process ends when the folder's disk is full, or what it reads is damaged or gone.
pub(crate) const FULL: u8 = 28;
pub(crate) const DAMAGED: u8 = 29;
pub(crate) const GONE: u8 = 30;

/// Starts such processes.
#[derive(Debug)]
pub(super) struct Aside {
    pub(super) program: PathBuf,
    pub(super) patience: Duration,
    /// Killed and not gone, by folder: as long as one hangs there, no other is begun.
    pub(super) hanging: Mutex<BTreeMap<String, Child>>,
}

impl Aside {
    pub(super) fn new() -> Self {
        // Also when the file was replaced by a newer one since the agent began.
        Self { program: "/proc/self/exe".into(), patience: PATIENCE, hanging: Mutex::default() }
    }

    /// Runs to the end of the process, or to that of our patience.
    pub(super) fn run(
        &self,
        folder: &str,
        arguments: &[OsString],
        unwanted: &AtomicBool,
        tell: &dyn Fn(u32, &str),
    ) -> Result<(), Failure> {
        self.nothing_hangs(folder)?;
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| io_failure("start a process for a copy", &error))?;
        let lines = child.stdout.take().map(listen).transpose();
        let lines = lines.map_err(|error| io_failure("hear the process of a copy", &error))?;
        match self.watch(&mut child, lines, folder, unwanted, tell) {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(said(&mut child, status, folder)),
            Err(why) => {
                self.end(child, folder);
                Err(why)
            }
        }
    }

    fn nothing_hangs(&self, folder: &str) -> Result<(), Failure> {
        let mut hanging = self.hanging.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = hanging.get_mut(folder).map(|child| !matches!(child.try_wait(), Ok(None)));
        match ended {
            None => Ok(()),
            Some(true) => {
                hanging.remove(folder);
                Ok(())
            }
            Some(false) => Err(away(folder, "an earlier copy still hangs in it")),
        }
    }

    fn watch(
        &self,
        child: &mut Child,
        lines: Option<Receiver<String>>,
        folder: &str,
        unwanted: &AtomicBool,
        tell: &dyn Fn(u32, &str),
    ) -> Result<ExitStatus, Failure> {
        let mut heard = Instant::now();
        loop {
            if unwanted.load(Ordering::Relaxed) {
                let text = "the copy was cancelled; what is there is used next time";
                return Err(failure(FailureCode::Cancelled, text));
            }
            match lines.as_ref().map(|lines| lines.recv_timeout(LOOK)) {
                Some(Ok(line)) => {
                    heard = Instant::now();
                    // How much is to come is seen only on the way, so there is no percentage.
                    tell(0, &line);
                }
                Some(Err(RecvTimeoutError::Timeout)) => {}
                Some(Err(RecvTimeoutError::Disconnected)) | None => thread::sleep(LOOK),
            }
            if let Some(status) = child.try_wait().map_err(|error| io_failure("wait for a copy", &error))? {
                return Ok(status);
            }
            if heard.elapsed() > self.patience {
                return Err(away(folder, &format!("nothing was heard of it for {} s", self.patience.as_secs())));
            }
        }
    }

    /// Kills it; one that hangs in the kernel is left behind, and found again.
    fn end(&self, mut child: Child, folder: &str) {
        let _ = child.kill();
        let end = Instant::now() + GRACE;
        while Instant::now() < end {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(LOOK);
        }
        tracing::warn!(folder, "a copy hangs in a folder that does not answer");
        self.hanging.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned(), child);
    }
}

fn away(folder: &str, why: &str) -> Failure {
    failure(FailureCode::TargetAway, format!("the folder {folder} does not answer ({why}): is its server reachable?"))
}

/// Hands on what the process says, line by line, until it ends.
fn listen(out: ChildStdout) -> std::io::Result<Receiver<String>> {
    let (sender, lines) = sync_channel(LINES);
    thread::Builder::new().name("copy".into()).spawn(move || {
        let short = BufReader::new(out).lines().map_while(Result::ok).map(|line| line.chars().take(80).collect());
        for line in short {
            if sender.send(line).is_err() {
                return;
            }
        }
    })?;
    Ok(lines)
}

fn said(child: &mut Child, status: ExitStatus, folder: &str) -> Failure {
    let mut words = Vec::new();
    if let Some(err) = child.stderr.take() {
        let _ = err.take(WORDS).read_to_end(&mut words);
    }
    let words = String::from_utf8_lossy(&words).trim().replace('\n', " ");
    let code = match status.code().map(u8::try_from) {
        Some(Ok(FULL)) => FailureCode::NoSpace,
        Some(Ok(DAMAGED)) => FailureCode::Damaged,
        Some(Ok(GONE)) => FailureCode::NotFound,
        Some(_) | None => FailureCode::TargetAway,
    };
    failure(code, format!("copies in {folder}: {words}"))
}

#[cfg(test)]
mod test {
    use super::*;

    fn ran(script: &str, unwanted: bool) -> (Result<(), Failure>, Vec<String>) {
        let aside = Aside { program: "sh".into(), patience: Duration::from_secs(2), hanging: Mutex::default() };
        let told = std::cell::RefCell::new(Vec::new());
        let tell = |_: u32, text: &str| told.borrow_mut().push(text.to_owned());
        let ended = aside.run("/mnt/nas", &["-c".into(), script.into()], &AtomicBool::new(unwanted), &tell);
        (ended, told.into_inner())
    }

    #[test]
    fn what_a_copy_says_is_handed_on_and_how_it_ends_has_a_reason() {
        assert_eq!(ran("echo 1 MiB; echo 2 MiB; sleep 0.3", false), (Ok(()), vec!["1 MiB".into(), "2 MiB".into()]));
        for (code, wanted) in [(28, FailureCode::NoSpace), (29, FailureCode::Damaged), (1, FailureCode::TargetAway)] {
            let why = ran(&format!("echo no room >&2; exit {code}"), false).0.unwrap_err();
            assert_eq!((why.code, why.text.as_str()), (wanted, "copies in /mnt/nas: no room"));
        }
    }

    #[test]
    fn a_copy_that_falls_silent_or_is_unwanted_is_ended() {
        let silent = ran("echo 1 MiB; kill -STOP $$", false).0.unwrap_err();
        assert!(silent.code == FailureCode::TargetAway && silent.text.contains("does not answer"), "{}", silent.text);
        assert_eq!(ran("sleep 1000", true).0.unwrap_err().code, FailureCode::Cancelled);
    }

    #[test]
    fn while_one_hangs_no_other_is_begun_there() {
        let aside = Aside::new();
        let hung = Command::new("sleep").arg("1000").spawn().unwrap();
        aside.hanging.lock().unwrap().insert("/mnt/nas".into(), hung);
        assert!(aside.nothing_hangs("/mnt/other").is_ok());
        assert!(aside.nothing_hangs("/mnt/nas").unwrap_err().text.contains("still hangs"));
        aside.hanging.lock().unwrap().get_mut("/mnt/nas").unwrap().kill().unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while aside.nothing_hangs("/mnt/nas").is_err() {
            assert!(Instant::now() < end);
            thread::sleep(LOOK);
        }
    }
}
