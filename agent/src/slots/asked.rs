//! A newer image that is looked for because somebody asked: by a process of its own, as the hourly timer does it.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use roost_protocol::look::Newer;
use roost_protocol::operation::{Failure, FailureCode};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::act::{failure, io_failure};

/// Somebody who asks is told after this that it goes on; less than anybody who looks waits.
const WITHIN: Duration = Duration::from_secs(12);
/// 100 MB come through the slowest network that hosts have; a server that hangs ends each file sooner.
const LONGEST: Duration = Duration::from_secs(3_600);
/// Letters of what went wrong.
const WORDS: usize = 1_024;
/// An end that nobody asked about for so long is an old one.
const FRESH: Duration = Duration::from_secs(60);

type Ended = Result<(), Failure>;

/// How it ended, and when.
type Going = JoinHandle<(Ended, Instant)>;

/// At most one search at a time; who asks meanwhile is told of that one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Search(Arc<Mutex<Option<Going>>>);

impl Search {
    /// Begins a search, or tells of the one that goes on or has ended since it was asked of last.
    pub(crate) async fn ask(&self) -> Result<Newer, Failure> {
        if super::image().is_none() {
            let text = "this host was not started from a host image: its packages are its administrator's";
            return Err(failure(FailureCode::Unsupported, text));
        }
        if Path::new(super::FLOOR).exists() {
            let text = "image=floor was asked for at this host's start: it uses no newer image";
            return Err(failure(FailureCode::Unsupported, text));
        }
        let ended = self.wait(WITHIN, || Box::pin(look())).await;
        match ended {
            None => Ok(Newer::Looking),
            Some(ended) => ended.map(|()| super::next().map_or(Newer::None, Newer::Waits)),
        }
    }

    /// How a search ended; none: it goes on after so long.
    async fn wait(&self, within: Duration, look: impl Fn() -> Looking) -> Option<Ended> {
        let end = async {
            let mut search = self.0.lock().await;
            loop {
                let begin = || {
                    let looking = look();
                    tokio::spawn(async { (looking.await, Instant::now()) })
                };
                let ended = search.get_or_insert_with(begin).await;
                *search = None;
                match ended {
                    Ok((_, at)) if at.elapsed() > FRESH => {}
                    Ok((ended, _)) => return ended,
                    Err(why) => {
                        return Err(failure(FailureCode::Internal, format!("look for a newer image: {why}")));
                    }
                }
            }
        };
        timeout(within, end).await.ok()
    }
}

type Looking = std::pin::Pin<Box<dyn Future<Output = Ended> + Send>>;

/// `roost-agent image update`, which takes what is newer.
async fn look() -> Ended {
    let program = std::env::current_exe().map_err(|error| io_failure("find this program", &error))?;
    let mut update = Command::new(program);
    update.args(["image", "update"]).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    let late = |_| failure(FailureCode::TimedOut, format!("no newer image was taken within {} s", LONGEST.as_secs()));
    let ended = timeout(LONGEST, update.output()).await.map_err(late)?;
    let ended = ended.map_err(|error| io_failure("run roost-agent image update", &error))?;
    if ended.status.success() {
        return Ok(());
    }
    Err(failure(FailureCode::TargetAway, format!("look for a newer image: {}", told(&ended.stderr))))
}

/// What it said, in one line.
fn told(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ").trim_start_matches("Error: ").chars().take(WORDS).collect()
}

#[cfg(test)]
mod test {
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn what_went_wrong_is_told_in_one_line() {
        let said = b"Error: take the image of http://10.0.0.1/roost\n\nCaused by:\n    no manifest is served there\n";
        assert_eq!(told(said), "take the image of http://10.0.0.1/roost Caused by: no manifest is served there");
    }

    #[tokio::test]
    async fn who_asks_again_is_told_of_the_same_search_and_of_its_end_once() {
        let search = Search::default();
        let (end, ended) = oneshot::channel::<()>();
        let once = std::sync::Mutex::new(Some(ended));
        let look = || -> Looking {
            let ended = once.lock().unwrap().take().expect("a second search was begun");
            Box::pin(async { ended.await.map_err(|_| failure(FailureCode::Internal, "it broke off")) })
        };
        assert_eq!(search.wait(Duration::ZERO, look).await, None);
        assert_eq!(search.wait(Duration::ZERO, look).await, None, "the same goes on");
        end.send(()).unwrap();
        assert_eq!(search.wait(WITHIN, look).await, Some(Ok(())));
        assert!(search.0.lock().await.is_none(), "the next who asks begins another");
    }

    #[tokio::test]
    async fn a_host_that_is_no_image_says_so() {
        assert_eq!(Search::default().ask().await.unwrap_err().code, FailureCode::Unsupported);
    }
}
