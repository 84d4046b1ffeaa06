//! Two hosts on loopback: each shows the key that the other was told of, or they don't talk. And the words they say.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that is not as it should be")]

use std::net::{Ipv4Addr, SocketAddr};

use quinn::Connection;
use roost_protocol::codec::{decode, encode};
use roost_protocol::identity::{Fingerprint, GridKey, HOST_LIFETIME, HostKey};
use roost_protocol::message::FRAME;
use roost_protocol::peer::{CHUNKS, ChunkName, FromCalled, FromCaller, MANIFEST, No, REMOVE};
use roost_protocol::transport::{
    Identity, Listener, Peer, Purpose, TransportError, client_endpoint, connect, connect_host, open, trust,
};
use roost_protocol::{HostId, PointId, Stamp};

const NOW: Stamp = Stamp(1_893_456_000_000);

fn host(grid: &GridKey, number: u128) -> Identity {
    let key = HostKey::generate().unwrap();
    let chain = grid.issue_host(&key.csr().unwrap(), HostId::from_u128(number), HOST_LIFETIME, NOW).unwrap();
    Identity { chain, key }
}

/// Host 2 listens and host 1 calls, meaning the host with `key`, each of its own grid.
async fn call(
    (ones, one): (&GridKey, &Identity),
    (twos, two): (&GridKey, &Identity),
    key: Fingerprint,
) -> (Result<Connection, TransportError>, Result<Peer, TransportError>) {
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = Listener::bind_host(here, two, twos.ca_certificate()).unwrap();
    let address = listener.endpoint().local_addr().unwrap();
    let (endpoint, pin) = (client_endpoint().unwrap(), ones.fingerprint());
    let server = async { listener.accept().await.unwrap().finish().await };
    tokio::join!(connect_host(&endpoint, address, pin, key, one), server)
}

#[tokio::test]
async fn hosts_of_a_grid_know_each_other_by_their_keys() {
    let grid = GridKey::generate().unwrap();
    let (one, two) = (host(&grid, 1), host(&grid, 2));
    let key = two.key.key_fingerprint();
    let (connection, peer) = call((&grid, &one), (&grid, &two), key).await;
    let (connection, peer) = (connection.unwrap(), peer.unwrap());
    let identity = peer.identity.as_ref().unwrap();
    assert_eq!((peer.purpose, identity.host), (Purpose::Peer, HostId::from_u128(1)));
    assert_eq!(identity.key_fingerprint, one.key.key_fingerprint());
    let (mut reader, mut writer) = open(&connection).await.unwrap();
    let hello = FromCaller::Hello { newest: 1, oldest: 1, to: HostId::from_u128(2) };
    writer.send(&hello).await.unwrap();
    let (mut theirs, mut answer) = peer.accept().await.unwrap();
    assert_eq!(theirs.recv::<FromCaller>().await.unwrap(), hello);
    trust(&peer.connection, &mut theirs);
    answer.send(&FromCalled::Welcome { version: 1 }).await.unwrap();
    assert_eq!(reader.recv::<FromCalled>().await.unwrap(), FromCalled::Welcome { version: 1 });
    let chunk = FromCaller::Chunk { name: ChunkName([7; 32]), bytes: vec![9; 600 << 10] };
    let (sent, got) = tokio::join!(writer.send(&chunk), theirs.recv::<FromCaller>());
    assert_eq!((sent.is_ok(), got.unwrap() == chunk), (true, true));
}

#[tokio::test]
async fn another_host_another_grid_or_no_certificate_is_not_talked_to() {
    let (grid, other) = (GridKey::generate().unwrap(), GridKey::generate().unwrap());
    let (one, two) = (host(&grid, 1), host(&grid, 2));
    let (connection, _) = call((&grid, &one), (&grid, &two), one.key.key_fingerprint()).await;
    assert!(connection.is_err(), "its address was taken over by another host of the grid");
    let stranger = host(&other, 2);
    let (connection, _) = call((&grid, &one), (&other, &stranger), stranger.key.key_fingerprint()).await;
    assert!(connection.is_err(), "it listens with a certificate of another grid");
    let stranger = host(&other, 1);
    let (_, peer) = call((&grid, &stranger), (&grid, &two), two.key.key_fingerprint()).await;
    assert!(peer.is_err(), "it calls with a certificate of another grid");
}

#[tokio::test]
async fn who_is_no_host_or_speaks_to_an_aggregator_gets_nowhere() {
    let grid = GridKey::generate().unwrap();
    let (one, two) = (host(&grid, 1), host(&grid, 2));
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (endpoint, pin) = (client_endpoint().unwrap(), grid.fingerprint());
    let host = Listener::bind_host(here, &two, grid.ca_certificate()).unwrap();
    let address = host.endpoint().local_addr().unwrap();
    for purpose in [Purpose::Link, Purpose::Join] {
        let server = async { host.accept().await.unwrap().finish().await };
        let (called, taken) = tokio::join!(connect(&endpoint, address, purpose, pin, Some(&one)), server);
        assert!(called.is_err() && taken.is_err(), "{purpose:?}");
    }
    let aggregator = Listener::bind(here, &grid, NOW).unwrap();
    let address = aggregator.endpoint().local_addr().unwrap();
    let server = async { aggregator.accept().await.unwrap().finish().await };
    let key = two.key.key_fingerprint();
    let (called, taken) = tokio::join!(connect_host(&endpoint, address, pin, key, &one), server);
    assert!(called.is_err() && taken.is_err());
}

#[test]
fn the_largest_of_each_message_fits_a_frame_and_survives_the_way() {
    let names = vec![ChunkName([0xff; 32]); CHUNKS];
    let name = ChunkName([1; 32]);
    let called = [
        FromCalled::Wants { names: names.clone() },
        FromCalled::Manifest { bytes: vec![1; MANIFEST] },
        FromCalled::Chunk { name, bytes: vec![2; 200 << 10] },
        FromCalled::Removed { points: vec![PointId::from_u128(u128::MAX); REMOVE] },
        FromCalled::Refused { reason: No::NotShared, text: "x".into() },
        FromCalled::Kept { grew: u64::MAX },
    ];
    for message in called {
        let bytes = encode(&message);
        assert!(bytes.len() <= FRAME, "{}", bytes.len());
        assert_eq!(decode::<FromCalled>(&bytes).unwrap(), message);
    }
    let calls = [
        FromCaller::Fetch { names },
        FromCaller::Offer { manifest: vec![1; MANIFEST] },
        FromCaller::Remove { points: vec![PointId::from_u128(u128::MAX); REMOVE] },
        FromCaller::Take { point: PointId::from_u128(3) },
        FromCaller::Sent,
    ];
    for message in calls {
        let bytes = encode(&message);
        assert!(bytes.len() <= FRAME, "{}", bytes.len());
        assert_eq!(decode::<FromCaller>(&bytes).unwrap(), message);
        assert!(decode::<FromCaller>(&bytes[..bytes.len() / 2]).is_err());
    }
}
