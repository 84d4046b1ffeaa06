//! The protocol data units of AgentX (RFC 2741 §6): all of them, both ways, so that tests can play the master too.

use crate::wire::{Order, Reader, Writer};
use crate::{Oid, VarBind};

/// Length of every header.
pub const HEADER: usize = 20;
/// Largest payload that is read. A master asks for at most a few hundred objects at once, 44 bytes each.
pub const PAYLOAD: usize = 64 << 10;

const VERSION: u8 = 1;
const NON_DEFAULT_CONTEXT: u8 = 0x08;
const NETWORK_ORDER: u8 = 0x10;

/// Why bytes are no PDU.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("AgentX version {0}, not 1")]
    Version(u8),
    #[error("a payload of {0} bytes: no multiple of four, or more than {PAYLOAD}")]
    Length(u32),
    #[error("it ends in the middle of a field")]
    Short,
    #[error("{0} bytes too many")]
    Rest(usize),
    #[error("an identifier with {0} parts")]
    LongOid(usize),
    #[error("a value of kind {0}")]
    ValueKind(u16),
    #[error("an IP address that has not four bytes")]
    Address,
    #[error("a PDU of type {0}")]
    Type(u8),
    #[error("a close reason {0}")]
    Reason(u8),
}

/// What stands before every payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: u8,
    pub flags: u8,
    pub session: u32,
    pub transaction: u32,
    pub packet: u32,
    /// Bytes that follow; a multiple of four, at most [`PAYLOAD`].
    pub length: u32,
}

impl Header {
    /// Reads a header. After an error the stream can't be followed any more.
    ///
    /// # Errors
    /// [`DecodeError::Version`] and [`DecodeError::Length`].
    pub fn read(bytes: &[u8; HEADER]) -> Result<Self, DecodeError> {
        let [version, kind, flags, _, rest @ ..] = bytes;
        if *version != VERSION {
            return Err(DecodeError::Version(*version));
        }
        let mut reader = Reader::new(rest, order(*flags));
        let (session, transaction, packet) = (reader.word()?, reader.word()?, reader.word()?);
        let length = reader.word()?;
        if length % 4 != 0 || usize::try_from(length).map_or(true, |length| length > PAYLOAD) {
            return Err(DecodeError::Length(length));
        }
        Ok(Self { kind: *kind, flags: *flags, session, transaction, packet, length })
    }
}

fn order(flags: u8) -> Order {
    if flags & NETWORK_ORDER != 0 { Order::Network } else { Order::Little }
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Other = 1,
    ParseError = 2,
    ProtocolError = 3,
    Timeouts = 4,
    Shutdown = 5,
    ByManager = 6,
}

/// What is asked for: from `start` (itself only where `include`) up to but without `end`; an empty `end` is no bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub start: Oid,
    pub include: bool,
    pub end: Oid,
}

/// What a PDU says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Open { timeout_s: u8, id: Oid, description: Vec<u8> },
    Close(Reason),
    Register { timeout_s: u8, priority: u8, subtree: Oid },
    Unregister { priority: u8, subtree: Oid },
    Get(Vec<Range>),
    GetNext(Vec<Range>),
    GetBulk { non_repeaters: u16, max_repetitions: u16, ranges: Vec<Range> },
    TestSet(Vec<VarBind>),
    CommitSet,
    UndoSet,
    CleanupSet,
    Notify(Vec<VarBind>),
    Ping,
    IndexAllocate(Vec<VarBind>),
    IndexDeallocate(Vec<VarBind>),
    AddAgentCaps { id: Oid, description: Vec<u8> },
    RemoveAgentCaps(Oid),
    Response { uptime_ticks: u32, error: u16, index: u16, binds: Vec<VarBind> },
}

/// A body and the context it was said in; none is the default one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub context: Option<Vec<u8>>,
    pub body: Body,
}

impl Said {
    /// Reads the payload that follows `header`.
    ///
    /// # Errors
    /// Whatever [`DecodeError`] names; the stream can be followed all the same.
    pub fn read(header: &Header, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(payload, order(header.flags));
        let own_context = header.flags & NON_DEFAULT_CONTEXT != 0;
        let context = own_context.then(|| reader.octets()).transpose()?;
        let body = body(header.kind, &mut reader)?;
        match reader.rest() {
            0 => Ok(Self { context, body }),
            rest => Err(DecodeError::Rest(rest)),
        }
    }
}

