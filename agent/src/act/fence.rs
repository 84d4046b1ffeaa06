//! Speaks to fence devices through the distribution's fence-agents: a command with a time-out, told on its standard input
//! what to do, so that its secret stands in no list of processes.
//!
//! What a command says counts only together with how it ends: 2 is the end of "it is off", and of wrong parameters too.

#[cfg(test)]
mod bmc;

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use roost_agent_core::Event;
use roost_protocol::HostId;
use roost_protocol::fence::{FenceDevice, Power};
use roost_protocol::operation::{Failure, FailureCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::act::{failure, io_failure};

/// Where the distribution has them.
const FOLDER: &str = "/usr/sbin";
/// A device that doesn't say within this how its host is doesn't answer; less than anybody who looks waits.
const STATUS_WITHIN: Duration = Duration::from_secs(15);
/// Cutting power takes some devices seconds, and they are asked until it is gone.
const OFF_WITHIN: Duration = Duration::from_secs(40);
/// Bytes of its words that are kept; the rest is read and forgotten.
const WORDS: usize = 2_048;
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Ends of a command that was asked for the status.
const IS_ON: i32 = 0;
const IS_OFF: i32 = 2;

/// How a command ended, and what it said.
struct Said {
    status: ExitStatus,
    out: String,
    err: String,
}

/// Cuts a host's power and tells [`Event::Fenced`] whether that is so for certain. Then it gets power again: it comes back
/// as after any crash, and owns nothing before it is elected anew.
pub(crate) fn begin(host: HostId, device: FenceDevice, events: mpsc::Sender<Event>) {
    tokio::spawn(async move {
        let result = off(&device).await;
        let is_off = result.is_ok();
        let _ = events.send(Event::Fenced { host, result }).await;
        if is_off && let Err(why) = on(&device).await {
            tracing::warn!(%host, why = why.text, "the host was switched off, and could not be switched on again");
        }
    });
}

/// What a device says of its host.
pub(crate) async fn power(device: &FenceDevice) -> Result<Power, Failure> {
    let said = run(device, "status", STATUS_WITHIN).await?;
    let says = |word: &str| said.out.lines().any(|line| line.trim().eq_ignore_ascii_case(word));
    match said.status.code() {
        Some(IS_ON) if says("Status: ON") => Ok(Power::On),
        Some(IS_OFF) if says("Status: OFF") => Ok(Power::Off),
        Some(_) | None => Err(refused(device, &said, "tell whether the host is on")),
    }
}

/// Cuts the power. Done only if the device, asked again, says that the host is off.
async fn off(device: &FenceDevice) -> Result<(), Failure> {
    let said = run(device, "off", OFF_WITHIN).await?;
    if !said.status.success() {
        return Err(refused(device, &said, "cut the power"));
    }
    match power(device).await? {
        Power::Off => Ok(()),
        Power::On => {
            let text = format!("{} says that it cut the power, and that the host is on", device.agent);
            Err(failure(FailureCode::Internal, text))
        }
    }
}

async fn on(device: &FenceDevice) -> Result<(), Failure> {
    let said = run(device, "on", OFF_WITHIN).await?;
    if said.status.success() { Ok(()) } else { Err(refused(device, &said, "give power again")) }
}

fn refused(device: &FenceDevice, said: &Said, what: &str) -> Failure {
    let words = [said.err.as_str(), said.out.as_str()].map(str::trim).join(" ");
    let words = device.without_secret(words.trim()).replace('\n', " ");
    let end = said.status.code().map_or("by a signal".to_owned(), |code| format!("with {code}"));
    failure(FailureCode::TargetAway, format!("{} could not {what}, it ended {end}: {words}", device.agent))
}

async fn run(device: &FenceDevice, action: &str, within: Duration) -> Result<Said, Failure> {
    device.check().map_err(|why| failure(FailureCode::Invalid, why))?;
    let program = Path::new(FOLDER).join(&device.agent);
    if !program.exists() {
        let text = format!("{} is not on this host: install Debian's package fence-agents", program.display());
        return Err(failure(FailureCode::Unsupported, text));
    }
    let mut command = Command::new(&program);
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C.UTF-8").current_dir("/").process_group(0).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| io_failure(format!("run {}", device.agent), &error))?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    match timeout(within, talk(&mut child, device.parameters(action))).await {
        Ok(said) => said.map_err(|error| io_failure(format!("talk to {}", device.agent), &error)),
        Err(_) => {
            // Also what it started, such as ipmitool.
            if let Some(group) = group {
                let _ = killpg(group, Signal::SIGKILL);
            }
            let text = format!("{} did not end within {} s: is the device reachable?", device.agent, within.as_secs());
            Err(failure(FailureCode::TimedOut, text))
        }
    }
}

