//! The link against a small aggregator of its own, over real QUIC on loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use roost_protocol::document;
use roost_protocol::enrol::{EXPORTER, EnrolAnswer, EnrolRefusal, EnrolRequest, JoinToken, check_proof};
use roost_protocol::host::HostFacts;
use roost_protocol::identity::{GridKey, HOST_LIFETIME};
use roost_protocol::look::{Look, Seen};
use roost_protocol::message::{Hello, Refusal, Refused, ToAgent, ToAggregator, Welcome};
use roost_protocol::transport::{self, FrameReader, FrameWriter, Listener, Peer, Purpose};
use roost_protocol::{Epoch, Generation, GuestId, HostId, Millis, OperationId, Stamp};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::identity::Store;
use super::join::{Applicant, JoinError, join};
use super::link::{Link, LinkEvent, wall};
use crate::look::{self, Looks};

/// Far more than any step takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Rig {
    dir: tempfile::TempDir,
    grid: GridKey,
    listener: Listener,
    address: SocketAddr,
    token: JoinToken,
    store: Store,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let grid = GridKey::generate().unwrap();
        let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), &grid, wall()).unwrap();
        let address = listener.endpoint().local_addr().unwrap();
        let token = JoinToken::mint(grid.fingerprint(), [7; 16]);
        let store = Store::open(&dir.path().join("identity")).unwrap();
        Self { dir, grid, listener, address, token, store }
    }

    fn looks(&self) -> Looks {
        Looks {
            search: crate::slots::Search::default(),
            reboot: crate::Reboot::new("", &[], Default::default()),
            hypervisor: watch::channel(None).1,
            pictures: self.dir.path().join("pictures"),
            history: None,
            memory: watch::channel(None).1,
            guard: None,
        }
    }

    fn link(&self) -> mpsc::Receiver<LinkEvent> {
        self.link_with(Some(self.address.to_string()), self.token.clone())
    }

    fn link_with(&self, aggregator: Option<String>, token: JoinToken) -> mpsc::Receiver<LinkEvent> {
        let ((events, receiver), token) = (mpsc::channel(16), Some(token));
        let (store, host, facts) = (self.store.clone(), HostId::from_u128(1), HostFacts::default());
        tokio::spawn(Link { store, aggregator, token, host, facts, looks: self.looks(), events }.run());
        receiver
    }

    async fn peer(&self) -> (Peer, FrameReader, FrameWriter) {
        let handshake = timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap();
        let peer = handshake.finish().await.unwrap();
        let (reader, writer) = peer.accept().await.unwrap();
        (peer, reader, writer)
    }

    /// Takes in one machine as host 5.
    async fn enrol(&self, born: Stamp) {
        let (peer, mut reader, mut writer) = self.peer().await;
        assert_eq!(peer.purpose, Purpose::Join);
        let request: EnrolRequest = reader.recv_within(PATIENCE).await.unwrap();
        let exporter: [u8; EXPORTER] = transport::exporter(&peer.connection).unwrap();
        assert!(check_proof(&request, &self.token.secret_hash(), &exporter));
        let host = HostId::from_u128(5);
        let chain = self.grid.issue_host(&request.csr, host, HOST_LIFETIME, born).unwrap();
        let (grid, ca) = (self.grid.grid_id(), self.grid.ca_certificate().clone());
        writer.send(&EnrolAnswer::Accepted { host, chain, grid, ca }).await.unwrap();
        // The agent may hang up as soon as it has read the answer.
        let _hung_up = writer.finish().await;
    }

    /// What joining leaves on the data disk.
    async fn joined(&self) {
        let (endpoint, address) = (transport::client_endpoint().unwrap(), self.address.to_string());
        let (token, facts) = (&self.token, HostFacts::default());
        let applicant = Applicant { token, address: &address, name: "h", host: None, facts };
        let (joined, ()) = tokio::join!(join(&endpoint, &self.store, &applicant), self.enrol(wall()));
        joined.unwrap();
    }

    fn welcome(&self) -> ToAgent {
        let (grid, epoch, document) = (self.grid.grid_id(), Epoch(1), Generation(0));
        ToAgent::Welcome(Welcome { version: 2, grid, epoch, document })
    }
}

fn hello() -> Hello {
    let (host, facts, epoch, document) = (HostId::from_u128(1), HostFacts::default(), Epoch(0), Generation(0));
    Hello { newest: 2, oldest: 1, host, facts, epoch, document, clock: Stamp(0) }
}

async fn next(events: &mut mpsc::Receiver<LinkEvent>) -> LinkEvent {
    timeout(PATIENCE, events.recv()).await.unwrap().unwrap()
}

