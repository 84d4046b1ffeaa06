//! Bytes to fields and back, in both byte orders (RFC 2741 §5). Nothing here can be made to read past its end or to take
//! more memory than it was given bytes.

use crate::oid::LONGEST;
use crate::{DecodeError, Oid, Value, VarBind};

/// The internet arc, 1.3.6.1, which a prefix octet stands for.
const INTERNET: [u32; 4] = [1, 3, 6, 1];

/// Byte order of one PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Network,
    Little,
}

#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    order: Order,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], order: Order) -> Self {
        Self { bytes, order }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes not read yet.
    pub(crate) fn rest(&self) -> usize {
        self.bytes.len()
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(DecodeError::Short)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>().ok_or(DecodeError::Short)?;
        self.bytes = rest;
        Ok(*taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.fixed()?))
    }

    pub(crate) fn short(&mut self) -> Result<u16, DecodeError> {
        let bytes = self.fixed()?;
        Ok(match self.order {
            Order::Network => u16::from_be_bytes(bytes),
            Order::Little => u16::from_le_bytes(bytes),
        })
    }

    pub(crate) fn word(&mut self) -> Result<u32, DecodeError> {
        let bytes = self.fixed()?;
        Ok(match self.order {
            Order::Network => u32::from_be_bytes(bytes),
            Order::Little => u32::from_le_bytes(bytes),
        })
    }

    fn long(&mut self) -> Result<u64, DecodeError> {
        let bytes = self.fixed()?;
        Ok(match self.order {
            Order::Network => u64::from_be_bytes(bytes),
            Order::Little => u64::from_le_bytes(bytes),
        })
    }

    /// Octets, padded to a multiple of four.
    pub(crate) fn octets(&mut self) -> Result<Vec<u8>, DecodeError> {
        let length = usize::try_from(self.word()?).map_err(|_| DecodeError::Short)?;
        let octets = self.take(length)?.to_vec();
        self.take(padding(length))?;
        Ok(octets)
    }

    /// An identifier, and whether the object itself is meant too.
    pub(crate) fn oid(&mut self) -> Result<(Oid, bool), DecodeError> {
        let [count, prefix, include, _] = self.fixed()?;
        let mut arc = Vec::with_capacity(usize::from(count) + 5);
        if prefix != 0 {
            arc.extend(INTERNET);
            arc.push(u32::from(prefix));
        }
        for _ in 0..count {
            arc.push(self.word()?);
        }
        if arc.len() > LONGEST {
            return Err(DecodeError::LongOid(arc.len()));
        }
        Ok((Oid::from(&arc[..]), include != 0))
    }

    pub(crate) fn var_bind(&mut self) -> Result<VarBind, DecodeError> {
        let kind = self.short()?;
        self.short()?;
        let (oid, _) = self.oid()?;
        let value = match kind {
            2 => Value::Integer(i32::from_be_bytes(self.word()?.to_be_bytes())),
            4 => Value::Octets(self.octets()?),
            5 => Value::Null,
            6 => Value::Oid(self.oid()?.0),
            64 => {
                let octets = self.octets()?;
                Value::IpAddress(octets.try_into().map_err(|_| DecodeError::Address)?)
            }
            65 => Value::Counter32(self.word()?),
            66 => Value::Gauge32(self.word()?),
            67 => Value::TimeTicks(self.word()?),
            68 => Value::Opaque(self.octets()?),
            70 => Value::Counter64(self.long()?),
            128 => Value::NoSuchObject,
            129 => Value::NoSuchInstance,
            130 => Value::EndOfMibView,
            other => return Err(DecodeError::ValueKind(other)),
        };
        Ok(VarBind { oid, value })
    }

    pub(crate) fn var_binds(&mut self) -> Result<Vec<VarBind>, DecodeError> {
        let mut all = Vec::new();
        while !self.is_empty() {
            all.push(self.var_bind()?);
        }
        Ok(all)
    }
}

#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
    order: Order,
}

impl Writer {
    pub(crate) fn new(order: Order) -> Self {
        Self { bytes: Vec::with_capacity(256), order }
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn short(&mut self, number: u16) {
        match self.order {
            Order::Network => self.raw(&number.to_be_bytes()),
            Order::Little => self.raw(&number.to_le_bytes()),
        }
    }

    pub(crate) fn word(&mut self, number: u32) {
        match self.order {
            Order::Network => self.raw(&number.to_be_bytes()),
            Order::Little => self.raw(&number.to_le_bytes()),
        }
    }

    fn long(&mut self, number: u64) {
        match self.order {
            Order::Network => self.raw(&number.to_be_bytes()),
            Order::Little => self.raw(&number.to_le_bytes()),
        }
    }

    /// Octets longer than four gigabytes can't be carried and are sent as none; ours have at most 512.
    pub(crate) fn octets(&mut self, octets: &[u8]) {
        let (length, octets) = u32::try_from(octets.len()).map_or((0, &[][..]), |length| (length, octets));
        self.word(length);
        self.raw(octets);
        self.raw(&[0; 4][..padding(octets.len())]);
    }

    pub(crate) fn oid(&mut self, oid: &[u32], include: bool) {
        let (prefix, rest) = match oid {
            [1, 3, 6, 1, prefix, rest @ ..] if (1..=255).contains(prefix) => (u8::try_from(*prefix).unwrap_or(0), rest),
            all => (0, all),
        };
        let count = u8::try_from(rest.len()).unwrap_or(u8::MAX);
        self.raw(&[count, prefix, u8::from(include), 0]);
        rest.iter().take(usize::from(count)).for_each(|sub| self.word(*sub));
    }

    pub(crate) fn var_bind(&mut self, bind: &VarBind) {
        self.short(kind(&bind.value));
        self.short(0);
        self.oid(&bind.oid, false);
        match &bind.value {
            Value::Integer(number) => self.word(u32::from_be_bytes(number.to_be_bytes())),
            Value::Octets(octets) | Value::Opaque(octets) => self.octets(octets),
            Value::Oid(oid) => self.oid(oid, false),
            Value::IpAddress(address) => self.octets(address),
            Value::Counter32(number) | Value::Gauge32(number) | Value::TimeTicks(number) => self.word(*number),
            Value::Counter64(number) => self.long(*number),
            Value::Null | Value::NoSuchObject | Value::NoSuchInstance | Value::EndOfMibView => {}
        }
    }
}

fn kind(value: &Value) -> u16 {
    match value {
        Value::Integer(_) => 2,
        Value::Octets(_) => 4,
        Value::Null => 5,
        Value::Oid(_) => 6,
        Value::IpAddress(_) => 64,
        Value::Counter32(_) => 65,
        Value::Gauge32(_) => 66,
        Value::TimeTicks(_) => 67,
        Value::Opaque(_) => 68,
        Value::Counter64(_) => 70,
        Value::NoSuchObject => 128,
        Value::NoSuchInstance => 129,
        Value::EndOfMibView => 130,
    }
}

fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}