async fn talk(child: &mut Child, parameters: String) -> std::io::Result<Said> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let tell = async move {
        if let Some(mut stdin) = stdin {
            // One that ends without reading says why.
            let _ = stdin.write_all(parameters.as_bytes()).await;
        }
    };
    let ((), out, err) = tokio::join!(tell, words(stdout), words(stderr));
    Ok(Said { status: child.wait().await?, out: out?, err: err? })
}

/// Its first words; the rest is read all the same, or it would wait for a reader.
async fn words(from: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let Some(mut from) = from else { return Ok(String::new()) };
    let (mut kept, mut part) = (Vec::new(), [0; WORDS]);
    loop {
        let count = from.read(&mut part).await?;
        if count == 0 {
            return Ok(String::from_utf8_lossy(&kept).into_owned());
        }
        let room = WORDS - kept.len();
        kept.extend_from_slice(part.get(..count.min(room)).unwrap_or_default());
    }
}

#[cfg(test)]
mod test {
    use std::fs;
    use std::path::PathBuf;

    use roost_protocol::Hidden;

    use super::*;

    /// With the real fence_dummy: ROOST_REAL=1 is needed, and Debian's package.
    fn dummy(name: &str, tell: impl AsyncFnOnce(FenceDevice, PathBuf)) {
        if std::env::var("ROOST_REAL").as_deref() != Ok("1") {
            return eprintln!("{name}: skipped, as ROOST_REAL=1 is not set");
        }
        let file = PathBuf::from(format!("/tmp/fence_dummy.{name}{}", std::process::id()));
        let device = FenceDevice {
            agent: "fence_dummy".into(),
            address: None,
            user: None,
            secret: Some(Hidden("hush-hush".into())),
            plug: None,
            options: [("status_file".to_owned(), file.display().to_string())].into(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(tell(device, file.clone()));
        let _ = fs::remove_file(file);
    }

    #[test]
    fn real_fence_dummy_cuts_the_power_and_says_so() {
        dummy("off", async |device, file| {
            fs::write(&file, "on").unwrap();
            assert_eq!(power(&device).await, Ok(Power::On));
            assert_eq!(off(&device).await, Ok(()));
            assert_eq!(fs::read_to_string(&file).unwrap(), "off");
            assert_eq!(power(&device).await, Ok(Power::Off));
            assert_eq!(off(&device).await, Ok(()), "what is off stays off");
        });
    }

    #[test]
    fn real_fence_dummy_that_fails_proves_nothing_and_shows_no_secret() {
        dummy("bad", async |device, file| {
            fs::write(&file, "broken").unwrap();
            let why = power(&device).await.unwrap_err();
            assert!(why.text.contains("fence_dummy could not tell"), "{}", why.text);
            assert!(!why.text.contains("hush-hush"), "{}", why.text);
            // Wrong parameters end it with the code that stands for "off".
            let wrong = FenceDevice { options: [("status_file".into(), "/tmp/fence_dummy.".into())].into(), ..device };
            assert_eq!(power(&wrong).await.unwrap_err().code, FailureCode::Invalid);
            let unknown = FenceDevice { agent: "fence_of_nobody".into(), options: [].into(), ..wrong };
            assert_eq!(off(&unknown).await.unwrap_err().code, FailureCode::Unsupported);
        });
    }

    #[test]
    fn real_fence_agent_that_does_not_end_is_ended() {
        // A FIFO without a writer: whoever opens it waits for ever.
        dummy("hang", async |device, file| {
            nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
            let Err(why) = run(&device, "status", Duration::from_secs(2)).await else { panic!("it ended") };
            assert_eq!(why.code, FailureCode::TimedOut);
        });
    }
}
