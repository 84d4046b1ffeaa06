//! A simulated host: joins, connects, beats and answers commands with the words a real agent uses, over real QUIC.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use quinn::Endpoint;
use roost_protocol::enrol::{EnrolAnswer, EnrolRefusal, EnrolRequest, JoinToken};
use roost_protocol::guest::{Disk, GuestReport, GuestSample, PowerState, digest};
use roost_protocol::host::{DiskUse, Freshness, HostFacts, HostSample, NicRate, Pressure};
use roost_protocol::identity::{Fingerprint, HostKey};
use roost_protocol::message::{Beat, Hello, OLDEST, Snapshot, ToAgent, ToAggregator, VERSION};
use roost_protocol::operation::Outcome;
use roost_protocol::transport::{self, FrameReader, FrameWriter, Identity, Purpose};
use roost_protocol::{Epoch, Generation, GuestId, HostId, MiB, Stamp};
use tokio::time::Instant;

/// The aggregator takes 50 joins a second in the long run; who comes too early waits this long.
const JOIN_AGAIN: Duration = Duration::from_millis(500);
/// An answer to a beat that comes later than this after the beat was due is late.
const LATE: Duration = Duration::from_secs(1);
/// Numbers in [`host_sample`] and in each of [`guest_sample`]: what a monitoring system calls series.
pub(crate) const HOST_SERIES: usize = 15;
pub(crate) const GUEST_SERIES: usize = 6;

/// What all hosts count together.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Milliseconds between two beats of one host.
    pub(crate) every_ms: AtomicU64,
    pub(crate) linked: AtomicU64,
    pub(crate) documents: AtomicU64,
    pub(crate) beats_due: AtomicU64,
    pub(crate) beats_seen: AtomicU64,
    pub(crate) beats_late: AtomicU64,
    pub(crate) outcomes_seen: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) answers: Mutex<Vec<Duration>>,
}

