//! Numbers of the protocol, and reading and writing of them with bounds.

use std::io::{self, Read};

/// "NBDMAGIC" and "IHAVEOPT".
pub(super) const HELLO: u64 = 0x4e42_444d_4147_4943;
pub(super) const OPTION: u64 = 0x4948_4156_454f_5054;
pub(super) const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
/// Handshake flags of both sides: fixed newstyle, no 124 zeroes.
pub(super) const FIXED: u16 = 1;
pub(super) const NO_ZEROES: u16 = 2;

pub(super) const OPT_ABORT: u32 = 2;
pub(super) const OPT_GO: u32 = 7;
pub(super) const OPT_STRUCTURED: u32 = 8;
pub(super) const OPT_SET_META: u32 = 10;

pub(super) const REP_ACK: u32 = 1;
pub(super) const REP_INFO: u32 = 3;
pub(super) const REP_META: u32 = 4;
/// Set in all refusals.
pub(super) const REP_ERROR: u32 = 1 << 31;
pub(super) const REP_UNSUPPORTED: u32 = REP_ERROR | 1;
pub(super) const REP_INVALID: u32 = REP_ERROR | 3;
pub(super) const REP_UNKNOWN: u32 = REP_ERROR | 6;

pub(super) const INFO_EXPORT: u16 = 0;
pub(super) const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flags: valid, read only, safe for more than one connection.
pub(super) const HAS_FLAGS: u16 = 1;
pub(super) const READ_ONLY: u16 = 1 << 1;
pub(super) const MULTI: u16 = 1 << 8;

pub(super) const REQUEST: u32 = 0x2560_9513;
pub(super) const SIMPLE_REPLY: u32 = 0x6744_6698;
pub(super) const CHUNK: u32 = 0x668e_33ef;
pub(super) const REQUEST_BYTES: usize = 28;

pub(super) const CMD_READ: u16 = 0;
pub(super) const CMD_WRITE: u16 = 1;
pub(super) const CMD_DISCONNECT: u16 = 2;
pub(super) const CMD_FLUSH: u16 = 3;
pub(super) const CMD_BLOCK_STATUS: u16 = 7;

/// Flag of a request: tell one extent only. QEMU always sets it, and gives a disk up that tells it more than 124.
pub(super) const ONE: u16 = 1 << 3;

pub(super) const CHUNK_DONE: u16 = 1;
pub(super) const CHUNK_NONE: u16 = 0;
pub(super) const CHUNK_DATA: u16 = 1;
pub(super) const CHUNK_HOLE: u16 = 2;
pub(super) const CHUNK_STATUS: u16 = 5;
/// Set in all chunks that tell an error.
pub(super) const CHUNK_ERROR: u16 = 1 << 15;

pub(super) const ALLOCATION: &str = "base:allocation";
/// Of `base:allocation`: reads as zeroes.
pub(super) const STATE_ZERO: u32 = 1 << 1;
/// Of `qemu:dirty-bitmap:…`: was written since.
pub(super) const STATE_DIRTY: u32 = 1;

pub(super) const EPERM: u32 = 1;
pub(super) const EIO: u32 = 5;
pub(super) const EINVAL: u32 = 22;

/// Longest text in the protocol.
pub(super) const TEXT: usize = 4096;
/// Longest option and option reply; only names travel in them.
pub(super) const OPTION_BYTES: u32 = 64 << 10;
/// Most bytes asked for, or given, in one read.
pub(super) const READ_BYTES: u32 = 1 << 20;
/// Longest list of extents taken; QEMU sends at most half of it.
pub(super) const STATUS_BYTES: u32 = 2 << 20;

pub(super) fn u16_from(from: &mut impl Read) -> io::Result<u16> {
    let mut bytes = [0; 2];
    from.read_exact(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

pub(super) fn u32_from(from: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

pub(super) fn u64_from(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

/// So many bytes; the caller has bound them.
pub(super) fn bytes_from(from: &mut impl Read, length: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A text with its length in front.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(text.as_bytes());
}

/// One option, or one reply to one.
pub(super) fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut out = OPTION.to_be_bytes().to_vec();
    out.extend(number.to_be_bytes());
    out.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(data);
    out
}

pub(super) fn option_reply(number: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut out = OPTION_REPLY.to_be_bytes().to_vec();
    out.extend(number.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(data);
    out
}

/// One request of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) length: u32,
}

impl Request {
    pub(super) fn bytes(self) -> [u8; REQUEST_BYTES] {
        let mut out = [0; REQUEST_BYTES];
        out[..4].copy_from_slice(&REQUEST.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.command.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..24].copy_from_slice(&self.offset.to_be_bytes());
        out[24..].copy_from_slice(&self.length.to_be_bytes());
        out
    }

    pub(super) fn read(mut from: impl Read) -> io::Result<Self> {
        if u32_from(&mut from)? != REQUEST {
            return Err(io::Error::other("not a request"));
        }
        let (flags, command) = (u16_from(&mut from)?, u16_from(&mut from)?);
        let cookie = u64_from(&mut from)?;
        Ok(Self { flags, command, cookie, offset: u64_from(&mut from)?, length: u32_from(&mut from)? })
    }
}
