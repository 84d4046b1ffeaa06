//! The service manager and the journal, where there are any.

use std::io::IsTerminal;
use std::time::Duration;

use sd_notify::NotifyState;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Sends the journal structured fields when systemd reads our output, and writes lines to standard error otherwise.
pub(crate) fn start_log() {
    let filter = EnvFilter::try_from_env("ROOST_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    match journal {
        Some(journal) => registry.with(journal.with_field_prefix(Some("ROOST".into()))).init(),
        None => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_ansi(std::io::stderr().is_terminal())
                    .with_writer(std::io::stderr),
            )
            .init(),
    }
}

/// The agent works.
pub(crate) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The agent is about to end.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// The line of an agent that is where it should be; a new host image is kept when it is seen.
pub(crate) const CONNECTED: &str = "connected to the aggregator";

/// One line for people who ask the service manager.
pub(crate) fn status(text: &str) {
    notify(&[NotifyState::Status(text)]);
}

/// The agent still decides.
pub(crate) fn alive() {
    notify(&[NotifyState::Watchdog]);
}

/// How often [`alive`] must be said: twice as often as the service manager wants it.
pub(crate) fn alive_every() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|every| !every.is_zero())
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "tell the service manager");
    }
}
