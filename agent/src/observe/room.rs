//! How full the store's file system is, told each minute.

use std::path::PathBuf;
use std::time::Duration;

use roost_agent_core::Event;
use tokio::sync::mpsc;

use crate::files::room;

const EVERY: Duration = Duration::from_secs(60);

/// Tells it until nobody listens. `used`: bytes that the store itself takes.
pub(crate) async fn watch(folder: PathBuf, used: impl Fn() -> u64 + Send + 'static, events: mpsc::Sender<Event>) {
    let mut turn = tokio::time::interval(EVERY);
    loop {
        turn.tick().await;
        let Some((total, free)) = room(&folder) else { continue };
        if events.send(Event::StoreRoom { total, free, used: used() }).await.is_err() {
            return;
        }
    }
}
