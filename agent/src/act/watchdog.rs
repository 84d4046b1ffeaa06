//! Has the guard test the host's watchdog, which ends the host.

use std::path::Path;
use std::time::Duration;

use roost_protocol::operation::{Failure, FailureCode};
use roost_protocol::transport::local;
use roost_ward::door::{LONGEST_FRAME, Reply, Request};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::act::{failure, io_failure};

/// The guard answers once it wrote down that it begins, or hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Done: it has begun.
pub(crate) async fn test(guard: Option<&Path>) -> Result<(), Failure> {
    let none = || failure(FailureCode::Unsupported, "this host has no guard: guard_socket is not set there");
    let path = guard.ok_or_else(none)?;
    let silent =
        |_| failure(FailureCode::TimedOut, format!("the guard did not answer within {} s", PATIENCE.as_secs()));
    match timeout(PATIENCE, ask(path)).await.map_err(silent)?? {
        Reply::Done => Ok(()),
        Reply::Refused(why) => Err(failure(FailureCode::WrongState, why)),
        Reply::Status(_) | Reply::Note(_) => Err(failure(FailureCode::Internal, "the guard answers something else")),
    }
}

async fn ask(path: &Path) -> Result<Reply, Failure> {
    let connected = UnixStream::connect(path).await;
    let mut stream = connected.map_err(|error| io_failure(format!("reach the guard at {}", path.display()), &error))?;
    let asked = local::ask(&mut stream, &Request::TestWatchdog, LONGEST_FRAME).await;
    asked.map_err(|error| failure(FailureCode::TargetAway, format!("ask the guard: {error}")))
}

#[cfg(test)]
mod test {
    use roost_protocol::operation::FailureCode;

    #[tokio::test]
    async fn a_host_without_guard_or_whose_guard_is_away_says_so() {
        assert_eq!(super::test(None).await.unwrap_err().code, FailureCode::Unsupported);
        let folder = tempfile::tempdir().unwrap();
        let why = super::test(Some(&folder.path().join("guard.sock"))).await.unwrap_err();
        assert!(why.text.contains("reach the guard at"), "{}", why.text);
    }
}
