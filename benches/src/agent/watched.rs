//! What it costs to be watched: samples, history, probes and metrics of the agent beside what others use for it, on the
//! same host with the same guests.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use roost_benches::aggregator::Aggregator;
use roost_benches::figure::{Figure, Goal};
use roost_benches::process;
use serde_json::{Value, json};

use super::lab::Lab;

/// Prometheus asks so often by default in most set-ups.
const EVERY_S: u64 = 15;
/// Time for all doors to have been tried once, and for the first look at all guests.
const SETTLE: Duration = Duration::from_secs(45);
const IDLE: Duration = Duration::from_secs(10);
pub(crate) const METRICS: u16 = 9_177;
const EXPORTER: u16 = 9_100;
/// What all doors lead to.
const DOOR: u16 = 8_077;
const PEER: &str = "prometheus-node-exporter + virsh domstats, each 15 s";

/// What uses CPU on behalf of whoever looks: libvirt's daemon and the guests' QEMUs.
#[derive(Debug)]
pub(crate) struct Beneath {
    pids: Vec<u32>,
    /// Cores that they use while nobody looks.
    idle: f64,
}

impl Beneath {
    /// Looks at them for a while; nothing else may run on the host.
    pub(crate) fn measure(lab: &Lab, qemus: &[u32]) -> Result<Self> {
        let pids = [&lab.pids("libvirtd")?[..], qemus].concat();
        let (before, began) = (process::cpu_of_all(&pids)?, Instant::now());
        std::thread::sleep(IDLE);
        let idle = (process::cpu_of_all(&pids)? - before) / began.elapsed().as_secs_f64();
        Ok(Self { pids, idle })
    }
}

/// Cores, in one window: of the program, and of what is beneath it.
struct Cost {
    own: f64,
    beneath: f64,
}

/// Asks the page from within the host for so long while `also` runs, which gives CPU seconds of its own.
fn window(lab: &Lab, (pid, port): (u32, u16), seconds: u32, beneath: &Beneath, also: &str) -> Result<Cost> {
    let rounds = u64::from(seconds).div_ceil(EVERY_S);
    let ask =
        format!("for i in $(seq {rounds}); do curl -sf http://127.0.0.1:{port}/metrics | wc -l; sleep {EVERY_S}; done");
    lab.spawn(Path::new("/dev/null"), &["sh", "-c", &ask])?;
    let (own, under, began) = (process::cpu(pid)?, process::cpu_of_all(&beneath.pids)?, Instant::now());
    let line =
        format!("for i in $(seq {rounds}); do {also}; sleep {EVERY_S}; done | virsh -q -c qemu:///system > /dev/null");
    let stat = lab.shell(&format!("{line}; cat /proc/$$/stat"))?;
    let took = began.elapsed().as_secs_f64();
    let (_, fields) = stat.rsplit_once(") ").context("stat of the shell")?;
    let ticks = fields.split(' ').skip(13).take(2).map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    let asker = if also == ":" { 0.0 } else { ticks / 100.0 };
    let own = (process::cpu(pid)? - own + asker) / took;
    Ok(Cost { own, beneath: ((process::cpu_of_all(&beneath.pids)? - under) / took - beneath.idle).max(0.0) })
}

/// The peers, before the agent runs. `None` where the exporter isn't installed.
pub(crate) fn peers(lab: &Lab, folder: &Path, seconds: u32, beneath: &Beneath) -> Result<Option<Peers>> {
    lab.spawn(
        &folder.join("exporter.log"),
        &["prometheus-node-exporter", &format!("--web.listen-address=127.0.0.1:{EXPORTER}")],
    )?;
    std::thread::sleep(IDLE);
    let Some(pid) = lab.pids("prometheus-node")?.first().copied() else {
        eprintln!("prometheus-node-exporter is not installed: no peer");
        return Ok(None);
    };
    let cost = window(lab, (pid, EXPORTER), seconds, beneath, "echo domstats")?;
    let (pss, private) = (process::proportional(pid)?, process::private(pid)?);
    lab.shell("pkill -x prometheus-node")?;
    Ok(Some(Peers { cost, pss, private }))
}

/// What the peers used.
pub(crate) struct Peers {
    cost: Cost,
    /// MiB of the exporter.
    pss: f64,
    private: f64,
}

/// The agent `pid`, joined to this aggregator, with a door of each guest tried and its metrics asked for.
pub(crate) async fn watched(
    lab: &Lab,
    aggregator: &Aggregator,
    (pid, folder): (u32, &Path),
    seconds: u32,
    beneath: &Beneath,
    peers: Option<&Peers>,
) -> Result<()> {
    let server = format!("exec python3 -m http.server --bind 127.0.0.1 --directory / {DOOR}");
    lab.spawn(&folder.join("door.log"), &["timeout", "--foreground", "900", "sh", "-c", &server])?;
    let guests = aggregator.api.get("/guests?limit=1000").await?;
    let guests = guests["items"].as_array().context("guests")?;
    ensure!(!guests.is_empty(), "no guests");
    for id in guests.iter().filter_map(|guest| guest["id"].as_str()) {
        let probes = json!({"probes": [format!("tcp://127.0.0.1:{DOOR}")]});
        aggregator.api.post(&format!("/guests/{id}/actions/probe"), &probes).await?;
    }
    lab.shell(&format!("curl -sf http://127.0.0.1:{METRICS}/metrics > /dev/null"))?;
    std::thread::sleep(SETTLE);
    let tried = aggregator.api.get("/guests?limit=1000&fields=access").await?;
    let up = |guest: &Value| guest["access"][0]["up"] == true;
    let answer = tried["items"].as_array().is_some_and(|all| all.iter().all(up));
    ensure!(answer, "not all doors answered: {tried}");
    let cost = window(lab, (pid, METRICS), seconds, beneath, ":")?;
    let beside = |name, unit, ours, peer: Option<f64>, goal| {
        let peer = peer.map(|peer| (PEER, peer));
        Figure { name, unit, ours, peer, goal, ..Figure::default() }.print()
    };
    let peer = |pick: fn(&Peers) -> f64| peers.map(pick);
    let whole = |cost: &Cost| cost.own + cost.beneath;
    let (share, mib) = (Some(Goal::Ours(0.01)), Some(Goal::Ours(15.0)));
    beside("monitoring_core_share", "cores", cost.own, peer(|peers| peers.cost.own), share)?;
    let (name, theirs) = ("monitoring_core_share_with_libvirt_and_qemu", peers.map(|peers| whole(&peers.cost)));
    beside(name, "cores", whole(&cost), theirs, None)?;
    beside("monitoring_private_mib", "MiB", process::private(pid)?, peer(|peers| peers.private), mib)?;
    beside("monitoring_pss_mib", "MiB", process::proportional(pid)?, peer(|peers| peers.pss), mib)
}
