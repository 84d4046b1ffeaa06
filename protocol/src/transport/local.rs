//! Frames on a socket of this machine: a length (u32, big endian) and one CBOR value. Whoever is at the other end is no
//! stranger, but may hang or be another program: the caller says how long it waits, and how much it takes.

use minicbor::{Decode, Encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::codec;

/// Why nothing was heard.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error("talk to it")]
    Io(#[from] std::io::Error),
    #[error("a frame of {0} bytes is too long")]
    TooLong(usize),
    #[error("understand its answer")]
    Answer(#[from] codec::Error),
}

/// Sends a question and takes the next frame, of at most `limit` bytes, for its answer.
///
/// # Errors
/// What went wrong; the stream is of no more use then.
pub async fn ask<A: for<'b> Decode<'b, ()>>(
    stream: &mut UnixStream,
    question: &impl Encode<()>,
    limit: usize,
) -> Result<A, LocalError> {
    let question = codec::encode(question);
    stream.write_u32(u32::try_from(question.len()).map_err(|_| LocalError::TooLong(question.len()))?).await?;
    stream.write_all(&question).await?;
    hear(stream, limit).await
}

/// The next frame, of at most `limit` bytes.
///
/// # Errors
/// As [`ask`].
pub async fn hear<A: for<'b> Decode<'b, ()>>(stream: &mut UnixStream, limit: usize) -> Result<A, LocalError> {
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if length > limit {
        return Err(LocalError::TooLong(length));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    Ok(codec::decode(&answer)?)
}
