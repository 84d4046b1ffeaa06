//! One real aggregator and simulated hosts with real QUIC between them: what a beat costs, how many beats and operations
//! are held, how long lists and commands take.

mod host;
mod prometheus;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use quinn::Endpoint;
use roost_benches::aggregator::Aggregator;
use roost_benches::figure::{self, Figure, alone, millis, percentile};
use roost_benches::process;
use roost_protocol::enrol::JoinToken;
use roost_protocol::message::BEAT_EVERY;
use roost_protocol::transport;
use tokio::task::JoinSet;

use host::{Counts, GUEST_SERIES, HOST_SERIES, Host, guest_id, guests_of};

const QUIC: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 19_433);
const HTTPS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 19_443);
/// Machines that join at once.
const JOINING: usize = 24;
/// Simulated hosts that share a UDP socket, so that 2,000 need 40.
const HOSTS_PER_SOCKET: usize = 50;
/// How long all hosts may take to be listed.
const LISTED: Duration = Duration::from_secs(300);
/// Rates tried after the normal one, in beats of one host per second; an aggregator takes 20 messages.
const FASTER: [u32; 4] = [1, 2, 4, 8];
/// Requests of each list.
const LISTS: usize = 200;
/// Callers of operations at once: for their number, and for their latency.
const CALLERS: usize = 64;
const FEW_CALLERS: usize = 4;

/// Measures an aggregator. Prints one JSON line per figure.
#[derive(Debug, Parser)]
struct Arguments {
    /// Simulated hosts, with 12 or 13 guests each.
    #[arg(long, default_value_t = 2_000)]
    hosts: usize,
    /// Folder with roost-aggregator; beside this program unless given.
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Seconds of each window.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Windows of CPU measurements, of which the best counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Without Prometheus.
    #[arg(long)]
    no_peer: bool,
    /// Measure although the machine is busy.
    #[arg(long)]
    force: bool,
}

struct Bench {
    arguments: Arguments,
    aggregator: Aggregator,
    counts: Arc<Counts>,
    guests: usize,
    series: usize,
}

/// What a window of beats showed.
struct Window {
    cpu: f64,
    took: f64,
    seen: f64,
    due: f64,
    late: u64,
    answers: Vec<Duration>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    figure::refuse_when_busy(arguments.force)?;
    let program = process::program(arguments.bin_dir.as_deref(), "roost-aggregator")?;
    let aggregator = Aggregator::start(&program, QUIC, HTTPS).await?;
    let guests = (0..arguments.hosts).map(guests_of).sum();
    let series = HOST_SERIES * arguments.hosts + GUEST_SERIES * guests;
    let bench = Bench { arguments, aggregator, counts: Arc::default(), guests, series };
    let _hosts = bench.populate().await?;
    let (us_per_sample, rss) = bench.beats().await?;
    bench.held().await?;
    bench.lists().await?;
    bench.operations().await?;
    bench.round_trips().await?;
    let lost = bench.counts.lost.load(Ordering::Relaxed);
    ensure!(lost == 0, "{lost} simulated hosts lost their link: the figures above are not of the whole grid");
    let Bench { arguments, aggregator, series, .. } = bench;
    drop(aggregator);
    drop(_hosts);
    let peer = match arguments.no_peer {
        true => None,
        false => prometheus::measure(arguments.hosts, series, arguments.rounds).await?,
    };
    let peer_us = peer.as_ref().map(|peer| ("prometheus, same series", peer.us_per_sample));
    let name = "aggregator_us_per_sample_vs_prometheus";
    Figure { name, unit: "cpu_us", ours: us_per_sample, peer: peer_us, ..Figure::default() }.print()?;
    let name = format!("aggregator_rss_mib_{}_hosts", arguments.hosts);
    let peer_rss = peer.as_ref().map(|peer| ("prometheus, same series", peer.rss_mib));
    Figure { name: &name, unit: "MiB", ours: rss, peer: peer_rss, ..Figure::default() }.print()
}

