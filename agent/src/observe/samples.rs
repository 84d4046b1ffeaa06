//! A sample of the host and its guests each second, from files in /proc that are kept open: some µs a guest, where a full
//! statistics call of libvirt costs 3 ms and more. The kernel sums up over threads and processors for each read, so no file
//! is read that can't tell anything new. What only QEMU knows is asked for rarely, all guests in one call.

mod host;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{SysconfVar, sysconf};
use roost_agent_core::Event;
use roost_libvirt::{Hypervisor, StatsGroups};
use roost_protocol::guest::GuestSample;
use roost_protocol::{GuestId, MiB};
use tokio::sync::{mpsc, watch};

use super::probe::Doors;
use super::proc;
use host::Host;

/// Between two samples.
const EVERY: Duration = Duration::from_secs(1);
/// Between two looks for processes of guests when nothing was told; a walk over /proc costs 20 µs a process.
const WALK_EVERY: u32 = 60;
/// Rounds between two looks at how much memory a guest holds: the width of the finest history.
const RESIDENT_EVERY: u32 = 10;
/// Between two questions to all QEMUs.
const BALLOON_EVERY: Duration = Duration::from_secs(30);
/// Largest file of /proc that is read; with 256 CPUs /proc/stat's first line is what counts.
const BUFFER: usize = 32 << 10;

/// Taps of one guest that are sampled.
const TAPS: usize = 16;

/// Balloon size, and what the guest says is available.
type Balloon = (Option<MiB>, Option<MiB>);

/// What libvirt is asked for rarely: balloons, and the names of taps.
type Rare = BTreeMap<GuestId, (Balloon, Vec<String>)>;

/// Starts the threads. They end when nobody takes their events any more.
pub(crate) fn start(
    folders: &[PathBuf],
    changed: Arc<AtomicBool>,
    hypervisor: watch::Receiver<Option<Arc<Hypervisor>>>,
    doors: watch::Receiver<Doors>,
    events: mpsc::Sender<Event>,
) -> io::Result<()> {
    let (sender, balloons) = sync_channel(2);
    let host = Host::open(folders);
    let mut sampler = Sampler { host, guests: BTreeMap::new(), buffer: vec![0; BUFFER], changed, balloons, doors };
    thread::Builder::new().name("samples".into()).spawn(move || sampler.run(&events))?;
    thread::Builder::new().name("balloons".into()).spawn(move || ask_balloons(&hypervisor, &sender))?;
    Ok(())
}

/// NOWAIT: a busy or hung QEMU is passed over. A thread of its own all the same, should libvirt itself hang.
fn ask_balloons(hypervisor: &watch::Receiver<Option<Arc<Hypervisor>>>, sender: &SyncSender<Rare>) {
    let groups = StatsGroups { balloon: true, interface: true, running_only: true, ..StatsGroups::default() };
    loop {
        let current = hypervisor.borrow().clone();
        let answer = current.map(|hypervisor| hypervisor.bulk_stats(groups));
        match answer {
            Some(Ok(all)) => {
                let mib = |kib: Option<u64>| kib.map(|kib| MiB(kib / 1_024));
                let all = all.into_iter().map(|one| {
                    let taps = one.interfaces.into_iter().map(|interface| interface.name).take(TAPS).collect();
                    let balloon = (mib(one.balloon.current_kib), mib(one.balloon.usable_kib));
                    (GuestId::from_bytes(one.uuid), (balloon, taps))
                });
                if sender.send(all.collect()).is_err() {
                    return;
                }
            }
            Some(Err(error)) => tracing::debug!(%error, "ask for balloons"),
            None => {}
        }
        thread::sleep(BALLOON_EVERY);
    }
}

struct Sampler {
    host: Host,
    guests: BTreeMap<GuestId, Guest>,
    buffer: Vec<u8>,
    /// Set when a guest may have started or ended.
    changed: Arc<AtomicBool>,
    balloons: Receiver<Rare>,
    /// How those stand that are tried.
    doors: watch::Receiver<Doors>,
}

