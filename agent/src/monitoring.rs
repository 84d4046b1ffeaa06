//! Starts what monitoring needs: history, SNMP, and the door for Prometheus. None of them may keep the agent from its
//! guests: what can't be had is done without, and said.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use roost_agent_core::probe::Wanted;
use roost_snmp::edge::Edge;
use tokio::sync::{mpsc, watch};

use crate::boot::FINDINGS;
use crate::config::Config;
use crate::console::ALARMS;
use crate::detail::{Demand, Details};
use crate::files;
use crate::history::History;
use crate::report::monitor::{Monitor, Parts, Shot};
use crate::report::scrape::Scrape;
use crate::report::snmp::{self, Snmp};

pub(crate) async fn start(
    config: &Config,
    (details, demand): (Details, Demand),
    probes: watch::Sender<Arc<Wanted>>,
    began: Instant,
    has_aggregator: bool,
) -> anyhow::Result<Monitor> {
    let opened = History::start(&config.state_dir, config.history_limit_mib << 20);
    let (history, numbers) = match opened {
        Ok((history, numbers)) => (Some(history), numbers),
        Err(error) => {
            tracing::error!(error = %error, source = ?std::error::Error::source(&error), "the agent goes on without history");
            (None, Vec::new())
        }
    };
    let (shots, shot) = watch::channel(Arc::new(Shot::default()));
    if let Some(address) = config.metrics_listen {
        let scrape = Scrape { shots: shot, details: details.clone(), demand: demand.clone() };
        // Asked for and not to be had: whoever wrote it into the settings is there and wants to know.
        let bound = scrape.start(address).await.with_context(|| format!("listen on {address} for Prometheus"))?;
        tracing::info!(%bound, "metrics are at /metrics");
    }
    let snmp = (!config.snmp_socket.as_os_str().is_empty()).then(|| start_snmp(config, began));
    let page = Path::new(FINDINGS).exists().then(|| show_on_page(Path::new(ALARMS)));
    Ok(Monitor::new(Parts { details, demand, history, numbers, snmp, shots, probes, page, has_aggregator }))
}

/// The page of a host that was started from the image reads alarms from a file, which this keeps.
fn show_on_page(path: &'static Path) -> watch::Sender<Vec<String>> {
    let (sender, mut lines) = watch::channel(Vec::new());
    tokio::spawn(async move {
        loop {
            let text = lines.borrow_and_update().join("\n");
            if let Err(error) = files::write_atomically(path, text.as_bytes()) {
                tracing::warn!(%error, path = %path.display(), "the console does not show alarms");
            }
            if lines.changed().await.is_err() {
                return;
            }
        }
    });
    sender
}

fn start_snmp(config: &Config, began: Instant) -> Snmp {
    let (view, views) = watch::channel(snmp::nothing());
    let (notes, waiting) = mpsc::channel(snmp::NOTES);
    let asked = Arc::default();
    let edge =
        Edge { socket: config.snmp_socket.clone(), began, view: views, notes: waiting, asked: Arc::clone(&asked) };
    tokio::spawn(edge.run());
    Snmp { view, notes, asked }
}