impl Bench {
    /// All hosts joined, connected and listed.
    async fn populate(&self) -> Result<JoinSet<()>> {
        let began = Instant::now();
        self.counts.every_ms.store(BEAT_EVERY.0, Ordering::Relaxed);
        let endpoints = (0..self.arguments.hosts.div_ceil(HOSTS_PER_SOCKET))
            .map(|_| transport::client_endpoint())
            .collect::<Result<Vec<_>, _>>()?;
        let hosts = self.join(&endpoints).await?;
        eprintln!("{} hosts joined in {:.1} s", hosts.len(), began.elapsed().as_secs_f64());
        let began = Instant::now();
        let mut living = JoinSet::new();
        let all = count(hosts.len())?;
        for (index, host) in hosts.into_iter().enumerate() {
            let endpoint = endpoints[index / HOSTS_PER_SOCKET].clone();
            let (counts, offset) = (Arc::clone(&self.counts), count(index)? / all);
            living.spawn(async move {
                if let Err(why) = host.live(endpoint, QUIC, offset, counts).await {
                    eprintln!("{why:#}");
                }
            });
            if index % JOINING == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        self.listed(began).await?;
        alone("all_hosts_linked_and_listed_s", "s", began.elapsed().as_secs_f64())?;
        while self.counts.documents.load(Ordering::Relaxed) < u64::try_from(self.arguments.hosts)? {
            ensure!(began.elapsed() < LISTED, "not every host was given the grid document");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        alone("all_hosts_keep_the_grid_document_s", "s", began.elapsed().as_secs_f64())?;
        Ok(living)
    }

    async fn join(&self, endpoints: &[Endpoint]) -> Result<Vec<Host>> {
        let (mut joining, mut hosts) = (JoinSet::new(), Vec::new());
        for index in 0..self.arguments.hosts {
            if joining.len() >= JOINING {
                hosts.push(joining.join_next().await.context("a joining host")???);
            }
            let token = self.aggregator.token(&format!("sim-{index:04}")).await?;
            let endpoint = endpoints[index / HOSTS_PER_SOCKET].clone();
            let api = self.aggregator.api.clone();
            joining.spawn(async move {
                let host = Host::join(&endpoint, QUIC, index, &token).await?;
                // Used tokens count among the 1,000 that a grid may have.
                api.delete(&format!("/join-tokens/{}", JoinToken::parse(&token)?.id())).await?;
                Ok::<_, anyhow::Error>(host)
            });
        }
        while let Some(host) = joining.join_next().await {
            hosts.push(host??);
        }
        Ok(hosts)
    }

    async fn listed(&self, began: Instant) -> Result<()> {
        loop {
            let page = self.aggregator.api.get("/guests?limit=1&total=true").await?;
            if page["total"].as_u64() == Some(u64::try_from(self.guests)?) {
                return Ok(());
            }
            if began.elapsed() > LISTED {
                bail!("only {} of {} guests are listed", page["total"], self.guests);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn window(&self) -> Result<Window> {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let at = |counts: &Counts| (read(&counts.beats_seen), read(&counts.beats_due), read(&counts.beats_late));
        drop(self.counts.take_answers());
        let (before, cpu, began) = (at(&self.counts), process::cpu(self.aggregator.pid())?, Instant::now());
        tokio::time::sleep(Duration::from_secs(self.arguments.seconds)).await;
        let (after, cpu, took) = (at(&self.counts), process::cpu(self.aggregator.pid())? - cpu, began.elapsed());
        let span = |after: u64, before: u64| u32::try_from(after - before).map(f64::from);
        Ok(Window {
            cpu,
            took: took.as_secs_f64(),
            seen: span(after.0, before.0)?,
            due: span(after.1, before.1)?,
            late: after.2 - before.2,
            answers: self.counts.take_answers(),
        })
    }

    /// The normal pace: CPU per sample (best window), and memory.
    async fn beats(&self) -> Result<(f64, f64)> {
        let mut best: Option<Window> = None;
        for _ in 0..self.arguments.rounds {
            let window = self.window().await?;
            ensure!(window.seen > 0.0, "no beat was answered");
            if best.as_ref().is_none_or(|best| window.cpu / window.seen < best.cpu / best.seen) {
                best = Some(window);
            }
        }
        let mut best = best.context("a window")?;
        let us_per_beat = best.cpu * 1e6 / best.seen;
        let rss = process::resident(self.aggregator.pid())?;
        alone("aggregator_us_per_beat", "cpu_us", us_per_beat)?;
        alone("aggregator_core_share", "cores", best.cpu / best.took)?;
        alone("beat_answer_ms_p99", "ms", millis(percentile(&mut best.answers, 99)))?;
        alone("beat_answer_ms_max", "ms", millis(percentile(&mut best.answers, 100)))?;
        alone("aggregator_pss_mib", "MiB", process::proportional(self.aggregator.pid())?)?;
        Ok((us_per_beat * count(self.arguments.hosts)? / count(self.series)?, rss))
    }

    /// Ever faster, until an answer is late.
    async fn held(&self) -> Result<()> {
        let mut held = 0.0;
        for per_second in FASTER {
            self.counts.every_ms.store(u64::from(1_000 / per_second), Ordering::Relaxed);
            // Until every host beats at the new pace.
            tokio::time::sleep(Duration::from_millis(BEAT_EVERY.0)).await;
            let window = self.window().await?;
            let wanted = count(self.arguments.hosts)? * f64::from(per_second);
            eprintln!(
                "{wanted}/s wanted, {:.0}/s sent, {:.0}/s answered, {} late, {:.2} cores",
                window.due / window.took,
                window.seen / window.took,
                window.late,
                window.cpu / window.took
            );
            if window.late > 0 || window.seen / window.took < wanted * 0.97 {
                break;
            }
            held = window.seen / window.took;
        }
        self.counts.every_ms.store(BEAT_EVERY.0, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(2 * BEAT_EVERY.0)).await;
        alone("heartbeats_per_s_held", "1/s", held)
    }

    async fn lists(&self) -> Result<()> {
        self.timed("list_page_of_100", "/guests?limit=100", LISTS).await?;
        self.timed("list_page_of_1000", "/guests?limit=1000", LISTS / 4).await?;
        self.timed("search_by_name", "/guests?limit=20&name=vd-0007&state=running", LISTS).await?;
        self.timed("list_csv_of_all", "/guests?format=csv&limit=100000", 10).await?;
        let mut walks = Vec::new();
        for _ in 0..self.arguments.rounds {
            let (began, mut seen, mut cursor) = (Instant::now(), 0, String::new());
            loop {
                let page = self.aggregator.api.get(&format!("/guests?limit=1000{cursor}")).await?;
                seen += page["items"].as_array().map_or(0, Vec::len);
                let Some(next) = page["next"].as_str() else { break };
                cursor = format!("&cursor={next}");
            }
            ensure!(seen == self.guests, "the pages have {seen} of {} guests", self.guests);
            walks.push(began.elapsed());
        }
        alone("list_ms_of_all_in_pages_of_1000", "ms", millis(percentile(&mut walks, 1)))
    }

    async fn timed(&self, name: &str, path: &str, times: usize) -> Result<()> {
        let mut took = Vec::new();
        for _ in 0..times {
            let began = Instant::now();
            self.aggregator.api.fetch(path).await.with_context(|| path.to_owned())?;
            took.push(began.elapsed());
        }
        alone(&format!("{name}_ms_p50"), "ms", millis(percentile(&mut took, 50)))?;
        alone(&format!("{name}_ms_p99"), "ms", millis(percentile(&mut took, 99)))
    }

    /// Operations per second: asked for over HTTPS, durable, sent, answered, durable again, told to the host.
    async fn operations(&self) -> Result<()> {
        let before = self.counts.outcomes_seen.load(Ordering::Relaxed);
        let (cpu, began) = (process::cpu(self.aggregator.pid())?, Instant::now());
        let until = began + Duration::from_secs(self.arguments.seconds);
        let asked = self.call(CALLERS, until, false).await?.len();
        let all = before + u64::try_from(asked)?;
        while self.counts.outcomes_seen.load(Ordering::Relaxed) < all {
            ensure!(began.elapsed() < LISTED, "some operations do not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let took = began.elapsed().as_secs_f64();
        // The beats that went on meanwhile are in it.
        let cpu = process::cpu(self.aggregator.pid())? - cpu;
        let (name, limit) = ("durable_operations_per_s", Some(self.answers_per_s().await?));
        Figure { name, unit: "1/s", ours: count(asked)? / took, limit, ..Figure::default() }.print()?;
        alone("durable_operation_us_aggregator", "cpu_us", cpu * 1e6 / count(asked)?)
    }

    /// What this machine's HTTPS, with the callers on it, does when the aggregator has nothing to do for it: the limit
    /// of operations that are asked for one by one.
    async fn answers_per_s(&self) -> Result<f64> {
        let (began, until) = (Instant::now(), Instant::now() + Duration::from_secs(self.arguments.seconds));
        let mut calling = JoinSet::new();
        for _ in 0..CALLERS {
            let api = self.aggregator.api.clone();
            calling.spawn(async move {
                let mut calls = 0_usize;
                while Instant::now() < until {
                    api.health().await?;
                    calls += 1;
                }
                Ok::<_, anyhow::Error>(calls)
            });
        }
        let mut all = 0;
        while let Some(calls) = calling.join_next().await {
            all += calls??;
        }
        Ok(count(all)? / began.elapsed().as_secs_f64())
    }

    async fn round_trips(&self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(self.arguments.seconds);
        let mut took = self.call(FEW_CALLERS, until, true).await?;
        alone("command_round_trip_ms_p50", "ms", millis(percentile(&mut took, 50)))?;
        alone("command_round_trip_ms_p99", "ms", millis(percentile(&mut took, 99)))
    }

    /// So many callers reset guests one after the other; how long each call took.
    async fn call(&self, callers: usize, until: Instant, wait: bool) -> Result<Vec<Duration>> {
        let mut calling = JoinSet::new();
        for caller in 0..callers {
            let (api, hosts) = (self.aggregator.api.clone(), self.arguments.hosts);
            calling.spawn(async move {
                let (mut took, mut host) = (Vec::new(), caller);
                while Instant::now() < until {
                    let began = Instant::now();
                    // Each host in turn: one takes 20 messages per second.
                    let path = format!("/guests/{}/actions/reset", guest_id(host % hosts, host / hosts % 12));
                    if wait {
                        let ended = api.post_and_wait(&path).await?;
                        ensure!(ended["state"] == "succeeded", "{ended}");
                    } else {
                        api.post_only(&path).await?;
                    }
                    took.push(began.elapsed());
                    host += callers;
                }
                Ok::<_, anyhow::Error>(took)
            });
        }
        let mut all = Vec::new();
        while let Some(took) = calling.join_next().await {
            all.extend(took??);
        }
        Ok(all)
    }
}

fn count(number: usize) -> Result<f64> {
    Ok(f64::from(u32::try_from(number)?))
}