impl Sampler {
    fn run(&mut self, events: &mpsc::Sender<Event>) {
        let mut next = Instant::now();
        for round in (0..WALK_EVERY).cycle() {
            if self.changed.swap(false, Ordering::Relaxed) || round == 0 {
                self.walk();
            }
            if let Ok(balloons) = self.balloons.try_recv() {
                self.guests.iter_mut().for_each(|(id, guest)| {
                    if let Some((balloon, taps)) = balloons.get(id) {
                        guest.balloon = *balloon;
                        guest.plug(taps);
                    }
                });
            }
            let now = Instant::now();
            let host = self.host.sample(now, &mut self.buffer);
            let guests = self.guests(now, round % RESIDENT_EVERY == 0);
            match events.try_send(Event::Sampled { host, guests: guests.clone() }) {
                Ok(()) => self.told(guests),
                // The agent is busy: the change is told a second later.
                Err(mpsc::error::TrySendError::Full(_)) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
            next += EVERY;
            match next.checked_duration_since(Instant::now()) {
                Some(wait) => thread::sleep(wait),
                None => next = Instant::now(),
            }
        }
    }

    /// Finds the processes of guests.
    fn walk(&mut self) {
        let pids = roost_libvirt::qemu_pids();
        self.guests.retain(|id, guest| pids.get(&id.bytes()) == Some(&guest.pid));
        for (uuid, pid) in pids {
            let id = GuestId::from_bytes(uuid);
            if !self.guests.contains_key(&id)
                && let Ok(guest) = Guest::open(pid)
            {
                self.guests.insert(id, guest);
            }
        }
    }

    /// Samples that differ from those told before.
    fn guests(&mut self, now: Instant, whole: bool) -> Vec<GuestSample> {
        let (buffer, mut news, before) = (&mut self.buffer, Vec::new(), self.guests.len());
        let doors = self.doors.borrow().clone();
        self.guests.retain(|id, guest| match guest.sample(*id, now, whole, buffer) {
            Some(mut sample) => {
                sample.access = doors.get(id).cloned().unwrap_or_default();
                if guest.told.as_ref() != Some(&sample) {
                    news.push(sample);
                }
                true
            }
            None => false,
        });
        if self.guests.len() != before {
            // A process ended; perhaps another has its place.
            self.changed.store(true, Ordering::Relaxed);
        }
        news
    }

    fn told(&mut self, samples: Vec<GuestSample>) {
        for sample in samples {
            if let Some(guest) = self.guests.get_mut(&sample.id) {
                guest.told = Some(sample);
            }
        }
    }
}

/// One guest's process.
struct Guest {
    pid: u32,
    stat: File,
    statm: File,
    /// Absent where we may not read it.
    io: Option<File>,
    before: Option<Counters>,
    resident: MiB,
    balloon: Balloon,
    taps: Vec<Tap>,
    told: Option<GuestSample>,
}

/// A network interface of a guest as the host sees it, which receives what the guest sends.
struct Tap {
    name: String,
    received: File,
    sent: File,
}

impl Tap {
    /// `None` where the host has no such interface: user-mode networks have a name only in the guest's definition.
    fn open(name: &str) -> Option<Self> {
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return None;
        }
        let folder = Path::new("/sys/class/net").join(name).join("statistics");
        let open = |file: &str| File::open(folder.join(file)).ok();
        Some(Self { name: name.to_owned(), received: open("rx_bytes")?, sent: open("tx_bytes")? })
    }

    /// Bytes that the guest received and sent.
    fn bytes(&self, buffer: &mut [u8]) -> Option<(u64, u64)> {
        let mut count = |file| proc::count(read(file, buffer)?);
        Some((count(&self.sent)?, count(&self.received)?))
    }
}

#[derive(Clone, Copy)]
struct Counters {
    at: Instant,
    ticks: u64,
    disk: (u64, u64),
    /// When the bytes of disks were read.
    disk_at: Instant,
    /// Absent where the guest has no tap, or has other ones than before.
    network: Option<(u64, u64)>,
}