impl Counts {
    /// The times from when beats were due until they were answered, and forgets them.
    pub(crate) fn take_answers(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A machine that joined.
#[derive(Debug)]
pub(crate) struct Host {
    index: usize,
    id: HostId,
    pin: Fingerprint,
    identity: Identity,
    guests: Vec<GuestReport>,
}

/// Guests of the host with this index: 12 or 13, so that 2,000 hosts have 25,000.
pub(crate) fn guests_of(index: usize) -> usize {
    12 + index % 2
}

impl Host {
    /// Joins with this token.
    pub(crate) async fn join(endpoint: &Endpoint, address: SocketAddr, index: usize, token: &str) -> Result<Self> {
        let (token, key) = (JoinToken::parse(token)?, HostKey::generate()?);
        loop {
            let connection = transport::connect(endpoint, address, Purpose::Join, token.fingerprint(), None).await?;
            let (mut reader, mut writer) = transport::open(&connection).await?;
            let exporter = transport::exporter(&connection)?;
            writer.send(&EnrolRequest::new(&token, &exporter, key.csr()?, name(index), None, facts(index))).await?;
            match reader.recv().await? {
                EnrolAnswer::Accepted { host, chain, .. } => {
                    let identity = Identity { chain, key };
                    let mut guests: Vec<GuestReport> =
                        (0..guests_of(index)).map(|guest| report(index, guest)).collect();
                    // The digest is over the guests in order of id.
                    guests.sort_by_key(|guest| guest.id);
                    return Ok(Self { index, id: host, pin: token.fingerprint(), identity, guests });
                }
                EnrolAnswer::Refused { reason: EnrolRefusal::TooMany, .. } => tokio::time::sleep(JOIN_AGAIN).await,
                EnrolAnswer::Refused { text, .. } => bail!("host {index} was refused: {text}"),
            }
        }
    }

    /// Reports until the connection ends. `offset` spreads the hosts over a beat.
    pub(crate) async fn live(
        self,
        endpoint: Endpoint,
        address: SocketAddr,
        offset: f64,
        counts: Arc<Counts>,
    ) -> Result<()> {
        let connection = transport::connect(&endpoint, address, Purpose::Link, self.pin, Some(&self.identity)).await?;
        let (mut reader, mut writer) = transport::open(&connection).await?;
        writer.send(&ToAggregator::Hello(self.hello())).await?;
        let first: ToAgent = reader.recv().await?;
        ensure!(matches!(first, ToAgent::Welcome(_)), "no welcome but {first:?}");
        writer.send(&ToAggregator::Snapshot(self.snapshot())).await?;
        counts.linked.fetch_add(1, Ordering::Relaxed);
        let ended = self.talk(&mut reader, &mut writer, offset, &counts).await;
        counts.lost.fetch_add(1, Ordering::Relaxed);
        ended.with_context(|| format!("host {}", self.index))
    }

    async fn talk(
        &self,
        reader: &mut FrameReader,
        writer: &mut FrameWriter,
        offset: f64,
        counts: &Counts,
    ) -> Result<()> {
        let digest = digest(self.guests.iter());
        let (mut sequence, mut due_of) = (1, std::collections::VecDeque::new());
        let mut due = Instant::now() + every(counts).mul_f64(offset);
        loop {
            tokio::select! {
                message = reader.recv() => match message? {
                    ToAgent::BeatSeen { sequence, want_snapshot } => {
                        if want_snapshot {
                            bail!("the aggregator sees other guests than were told");
                        }
                        seen(&mut due_of, sequence, counts);
                    }
                    ToAgent::Command(command) => {
                        let outcome = Outcome { operation: command.operation, failure: None };
                        writer.send(&ToAggregator::Outcome(outcome)).await?;
                    }
                    ToAgent::OutcomeSeen { .. } => drop(counts.outcomes_seen.fetch_add(1, Ordering::Relaxed)),
                    ToAgent::Document { .. } => drop(counts.documents.fetch_add(1, Ordering::Relaxed)),
                    ToAgent::Certificate { .. }
                    | ToAgent::Cancel { .. }
                    | ToAgent::Points(_)
                    | ToAgent::Peers { .. }
                    | ToAgent::Councils { .. } => {}
                    other @ (ToAgent::Welcome(_) | ToAgent::Refused(_)) => bail!("cut off: {other:?}"),
                },
                () = tokio::time::sleep_until(due) => {
                    sequence += 1;
                    writer.send(&ToAggregator::Beat(self.beat(sequence, digest))).await?;
                    counts.beats_due.fetch_add(1, Ordering::Relaxed);
                    due_of.push_back((sequence, due));
                    due += every(counts);
                }
            }
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            newest: VERSION,
            oldest: OLDEST,
            host: self.id,
            facts: facts(self.index),
            epoch: Epoch(0),
            document: Generation(0),
            clock: Stamp(0),
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            sequence: 1,
            guests: self.guests.clone(),
            alarms: Vec::new(),
            freshness: Freshness::Live,
            sample: host_sample(1),
            samples: self.samples(1),
            backup: None,
            guard: None,
        }
    }

    /// A beat in which every number changed.
    fn beat(&self, sequence: u64, digest: u64) -> Beat {
        Beat {
            sequence,
            freshness: Freshness::Live,
            sample: Some(host_sample(sequence)),
            samples: self.samples(sequence),
            digest,
            ..Beat::default()
        }
    }

    fn samples(&self, sequence: u64) -> Vec<GuestSample> {
        self.guests.iter().map(|guest| guest_sample(guest.id, sequence)).collect()
    }
}

fn every(counts: &Counts) -> Duration {
    Duration::from_millis(counts.every_ms.load(Ordering::Relaxed))
}

fn seen(due_of: &mut std::collections::VecDeque<(u64, Instant)>, sequence: u64, counts: &Counts) {
    while let Some((number, due)) = due_of.front().copied().filter(|(number, _)| *number <= sequence) {
        due_of.pop_front();
        if number != sequence {
            continue;
        }
        let took = due.elapsed();
        counts.beats_seen.fetch_add(1, Ordering::Relaxed);
        if took > LATE {
            counts.beats_late.fetch_add(1, Ordering::Relaxed);
        }
        counts.answers.lock().unwrap_or_else(PoisonError::into_inner).push(took);
    }
}

fn name(index: usize) -> String {
    format!("sim-{index:04}")
}

fn facts(index: usize) -> HostFacts {
    HostFacts {
        peer_listen: None,
        name: name(index),
        agent_version: "0.1.0".into(),
        boot_id: uuid::Uuid::new_v4().to_string(),
        cpus: 64,
        memory_mib: MiB(262_144),
        hypervisor: "libvirt 9.0.0, QEMU 7.2.22".into(),
        kernel: "6.1.0-amd64".into(),
        addresses: vec!["192.0.2.1".into()],
        ..HostFacts::default()
    }
}

/// The id of a guest.
pub(crate) fn guest_id(host: usize, guest: usize) -> GuestId {
    // Spread like real ids, which are random.
    let number = u128::try_from(host * 100 + guest).unwrap_or(0);
    GuestId::from_u128(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

fn report(host: usize, guest: usize) -> GuestReport {
    GuestReport {
        id: guest_id(host, guest),
        name: format!("vd-{host:04}-{guest:02}"),
        state: PowerState::Running,
        reason: "booted".into(),
        persistent: true,
        desired: None,
        vcpus: 2,
        memory_mib: MiB(2_048),
        since: Stamp(1_700_000_000_000),
        restarts: 0,
        disks: vec![Disk {
            target: "vda".into(),
            path: format!("/var/lib/roost/guests/vd-{host:04}-{guest:02}/vda.qcow2"),
            format: "qcow2".into(),
        }],
    }
}

fn host_sample(sequence: u64) -> HostSample {
    let small = u32::try_from(sequence % 1_000).unwrap_or(0);
    let disk = |path: &str| DiskUse { path: path.into(), total_mib: MiB(1 << 20), free_mib: MiB(900_000 - sequence) };
    let nic = |name: &str| NicRate { name: name.into(), receive_bps: 1_000 * sequence, transmit_bps: 900 * sequence };
    HostSample {
        cpu_permille: small,
        memory_available_mib: MiB(100_000 + sequence),
        swap_used_mib: MiB(sequence),
        load_centi: small,
        pressure: Some(Pressure { cpu_centi: small, memory_centi: small, io_centi: small }),
        disks: vec![disk("/var/lib/roost"), disk("/")],
        nics: vec![nic("eno1"), nic("eno2")],
        at: Stamp(1_700_000_000_000 + sequence),
        saved_by_sharing_mib: Some(MiB(sequence)),
    }
}

fn guest_sample(id: GuestId, sequence: u64) -> GuestSample {
    GuestSample {
        id,
        cpu_permille: u32::try_from(sequence % 1_000).unwrap_or(0),
        resident_mib: MiB(1_000 + sequence % 1_000),
        read_bps: 10_000 * sequence,
        write_bps: 9_000 * sequence,
        balloon_mib: Some(MiB(2_048)),
        available_mib: Some(MiB(500 + sequence % 500)),
        access: Vec::new(),
        receive_bps: 8_000 * sequence,
        transmit_bps: 7_000 * sequence,
    }
}