fn body(kind: u8, reader: &mut Reader<'_>) -> Result<Body, DecodeError> {
    Ok(match kind {
        1 => {
            let [timeout_s, ..] = quad(reader)?;
            Body::Open { timeout_s, id: reader.oid()?.0, description: reader.octets()? }
        }
        2 => Body::Close(reason(quad(reader)?[0])?),
        3 => {
            let [timeout_s, priority, ..] = quad(reader)?;
            Body::Register { timeout_s, priority, subtree: reader.oid()?.0 }
        }
        4 => {
            let [_, priority, ..] = quad(reader)?;
            Body::Unregister { priority, subtree: reader.oid()?.0 }
        }
        5 => Body::Get(ranges(reader)?),
        6 => Body::GetNext(ranges(reader)?),
        7 => {
            let (non_repeaters, max_repetitions) = (reader.short()?, reader.short()?);
            Body::GetBulk { non_repeaters, max_repetitions, ranges: ranges(reader)? }
        }
        8 => Body::TestSet(reader.var_binds()?),
        9 => Body::CommitSet,
        10 => Body::UndoSet,
        11 => Body::CleanupSet,
        12 => Body::Notify(reader.var_binds()?),
        13 => Body::Ping,
        14 => Body::IndexAllocate(reader.var_binds()?),
        15 => Body::IndexDeallocate(reader.var_binds()?),
        16 => Body::AddAgentCaps { id: reader.oid()?.0, description: reader.octets()? },
        17 => Body::RemoveAgentCaps(reader.oid()?.0),
        18 => {
            let uptime_ticks = reader.word()?;
            let (error, index) = (reader.short()?, reader.short()?);
            Body::Response { uptime_ticks, error, index, binds: reader.var_binds()? }
        }
        other => return Err(DecodeError::Type(other)),
    })
}

fn quad(reader: &mut Reader<'_>) -> Result<[u8; 4], DecodeError> {
    Ok([reader.byte()?, reader.byte()?, reader.byte()?, reader.byte()?])
}

fn reason(byte: u8) -> Result<Reason, DecodeError> {
    let all = [
        Reason::Other,
        Reason::ParseError,
        Reason::ProtocolError,
        Reason::Timeouts,
        Reason::Shutdown,
        Reason::ByManager,
    ];
    let place = usize::from(byte).checked_sub(1).and_then(|at| all.get(at));
    place.copied().ok_or(DecodeError::Reason(byte))
}

fn ranges(reader: &mut Reader<'_>) -> Result<Vec<Range>, DecodeError> {
    let mut all = Vec::new();
    while !reader.is_empty() {
        let (start, include) = reader.oid()?;
        let (end, _) = reader.oid()?;
        all.push(Range { start, include, end });
    }
    Ok(all)
}

/// Whom a PDU belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address {
    pub session: u32,
    pub transaction: u32,
    pub packet: u32,
}

/// The bytes of a PDU, in network byte order.
pub fn encode(address: Address, body: &Body) -> Vec<u8> {
    encode_as(Order::Network, address, None, body)
}

/// The bytes of a PDU in this byte order and context.
pub fn encode_as(order: Order, address: Address, context: Option<&[u8]>, body: &Body) -> Vec<u8> {
    let mut payload = Writer::new(order);
    if let Some(context) = context {
        payload.octets(context);
    }
    let kind = write(&mut payload, body);
    let mut flags = if context.is_some() { NON_DEFAULT_CONTEXT } else { 0 };
    if order == Order::Network {
        flags |= NETWORK_ORDER;
    }
    let mut all = Writer::new(order);
    all.raw(&[VERSION, kind, flags, 0]);
    all.word(address.session);
    all.word(address.transaction);
    all.word(address.packet);
    all.word(u32::try_from(payload.bytes.len()).unwrap_or(u32::MAX));
    all.raw(&payload.bytes);
    all.bytes
}

fn write(to: &mut Writer, body: &Body) -> u8 {
    match body {
        Body::Open { timeout_s, id, description } => {
            to.raw(&[*timeout_s, 0, 0, 0]);
            to.oid(id, false);
            to.octets(description);
            1
        }
        Body::Close(reason) => {
            to.raw(&[*reason as u8, 0, 0, 0]);
            2
        }
        Body::Register { timeout_s, priority, subtree } => {
            to.raw(&[*timeout_s, *priority, 0, 0]);
            to.oid(subtree, false);
            3
        }
        Body::Unregister { priority, subtree } => {
            to.raw(&[0, *priority, 0, 0]);
            to.oid(subtree, false);
            4
        }
        Body::Get(ranges) => write_ranges(to, ranges, 5),
        Body::GetNext(ranges) => write_ranges(to, ranges, 6),
        Body::GetBulk { non_repeaters, max_repetitions, ranges } => {
            to.short(*non_repeaters);
            to.short(*max_repetitions);
            write_ranges(to, ranges, 7)
        }
        Body::TestSet(binds) => write_binds(to, binds, 8),
        Body::CommitSet => 9,
        Body::UndoSet => 10,
        Body::CleanupSet => 11,
        Body::Notify(binds) => write_binds(to, binds, 12),
        Body::Ping => 13,
        Body::IndexAllocate(binds) => write_binds(to, binds, 14),
        Body::IndexDeallocate(binds) => write_binds(to, binds, 15),
        Body::AddAgentCaps { id, description } => {
            to.oid(id, false);
            to.octets(description);
            16
        }
        Body::RemoveAgentCaps(id) => {
            to.oid(id, false);
            17
        }
        Body::Response { uptime_ticks, error, index, binds } => {
            to.word(*uptime_ticks);
            to.short(*error);
            to.short(*index);
            write_binds(to, binds, 18)
        }
    }
}

fn write_ranges(to: &mut Writer, ranges: &[Range], kind: u8) -> u8 {
    for range in ranges {
        to.oid(&range.start, range.include);
        to.oid(&range.end, false);
    }
    kind
}

fn write_binds(to: &mut Writer, binds: &[VarBind], kind: u8) -> u8 {
    binds.iter().for_each(|bind| to.var_bind(bind));
    kind
}
