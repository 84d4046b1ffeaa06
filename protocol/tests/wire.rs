//! Two real endpoints on loopback: joining, mutual TLS without clocks, and peers that break the rules.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test stops at the first thing that is not as it should be"
)]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use quinn::{Connection, Endpoint};
use roost_protocol::enrol::{EnrolAnswer, EnrolRefusal, EnrolRequest, JoinToken, check_proof};
use roost_protocol::guest::{GuestReport, PowerState};
use roost_protocol::host::HostFacts;
use roost_protocol::identity::{Fingerprint, GridKey, HOST_LIFETIME, HostKey, peer_identity, request_fingerprint};
use roost_protocol::message::{Beat, FRAME, FRAME_BEFORE_HELLO, ToAggregator};
use roost_protocol::transport::{
    self, FrameReader, FrameWriter, Identity, Listener, Peer, Purpose, TransportError, client_endpoint, connect,
    exporter, open,
};
use roost_protocol::{GuestId, HostId, MiB, Millis, Stamp};

/// 2030-01-01; no test looks at the machine's clock.
const NOW: Stamp = Stamp(1_893_456_000_000);
const YEAR: u64 = 365 * 86_400_000;
/// Patience of readers in these tests.
const SOON: Duration = Duration::from_millis(100);

struct Wire {
    grid: GridKey,
    listener: Listener,
    client: Endpoint,
}

impl Wire {
    fn new() -> Self {
        Self::at(NOW)
    }

    fn at(now: Stamp) -> Self {
        let grid = GridKey::generate().unwrap();
        let listener = Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &grid, now).unwrap();
        Self { grid, listener, client: client_endpoint().unwrap() }
    }

    fn address(&self) -> SocketAddr {
        self.listener.endpoint().local_addr().unwrap()
    }

    async fn meet(
        &self,
        purpose: Purpose,
        pin: Fingerprint,
        identity: Option<&Identity>,
    ) -> (Result<Connection, TransportError>, Result<Peer, TransportError>) {
        let server = async { self.listener.accept().await.unwrap().finish().await };
        tokio::join!(connect(&self.client, self.address(), purpose, pin, identity), server)
    }

    async fn link(&self, identity: &Identity) -> (Connection, Peer) {
        let (host, peer) = self.meet(Purpose::Link, self.grid.fingerprint(), Some(identity)).await;
        (host.unwrap(), peer.unwrap())
    }
}

fn host(grid: &GridKey, number: u128, lifetime: Millis, now: Stamp) -> Identity {
    let key = HostKey::generate().unwrap();
    let chain = grid.issue_host(&key.csr().unwrap(), HostId::from_u128(number), lifetime, now).unwrap();
    Identity { chain, key }
}

fn beat(sequence: u64) -> ToAggregator {
    ToAggregator::Beat(Beat { sequence, ..Beat::default() })
}

fn large_beat() -> ToAggregator {
    let guest = |n: u128| GuestReport {
        id: GuestId::from_u128(n),
        name: "x".repeat(200),
        state: PowerState::Running,
        reason: String::new(),
        persistent: true,
        desired: None,
        vcpus: 1,
        memory_mib: MiB(512),
        since: NOW,
        restarts: 0,
        disks: Vec::new(),
    };
    ToAggregator::Beat(Beat { guests: (0..512).map(guest).collect(), ..Beat::default() })
}

/// The server's side of enrolment as the aggregator will do it, cut down to what this crate decides.
async fn enrol(grid: &GridKey, token: &JoinToken, peer: &Peer) -> EnrolRequest {
    let (mut reader, mut writer) = peer.accept().await.unwrap();
    let request: EnrolRequest = reader.recv_within(transport::FIRST_MESSAGE).await.unwrap();
    let bound = exporter(&peer.connection).unwrap();
    let answer = if check_proof(&request, &token.secret_hash(), &bound) {
        let host = HostId::from_u128(7);
        let chain = grid.issue_host(&request.csr, host, HOST_LIFETIME, NOW).unwrap();
        EnrolAnswer::Accepted { host, chain, grid: grid.grid_id(), ca: grid.ca_certificate().clone() }
    } else {
        EnrolAnswer::Refused { reason: EnrolRefusal::BadProof, text: "no".into() }
    };
    writer.send(&answer).await.unwrap();
    writer.finish().await.unwrap();
    request
}

