//! The codec against everything that could be sent to it.

use proptest::collection::vec;
use proptest::prelude::*;
use roost_snmp::pdu::{Address, Body, HEADER, Header, PAYLOAD, Range, Reason, Said, encode_as};
use roost_snmp::wire::Order;
use roost_snmp::{DecodeError, Oid, Value, VarBind};

fn oid() -> impl Strategy<Value = Oid> {
    let tail = vec(any::<u32>(), 0..20);
    let prefix =
        prop_oneof![Just(vec![]), Just(vec![1, 3, 6, 1]), Just(vec![1, 3, 6, 1, 2]), Just(vec![1, 3, 6, 1, 900])];
    (prefix, tail).prop_map(|(prefix, tail)| Oid::join(&prefix, &tail))
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i32>().prop_map(Value::Integer),
        vec(any::<u8>(), 0..70).prop_map(Value::Octets),
        Just(Value::Null),
        oid().prop_map(Value::Oid),
        any::<[u8; 4]>().prop_map(Value::IpAddress),
        any::<u32>().prop_map(Value::Counter32),
        any::<u32>().prop_map(Value::Gauge32),
        any::<u32>().prop_map(Value::TimeTicks),
        vec(any::<u8>(), 0..9).prop_map(Value::Opaque),
        any::<u64>().prop_map(Value::Counter64),
        Just(Value::NoSuchObject),
        Just(Value::NoSuchInstance),
        Just(Value::EndOfMibView),
    ]
}

fn binds() -> impl Strategy<Value = Vec<VarBind>> {
    vec((oid(), value()).prop_map(|(oid, value)| VarBind { oid, value }), 0..5)
}

fn ranges() -> impl Strategy<Value = Vec<Range>> {
    vec((oid(), any::<bool>(), oid()).prop_map(|(start, include, end)| Range { start, include, end }), 0..5)
}

fn reason() -> impl Strategy<Value = Reason> {
    use Reason::{ByManager, Other, ParseError, ProtocolError, Shutdown, Timeouts};
    prop::sample::select(vec![Other, ParseError, ProtocolError, Timeouts, Shutdown, ByManager])
}

fn body() -> impl Strategy<Value = Body> {
    let text = || vec(any::<u8>(), 0..30);
    prop_oneof![
        (any::<u8>(), oid(), text()).prop_map(|(timeout_s, id, description)| Body::Open { timeout_s, id, description }),
        reason().prop_map(Body::Close),
        (any::<u8>(), any::<u8>(), oid()).prop_map(|(timeout_s, priority, subtree)| Body::Register {
            timeout_s,
            priority,
            subtree
        }),
        (any::<u8>(), oid()).prop_map(|(priority, subtree)| Body::Unregister { priority, subtree }),
        ranges().prop_map(Body::Get),
        ranges().prop_map(Body::GetNext),
        (any::<u16>(), any::<u16>(), ranges()).prop_map(|(non_repeaters, max_repetitions, ranges)| Body::GetBulk {
            non_repeaters,
            max_repetitions,
            ranges
        }),
        binds().prop_map(Body::TestSet),
        Just(Body::CommitSet),
        Just(Body::UndoSet),
        Just(Body::CleanupSet),
        binds().prop_map(Body::Notify),
        Just(Body::Ping),
        binds().prop_map(Body::IndexAllocate),
        binds().prop_map(Body::IndexDeallocate),
        (oid(), text()).prop_map(|(id, description)| Body::AddAgentCaps { id, description }),
        oid().prop_map(Body::RemoveAgentCaps),
        (any::<u32>(), any::<u16>(), any::<u16>(), binds())
            .prop_map(|(uptime_ticks, error, index, binds)| { Body::Response { uptime_ticks, error, index, binds } }),
    ]
}

fn read(bytes: &[u8]) -> Result<(Header, Said), DecodeError> {
    let (header, payload) = bytes.split_first_chunk::<HEADER>().ok_or(DecodeError::Short)?;
    let header = Header::read(header)?;
    let said = Said::read(&header, payload)?;
    Ok((header, said))
}

proptest! {
    #[test]
    fn what_is_written_reads_back_in_both_byte_orders(
        body in body(),
        little in any::<bool>(),
        context in prop::option::of(vec(any::<u8>(), 0..9)),
        (session, transaction, packet) in any::<(u32, u32, u32)>(),
    ) {
        let order = if little { Order::Little } else { Order::Network };
        let bytes = encode_as(order, Address { session, transaction, packet }, context.as_deref(), &body);
        let (header, said) = read(&bytes).unwrap();
        prop_assert_eq!((header.session, header.transaction, header.packet), (session, transaction, packet));
        prop_assert_eq!(usize::try_from(header.length).unwrap() + HEADER, bytes.len());
        prop_assert_eq!(said, Said { context, body });
    }

    #[test]
    fn a_pdu_that_was_cut_or_changed_is_refused_or_read_but_never_more(
        body in body(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = encode_as(Order::Network, Address::default(), None, &body);
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        // What reads takes no more memory than its bytes justify, and no longer than a look at each.
        let _ = read(&bytes);
    }

    #[test]
    fn noise_is_no_pdu_and_does_no_harm(kind in 0u8..22, flags in any::<u8>(), payload in vec(any::<u8>(), 0..600)) {
        let mut header = [1, kind, flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let length = u32::try_from(payload.len()).unwrap();
        let length = if flags & 0x10 != 0 { length.to_be_bytes() } else { length.to_le_bytes() };
        header[16..].copy_from_slice(&length);
        let _ = read(&[&header[..], &payload].concat());
    }
}

#[test]
fn a_header_that_promises_too_much_ends_the_stream() {
    let header = |version: u8, length: u32| {
        let mut bytes = [version, 6, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0];
        bytes[16..].copy_from_slice(&length.to_be_bytes());
        Header::read(&bytes)
    };
    let largest = u32::try_from(PAYLOAD).unwrap();
    assert_eq!(header(1, largest).map(|header| header.length), Ok(largest));
    assert_eq!(header(1, largest + 4), Err(DecodeError::Length(largest + 4)));
    assert_eq!(header(1, 5), Err(DecodeError::Length(5)));
    assert_eq!(header(2, 0), Err(DecodeError::Version(2)));
}

#[test]
fn an_octet_string_of_four_gigabytes_is_refused_without_room_for_it() {
    let header = Header { kind: 12, flags: 0x10, session: 1, transaction: 1, packet: 1, length: 16 };
    let payload = [0, 4, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4];
    assert_eq!(Said::read(&header, &payload), Err(DecodeError::Short));
}

/// What net-snmp 5.9.3 sent to a subagent that opened, registered, was walked and set and notified, one PDU a file; and
/// damaged ones.
#[test]
fn pdus_of_a_real_master_are_read() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut kinds = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let damaged = path.file_name().unwrap().to_string_lossy().starts_with("bad-");
        let answer = read(&bytes);
        assert_eq!(answer.is_err(), damaged, "{}: {answer:?}", path.display());
        kinds.extend(answer.ok().map(|(header, _)| header.kind));
    }
    for kind in [5, 6, 8, 11, 18] {
        assert!(kinds.contains(&kind), "no PDU of kind {kind} in the corpus");
    }
}
