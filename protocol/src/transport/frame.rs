//! Frames on a QUIC stream: a length (u32, big endian) and one CBOR value. A length is only a claim: memory is taken as
//! bytes arrive, never before.

use std::time::Duration;

use minicbor::{Decode, Encode};
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use tokio::time::{Instant, timeout_at};

use super::TransportError;
use crate::codec;
use crate::message::{FRAME, FRAME_BEFORE_HELLO};

/// How long a frame may take from its first byte to its last: a peer that trickles bytes is cut off.
pub const FRAME_TIME: Duration = Duration::from_secs(10);
/// How long a peer may take no bytes at all of what is sent to it.
pub const SEND_TIME: Duration = Duration::from_secs(10);
/// Memory kept between frames; a larger buffer is given back after its frame. A beat takes 1 KB; 64 KB, which every link
/// kept after a grid document, were a third of an aggregator's memory.
const KEEP: usize = 4 << 10;
const HEADER: usize = 4;

/// Reads frames. Begins with the limit for unknown peers, [`FRAME_BEFORE_HELLO`].
#[derive(Debug)]
pub struct FrameReader {
    stream: RecvStream,
    limit: usize,
    patience: Duration,
    /// Header and body as far as they have come; all state lives here, so that [`Self::recv`] may be dropped at any time.
    bytes: Vec<u8>,
    started: Option<Instant>,
}

impl FrameReader {
    pub fn new(stream: RecvStream) -> Self {
        let bytes = Vec::new();
        Self { stream, limit: FRAME_BEFORE_HELLO, patience: FRAME_TIME, bytes, started: None }
    }

    /// With another patience than [`FRAME_TIME`].
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The peer is known: from here on frames of up to [`FRAME`] bytes are read.
    pub fn trust(&mut self) {
        self.limit = FRAME;
    }

    /// The next message. Cancel-safe: what had arrived is kept, and the next call goes on from there, with the clock of
    /// the frame still running. After an error the stream is of no more use.
    ///
    /// # Errors
    /// [`TransportError::Closed`] at the end of the stream; otherwise see [`TransportError`].
    pub async fn recv<T: for<'b> Decode<'b, ()>>(&mut self) -> Result<T, TransportError> {
        while self.bytes.len() < HEADER {
            self.fill(HEADER).await?;
        }
        let length = self.claimed();
        if length > self.limit {
            return Err(TransportError::Oversize { length, limit: self.limit });
        }
        while self.bytes.len() < HEADER + length {
            self.fill(HEADER + length).await?;
        }
        let message = codec::decode(&self.bytes[HEADER..]);
        self.started = None;
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
        Ok(message?)
    }

    /// [`Self::recv`] that gives up after this long, also when nothing comes at all: for the first message of a peer.
    ///
    /// # Errors
    /// [`TransportError::Slow`], or what `recv` says.
    pub async fn recv_within<T: for<'b> Decode<'b, ()>>(&mut self, limit: Duration) -> Result<T, TransportError> {
        let slow = |_| TransportError::Slow { limit };
        tokio::time::timeout(limit, self.recv()).await.map_err(slow)?
    }

    fn claimed(&self) -> usize {
        let header = self.bytes[..HEADER].try_into().unwrap_or([0xff; HEADER]);
        usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX)
    }

    /// Takes what has come, at most up to `end` bytes of this frame.
    async fn fill(&mut self, end: usize) -> Result<(), TransportError> {
        let wanted = end - self.bytes.len();
        let chunk = match self.started {
            None => self.stream.read_chunk(wanted, true).await,
            Some(started) => timeout_at(started + self.patience, self.stream.read_chunk(wanted, true))
                .await
                .map_err(|_| TransportError::Slow { limit: self.patience })?,
        };
        match chunk.map_err(read_error)? {
            Some(chunk) => {
                self.started.get_or_insert_with(Instant::now);
                self.bytes.extend_from_slice(&chunk.bytes);
                Ok(())
            }
            None if self.bytes.is_empty() => Err(TransportError::Closed { why: "the peer has no more to say".into() }),
            None => Err(TransportError::Truncated),
        }
    }
}