async fn ask(connection: &Connection, request: &EnrolRequest) -> EnrolAnswer {
    let (mut reader, mut writer) = open(connection).await.unwrap();
    writer.send(request).await.unwrap();
    let answer = reader.recv().await.unwrap();
    assert!(matches!(reader.recv::<EnrolAnswer>().await, Err(TransportError::Closed { .. })));
    answer
}

fn request(token: &JoinToken, connection: &Connection, key: &HostKey) -> EnrolRequest {
    let bound = exporter(connection).unwrap();
    EnrolRequest::new(token, &bound, key.csr().unwrap(), "alpha".into(), None, HostFacts::default())
}

#[tokio::test]
async fn a_machine_with_a_token_joins_and_links_with_what_it_was_given() {
    let wire = Wire::new();
    let minted = JoinToken::mint(wire.grid.fingerprint(), [9; 16]);
    let token = JoinToken::parse(&minted.reveal()).unwrap();
    let key = HostKey::generate().unwrap();

    let (connection, peer) = wire.meet(Purpose::Join, token.fingerprint(), None).await;
    let (connection, peer) = (connection.unwrap(), peer.unwrap());
    assert_eq!((peer.purpose, &peer.identity), (Purpose::Join, &None));
    let request = request(&token, &connection, &key);
    let (answer, seen) = tokio::join!(ask(&connection, &request), enrol(&wire.grid, &minted, &peer));
    assert_eq!(request_fingerprint(&seen.csr).unwrap(), key.key_fingerprint());
    let EnrolAnswer::Accepted { host, chain, grid, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(grid, wire.grid.grid_id());

    let fingerprint = key.key_fingerprint();
    let (_link, peer) = wire.link(&Identity { chain, key }).await;
    let identity = peer.identity.unwrap();
    assert_eq!((identity.grid, identity.host, identity.key_fingerprint), (grid, host, fingerprint));
}

#[tokio::test]
async fn an_aggregator_with_another_key_than_the_token_says_is_not_talked_to() {
    let wire = Wire::new();
    let other = GridKey::generate().unwrap().fingerprint();
    let (host, aggregator) = wire.meet(Purpose::Join, other, None).await;
    assert!(matches!(&host, Err(error) if error.other_key()), "{host:?}");
    assert!(aggregator.is_err());
}

#[tokio::test]
async fn a_wrong_secret_is_refused() {
    let wire = Wire::new();
    let minted = JoinToken::mint(wire.grid.fingerprint(), [9; 16]);
    let guessed = JoinToken::mint(wire.grid.fingerprint(), [8; 16]);
    let (connection, peer) = wire.meet(Purpose::Join, guessed.fingerprint(), None).await;
    let (connection, peer) = (connection.unwrap(), peer.unwrap());
    let request = request(&guessed, &connection, &HostKey::generate().unwrap());
    let (answer, _) = tokio::join!(ask(&connection, &request), enrol(&wire.grid, &minted, &peer));
    assert!(matches!(answer, EnrolAnswer::Refused { reason: EnrolRefusal::BadProof, .. }), "{answer:?}");
}

#[tokio::test]
async fn a_request_relayed_into_another_session_is_refused() {
    let wire = Wire::new();
    let token = JoinToken::mint(wire.grid.fingerprint(), [9; 16]);
    let (victim, _victims_peer) = wire.meet(Purpose::Join, token.fingerprint(), None).await;
    let overheard = request(&token, &victim.unwrap(), &HostKey::generate().unwrap());
    let (thief, peer) = wire.meet(Purpose::Join, token.fingerprint(), None).await;
    let (thief, peer) = (thief.unwrap(), peer.unwrap());
    let (answer, _) = tokio::join!(ask(&thief, &overheard), enrol(&wire.grid, &token, &peer));
    assert!(matches!(answer, EnrolAnswer::Refused { reason: EnrolRefusal::BadProof, .. }), "{answer:?}");
}

#[tokio::test]
async fn a_host_whose_certificate_ended_years_ago_connects_and_shows_when() {
    let wire = Wire::new();
    let old = Stamp(NOW.0 - 9 * YEAR);
    let identity = host(&wire.grid, 1, HOST_LIFETIME, old);
    let (_link, peer) = wire.link(&identity).await;
    let shown = peer.identity.unwrap();
    assert_eq!(shown, peer_identity(&identity.chain[0].0).unwrap());
    assert_eq!(shown.not_after, Stamp(old.0 + HOST_LIFETIME.0));
}

#[tokio::test]
async fn clocks_years_ahead_or_behind_on_either_side_do_not_part_them() {
    for aggregator in [Stamp(0), Stamp(NOW.0 - 20 * YEAR), Stamp(NOW.0 + 200 * YEAR), Stamp(u64::MAX)] {
        let wire = Wire::at(aggregator);
        for issued in [Stamp(0), NOW, Stamp(NOW.0 + 2 * YEAR), Stamp(u64::MAX)] {
            let (_link, peer) = wire.link(&host(&wire.grid, 1, HOST_LIFETIME, issued)).await;
            assert!(peer.identity.is_some());
        }
    }
}

#[tokio::test]
async fn a_host_of_another_grid_is_refused() {
    let wire = Wire::new();
    let stranger = host(&GridKey::generate().unwrap(), 1, HOST_LIFETIME, NOW);
    let (_, aggregator) = wire.meet(Purpose::Link, wire.grid.fingerprint(), Some(&stranger)).await;
    assert!(matches!(aggregator, Err(TransportError::Handshake(_))), "{aggregator:?}");
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused() {
    let wire = Wire::new();
    let stolen = Identity { key: HostKey::generate().unwrap(), ..host(&wire.grid, 1, HOST_LIFETIME, NOW) };
    let refused = connect(&wire.client, wire.address(), Purpose::Link, wire.grid.fingerprint(), Some(&stolen)).await;
    assert!(matches!(refused, Err(TransportError::Tls(_))), "{refused:?}");
}

#[tokio::test]
async fn a_link_without_a_certificate_is_closed() {
    let wire = Wire::new();
    let (_, aggregator) = wire.meet(Purpose::Link, wire.grid.fingerprint(), None).await;
    assert!(matches!(aggregator, Err(TransportError::NoCertificate)), "{aggregator:?}");
}

#[tokio::test]
async fn a_host_can_not_pass_for_the_aggregator() {
    let wire = Wire::new();
    let rogue = host(&wire.grid, 1, HOST_LIFETIME, NOW);
    let certificates = rogue.chain.iter().map(|der| der.0.clone().into()).collect();
    let pem = rogue.key.to_pem();
    let key = rustls_pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap();
    let config = quinn::ServerConfig::with_single_cert(certificates, key).unwrap();
    let fake = Endpoint::server(config, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = fake.local_addr().unwrap();
    let answering = tokio::spawn(async move { fake.accept().await.unwrap().await.is_err() });
    let refused = connect(&wire.client, address, Purpose::Join, wire.grid.fingerprint(), None).await;
    assert!(matches!(&refused, Err(error @ TransportError::Handshake(_)) if !error.other_key()), "{refused:?}");
    assert!(answering.await.unwrap());
}

#[tokio::test]
async fn messages_larger_than_a_window_pass_once_the_peer_is_trusted() {
    let wire = Wire::new();
    let (link, peer) = wire.link(&host(&wire.grid, 1, HOST_LIFETIME, NOW)).await;
    let (_reader, mut writer) = open(&link).await.unwrap();
    let large = large_beat();
    let sending = async {
        writer.send(&beat(1)).await.unwrap();
        writer.send(&large).await.unwrap();
    };
    let receiving = async {
        let (mut reader, _writer) = peer.accept().await.unwrap();
        assert_eq!(reader.recv::<ToAggregator>().await.unwrap(), beat(1));
        transport::trust(&peer.connection, &mut reader);
        assert_eq!(reader.recv::<ToAggregator>().await.unwrap(), large);
    };
    tokio::join!(sending, receiving);
}

/// Writes raw bytes on a new stream and tells what the reader at the other end makes of them.
async fn raw(bytes: &[u8], end: bool) -> TransportError {
    let wire = Wire::new();
    let (link, peer) = wire.link(&host(&wire.grid, 1, HOST_LIFETIME, NOW)).await;
    let (mut send, _recv) = link.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    if end {
        send.finish().unwrap();
    }
    let (_, recv) = peer.connection.accept_bi().await.unwrap();
    FrameReader::new(recv).with_patience(SOON).recv::<ToAggregator>().await.unwrap_err()
}

#[tokio::test]
async fn a_claimed_length_beyond_the_limit_is_refused_before_its_bytes_come() {
    let claim = u32::try_from(FRAME_BEFORE_HELLO + 1).unwrap();
    for length in [claim, u32::MAX] {
        let error = raw(&length.to_be_bytes(), false).await;
        assert!(matches!(error, TransportError::Oversize { limit: FRAME_BEFORE_HELLO, .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_frame_that_trickles_is_cut_off() {
    for begun in [&[0u8, 0][..], &[0, 0, 1, 0, 0x82][..]] {
        let error = raw(begun, false).await;
        assert!(matches!(error, TransportError::Slow { .. }) && error.misbehaved(), "{error:?}");
    }
}

#[tokio::test]
async fn a_stream_that_ends_within_a_frame_is_told_from_one_that_ends_after() {
    assert!(matches!(raw(&[0, 0, 1, 0, 0x82], true).await, TransportError::Truncated));
    assert!(matches!(raw(&[0, 0, 0], true).await, TransportError::Truncated));
    assert!(matches!(raw(&[], true).await, TransportError::Closed { .. }));
}

#[tokio::test]
async fn garbage_in_a_frame_is_a_decode_error() {
    let error = raw(b"\0\0\0\x08garbage!", false).await;
    assert!(matches!(error, TransportError::Decode(_)) && error.misbehaved(), "{error:?}");
    assert!(matches!(raw(&[0; 4], false).await, TransportError::Decode(_)));
}

#[tokio::test]
async fn a_message_too_large_is_not_sent() {
    let wire = Wire::new();
    let (link, _peer) = wire.link(&host(&wire.grid, 1, HOST_LIFETIME, NOW)).await;
    let (_reader, mut writer) = open(&link).await.unwrap();
    let error = writer.send(&ToAggregator::Document { sealed: vec![0; FRAME] }).await.unwrap_err();
    assert!(matches!(error, TransportError::Oversize { limit: FRAME, .. }), "{error:?}");
}

#[tokio::test]
async fn a_peer_that_reads_nothing_does_not_hold_the_writer() {
    let wire = Wire::new();
    let (link, _peer) = wire.link(&host(&wire.grid, 1, HOST_LIFETIME, NOW)).await;
    let (send, _recv) = link.open_bi().await.unwrap();
    let mut writer = FrameWriter::new(send).with_patience(SOON);
    let mut sent = Ok(());
    while sent.is_ok() {
        sent = writer.send(&large_beat()).await;
    }
    assert!(matches!(sent, Err(TransportError::Slow { .. })), "{sent:?}");
}

#[tokio::test]
async fn dropping_a_read_or_a_write_half_way_loses_and_tears_nothing() {
    let wire = Wire::new();
    let (link, peer) = wire.link(&host(&wire.grid, 1, HOST_LIFETIME, NOW)).await;
    let (_reader, mut writer) = open(&link).await.unwrap();
    const MESSAGES: u64 = 20;
    let large = large_beat();
    let sending = async {
        for _ in 0..MESSAGES {
            // Dropped after one poll, most often in the middle of the message.
            let dropped = tokio::select! {
                biased;
                done = writer.send(&large) => { done.unwrap(); false }
                () = std::future::ready(()) => true,
            };
            if dropped {
                writer.flush().await.unwrap();
            }
        }
        writer
    };
    let receiving = async {
        let (mut reader, _writer) = peer.accept().await.unwrap();
        transport::trust(&peer.connection, &mut reader);
        let (mut got, mut dropped) = (0, 0);
        while got < MESSAGES {
            tokio::select! {
                biased;
                message = reader.recv::<ToAggregator>() => { assert_eq!(message.unwrap(), large); got += 1; }
                () = tokio::task::yield_now() => dropped += 1,
            }
        }
        dropped
    };
    let (_writer, dropped) = tokio::join!(sending, receiving);
    assert!(dropped > 0);
}

#[tokio::test]
async fn garbage_datagrams_and_a_renewed_certificate_leave_connections_alone() {
    let wire = Wire::new();
    let identity = host(&wire.grid, 1, HOST_LIFETIME, NOW);
    let (link, peer) = wire.link(&identity).await;
    let (_reader, mut writer) = open(&link).await.unwrap();
    writer.send(&beat(1)).await.unwrap();
    let (mut reader, _answers) = peer.accept().await.unwrap();
    assert_eq!(reader.recv::<ToAggregator>().await.unwrap(), beat(1));

    let noise = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for n in 0..5_000u32 {
        let datagram: Vec<u8> = (0..1 + n % 1_400).map(|at| ((n * 31 + at * at) % 256) as u8 | 0xc0).collect();
        noise.send_to(&datagram, wire.address()).unwrap();
    }
    wire.listener.renew(&wire.grid, Stamp(NOW.0 + YEAR)).unwrap();

    writer.send(&beat(2)).await.unwrap();
    assert_eq!(reader.recv::<ToAggregator>().await.unwrap(), beat(2));
    let (second, _peer) = wire.link(&host(&wire.grid, 2, HOST_LIFETIME, NOW)).await;
    assert!(second.close_reason().is_none() && link.close_reason().is_none());
}

#[tokio::test]
async fn a_peer_opens_no_more_streams_than_it_needs() {
    let wire = Wire::new();
    let (link, _peer) = wire.link(&host(&wire.grid, 1, HOST_LIFETIME, NOW)).await;
    let _two = (link.open_bi().await.unwrap(), link.open_bi().await.unwrap());
    assert!(tokio::time::timeout(SOON, link.open_bi()).await.is_err());
    assert!(tokio::time::timeout(SOON, link.open_uni()).await.is_err());
}

#[tokio::test]
async fn a_host_still_gets_in_while_others_stop_half_way_through_the_handshake() {
    let wire = Wire::new();
    let mut half_way = Vec::new();
    for _ in 0..transport::RETRY_FROM {
        let (endpoint, address, pin) = (client_endpoint().unwrap(), wire.address(), wire.grid.fingerprint());
        tokio::spawn(async move { connect(&endpoint, address, Purpose::Join, pin, None).await });
        half_way.push(wire.listener.accept().await.unwrap());
    }
    // This one is asked to show its address first (a retry), and is then served.
    let (_link, peer) = wire.link(&host(&wire.grid, 1, HOST_LIFETIME, NOW)).await;
    assert!(peer.identity.is_some() && half_way.len() == transport::RETRY_FROM);
}
