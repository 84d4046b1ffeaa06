//! A visitor of a guard: asks on its local socket and waits for the answer.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_protocol::codec;
use roost_ward::door::{LONGEST_FRAME, Reply, Request};

/// A guard that doesn't answer within this hangs, or was stopped on purpose.
const PATIENCE: Duration = Duration::from_secs(2);

/// An open connection.
#[derive(Debug)]
pub struct Door(UnixStream);

impl Door {
    pub fn open(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    /// Asks, and waits for the answer.
    pub fn ask(&mut self, request: &Request) -> Result<Reply> {
        let bytes = codec::encode(request);
        self.0.write_all(&u32::try_from(bytes.len())?.to_be_bytes())?;
        self.0.write_all(&bytes)?;
        let mut length = [0; 4];
        self.0.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_be_bytes(length))?;
        ensure!(length <= LONGEST_FRAME, "a frame of {length} bytes");
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes)?;
        Ok(codec::decode(&bytes)?)
    }
}
