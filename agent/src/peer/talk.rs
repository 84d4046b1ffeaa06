//! One stream between two hosts, used from a thread that may block.

use std::time::{Duration, Instant};

use quinn::Connection;
use roost_protocol::peer::{FromCalled, FromCaller};
use roost_protocol::transport::{CloseCode, FrameReader, FrameWriter, TransportError};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// How soon a talk that nobody wants any more is noticed.
const LOOK: Duration = Duration::from_millis(500);
/// A frame may take so long, and a peer may take no bytes for so long: its disk may be slow.
pub(super) const FRAME_PATIENCE: Duration = Duration::from_secs(60);

/// Both directions; the connection is closed with it.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) runtime: Handle,
    pub(super) connection: Connection,
    pub(super) reader: FrameReader,
    pub(super) writer: FrameWriter,
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.connection.close(CloseCode::Done.into(), b"");
    }
}

impl Talk {
    /// The caller's word.
    pub(super) fn ask(&mut self, message: &FromCaller) -> Result<(), TransportError> {
        self.runtime.block_on(self.writer.send(message))
    }

    /// The called host's next word; none once it is not wanted any more.
    pub(super) fn answer(
        &mut self,
        patience: Duration,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Option<FromCalled>, TransportError> {
        let (runtime, reader) = (&self.runtime, &mut self.reader);
        until(patience, wanted, || runtime.block_on(async { timeout(LOOK, reader.recv()).await.ok() }))
    }

    /// The called host's word.
    pub(super) fn reply(&mut self, message: &FromCalled) -> Result<(), TransportError> {
        self.runtime.block_on(self.writer.send(message))
    }

    /// The caller's next word.
    pub(super) fn heard(&mut self, patience: Duration) -> Result<FromCaller, TransportError> {
        let slow = TransportError::Slow { limit: patience };
        let (runtime, reader) = (&self.runtime, &mut self.reader);
        let heard = until(patience, &|| true, || runtime.block_on(async { timeout(LOOK, reader.recv()).await.ok() }))?;
        heard.ok_or(slow)
    }

    /// The last word, waited for until it has arrived.
    pub(super) fn last(self, message: &FromCalled) -> Result<(), TransportError> {
        let mut talk = self;
        talk.reply(message)?;
        let runtime = talk.runtime.clone();
        runtime.block_on(talk.writer.end())
    }
}

/// Steps until one brings something, for so long, and while it is wanted.
fn until<T>(
    patience: Duration,
    wanted: &dyn Fn() -> bool,
    mut step: impl FnMut() -> Option<Result<T, TransportError>>,
) -> Result<Option<T>, TransportError> {
    let began = Instant::now();
    loop {
        if let Some(heard) = step() {
            return heard.map(Some);
        }
        if !wanted() {
            return Ok(None);
        }
        if began.elapsed() >= patience {
            return Err(TransportError::Slow { limit: patience });
        }
    }
}