/// Writes frames.
#[derive(Debug)]
pub struct FrameWriter {
    stream: SendStream,
    patience: Duration,
    /// Frames not yet handed to QUIC, and how much of them was.
    bytes: Vec<u8>,
    written: usize,
    blocked: Option<Instant>,
}

impl FrameWriter {
    pub fn new(stream: SendStream) -> Self {
        Self { stream, patience: SEND_TIME, bytes: Vec::new(), written: 0, blocked: None }
    }

    /// With another patience than [`SEND_TIME`].
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Sends a message. Returns when QUIC has taken it, not when the peer has it. If it is dropped half-way, the message
    /// is neither torn nor lost: the next `send` or [`Self::flush`] finishes it first. (Only a `send` dropped while it
    /// still finishes an earlier one has not taken its message; who drops sends calls `flush` before the next.)
    ///
    /// # Errors
    /// [`TransportError::Oversize`] (nothing is sent), [`TransportError::Slow`] when the peer takes nothing, or closed.
    pub async fn send<T: Encode<()>>(&mut self, message: &T) -> Result<(), TransportError> {
        let body = codec::encode(message);
        let header = match u32::try_from(body.len()) {
            Ok(length) if body.len() <= FRAME => length.to_be_bytes(),
            _ => return Err(TransportError::Oversize { length: body.len(), limit: FRAME }),
        };
        // Frames cut short by cancellation wait here; one more must not pile up on them.
        self.flush().await?;
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(&body);
        self.flush().await
    }

    /// Finishes what an interrupted [`Self::send`] began. Cancel-safe.
    ///
    /// # Errors
    /// As `send`.
    pub async fn flush(&mut self) -> Result<(), TransportError> {
        while self.written < self.bytes.len() {
            let deadline = *self.blocked.get_or_insert_with(Instant::now) + self.patience;
            let taken = timeout_at(deadline, self.stream.write(&self.bytes[self.written..]))
                .await
                .map_err(|_| TransportError::Slow { limit: self.patience })?
                .map_err(write_error)?;
            self.written += taken;
            self.blocked = None;
        }
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
        self.written = 0;
        Ok(())
    }

    /// Says that nothing follows, and waits (at most the writer's patience) until the peer has all of it.
    ///
    /// # Errors
    /// As `send`.
    pub async fn finish(mut self) -> Result<(), TransportError> {
        self.end().await
    }

    /// The same, keeping the writer.
    ///
    /// # Errors
    /// As `send`.
    pub async fn end(&mut self) -> Result<(), TransportError> {
        self.flush().await?;
        // Fails only when the stream was closed before, which the wait below tells as well.
        let _closed = self.stream.finish();
        let slow = |_| TransportError::Slow { limit: self.patience };
        match tokio::time::timeout(self.patience, self.stream.stopped()).await.map_err(slow)? {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(TransportError::Closed { why: format!("the peer stopped reading ({code})") }),
            Err(error) => Err(TransportError::Closed { why: error.to_string() }),
        }
    }
}

fn read_error(error: ReadError) -> TransportError {
    match error {
        ReadError::ConnectionLost(source) => TransportError::Lost { source },
        ReadError::Reset(code) => TransportError::Closed { why: format!("the peer gave up its stream ({code})") },
        ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
            TransportError::Closed { why: error.to_string() }
        }
    }
}

fn write_error(error: WriteError) -> TransportError {
    match error {
        WriteError::ConnectionLost(source) => TransportError::Lost { source },
        WriteError::Stopped(code) => TransportError::Closed { why: format!("the peer stopped reading ({code})") },
        WriteError::ClosedStream | WriteError::ZeroRttRejected => TransportError::Closed { why: error.to_string() },
    }
}
