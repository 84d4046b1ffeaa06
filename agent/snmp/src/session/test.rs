//! A session with a master played by hand.

use super::*;
use crate::Value;
use crate::pdu::HEADER;

const VM: [u32; 7] = [1, 3, 6, 1, 2, 1, 236];

fn identity() -> Identity {
    Identity {
        id: Oid::from(&[1, 3][..]),
        description: "test".into(),
        subtrees: vec![Oid::from(&VM[..]), Oid::from(&[1, 3, 6, 1, 4, 1, 5][..])],
    }
}

fn tree() -> Tree {
    let row = |last: u32| (Oid::join(&VM, &[1, last, 0]), Value::integer(u64::from(last)));
    Tree::new(vec![row(1), row(2)], vec![])
}

/// What was sent: header and body.
fn sent(outputs: &[Output]) -> Vec<(Header, Body)> {
    let read = |bytes: &Vec<u8>| {
        let (header, payload) = bytes.split_first_chunk::<HEADER>().unwrap();
        let header = Header::read(header).unwrap();
        let body = Said::read(&header, payload).unwrap().body;
        (header, body)
    };
    let bytes = outputs.iter().filter_map(|output| match output {
        Output::Send(bytes) => Some(read(bytes)),
        Output::Connect | Output::HangUp => None,
    });
    bytes.collect()
}

fn hears(session: &mut Session, now: Time, address: Address, body: &Body) -> Vec<Output> {
    let bytes = encode(address, body);
    let (header, payload) = bytes.split_first_chunk::<HEADER>().unwrap();
    let header = Header::read(header).unwrap();
    session.received(now, &header, Said::read(&header, payload), &tree())
}

fn response(error: u16) -> Body {
    Body::Response { uptime_ticks: 500, error, index: 0, binds: vec![] }
}

/// The master says yes to what was sent.
fn agrees(session: &mut Session, now: Time, outputs: &[Output]) -> Vec<Output> {
    let all = sent(outputs);
    let answer = |header: &Header| Address { session: 7, transaction: header.transaction, packet: header.packet };
    all.iter().flat_map(|(header, _)| hears(session, now, answer(header), &response(0))).collect()
}

/// A session that is up at `now`.
fn up(session: &mut Session, now: Time) -> Vec<Output> {
    assert_eq!(session.tick(now), [Output::Connect]);
    let opening = session.connected(now);
    let first = agrees(session, now, &opening);
    let second = agrees(session, now, &first);
    let rest = agrees(session, now, &second);
    assert!(session.is_up());
    rest
}

fn note(number: u32) -> Vec<VarBind> {
    vec![VarBind { oid: Oid::from(&VM[..]), value: Value::Gauge32(number) }]
}

fn ask(session: &mut Session, body: &Body) -> Body {
    let outputs = hears(session, Time(5), Address { session: 7, transaction: 3, packet: 4 }, body);
    let mut all = sent(&outputs);
    assert_eq!(all.len(), 1, "{outputs:?}");
    let (header, body) = all.remove(0);
    assert_eq!((header.session, header.transaction, header.packet), (7, 3, 4));
    body
}

#[test]
fn a_session_opens_registers_and_answers() {
    let mut session = Session::new(identity(), Time(0));
    let opening = {
        assert_eq!(session.tick(Time(0)), [Output::Connect]);
        session.connected(Time(0))
    };
    assert!(matches!(&sent(&opening)[..], [(_, Body::Open { .. })]));
    let first = agrees(&mut session, Time(0), &opening);
    assert!(matches!(&sent(&first)[..], [(_, Body::Register { subtree, .. })] if subtree[..] == VM));
    let second = agrees(&mut session, Time(0), &first);
    assert!(!session.is_up(), "two subtrees");
    agrees(&mut session, Time(0), &second);
    assert!(session.is_up());
    let range = |last| Range { start: Oid::join(&VM, &[1, last, 0]), include: false, end: Oid::from(&[2][..]) };
    let Body::Response { error, binds, .. } = ask(&mut session, &Body::GetNext(vec![range(1), range(2)])) else {
        panic!("no response")
    };
    assert_eq!(error, 0);
    assert_eq!(
        binds.iter().map(|bind| bind.value.clone()).collect::<Vec<_>>(),
        [Value::Integer(2), Value::EndOfMibView]
    );
    assert_eq!(session.uptime(Time(1_000)), Some(Millis(6_000)));
}

use crate::pdu::Range;

#[test]
fn nothing_can_be_set() {
    let mut session = Session::new(identity(), Time(0));
    up(&mut session, Time(0));
    let error = |body: Body| {
        let Body::Response { error, .. } = body else { panic!("{body:?}") };
        error
    };
    assert_eq!(error(ask(&mut session, &Body::TestSet(note(1)))), code::NOT_WRITABLE);
    assert_eq!(error(ask(&mut session, &Body::CommitSet)), code::COMMIT_FAILED);
    assert_eq!(error(ask(&mut session, &Body::UndoSet)), code::UNDO_FAILED);
    assert!(hears(&mut session, Time(5), Address { session: 7, ..Address::default() }, &Body::CleanupSet).is_empty());
    assert_eq!(error(ask(&mut session, &Body::Ping)), code::GENERAL);
}

