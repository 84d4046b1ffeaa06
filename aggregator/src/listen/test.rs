//! The real core, driver and ledger behind the real door, on loopback.

use std::net::{Ipv4Addr, SocketAddr};

use roost_aggregator_core::call::Call;
use roost_aggregator_core::grid::Presence;
use roost_aggregator_core::intent::{Intent, JoinTokenRecord};
use roost_protocol::enrol::{EnrolAnswer, EnrolRefusal, EnrolRequest, JoinToken};
use roost_protocol::host::HostFacts;
use roost_protocol::identity::{GridKey, HostKey, peer_identity};
use roost_protocol::image::{ImageFile, ImagePiece, PIECE};
use roost_protocol::message::{Beat, Hello, OLDEST, Refusal, Snapshot, ToAgent, ToAggregator, VERSION, Welcome};
use roost_protocol::transport::{self, CloseCode, FrameReader, FrameWriter, Identity};
use roost_protocol::{Epoch, Generation, HostId, Stamp, codec, document};

use super::*;
use crate::config::Config;
use crate::run::{Parts, assemble};

struct Door {
    key: Arc<GridKey>,
    handle: Handle,
    address: SocketAddr,
    stop: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    storage: std::thread::JoinHandle<()>,
}

impl Door {
    fn open(config: &Config, key: Arc<GridKey>) -> Self {
        let Parts { driver, handle, shared, clock: _, ledger: _, deliveries: _, storage } =
            assemble(config, Arc::clone(&key)).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = Arc::new(Listener::bind(any, &key, crate::clock::wall()).unwrap());
        let address = listener.endpoint().local_addr().unwrap();
        let stop = CancellationToken::new();
        let tasks = vec![tokio::spawn(driver.run(stop.clone())), tokio::spawn(run(listener, shared, stop.clone()))];
        Self { key, handle, address, stop, tasks, storage }
    }

    async fn close(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
        drop(self.handle);
        tokio::task::spawn_blocking(|| self.storage.join().unwrap()).await.unwrap();
    }

    async fn mint(&self, ttl_ms: i64) -> JoinToken {
        let token = JoinToken::mint(self.key.fingerprint(), crate::auth::random().unwrap());
        let now = crate::clock::wall();
        let record = JoinTokenRecord {
            secret_hash: token.secret_hash(),
            created: now,
            expires: Stamp(now.0.saturating_add_signed(ttl_ms)),
            created_by: "admin".to_owned(),
            used_by: None,
            used: None,
            note: String::new(),
            host_name: None,
        };
        self.handle.call("admin", Call::PutJoinToken { id: token.id(), record }).await.unwrap();
        token
    }

    async fn join(&self, token: &JoinToken, key: &HostKey, name: &str) -> EnrolAnswer {
        let endpoint = transport::client_endpoint().unwrap();
        let pin = self.key.fingerprint();
        let connection = transport::connect(&endpoint, self.address, Purpose::Join, pin, None).await.unwrap();
        let (mut reader, mut writer) = transport::open(&connection).await.unwrap();
        let exporter = transport::exporter(&connection).unwrap();
        let facts = HostFacts::default();
        let request = EnrolRequest::new(token, &exporter, key.csr().unwrap(), name.to_owned(), None, facts);
        writer.send(&request).await.unwrap();
        reader.recv().await.unwrap()
    }

    /// A host that has joined.
    async fn host(&self, name: &str) -> (HostId, Identity) {
        let key = HostKey::generate().unwrap();
        match self.join(&self.mint(60_000).await, &key, name).await {
            EnrolAnswer::Accepted { host, chain, .. } => (host, Identity { chain, key }),
            EnrolAnswer::Refused { reason, text } => panic!("{reason:?}: {text}"),
        }
    }

    async fn refused(&self, token: &JoinToken) -> EnrolRefusal {
        match self.join(token, &HostKey::generate().unwrap(), "late").await {
            EnrolAnswer::Refused { reason, .. } => reason,
            EnrolAnswer::Accepted { host, .. } => panic!("{host} was accepted"),
        }
    }

    async fn agent(&self, host: HostId, identity: &Identity) -> Agent {
        let endpoint = transport::client_endpoint().unwrap();
        let pin = self.key.fingerprint();
        let connection = transport::connect(&endpoint, self.address, Purpose::Link, pin, Some(identity)).await.unwrap();
        let (reader, mut writer) = transport::open(&connection).await.unwrap();
        writer.send(&ToAggregator::Hello(hello(host))).await.unwrap();
        Agent { _endpoint: endpoint, reader, writer }
    }

    async fn up(&self, host: HostId) -> bool {
        let presence =
            self.handle.read(move |grid, _, _| grid.hosts().get(&host).map(|host| host.presence)).await.unwrap();
        matches!(presence, Some(Presence::Up { .. }))
    }
}

struct Agent {
    _endpoint: quinn::Endpoint,
    reader: FrameReader,
    writer: FrameWriter,
}

