//! The service manager and the log: readiness, watchdog, journal. Everything works without them too.

use std::io::IsTerminal;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use crate::handle::Handle;

/// Logs to the journal when it is at the other end of standard error, else to standard error itself.
pub(crate) fn log(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    match journal {
        Some(journal) => registry.with(journal).try_init()?,
        None => registry
            .with(fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr))
            .try_init()?,
    }
    Ok(())
}

/// Tells the service manager, if there is one.
pub(crate) fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

/// Feeds the watchdog as long as the driver answers, so that a stuck one is restarted.
pub(crate) async fn watchdog(handle: Handle, stop: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut beat = tokio::time::interval((limit / 3).max(Duration::from_millis(100)));
    while stop.run_until_cancelled(beat.tick()).await.is_some() {
        match tokio::time::timeout(limit / 3, handle.read(|_, _, _| ())).await {
            Ok(Ok(())) => tell(NotifyState::Watchdog),
            Ok(Err(_)) | Err(_) => tracing::error!("the driver does not answer; the watchdog is not fed"),
        }
    }
}

/// Returns at SIGTERM or SIGINT.
pub(crate) async fn asked_to_stop() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