impl Guest {
    fn open(pid: u32) -> io::Result<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let io = File::open(folder.join("io")).ok();
        let (stat, statm) = (File::open(folder.join("stat"))?, File::open(folder.join("statm"))?);
        Ok(Self {
            pid,
            stat,
            statm,
            io,
            before: None,
            resident: MiB(0),
            balloon: (None, None),
            taps: Vec::new(),
            told: None,
        })
    }

    /// Its taps have these names now.
    fn plug(&mut self, names: &[String]) {
        let fresh: Vec<Tap> = names.iter().filter_map(|name| Tap::open(name)).collect();
        if fresh.iter().map(|tap| &tap.name).eq(self.taps.iter().map(|tap| &tap.name)) {
            return;
        }
        self.taps = fresh;
        if let Some(before) = &mut self.before {
            before.network = None;
        }
    }

    fn network(&mut self, buffer: &mut [u8]) -> Option<(u64, u64)> {
        let all = self.taps.iter().map(|tap| tap.bytes(buffer));
        let sum = |(received, sent): (u64, u64), (more, out): (u64, u64)| {
            (received.saturating_add(more), sent.saturating_add(out))
        };
        let bytes = all.reduce(|one, other| Some(sum(one?, other?))).flatten();
        if bytes.is_none() {
            // A tap is gone; one of the same name is another one.
            self.taps.clear();
        }
        bytes
    }

    /// `None` when the process is gone. `whole`: with a look at its memory.
    fn sample(&mut self, id: GuestId, now: Instant, whole: bool, buffer: &mut [u8]) -> Option<GuestSample> {
        let ticks = proc::process_ticks(read(&self.stat, buffer)?)?;
        if whole || self.before.is_none() {
            let pages = proc::resident_pages(read(&self.statm, buffer)?)?;
            self.resident = MiB::of_bytes(pages.saturating_mul(page_bytes()));
        }
        // Nothing is read or written without a processor; what took less than a tick is told with the next.
        let moved = self.before.is_none_or(|before| before.ticks != ticks);
        let io = self.io.as_ref().filter(|_| moved).and_then(|io| read(io, buffer)).and_then(proc::disk_bytes);
        let last = self.before.map(|before| (before.disk, before.disk_at));
        let (disk, disk_at) = io.map(|bytes| (bytes, now)).or(last).unwrap_or(((0, 0), now));
        let network = self.network(buffer);
        let counters = Counters { at: now, ticks, disk, disk_at, network };
        let before = self.before.replace(counters).unwrap_or(counters);
        let (span, disk_span) = (now.duration_since(before.at), disk_at.duration_since(before.disk_at));
        let (received, sent) = network.unwrap_or_default();
        let (received_before, sent_before) = before.network.unwrap_or((received, sent));
        Some(GuestSample {
            id,
            cpu_permille: permille(ticks.saturating_sub(before.ticks), span),
            resident_mib: self.resident,
            read_bps: per_second(counters.disk.0.saturating_sub(before.disk.0), disk_span),
            write_bps: per_second(counters.disk.1.saturating_sub(before.disk.1), disk_span),
            balloon_mib: self.balloon.0,
            available_mib: self.balloon.1,
            access: Vec::new(),
            receive_bps: per_second(received.saturating_sub(received_before), span),
            transmit_bps: per_second(sent.saturating_sub(sent_before), span),
        })
    }
}

/// All of the file, from its beginning: /proc writes it anew for each such read.
fn read<'a>(file: &File, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let got = file.read_at(buffer, 0).ok()?;
    (got > 0).then(|| &buffer[..got])
}

fn whole_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn per_second(count: u64, span: Duration) -> u64 {
    count.saturating_mul(1_000).checked_div(whole_ms(span)).unwrap_or(0)
}

/// Permille of one CPU.
fn permille(ticks: u64, span: Duration) -> u32 {
    let ms = ticks.saturating_mul(1_000) / ticks_per_second();
    u32::try_from(ms.saturating_mul(1_000).checked_div(whole_ms(span)).unwrap_or(0)).unwrap_or(u32::MAX)
}

