//! The agent of one host: looks after its guests, with or without an aggregator.

mod act;
mod backoff;
mod boot;
mod config;
mod console;
mod detail;
mod driver;
mod files;
mod heap;
mod history;
mod keys;
mod ledger;
mod look;
mod monitoring;
mod observe;
mod offline;
mod pace;
mod peer;
mod report;
mod setup;
mod slots;
mod told;
#[cfg(test)]
mod waiting;

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail};
use clap::Parser;
use roost_agent_core::backup::plan::Limits;
use roost_agent_core::probe::Pace;
use roost_agent_core::{Agent, Event, GuardWish};
use roost_protocol::enrol::JoinToken;
use roost_protocol::host::{HostFacts, Virtualization};
use roost_protocol::memory::{MemoryPolicy, MemoryReport};
use roost_protocol::transport;
use roost_protocol::{HostId, Millis};
use roost_store::{Options, StoreError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use act::domain::{Slot, Workers};
use act::place::Place;
use act::points::Points;
use act::reboot::Reboot;
use act::xml::Accelerator;
use config::{Arguments, Command, Config, SnmpCommand};
use driver::Driver;
use driver::exchange;
use driver::keeper::{self, Keeper};
use driver::memory::{self, Density, Tuner};
use ledger::Opened;
use look::Looks;
use observe::{details, facts, libvirt::Watcher, samples};
use report::identity::Store;
use report::join::{self, Applicant};
use report::link::Link;
use report::service;
use slots::Search;

/// Events that may wait for the driver; a list of 512 domains is one event.
const EVENTS: usize = 1_024;
/// Threads for calls that block, 64 of them for callers of other hosts (peer/listen.rs); those that hang are counted in
/// act/domain.rs.
const BLOCKING: usize = 144;

fn main() -> anyhow::Result<()> {
    heap::stay_small();
    let arguments = Arguments::parse();
    let config = Config::load(arguments.config.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING)
        .enable_all()
        .build()
        .context("start the runtime")?;
    match arguments.command {
        Command::Run { aggregator, join_token } => {
            service::start_log();
            runtime.block_on(run(config, arguments.config, aggregator, join_token))?;
            // A call to libvirt that hangs must not keep the agent from ending.
            runtime.shutdown_background();
            Ok(())
        }
        Command::Join { address, token, name } => runtime.block_on(join_grid(&config, address, token, name)),
        Command::Snmp { command: SnmpCommand::Setup(setup) } => setup::snmp(&config, &setup),
        Command::Store(arguments) => match offline::run(&config, &arguments, &mut std::io::stdout()) {
            // The agent that asked for it reads it there.
            Err(error) if offline::exit_code(&error).is_some() => {
                let _ = writeln!(std::io::stderr(), "Error: {error:#}");
                std::process::exit(i32::from(offline::exit_code(&error).unwrap_or(1)));
            }
            other => other,
        },
        Command::Status => status(&config),
        Command::Image { command } => slots::run(&command, &config),
        Command::Boot => boot::run(),
        Command::Console => console::run(&config, facts::addresses),
        Command::KeepMemory => {
            service::start_log();
            keeper::keep(&config)
        }
        Command::CheckConfig => {
            say(&format!("{config:#?}"));
            Ok(())
        }
    }
}

async fn run(
    config: Config,
    settings: Option<PathBuf>,
    aggregator: Option<String>,
    token: Option<String>,
) -> anyhow::Result<()> {
    let stop = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = token.map_or_else(|| config.join_token(), |token| Ok(Some(token)))?;
    let token = token.map(|text| JoinToken::parse(&text)).transpose()?;
    files::make_folder(&config.state_dir, 0o711).with_context(|| format!("make {}", config.state_dir.display()))?;
    let place = Place::open(&config.images(), &config.guests()).context("make the folders of images and guests")?;
    let (opened, store) = (Opened::open(&config.state_dir)?, Store::open(&config.identity())?);
    let peer_listen = config.peer_address().map(|at| at.to_string());
    let facts = HostFacts { peer_listen, image: slots::image(), ..facts::facts(&config.host_name()?) };
    let accelerator = accelerator(&facts);
    let host = store.membership().ok().flatten().map_or(opened.host, |membership| membership.host);
    let new_boot = (opened.boot.as_deref() != Some(facts.boot_id.as_str())).then(|| facts.boot_id.clone());
    let agent = Agent::new(core_config(&config, host, &facts), opened.kept.clone());
    let (sender, events) = mpsc::channel(EVENTS);
    let ((link_sender, link), (reply_sender, replies)) = (mpsc::channel(EVENTS), mpsc::channel(EVENTS));
    let (aside, changed) = (opened.aside.clone(), Arc::new(AtomicBool::new(true)));
    let kept_peers = peer::Known { peers: opened.kept.peers.clone(), shares: opened.kept.shares.clone() };
    let ledger = opened.serve(reply_sender)?;
    let watcher =
        Watcher::start(&config.libvirt_uri, new_boot.is_some(), facts.clone(), changed.clone(), sender.clone())?;
    let (probes, wanted) = watch::channel(Arc::default());
    let (folders, doors) = ([config.state_dir.clone(), config.guests()], observe::probe::start(wanted, Pace::CALM));
    samples::start(&folders, changed, watcher.hypervisor(), doors, sender.clone())?;
    let tuned = (&config, settings.as_deref(), agent.memory());
    let (density, memory) = start_memory(tuned, &facts.boot_id, watcher.hypervisor(), &sender)?;
    tokio::spawn(observe::console::watch(config.guests()));
    let guard = start_guarding(&config, host, &sender);
    let mut points = points(&config, host, watcher.hypervisor(), &sender).await?;
    if let Some(points) = &points {
        points.tidy_fetched(&place);
    }
    let known = exchange::start(&config, &store, kept_peers, points.as_mut(), &sender)?;
    let workers = Workers::new((watcher.hypervisor(), density.policy()), place, accelerator, points, sender.clone());
    let aggregator = aggregator.or_else(|| config.aggregator.clone());
    let (demand, began) = (detail::Demand::new(), std::time::Instant::now());
    let details = details::start(watcher.hypervisor(), demand.clone())?;
    let monitor = monitoring::start(&config, (details, demand), probes, began, aggregator.is_some()).await?;
    let (hypervisor, pictures) = (watcher.hypervisor(), config.state_dir.join(look::PICTURES));
    let (guard_at, reboot) =
        (config.guard_socket.clone(), Reboot::new(&facts.boot_id, &config.reboot_command, workers.gate()));
    let (history, search) = (monitor.history(), Search::default());
    let looks = Looks { hypervisor, pictures, history, memory, guard: guard_at, search, reboot };
    tokio::spawn(Link { store, aggregator, token, host, facts, looks, events: link_sender }.run());
    Driver {
        agent,
        events,
        link,
        ledger,
        replies,
        watcher,
        workers,
        known,
        guard,
        density,
        fenced: sender,
        new_boot,
        aside,
        monitor,
        began,
        stop,
    }
    .run()
    .await;
    Ok(())
}

fn core_config(config: &Config, host: HostId, facts: &HostFacts) -> roost_agent_core::Config {
    roost_agent_core::Config {
        host,
        facts: facts.clone(),
        list_every: Millis::seconds(config.list_every_s),
        restart_first: Millis(config.restart_first_ms),
        restart_longest: Millis(config.restart_longest_ms),
        backup: Limits { ship_bandwidth: config.copy_bandwidth(), ..Limits::default() },
        guarded: config.guard_socket.is_some(),
    }
}

fn accelerator(facts: &HostFacts) -> Accelerator {
    match &facts.virtualization {
        Virtualization::Hardware => Accelerator::Kvm,
        Virtualization::Software { why } => {
            tracing::warn!(why, "guests run without hardware virtualisation");
            Accelerator::Tcg
        }
        Virtualization::Unknown => Accelerator::Tcg,
    }
}

/// What comes back takes in how the guard is to be.
fn start_guarding(config: &Config, host: HostId, events: &mpsc::Sender<Event>) -> watch::Sender<GuardWish> {
    let (wish, wishes) = watch::channel(GuardWish::default());
    if let Some(socket) = config.guard_socket.clone() {
        tokio::spawn(observe::guard::watch(socket, host, config.failover_profile.timers(), wishes, events.clone()));
    }
    wish
}

/// Memory density, by its own thread; what comes back takes in the policy, and tells how it stands, or stays empty.
fn start_memory(
    (config, settings, kept): (&Config, Option<&Path>, Option<&MemoryPolicy>),
    boot: &str,
    hypervisor: Slot,
    events: &mpsc::Sender<Event>,
) -> anyhow::Result<(Density, watch::Receiver<Option<MemoryReport>>)> {
    let ((report, reports), density) = (watch::channel(None), Density::new(config.memory.clone(), kept));
    if !config.tune_memory {
        return Ok((density, reports));
    }
    let (found, boot) = (memory::found_file(config), boot.to_owned());
    let keeper = Keeper::new(settings.map(Path::to_owned));
    let (events, policy) = (events.clone(), density.policy());
    let tuner = Tuner { hypervisor, events, policy, found, boot, keeper, report };
    let thread = tuner.start().context("start the memory thread")?;
    Ok((density.tuned_by(thread), reports))
}

/// A store can't be turned into another.
const ENCRYPTED_OR_NOT: &str = "; a store is encrypted with its first key from its first day, or never: check \
                                backup_key_file, or choose another backups_dir";

/// The host's store of restore points. Without it guests are looked after all the same, and an alarm says why.
async fn points(
    config: &Config,
    host: HostId,
    mut hypervisor: Slot,
    events: &mpsc::Sender<Event>,
) -> anyhow::Result<Option<Points>> {
    let (folder, scratch) = (config.backups(), config.state_dir.join("scratch"));
    let opened = files::make_folder(&folder, 0o700)
        .and_then(|()| files::make_folder(&scratch, 0o711))
        .map_err(|error| format!("make {} and {}: {error}", folder.display(), scratch.display()))
        .and_then(|()| config.backup_keys().map_err(|error| error.to_string()))
        .and_then(|encryption| {
            let options = Options { encryption, ..Options::default() };
            let name = config.host_name().unwrap_or_default();
            let opened = Points::open(
                &folder,
                scratch,
                (host, &name),
                &config.backup_targets,
                options,
                config.backup_key_file.clone(),
            );
            opened.map_err(|error| {
                let hint = if matches!(error, StoreError::NotAStore { .. }) { ENCRYPTED_OR_NOT } else { "" };
                format!("{error:#}{hint}")
            })
        });
    let points = match opened {
        Ok(points) => points,
        Err(why) => {
            tracing::error!(why, "no backups are made");
            events.send(Event::StoreAway { why }).await?;
            return Ok(None);
        }
    };
    events.send(Event::StoreOpened { points: points.all() }).await?;
    let store = points.store.clone();
    tokio::spawn(observe::room::watch(folder, move || store.usage().stored_bytes, events.clone()));
    let tidy = points.clone();
    tokio::spawn(async move {
        // Each time libvirt is there: what a dead agent left of a backup is taken off its guest.
        loop {
            let current = hypervisor.borrow_and_update().clone();
            if let Some(current) = current {
                let tidy = tidy.clone();
                let _ended = tokio::task::spawn_blocking(move || tidy.tidy(&current)).await;
            }
            if hypervisor.changed().await.is_err() {
                return;
            }
        }
    });
    Ok(Some(points))
}

/// The two questions, where they were not answered on the command line.
async fn join_grid(
    config: &Config,
    address: Option<String>,
    token: Option<String>,
    name: Option<String>,
) -> anyhow::Result<()> {
    let address =
        answer(address.or_else(|| config.aggregator.clone()), "Address of the aggregator (HOST or HOST:PORT): ")?;
    let token = match token {
        Some(token) => Some(token),
        None => config.join_token()?,
    };
    let token = JoinToken::parse(&answer(token, "Join token (roost1-...): ")?)?;
    let name = match name {
        Some(name) => name,
        None => config.host_name()?,
    };
    config::check_name(&name)?;
    files::make_folder(&config.state_dir, 0o711).with_context(|| format!("make {}", config.state_dir.display()))?;
    let store = Store::open(&config.identity())?;
    let host = store.membership().ok().flatten().map(|membership| membership.host);
    let facts = tokio::task::spawn_blocking({
        let name = name.clone();
        move || facts::facts(&name)
    });
    let applicant = Applicant { token: &token, address: &address, name: &name, host, facts: facts.await? };
    let membership = join::join(&transport::client_endpoint()?, &store, &applicant).await?;
    say(&format!("{name} is host {} of grid {}.", membership.host, membership.grid));
    Ok(())
}

fn answer(given: Option<String>, question: &str) -> anyhow::Result<String> {
    if let Some(given) = given {
        return Ok(given);
    }
    if !std::io::stdin().is_terminal() {
        bail!("join needs an address and a token: roost-agent join ADDRESS TOKEN");
    }
    let mut err = std::io::stderr();
    write!(err, "{question}")?;
    err.flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    match line.trim() {
        "" => bail!("nothing was entered"),
        text => Ok(text.to_owned()),
    }
}

fn status(config: &Config) -> anyhow::Result<()> {
    let folder = config.identity();
    let membership = match folder.is_dir() {
        true => Store::open(&folder)?.membership()?,
        false => None,
    };
    match membership {
        Some(membership) => say(&format!("host {} of grid {}", membership.host, membership.grid)),
        None => say("not a member of a grid; join one with: roost-agent join ADDRESS TOKEN"),
    }
    Ok(())
}

fn say(text: &str) {
    // Whoever closed the pipe does not want it.
    let _ = writeln!(std::io::stdout(), "{text}");
}
