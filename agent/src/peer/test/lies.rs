//! Somebody lies, or hangs.

use roost_protocol::peer::{ChunkName, FromCalled, FromCaller};
use roost_protocol::transport::{FrameReader, FrameWriter, Listener, connect_host, open, trust};

use super::*;

/// A talk of host `number`, welcome at host 2, in which it may say what it wants.
pub(super) fn welcome(hosts: &Hosts, number: usize) -> (quinn::Connection, FrameReader, FrameWriter) {
    let (from, to) = (&hosts.hosts[number - 1], &hosts.hosts[1]);
    hosts.runtime.block_on(async {
        let badge = from.peers.badge.borrow().clone().unwrap();
        let (endpoint, key) = (&from.peers.endpoint, Fingerprint(to.key));
        let connection = loop {
            // The listener may not be up yet.
            match connect_host(endpoint, to.address, badge.pin, key, &badge.identity).await {
                Ok(connection) => break connection,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let (mut reader, mut writer) = open(&connection).await.unwrap();
        writer.send(&FromCaller::Hello { newest: 1, oldest: 1, to: to.id }).await.unwrap();
        assert_eq!(reader.recv_within::<FromCalled>(LONG).await.unwrap(), FromCalled::Welcome { version: 1 });
        (connection, reader, writer)
    })
}

/// What host 2 answers to these words of host 1, up to its refusal.
fn said(hosts: &Hosts, words: Vec<FromCaller>) -> Vec<FromCalled> {
    let (_connection, mut reader, mut writer) = welcome(hosts, 1);
    hosts.runtime.block_on(async {
        for word in words {
            if writer.send(&word).await.is_err() {
                break;
            }
        }
        let mut answers = Vec::new();
        while let Ok(answer) = reader.recv_within::<FromCalled>(LONG).await {
            answers.push(answer);
        }
        answers
    })
}

fn refused(answers: &[FromCalled]) -> bool {
    matches!(answers.last(), Some(FromCalled::Refused { reason: No::Misbehaved, .. }))
}

fn manifest(host: &Host, point: PointId) -> Vec<u8> {
    host.store.manifest(point).unwrap().to_bytes().unwrap()
}

#[test]
fn a_caller_that_breaks_the_rules_is_cut_off_and_reported_and_nothing_of_it_is_kept() {
    let mut hosts = Hosts::new(3);
    let point = hosts.host(1).make(None, &many(100, 1), Why::Schedule);
    let foreign = hosts.host(3).make(None, &many(100, 1), Why::Schedule);
    let offer = FromCaller::Offer { manifest: manifest(&hosts.hosts[0], point) };
    let chunk = |bytes: Vec<u8>| FromCaller::Chunk { name: ChunkName([7; 32]), bytes };
    let mut other_name = String::from_utf8(manifest(&hosts.hosts[0], point)).unwrap();
    other_name = other_name.replace("\"vda\"", "\"vdb\"");
    for (words, what) in [
        (vec![offer.clone(), chunk(vec![1; 100])], "a chunk nobody asked for"),
        (vec![offer.clone(), FromCaller::Sent], "no chunks"),
        (vec![chunk(vec![1; 100])], "a chunk before an offer"),
        (vec![FromCaller::Sent], "an end before a beginning"),
        (vec![FromCaller::Hello { newest: 1, oldest: 1, to: HostId::from_u128(2) }], "a second greeting"),
        (vec![FromCaller::Offer { manifest: manifest(&hosts.hosts[2], foreign) }], "what another host made"),
        (vec![FromCaller::Offer { manifest: other_name.into_bytes() }], "a manifest that is not its id's"),
        (vec![FromCaller::Offer { manifest: b"garbage".to_vec() }], "no manifest"),
        (vec![FromCaller::Remove { points: vec![point; 2_000] }], "too many at once"),
    ] {
        assert!(refused(&said(&hosts, words)), "{what}");
        assert_eq!(hosts.host(2).lie().0, HostId::from_u128(1), "{what}");
    }
    assert!(hosts.host(2).store.points().is_empty());
}

#[test]
fn a_chunk_with_wrong_bytes_under_the_right_name_is_a_lie() {
    let mut hosts = Hosts::new(2);
    let point = hosts.host(1).make(None, &many(100, 1), Why::Schedule);
    let offer = FromCaller::Offer { manifest: manifest(&hosts.hosts[0], point) };
    let (_connection, mut reader, mut writer) = welcome(&hosts, 1);
    let store = hosts.hosts[0].store.clone();
    let last = hosts.runtime.block_on(async {
        writer.send(&offer).await.unwrap();
        let FromCalled::Wants { names } = reader.recv().await.unwrap() else { panic!("no wish") };
        let mut bytes = store.raw(roost_store::ChunkId::from_bytes(names[0].0)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        writer.send(&FromCaller::Chunk { name: names[0], bytes }).await.unwrap();
        reader.recv_within::<FromCalled>(LONG).await.unwrap()
    });
    assert!(refused(&[last]));
    assert_eq!(hosts.host(2).lie().0, HostId::from_u128(1));
}

/// What a called host does instead of its duty.
type Script = fn(FromCaller) -> Vec<FromCalled>;

/// Host 2 is replaced by one that has its key and says what it wants; what host 1 makes of it.
fn against(script: Script, work: impl FnOnce(&Hosts, PointId) -> Result<call::Moved, PeerError>) -> (PeerError, Hosts) {
    let mut hosts = Hosts::new(2);
    let point = hosts.host(1).make(None, &many(20, 1), Why::Schedule);
    let address = free_address();
    let listener = {
        let _guard = hosts.runtime.enter();
        let badge = hosts.hosts[1].peers.badge.borrow().clone().unwrap();
        Listener::bind_host(address, &badge.identity, hosts.grid.ca_certificate()).unwrap()
    };
    let mut peer = hosts.hosts[1].peer();
    peer.addresses = vec![address.to_string()];
    hosts.host(1).known.send_replace(Known { peers: vec![peer], shares: Vec::new() });
    hosts.runtime.spawn(async move {
        let taken = listener.accept().await.unwrap().finish().await.unwrap();
        let (mut reader, mut writer) = taken.accept().await.unwrap();
        let _hello: FromCaller = reader.recv().await.unwrap();
        trust(&taken.connection, &mut reader);
        writer.send(&FromCalled::Welcome { version: 1 }).await.unwrap();
        while let Ok(word) = reader.recv::<FromCaller>().await {
            for answer in script(word) {
                let _ = writer.send(&answer).await;
            }
        }
    });
    (work(&hosts, point).unwrap_err(), hosts)
}

fn bring(hosts: &Hosts, point: PointId) -> Result<call::Moved, PeerError> {
    hosts.bring(point)
}

fn take(hosts: &Hosts, _: PointId) -> Result<call::Moved, PeerError> {
    let one = &hosts.hosts[0];
    let watch = Watch { wanted: &|| true, moved: &|_| {} };
    one.peers.take(&one.store, PointId::from_u128(5), HostId::from_u128(2), &watch)
}

#[test]
fn a_called_host_that_lies_is_cut_off_and_reported() {
    let too_many: Script = |_| vec![FromCalled::Wants { names: vec![ChunkName([1; 32]); 9_000] }];
    let no_wish: Script = |_| vec![FromCalled::Wants { names: Vec::new() }];
    let nonsense: Script = |_| vec![FromCalled::Manifest { bytes: vec![1] }];
    for (script, work) in [
        (too_many, bring as fn(&Hosts, PointId) -> _),
        (no_wish, bring),
        (nonsense, bring),
        (nonsense, take),
        ((|_| vec![FromCalled::Kept { grew: 1 }]) as Script, take),
    ] {
        let (why, mut hosts) = against(script, work);
        assert!(matches!(why, PeerError::Lied { .. }), "{why}");
        assert_eq!(hosts.host(1).lie().0, HostId::from_u128(2));
    }
}

#[test]
fn a_peer_that_hangs_is_given_up_and_one_that_is_not_wanted_any_more_at_once() {
    let silent: Script = |_| Vec::new();
    let (why, hosts) = against(silent, bring);
    assert!(matches!(&why, PeerError::Lost { source, .. } if matches!(**source, TransportError::Slow { .. })), "{why}");
    drop(hosts);
    let cancelled = |hosts: &Hosts, point| {
        let calls = AtomicU64::new(0);
        // Wanted at first, so that it waits when it is not any more.
        hosts.bring_while(point, &|| calls.fetch_add(1, Ordering::Relaxed) < 1, &|_| {})
    };
    assert!(matches!(against(silent, cancelled).0, PeerError::Cancelled));
}

#[test]
fn a_copy_that_is_damaged_says_so_and_is_no_lie() {
    let mut hosts = Hosts::new(3);
    let point = hosts.host(1).make(None, &many(500, 1), Why::Schedule);
    hosts.bring(point).unwrap();
    assert!(matches!(hosts.host(2).told(), Event::Kept { .. }));
    // Its copy is damaged, and another host is to have it.
    let packs = hosts.host(2).folder.path().join("packs");
    for entry in std::fs::read_dir(packs).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if path.extension().is_some_and(|kind| kind == "pack") {
            bytes.iter_mut().skip(200_000).step_by(50_000).for_each(|byte| *byte ^= 1);
            std::fs::write(&path, bytes).unwrap();
        }
    }
    let share = Share { point, with: HostId::from_u128(3) };
    hosts.host(2).known.send_modify(|known| known.shares = vec![share]);
    let (two, three) = (&hosts.hosts[1], &hosts.hosts[2]);
    let why = three.peers.take(&three.store, point, two.id, &Watch { wanted: &|| true, moved: &|_| {} }).unwrap_err();
    assert!(matches!(&why, PeerError::Refused { reason: No::Damaged, .. }), "{why}");
}