#[test]
fn what_is_not_for_us_or_can_not_be_read_is_answered_with_an_error() {
    let mut session = Session::new(identity(), Time(0));
    up(&mut session, Time(0));
    let other = Address { session: 8, ..Address::default() };
    let error = |outputs: Vec<Output>| match &sent(&outputs)[..] {
        [(_, Body::Response { error, .. })] => *error,
        other => panic!("{other:?}"),
    };
    assert_eq!(error(hears(&mut session, Time(1), other, &Body::Get(vec![]))), code::NOT_OPEN);
    let header = Header { kind: 6, flags: 0x10, session: 7, transaction: 1, packet: 1, length: 4 };
    assert_eq!(error(session.received(Time(1), &header, Err(DecodeError::Short), &tree())), code::PARSE);
    let header = Header { kind: 77, ..header };
    assert_eq!(error(session.received(Time(1), &header, Err(DecodeError::Type(77)), &tree())), code::GENERAL);
    let said = Said { context: Some(b"x".to_vec()), body: Body::Get(vec![]) };
    assert_eq!(error(session.received(Time(1), &header, Ok(said), &tree())), code::UNSUPPORTED_CONTEXT);
    assert!(session.is_up());
}

#[test]
fn a_silent_master_is_pinged_and_left_after_its_time() {
    let mut session = Session::new(identity(), Time(0));
    up(&mut session, Time(0));
    let ping_at = session.deadline().unwrap();
    assert_eq!(ping_at, Time(0) + PING_EVERY);
    let ping = session.tick(ping_at);
    assert!(matches!(&sent(&ping)[..], [(_, Body::Ping)]));
    agrees(&mut session, ping_at, &ping);
    assert_eq!(session.deadline(), Some(ping_at + PING_EVERY), "an answer counts");
    let ping_at = ping_at + PING_EVERY;
    session.tick(ping_at);
    assert_eq!(session.deadline(), Some(ping_at + PATIENCE));
    assert_eq!(session.tick(ping_at + PATIENCE), [Output::HangUp]);
    assert_eq!(session.deadline(), Some(ping_at + PATIENCE + RETRY.0));
}

#[test]
fn the_wait_before_another_try_grows_and_is_bounded() {
    let mut session = Session::new(identity(), Time(0));
    let mut waits = Vec::new();
    for _ in 0..8 {
        let now = session.deadline().unwrap();
        assert_eq!(session.tick(now), [Output::Connect]);
        session.disconnected(now);
        waits.push(session.deadline().unwrap().since(now).0 / 1_000);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
    up(&mut session, Time(900_000));
    session.disconnected(Time(900_000));
    assert_eq!(session.deadline(), Some(Time(901_000)), "a session that stood begins at one second again");
}

#[test]
fn notifications_wait_for_a_master_and_the_last_ones_are_kept() {
    let mut session = Session::new(identity(), Time(0));
    for number in 0..300 {
        assert!(session.notify(Time(0), note(number)).is_empty());
    }
    assert_eq!(session.lost(), (44, 0));
    let mut outputs = up(&mut session, Time(0));
    let mut told = Vec::new();
    while !outputs.is_empty() {
        assert!(outputs.len() <= FLYING);
        for (_, body) in sent(&outputs) {
            let Body::Notify(binds) = body else { panic!("{body:?}") };
            told.extend(binds.into_iter().map(|bind| bind.value));
        }
        outputs = agrees(&mut session, Time(1), &outputs);
    }
    assert_eq!(told, (44..300).map(Value::Gauge32).collect::<Vec<_>>());
}

#[test]
fn a_notification_on_its_way_when_the_master_dies_is_sent_to_its_successor_first() {
    let mut session = Session::new(identity(), Time(0));
    up(&mut session, Time(0));
    session.notify(Time(0), note(1));
    session.notify(Time(0), note(2));
    session.disconnected(Time(0));
    session.notify(Time(0), note(3));
    let told: Vec<Body> = sent(&up(&mut session, Time(1_000))).into_iter().map(|(_, body)| body).collect();
    assert_eq!(told, [1, 2, 3].map(|number| Body::Notify(note(number))));
}

#[test]
fn a_master_that_closes_or_forgot_us_is_opened_anew() {
    let ours = Address { session: 7, ..Address::default() };
    let mut session = Session::new(identity(), Time(0));
    up(&mut session, Time(0));
    assert_eq!(hears(&mut session, Time(1), ours, &Body::Close(Reason::Timeouts)), [Output::HangUp]);
    up(&mut session, Time(60_000));
    let outputs = session.notify(Time(60_000), note(1));
    let packet = sent(&outputs)[0].0.packet;
    let address = Address { packet, ..ours };
    assert_eq!(hears(&mut session, Time(60_001), address, &response(code::NOT_OPEN)), [Output::HangUp]);
}

#[test]
fn a_master_that_refuses_or_never_answers_costs_a_wait() {
    let mut session = Session::new(identity(), Time(0));
    session.tick(Time(0));
    session.connected(Time(0));
    assert_eq!(session.deadline(), Some(Time(0) + PATIENCE));
    assert_eq!(session.tick(Time(0) + PATIENCE), [Output::HangUp]);
    session.tick(Time(60_000));
    session.connected(Time(60_000));
    let refused = hears(&mut session, Time(60_000), Address::default(), &response(256));
    assert_eq!(refused, [Output::HangUp]);
}
