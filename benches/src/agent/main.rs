//! A real agent on a host with many small real guests: what it costs beside polling libvirt, and how fast it is in the grid.

mod lab;
mod watched;

use std::fs::File;
use std::hint::black_box;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use roost_benches::aggregator::Aggregator;
use roost_benches::figure::{self, Figure, alone};
use roost_benches::process;

use lab::{Lab, MACHINE};
use watched::Beneath;

/// Time for guests to boot and for a program to find them, before it is measured.
const SETTLE: Duration = Duration::from_secs(10);
const STATS: &str = "virsh domstats, one connection (virsh + libvirtd + QEMU)";
/// Rounds of the loop that shows the limit.
const READS: u32 = 2_000;
const JOINED: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(10);

/// Measures an agent; needs root, libvirt and QEMU. Prints one JSON line per figure.
#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long, default_value_t = 50)]
    guests: usize,
    /// Folder with roost-agent and roost-aggregator; beside this program unless given.
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Seconds of the agent's window; it samples once a second.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Rounds of libvirt's full statistics.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Measure although the machine is busy.
    #[arg(long)]
    force: bool,
}

/// What a sample of one guest costs, in microseconds of CPU.
struct Costs {
    libvirt: f64,
    limit: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    figure::refuse_when_busy(arguments.force)?;
    let agent = process::program(arguments.bin_dir.as_deref(), "roost-agent")?;
    let aggregator = process::program(arguments.bin_dir.as_deref(), "roost-aggregator")?;
    // The lab hides /var; what its host is to see lies beside this program.
    let shared =
        tempfile::Builder::new().prefix("bench-agent.").tempdir_in(std::env::current_exe()?.with_file_name(""))?;
    let lab = Lab::up(shared.path())?;
    let qemus = lab.guests(arguments.guests)?;
    eprintln!("{} guests run", qemus.len());
    std::thread::sleep(SETTLE);
    let costs = Costs { libvirt: libvirt(&lab, &qemus, arguments.rounds)?, limit: limit(&qemus)? };
    let beneath = Beneath::measure(&lab, &qemus)?;
    let peers = watched::peers(&lab, shared.path(), arguments.seconds, &beneath)?;
    measure(&arguments, &lab, &agent, shared.path(), &costs)?;
    let (aggregator, pid) = join(&lab, &agent, &aggregator, shared.path()).await?;
    let joined = (pid, shared.path());
    watched::watched(&lab, &aggregator, joined, arguments.seconds, &beneath, peers.as_ref()).await?;
    drop(lab);
    Ok(())
}

fn per_guest(cpu_s: f64, guests: usize, times: u32) -> Result<f64> {
    Ok(cpu_s * 1e6 / f64::from(u32::try_from(guests)?) / f64::from(times))
}

/// The peer: all of libvirt's statistics, by one virsh that stays connected. What QEMU uses anyway is subtracted.
fn libvirt(lab: &Lab, qemus: &[u32], rounds: u32) -> Result<f64> {
    let libvirtd = lab.pids("libvirtd")?;
    let (before, began) = (process::cpu_of_all(qemus)?, Instant::now());
    std::thread::sleep(SETTLE);
    let idle = (process::cpu_of_all(qemus)? - before) / began.elapsed().as_secs_f64();
    let (guests, daemon, began) = (process::cpu_of_all(qemus)?, process::cpu_of_all(&libvirtd)?, Instant::now());
    let line = format!(
        "for i in $(seq {rounds}); do echo domstats; done | virsh -q -c qemu:///system > /dev/null; cat /proc/$$/stat"
    );
    let stat = lab.shell(&line)?;
    let took = began.elapsed().as_secs_f64();
    let guests = process::cpu_of_all(qemus)? - guests - idle * took;
    let daemon = process::cpu_of_all(&libvirtd)? - daemon;
    let (_, fields) = stat.rsplit_once(") ").context("stat of the shell")?;
    let ticks = fields.split(' ').skip(13).take(2).map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    eprintln!("libvirt: libvirtd {daemon:.2} s, QEMU {guests:.2} s, virsh {:.2} s in {took:.1} s", ticks / 100.0);
    per_guest(daemon + guests.max(0.0) + ticks / 100.0, qemus.len(), rounds)
}

/// The limit: nothing but reading three open files of each guest's process.
fn limit(qemus: &[u32]) -> Result<f64> {
    let mut files = Vec::new();
    for pid in qemus {
        for name in ["stat", "statm", "io"] {
            files.push(File::open(format!("/proc/{pid}/{name}"))?);
        }
    }
    let mut buffer = [0; 4_096];
    let before = process::thread_ns()?;
    for _ in 0..READS {
        for file in &files {
            black_box(file.read_at(&mut buffer, 0)?);
        }
    }
    per_guest((process::thread_ns()? - before) / 1e9, qemus.len(), READS)
}