fn page_bytes() -> u64 {
    configured(SysconfVar::PAGE_SIZE, 4_096)
}

fn ticks_per_second() -> u64 {
    configured(SysconfVar::CLK_TCK, 100)
}

fn configured(name: SysconfVar, usual: u64) -> u64 {
    sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(usual)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_process_is_sampled_and_its_end_is_noticed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut guest = Guest::open(child.id()).unwrap();
        let (id, mut buffer, now) = (GuestId::from_u128(1), vec![0; BUFFER], Instant::now());
        let sample = guest.sample(id, now, true, &mut buffer).unwrap();
        assert_eq!((sample.cpu_permille, sample.read_bps), (0, 0), "the first has nothing to compare with");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(guest.sample(id, now + EVERY, true, &mut buffer), None);
    }

    #[test]
    fn a_process_that_had_no_processor_keeps_its_bytes_and_memory_is_seen_in_a_whole_look() {
        let mut guest = Guest::open(std::process::id()).unwrap();
        let (id, mut buffer, now) = (GuestId::from_u128(1), vec![0; BUFFER], Instant::now());
        let first = guest.sample(id, now, false, &mut buffer).unwrap();
        assert!(first.resident_mib > MiB(0), "the first look is a whole one");
        guest.resident = MiB(0);
        let counted = guest.before.as_mut().unwrap();
        (counted.ticks, counted.disk) = (u64::MAX, (0, 7));
        let moved = guest.sample(id, now + EVERY, false, &mut buffer).unwrap();
        assert_ne!(guest.before.unwrap().disk, (0, 7), "ticks differ, so bytes are read");
        assert_eq!(moved.resident_mib, MiB(0), "no whole look");
        assert!(guest.sample(id, now + EVERY, true, &mut buffer).unwrap().resident_mib > MiB(0));
        // A child that sleeps has no ticks at all.
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut guest = Guest::open(child.id()).unwrap();
        let ticks = guest.sample(id, now, true, &mut buffer).map(|_| guest.before.unwrap().ticks);
        guest.before.as_mut().unwrap().disk = (3, 9);
        let still = guest.sample(id, now + EVERY, false, &mut buffer).map(|sample| (sample.read_bps, sample.write_bps));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(ticks, guest.before.map(|counted| counted.ticks), "it slept");
        assert_eq!((still, guest.before.unwrap().disk), (Some((0, 0)), (3, 9)));
    }

    #[test]
    fn what_goes_over_a_tap_is_the_guests_from_the_second_look_on() {
        let mut guest = Guest::open(std::process::id()).unwrap();
        let (id, mut buffer, now) = (GuestId::from_u128(1), vec![0; BUFFER], Instant::now());
        guest.plug(&["lo".into(), "../lo".into(), "none-such".into()]);
        assert_eq!(guest.taps.len(), 1);
        let sample = guest.sample(id, now, true, &mut buffer).unwrap();
        assert_eq!((sample.receive_bps, sample.transmit_bps), (0, 0), "nothing to compare with");
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(&[0; 30_000], socket.local_addr().unwrap()).unwrap();
        let sample = guest.sample(id, now + EVERY, true, &mut buffer).unwrap();
        assert!(sample.receive_bps >= 30_000 && sample.transmit_bps >= 30_000, "{sample:?}");
        guest.plug(&["other".into()]);
        let sample = guest.sample(id, now + 2 * EVERY, true, &mut buffer).unwrap();
        assert_eq!((sample.receive_bps, sample.transmit_bps), (0, 0), "another tap's count is no traffic");
    }

    #[test]
    fn rates_are_per_second_and_never_divide_by_nothing() {
        assert_eq!(per_second(500, Duration::from_millis(500)), 1_000);
        assert_eq!((per_second(500, Duration::ZERO), permille(1, Duration::ZERO)), (0, 0));
        assert_eq!(permille(ticks_per_second(), EVERY), 1_000);
    }
}
