//! Sees what the HTTP library no longer tells: a head with both Content-Length and Transfer-Encoding. The library goes by
//! the latter, drops the former and closes the connection afterwards; a proxy before us may have gone by the other and take
//! the rest for another request. So nothing of such a connection is carried out.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Letters of the longer of the two names, with its colon.
const NAME: usize = 18;

/// The two names, as lines of text go by. Bodies are not told from heads: one that has both lines in one paragraph, without
/// a blank line between, is refused as well.
#[derive(Debug, Default)]
struct Lines {
    /// The beginning of this line, in small letters.
    line: Vec<u8>,
    length: bool,
    encoding: bool,
}

impl Lines {
    /// True when both stood in one paragraph.
    fn both(&mut self, bytes: &[u8]) -> bool {
        let mut both = false;
        for byte in bytes {
            match byte {
                b'\n' => {
                    if matches!(self.line.as_slice(), b"" | b"\r") {
                        (self.length, self.encoding) = (false, false);
                    }
                    self.line.clear();
                }
                byte if self.line.len() < NAME => {
                    self.line.push(byte.to_ascii_lowercase());
                    self.length |= self.line == b"content-length:";
                    self.encoding |= self.line == b"transfer-encoding:";
                    both |= self.length && self.encoding;
                }
                _ => {}
            }
        }
        both
    }
}

/// A connection that is watched while it is read.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    lines: Lines,
    doubtful: Arc<AtomicBool>,
}

impl<S> Watched<S> {
    /// `doubtful` becomes true before the library sees the head that made it so.
    pub(super) fn new(stream: S, doubtful: Arc<AtomicBool>) -> Self {
        Self { stream, lines: Lines::default(), doubtful }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let this = &mut *self;
        let poll = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if this.lines.both(&buffer.filled()[before..]) {
            this.doubtful.store(true, Ordering::Relaxed);
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn both_lines_in_one_head_are_seen_however_they_are_cut_and_written() {
        for (text, expected) in [
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", true),
            ("POST / HTTP/1.1\r\ntransfer-encoding:chunked\r\nX: y\r\nCONTENT-LENGTH:3\r\n\r\n", true),
            ("POST / HTTP/1.1\nContent-Length: 3\nTransfer-Encoding: chunked\n\n", true),
            (
                "GET / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
                false,
            ),
            ("GET / HTTP/1.1\r\nX: Content-Length: 3\r\nX-Transfer-Encoding: x\r\nTransfer-Encoding: x\r\n\r\n", false),
        ] {
            for step in [1, 7, text.len()] {
                let mut lines = Lines::default();
                let found = text.as_bytes().chunks(step).fold(false, |found, part| found | lines.both(part));
                assert_eq!(found, expected, "{text:?} in steps of {step}");
            }
        }
    }
}