async fn greet(events: &mut mpsc::Receiver<LinkEvent>) {
    let LinkEvent::WantHello(answer) = next(events).await else { panic!("hello first") };
    answer.send(hello()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_with_a_token_joins_connects_and_renews_an_expired_certificate() {
    let rig = Rig::new();
    let mut events = rig.link();
    // A certificate that ended years ago, by the host's clock.
    rig.enrol(Stamp(1_000_000)).await;
    let ((), (_peer, mut reader, mut writer)) = tokio::join!(greet(&mut events), rig.peer());
    let ToAggregator::Hello(hello) = reader.recv_within(PATIENCE).await.unwrap() else { panic!("hello first") };
    assert_eq!(hello.host, HostId::from_u128(5), "the id the grid gave, not its own");
    writer.send(&rig.welcome()).await.unwrap();
    let LinkEvent::Up { outbox, .. } = next(&mut events).await else { panic!("up") };
    let ToAggregator::Renew { request } = reader.recv_within(PATIENCE).await.unwrap() else { panic!("renew at once") };
    let chain = rig.grid.issue_host(&request, HostId::from_u128(5), HOST_LIFETIME, wall()).unwrap();
    writer.send(&ToAgent::Certificate { chain: chain.clone() }).await.unwrap();
    let seen = ToAgent::OutcomeSeen { operation: OperationId::from_u128(3) };
    writer.send(&seen).await.unwrap();
    let LinkEvent::Received(received) = next(&mut events).await else { panic!("received") };
    assert_eq!(received, seen);
    assert_eq!(rig.store.membership().unwrap().unwrap().chain, chain, "kept before anything else is read");
    outbox.send(ToAggregator::Document { sealed: vec![1] }).await.unwrap();
    let sent: ToAggregator = reader.recv_within(PATIENCE).await.unwrap();
    assert_eq!(sent, ToAggregator::Document { sealed: vec![1] });
    drop(outbox);
    assert!(matches!(next(&mut events).await, LinkEvent::Down), "dropping the outbox ends the connection");
    let again = async { rig.listener.accept().await.unwrap().finish().await.unwrap() };
    let (_peer, event) = tokio::join!(again, next(&mut events));
    assert!(matches!(event, LinkEvent::WantHello(_)), "and begins it anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grid_document_is_handed_on_only_when_the_grid_signed_it() {
    let rig = Rig::new();
    let mut events = rig.link();
    rig.enrol(wall()).await;
    let ((), (_, _reader, mut writer)) = tokio::join!(greet(&mut events), rig.peer());
    writer.send(&rig.welcome()).await.unwrap();
    let LinkEvent::Up { outbox: _outbox, .. } = next(&mut events).await else { panic!("up") };
    let generation = Generation(4);
    let foreign = document::seal(&GridKey::generate().unwrap(), generation, b"x").unwrap();
    let own = document::seal(&rig.grid, generation, b"x").unwrap();
    writer.send(&ToAgent::Document { generation, sealed: foreign }).await.unwrap();
    writer.send(&ToAgent::Document { generation: Generation(5), sealed: own.clone() }).await.unwrap();
    writer.send(&ToAgent::Document { generation, sealed: own.clone() }).await.unwrap();
    let LinkEvent::Received(received) = next(&mut events).await else { panic!("received") };
    assert_eq!(received, ToAgent::Document { generation, sealed: own }, "the false ones never come");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_look_at_is_answered_beside_the_messages_and_garbage_harms_nothing() {
    let rig = Rig::new();
    let guest = GuestId::from_u128(7);
    std::fs::create_dir(&rig.looks().pictures).unwrap();
    std::fs::write(look::file(&rig.looks().pictures, guest), b"a picture").unwrap();
    let mut events = rig.link();
    rig.enrol(wall()).await;
    let ((), (peer, _reader, mut writer)) = tokio::join!(greet(&mut events), rig.peer());
    writer.send(&rig.welcome()).await.unwrap();
    let LinkEvent::Up { outbox: _outbox, .. } = next(&mut events).await else { panic!("up") };
    for _ in 0..10 {
        let (mut garbage, _unread) = timeout(PATIENCE, peer.connection.open_bi()).await.unwrap().unwrap();
        garbage.write_all(b"\0\0\0\x03abc").await.unwrap();
        garbage.finish().unwrap();
        let (mut reader, mut writer) = transport::open(&peer.connection).await.unwrap();
        writer.send(&Look::Trial { guest }).await.unwrap();
        let Seen::Picture(picture) = reader.recv_within(PATIENCE).await.unwrap() else { panic!("a picture") };
        assert_eq!(picture.png, b"a picture");
    }
    let seen = ToAgent::OutcomeSeen { operation: OperationId::from_u128(3) };
    writer.send(&seen).await.unwrap();
    assert!(matches!(next(&mut events).await, LinkEvent::Received(received) if received == seen));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_host_raises_an_alarm() {
    let rig = Rig::new();
    let mut events = rig.link();
    rig.enrol(wall()).await;
    let ((), (_peer, _reader, mut writer)) = tokio::join!(greet(&mut events), rig.peer());
    let (reason, text) = (Refusal::Removed, "removed by admin".to_owned());
    writer.send(&ToAgent::Refused(Refused { reason, text, retry_after_ms: Millis(0) })).await.unwrap();
    let LinkEvent::Condition { alarm, raised: true } = next(&mut events).await else { panic!("alarm") };
    assert!(alarm.text.contains("removed by admin"), "{}", alarm.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_disk_of_another_grid_is_kept_and_told_and_connects_where_its_own_grid_answers() {
    let (rig, other) = (Rig::new(), Rig::new());
    rig.joined().await;
    let kept = || (rig.store.membership().unwrap().unwrap(), rig.store.key().unwrap().key_fingerprint());
    let before = kept();
    // The address is read anew before each try.
    rig.store.keep_aggregator(&other.address.to_string()).unwrap();
    let mut events = rig.link_with(None, other.token.clone());
    let turned_away = async {
        while let Some(handshake) = other.listener.accept().await {
            assert!(handshake.finish().await.is_err());
        }
    };
    let ours = async {
        let LinkEvent::Condition { alarm, raised: true } = next(&mut events).await else { panic!("alarm") };
        let (disk, token) = (rig.grid.grid_id(), other.grid.grid_id());
        let belongs = format!("data disk belongs to grid {disk}, its join token to grid {token}");
        for wanted in [&belongs, "nothing was changed", "boot with the right data disk"] {
            assert!(alarm.text.contains(wanted), "{wanted}: {}", alarm.text);
        }
        assert_eq!(kept(), before, "an identity is never forgotten by itself");
        rig.store.keep_aggregator(&rig.address.to_string()).unwrap();
        let greeted = async {
            let mut event = next(&mut events).await;
            while matches!(event, LinkEvent::Condition { raised: true, .. }) {
                event = next(&mut events).await;
            }
            let LinkEvent::WantHello(answer) = event else { panic!("hello first") };
            answer.send(hello()).unwrap();
        };
        let ((), (_peer, mut reader, mut writer)) = tokio::join!(greeted, rig.peer());
        let ToAggregator::Hello(hello) = reader.recv_within(PATIENCE).await.unwrap() else { panic!("hello first") };
        assert_eq!(hello.host, HostId::from_u128(5));
        writer.send(&rig.welcome()).await.unwrap();
        let event = next(&mut events).await;
        assert!(matches!(event, LinkEvent::Condition { raised: false, .. }), "over: {event:?}");
        assert!(matches!(next(&mut events).await, LinkEvent::Up { .. }));
        assert_eq!(kept(), before);
    };
    tokio::select! {
        () = turned_away => panic!("the listener ended"),
        () = ours => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_grid_says_nothing_where_the_disk_s_own_grid_answers() {
    let (rig, other) = (Rig::new(), Rig::new());
    rig.joined().await;
    let mut events = rig.link_with(Some(rig.address.to_string()), other.token);
    let ((), (_peer, _reader, mut writer)) = tokio::join!(greet(&mut events), rig.peer());
    writer.send(&rig.welcome()).await.unwrap();
    assert!(matches!(next(&mut events).await, LinkEvent::Up { .. }), "no alarm, and none taken back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_told_and_nothing_is_kept() {
    let rig = Rig::new();
    let endpoint = transport::client_endpoint().unwrap();
    let (address, facts) = (rig.address.to_string(), HostFacts::default());
    let applicant = Applicant { token: &rig.token, address: &address, name: "h", host: None, facts };
    let refuse = async {
        let (_peer, mut reader, mut writer) = rig.peer().await;
        let _: EnrolRequest = reader.recv_within(PATIENCE).await.unwrap();
        let text = "the token was used on another machine".to_owned();
        writer.send(&EnrolAnswer::Refused { reason: EnrolRefusal::UsedToken, text }).await.unwrap();
        let _hung_up = writer.finish().await;
    };
    let (joined, ()) = tokio::join!(join(&endpoint, &rig.store, &applicant), refuse);
    let error = joined.unwrap_err();
    assert!(error.hopeless() && error.to_string().contains("used on another machine"), "{error}");
    assert_eq!((rig.store.membership().unwrap(), rig.store.aggregator().unwrap()), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregator_with_another_key_gets_no_proof() {
    let rig = Rig::new();
    let endpoint = transport::client_endpoint().unwrap();
    let token = JoinToken::mint(GridKey::generate().unwrap().fingerprint(), [7; 16]);
    let (address, facts) = (rig.address.to_string(), HostFacts::default());
    let applicant = Applicant { token: &token, address: &address, name: "h", host: None, facts };
    let listen = async {
        let handshake = rig.listener.accept().await.unwrap();
        assert!(handshake.finish().await.is_err());
    };
    let (joined, ()) = tokio::join!(join(&endpoint, &rig.store, &applicant), listen);
    assert!(matches!(joined, Err(JoinError::Reach { .. })), "{joined:?}");
}