/// The agent alone, without an aggregator.
fn measure(arguments: &Arguments, lab: &Lab, agent: &Path, folder: &Path, costs: &Costs) -> Result<()> {
    let pid = start(lab, agent, folder, "")?;
    std::thread::sleep(SETTLE);
    let libvirtd = lab.pids("libvirtd")?;
    let (cpu, daemon, began) = (process::cpu(pid)?, process::cpu_of_all(&libvirtd)?, Instant::now());
    std::thread::sleep(Duration::from_secs(u64::from(arguments.seconds)));
    let took = began.elapsed().as_secs_f64();
    let (cpu, daemon) = (process::cpu(pid)? - cpu, process::cpu_of_all(&libvirtd)? - daemon);
    let guests = arguments.guests;
    Figure {
        name: "agent_cpu_us_per_guest_sample",
        unit: "cpu_us",
        ours: per_guest(cpu, guests, arguments.seconds)?,
        peer: Some((STATS, costs.libvirt)),
        limit: Some(costs.limit),
        ..Figure::default()
    }
    .print()?;
    let caused = per_guest(daemon, guests, arguments.seconds)?;
    alone("agent_libvirtd_cpu_us_per_guest_sample", "cpu_us", caused)?;
    alone(&format!("agent_core_share_{guests}_guests"), "cores", cpu / took)?;
    alone(&format!("agent_rss_mib_{guests}_guests"), "MiB", process::resident(pid)?)?;
    alone(&format!("agent_pss_mib_{guests}_guests"), "MiB", process::proportional(pid)?)?;
    alone("libvirtd_rss_mib", "MiB", process::resident(*libvirtd.first().context("libvirtd")?)?)?;
    stop(lab)
}

/// From the start of the agent's process until the API lists the host as up. Gives the aggregator, and the agent once more.
async fn join(lab: &Lab, agent: &Path, aggregator: &Path, folder: &Path) -> Result<(Aggregator, u32)> {
    let quic = SocketAddr::from((MACHINE, 19_433));
    let aggregator = Aggregator::start(aggregator, quic, SocketAddr::from((MACHINE, 19_443))).await?;
    let token = aggregator.token("bench").await?;
    let secret = folder.join("token");
    std::fs::write(&secret, token)?;
    let metrics = format!("metrics_listen = '127.0.0.1:{}'\n", watched::METRICS);
    let settings = format!("aggregator = '{quic}'\njoin_token_file = '{}'\n{metrics}", secret.display());
    for name in ["start_to_joined_and_listed_s", "restart_to_listed_s"] {
        let began = Instant::now();
        start(lab, agent, folder, &settings)?;
        up(&aggregator).await?;
        alone(name, "s", began.elapsed().as_secs_f64())?;
        stop(lab)?;
        while aggregator.api.get("/hosts").await?["items"][0]["state"] == "up" {
            tokio::time::sleep(AGAIN).await;
        }
    }
    let pid = start(lab, agent, folder, &settings)?;
    up(&aggregator).await?;
    Ok((aggregator, pid))
}

async fn up(aggregator: &Aggregator) -> Result<()> {
    let began = Instant::now();
    loop {
        let hosts = aggregator.api.get("/hosts").await?;
        if hosts["items"].as_array().is_some_and(|all| all.iter().any(|host| host["state"] == "up")) {
            return Ok(());
        }
        ensure!(began.elapsed() < JOINED, "the host is not up: {hosts}");
        tokio::time::sleep(AGAIN).await;
    }
}

/// Starts the agent in the host; its process id as seen from here.
fn start(lab: &Lab, agent: &Path, folder: &Path, more: &str) -> Result<u32> {
    let settings = folder.join("agent.toml");
    std::fs::write(&settings, format!("name = 'bench'\ntune_memory = false\n{more}"))?;
    let words = [agent, Path::new("--config"), &settings, Path::new("run")].map(Path::to_str);
    let words: Vec<&str> = words.into_iter().collect::<Option<_>>().context("paths in UTF-8")?;
    lab.spawn(&folder.join("agent.log"), &words)?;
    let mut pids = lab.pids("roost-agent")?;
    let began = Instant::now();
    while pids.is_empty() && began.elapsed() < JOINED {
        std::thread::sleep(AGAIN);
        pids = lab.pids("roost-agent")?;
    }
    let log = || std::fs::read_to_string(folder.join("agent.log")).unwrap_or_default();
    pids.first().copied().with_context(|| format!("the agent does not run: {}", log()))
}

fn stop(lab: &Lab) -> Result<()> {
    lab.shell("pkill -x roost-agent; while pgrep -x roost-agent > /dev/null; do sleep 0.01; done").map(drop)
}
