//! Rings when the guard notes something, so that it is asked at once and not at the next turn: a ward that was won shall
//! not wait for the clock.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use roost_protocol::transport::local::{self, LocalError};
use roost_ward::door::{LONGEST_FRAME, Reply, Request};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Between two connections: a guard that is away is asked at each turn all the same.
const AGAIN: Duration = Duration::from_secs(1);

/// A connection that hears of every note, for as long as this lives.
#[derive(Debug)]
pub(super) struct Bell {
    rings: Arc<Notify>,
    listens: JoinHandle<()>,
}

impl Bell {
    pub(super) fn hang(socket: PathBuf) -> Self {
        let rings = Arc::new(Notify::new());
        let there = Arc::clone(&rings);
        let listens = tokio::spawn(async move {
            loop {
                if let Err(why) = listen(&socket, &there).await {
                    tracing::debug!(%why, "the guard's notes are not followed");
                }
                sleep(AGAIN).await;
            }
        });
        Self { rings, listens }
    }

    /// Something was noted since this was awaited last. May be dropped and awaited anew; no ring is lost by it.
    pub(super) async fn rung(&self) {
        self.rings.notified().await;
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.listens.abort();
    }
}

/// Follows what comes; what was noted before is not asked for.
async fn listen(socket: &Path, rings: &Notify) -> Result<(), LocalError> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut reply = local::ask(&mut stream, &Request::Follow { from: u64::MAX }, LONGEST_FRAME).await?;
    loop {
        // Whoever refuses (the guard doesn't know yet who it is) will not note anything on this connection.
        match reply {
            Reply::Note(_) => rings.notify_one(),
            Reply::Done | Reply::Status(_) => {}
            Reply::Refused(_) => return Ok(()),
        }
        reply = local::hear(&mut stream, LONGEST_FRAME).await?;
    }
}

#[cfg(test)]
mod test {
    use roost_protocol::cause::NoteKind;
    use roost_protocol::{Stamp, codec};
    use roost_ward::WardId;
    use roost_ward::door::Note;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    fn note(number: u64) -> Reply {
        let (at, ward, text) = (Stamp(0), WardId(7), String::new());
        Reply::Note(Note { number, at, ward, kind: NoteKind::Won, text, epoch: None, hosts: Vec::new(), span: None })
    }

    /// What a guard does on one connection: takes the question, then says this.
    async fn say(stream: &mut UnixStream, replies: &[Reply]) {
        let length = stream.read_u32().await.unwrap();
        let mut asked = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut asked).await.unwrap();
        assert_eq!(codec::decode::<Request>(&asked).unwrap(), Request::Follow { from: u64::MAX });
        for reply in replies {
            let bytes = codec::encode(reply);
            stream.write_u32(bytes.len().try_into().unwrap()).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    }

    #[tokio::test]
    async fn each_note_rings_and_so_does_one_of_a_guard_that_was_started_anew() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("guard");
        let listener = UnixListener::bind(&socket).unwrap();
        let bell = Bell::hang(socket);
        for number in [1, 2] {
            let (mut stream, _) = listener.accept().await.unwrap();
            say(&mut stream, &[Reply::Done, note(number)]).await;
            bell.rung().await;
        }
    }

    #[tokio::test]
    async fn who_refuses_is_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("guard");
        let listener = UnixListener::bind(&socket).unwrap();
        let bell = Bell::hang(socket);
        let (mut first, _) = listener.accept().await.unwrap();
        say(&mut first, &[Reply::Refused("who am I?".into())]).await;
        let (mut second, _) = listener.accept().await.unwrap();
        say(&mut second, &[Reply::Done, note(3)]).await;
        bell.rung().await;
    }
}