impl Agent {
    async fn welcome(&mut self) -> Welcome {
        let first = self.reader.recv().await.unwrap();
        let ToAgent::Welcome(welcome) = first else { panic!("{first:?}") };
        welcome
    }

    /// The next message that `wanted` picks.
    async fn next<T>(&mut self, wanted: impl Fn(ToAgent) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.reader.recv().await.unwrap()) {
                return found;
            }
        }
    }

    async fn refusal(&mut self) -> Refusal {
        self.next(|message| if let ToAgent::Refused(refused) = message { Some(refused.reason) } else { None }).await
    }
}

fn hello(host: HostId) -> Hello {
    Hello {
        newest: VERSION,
        oldest: OLDEST,
        host,
        facts: HostFacts { name: "h".repeat(10_000), ..HostFacts::default() },
        epoch: Epoch(0),
        document: Generation(0),
        clock: Stamp(0),
    }
}

fn setting() -> (tempfile::TempDir, Config, Arc<GridKey>) {
    let directory = tempfile::tempdir().unwrap();
    let config = Config { data_dir: directory.path().join("data"), ..Config::default() };
    // As `init` does it: the key is new, nothing was lost.
    drop(crate::ledger::Store::open(&config.ledger_path(), false, Stamp(0)).unwrap());
    (directory, config, Arc::new(GridKey::generate().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_joins_reports_renews_and_is_given_the_document_to_keep() {
    let (_directory, config, key) = setting();
    let door = Door::open(&config, key);
    let (host, identity) = door.host("one").await;
    let mut agent = door.agent(host, &identity).await;
    let welcome = agent.welcome().await;
    assert_eq!((welcome.version, welcome.grid), (VERSION, door.key.grid_id()));
    let sealed = agent.next(|m| if let ToAgent::Document { sealed, .. } = m { Some(sealed) } else { None }).await;
    let (_, plain) = document::open(&door.key, &sealed).unwrap();
    assert!(codec::decode::<Intent>(&plain).unwrap().hosts.contains_key(&host));
    agent.writer.send(&ToAggregator::Snapshot(Snapshot::default())).await.unwrap();
    agent.writer.send(&ToAggregator::Renew { request: identity.key.csr().unwrap() }).await.unwrap();
    let chain = agent.next(|m| if let ToAgent::Certificate { chain } = m { Some(chain) } else { None }).await;
    assert_eq!(peer_identity(&chain[0].0).unwrap().key_fingerprint, identity.key.key_fingerprint());
    assert!(door.up(host).await);
    let length = door.handle.read(move |grid, _, _| grid.hosts()[&host].facts.clone().unwrap().name.len()).await;
    assert_eq!(length.unwrap(), roost_protocol::message::TEXT, "what a host says of itself is bounded");
    let other = HostKey::generate().unwrap().csr().unwrap();
    agent.writer.send(&ToAggregator::Renew { request: other }).await.unwrap();
    assert_eq!(agent.refusal().await, Refusal::Misbehaved, "a certificate for another key");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_fetches_an_image_where_there_is_one_and_a_stranger_does_not() {
    let (_directory, config, key) = setting();
    let door = Door::open(&config, key);
    let (_, identity) = door.host("one").await;
    let endpoint = transport::client_endpoint().unwrap();
    let pin = door.key.fingerprint();
    let fetch = async |file: ImageFile| {
        let connected = transport::connect(&endpoint, door.address, Purpose::Image, pin, Some(&identity)).await;
        let (mut reader, mut writer) = transport::open(&connected.unwrap()).await.unwrap();
        writer.send(&file).await.unwrap();
        let mut bytes = Vec::new();
        loop {
            match reader.recv().await.unwrap() {
                ImagePiece::Bytes(piece) => bytes.extend(piece),
                ImagePiece::End => return Ok(bytes),
                ImagePiece::Failed { why } => return Err(why),
            }
        }
    };
    let why = fetch(ImageFile::Manifest).await.unwrap_err();
    assert!(why.contains("has no image") && why.contains("image/manifest"), "{why}");
    let folder = config.image_folder();
    std::fs::create_dir(&folder).unwrap();
    let (small, large) = (vec![1; 300], vec![2; 3 * PIECE + 1]);
    std::fs::write(folder.join("manifest"), &small).unwrap();
    std::fs::write(folder.join("initrd.img"), &large).unwrap();
    assert_eq!(fetch(ImageFile::Manifest).await.unwrap(), small);
    assert_eq!(fetch(ImageFile::Initrd).await.unwrap(), large);
    assert!(fetch(ImageFile::Kernel).await.is_err());
    // One that takes no more has the only place of its host until the host asks again.
    std::fs::File::create(folder.join("vmlinuz")).unwrap().set_len(64 << 20).unwrap();
    let idle = transport::connect(&endpoint, door.address, Purpose::Image, pin, Some(&identity)).await.unwrap();
    let (mut reader, mut writer) = transport::open(&idle).await.unwrap();
    writer.send(&ImageFile::Kernel).await.unwrap();
    assert!(matches!(reader.recv().await.unwrap(), ImagePiece::Bytes(_)));
    assert_eq!(fetch(ImageFile::Manifest).await.unwrap(), small);
    let quinn::ConnectionError::ApplicationClosed(closed) = idle.closed().await else { panic!("it was not replaced") };
    assert_eq!(closed.error_code, CloseCode::Replaced.into());
    let nobody = transport::connect(&endpoint, door.address, Purpose::Image, pin, None).await;
    let asked = async {
        let (mut reader, mut writer) = transport::open(&nobody?).await?;
        writer.send(&ImageFile::Manifest).await?;
        reader.recv::<ImagePiece>().await
    };
    assert!(asked.await.is_err(), "without a certificate");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn used_expired_unknown_and_wrong_tokens_are_refused_and_nothing_is_stored() {
    let (_directory, config, key) = setting();
    let door = Door::open(&config, key);
    let token = door.mint(60_000).await;
    let key = HostKey::generate().unwrap();
    let first = door.join(&token, &key, "one").await;
    let again = door.join(&token, &key, "one").await;
    let (EnrolAnswer::Accepted { host, .. }, EnrolAnswer::Accepted { host: same, .. }) = (first, again) else {
        panic!("not accepted");
    };
    assert_eq!(host, same, "the very same machine may ask again when the answer was lost");
    assert_eq!(door.refused(&token).await, EnrolRefusal::UsedToken);
    assert_eq!(door.refused(&door.mint(-1_000).await).await, EnrolRefusal::ExpiredToken);
    let stranger = JoinToken::mint(door.key.fingerprint(), [7; 16]);
    assert_eq!(door.refused(&stranger).await, EnrolRefusal::UnknownToken);
    let hosts = door.handle.read(|grid, _, _| grid.intent().hosts.len()).await.unwrap();
    assert_eq!(hosts, 1);
    let text = door.handle.read(|grid, _, _| grid.events_newest(100)).await.unwrap();
    let refused = text.iter().find(|event| event.kind == "host.join_refused").expect("an event");
    assert!(refused.text.contains("one") && refused.text.contains("late"), "both attempts are named: {}", refused.text);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_tokens_is_slowed_down() {
    let (_directory, config, key) = setting();
    let door = Door::open(&config, key);
    let mut last = EnrolRefusal::UnknownToken;
    for guess in 0..20 {
        last = door.refused(&JoinToken::mint(door.key.fingerprint(), [guess; 16])).await;
    }
    assert_eq!(last, EnrolRefusal::TooMany);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rogue_host_is_cut_off_and_the_others_stay() {
    let (_directory, config, key) = setting();
    let door = Door::open(&config, key);
    let ((good, good_identity), (bad, bad_identity)) = (door.host("good").await, door.host("bad").await);
    let mut honest = door.agent(good, &good_identity).await;
    honest.welcome().await;
    let mut liar = door.agent(good, &bad_identity).await;
    assert_eq!(liar.refusal().await, Refusal::UnknownKey, "it claims to be another host");
    let mut flood = door.agent(bad, &bad_identity).await;
    flood.welcome().await;
    for sequence in 0..2_000 {
        let beat = ToAggregator::Beat(Beat { sequence, ..Beat::default() });
        if flood.writer.send(&beat).await.is_err() {
            break;
        }
    }
    assert_eq!(flood.refusal().await, Refusal::Misbehaved);
    let mut rude = door.agent(bad, &bad_identity).await;
    rude.welcome().await;
    rude.writer.send(&ToAggregator::Hello(hello(bad))).await.unwrap();
    assert_eq!(rude.refusal().await, Refusal::Misbehaved);
    assert!(door.up(good).await);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_database_comes_back_from_the_first_agent() {
    let (_directory, config, key) = setting();
    let door = Door::open(&config, Arc::clone(&key));
    let (host, identity) = door.host("one").await;
    let mut agent = door.agent(host, &identity).await;
    let before = agent.welcome().await;
    let document = agent.next(|m| if let ToAgent::Document { sealed, .. } = m { Some(sealed) } else { None }).await;
    door.close().await;
    std::fs::remove_dir_all(&config.data_dir).unwrap();
    let door = Door::open(&config, Arc::clone(&key));
    let mut agent = door.agent(host, &identity).await;
    let after = agent.welcome().await;
    assert!(after.document < before.document && after.epoch >= before.epoch);
    agent.writer.send(&ToAggregator::Document { sealed: document }).await.unwrap();
    agent.writer.send(&ToAggregator::Beat(Beat::default())).await.unwrap();
    agent.next(|m| if let ToAgent::BeatSeen { .. } = m { Some(()) } else { None }).await;
    let name = door.handle.read(move |grid, _, _| grid.intent().hosts[&host].name.clone()).await.unwrap();
    assert_eq!(name, "one");
    door.close().await;
    let kept = crate::ledger::Store::open(&config.ledger_path(), true, Stamp(0)).unwrap().1;
    assert!(!kept.recovering && kept.intent.hosts.contains_key(&host), "and it is durable");
}
