//! Two hosts on loopback with real stores and real QUIC: points travel, links break, and somebody lies.

mod far;
mod lies;
mod way;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use roost_protocol::backup::Why;
use roost_protocol::identity::{GridKey, HOST_LIFETIME};
use roost_protocol::{GuestId, Stamp};
use roost_store::{Meta, Options, Store};
use tokio::runtime::Runtime;

use super::*;

const GUEST: GuestId = GuestId::from_u128(70);
/// Blocks of a test disk.
const BLOCKS: usize = 2_048;
const NOW: Stamp = Stamp(1_893_456_000_000);
/// Only a hang is longer.
const LONG: Duration = Duration::from_secs(60);

/// A grid of hosts that know each other.
struct Hosts {
    runtime: Runtime,
    grid: GridKey,
    hosts: Vec<Host>,
}

/// One host: its store, what it listens with, and what its core was told.
struct Host {
    id: HostId,
    folder: tempfile::TempDir,
    store: Store,
    key: [u8; 32],
    address: SocketAddr,
    known: watch::Sender<Known>,
    peers: Peers,
    heard: mpsc::Receiver<Event>,
    /// Held, so that the listener goes on.
    _badge: watch::Sender<Option<Arc<Badge>>>,
}

fn free_address() -> SocketAddr {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

fn badge(grid: &GridKey, id: HostId) -> Badge {
    let key = HostKey::generate().unwrap();
    let chain = grid.issue_host(&key.csr().unwrap(), id, HOST_LIFETIME, NOW).unwrap();
    let identity = Identity { chain, key };
    Badge { host: id, ca: grid.ca_certificate().clone(), pin: grid.fingerprint(), identity }
}

impl Hosts {
    /// So many hosts, from 1.
    fn new(count: u128) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let grid = GridKey::generate().unwrap();
        let guard = runtime.enter();
        let hosts: Vec<Host> = (1..=count).map(|number| Host::start(&grid, HostId::from_u128(number))).collect();
        drop(guard);
        let all: Vec<Peer> = hosts.iter().map(Host::peer).collect();
        for host in &hosts {
            let peers = all.iter().filter(|peer| peer.host != host.id).cloned().collect();
            host.known.send_replace(Known { peers, shares: Vec::new() });
        }
        Self { runtime, grid, hosts }
    }

    fn host(&mut self, number: usize) -> &mut Host {
        &mut self.hosts[number - 1]
    }

    /// Brings a point of host 1 to host 2.
    fn bring(&self, point: PointId) -> Result<call::Moved, PeerError> {
        self.bring_while(point, &|| true, &|_| {})
    }

    fn bring_while(
        &self,
        point: PointId,
        wanted: &dyn Fn() -> bool,
        moved: &dyn Fn(u64),
    ) -> Result<call::Moved, PeerError> {
        let [one, two, ..] = self.hosts.as_slice() else { panic!("two hosts") };
        one.peers.bring(&one.store, point, two.id, None, &Watch { wanted, moved })
    }

    /// Host 2 takes a point of host 1.
    fn take(&self, point: PointId) -> Result<call::Moved, PeerError> {
        let [one, two, ..] = self.hosts.as_slice() else { panic!("two hosts") };
        two.peers.take(&two.store, point, one.id, &Watch { wanted: &|| true, moved: &|_| {} })
    }
}

impl Host {
    fn start(grid: &GridKey, id: HostId) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Options::default()).unwrap();
        let (events, heard) = mpsc::channel(1_000);
        let (known, knowing) = watch::channel(Known::default());
        let badge = badge(grid, id);
        let key = badge.identity.key.key_fingerprint().0;
        let (_badge, badges) = watch::channel(Some(Arc::new(badge)));
        let address = free_address();
        let keeper = Keeper::new(store.clone(), folder.path().into(), events.clone());
        let (badge, known_) = (badges.clone(), knowing.clone());
        tokio::spawn(Listen { address, keeper, badge, known: known_, events: events.clone() }.run());
        let mut peers = Peers::new(badges, knowing, events).unwrap();
        peers.patience = Duration::from_secs(3);
        Self { id, folder, store, key, address, known, peers, heard, _badge }
    }

    fn peer(&self) -> Peer {
        Peer {
            host: self.id,
            name: format!("h{}", u128::from_be_bytes(self.id.bytes())),
            addresses: vec![self.address.to_string()],
            key: self.key,
            zone: String::new(),
            total: 1,
            free: 1,
            replicas: 0,
            up: true,
        }
    }

    /// A point of a disk with this content, in blocks.
    fn make(&self, parent: Option<PointId>, blocks: &[(usize, u8)], why: Why) -> PointId {
        let mut draft = self.store.draft(GUEST, parent).unwrap();
        let mut disk = draft.disk("vda", (BLOCKS * 4_096) as u64).unwrap();
        for (block, byte) in blocks {
            disk.write((block * 4_096) as u64, &noise(*block, *byte)).unwrap();
        }
        disk.close().unwrap();
        draft.file("domain.xml", b"<domain/>").unwrap();
        draft.finish(Meta { origin_host: Some(self.id), started: NOW, why, ..Meta::default() }).unwrap()
    }

    fn content(&self, point: PointId) -> Vec<u8> {
        let mut all = vec![0; BLOCKS * 4_096];
        self.store.disk(point, "vda").unwrap().read_at(0, &mut all).unwrap();
        all
    }

    /// The next thing that its core is told.
    fn told(&mut self) -> Event {
        let began = Instant::now();
        loop {
            match self.heard.try_recv() {
                Ok(event) => return event,
                Err(_) if began.elapsed() < LONG => std::thread::yield_now(),
                Err(why) => panic!("nothing was told: {why}"),
            }
        }
    }

    fn lie(&mut self) -> (HostId, String) {
        let told = self.told();
        let Event::PeerLied { host, what } = told else { panic!("{told:?}") };
        (host, what)
    }
}

/// Bytes that don't compress, the same for the same numbers.
fn noise(block: usize, byte: u8) -> Vec<u8> {
    let mut seed = (block as u64 + 1) << 8 | u64::from(byte);
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()
    };
    (0..512).flat_map(|_| next()).collect()
}

fn many(count: usize, byte: u8) -> Vec<(usize, u8)> {
    (0..count).map(|block| (block, byte)).collect()
}
