//! How full the store's file system is, told each minute.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use roost_agent_core::Event;
use tokio::sync::mpsc;

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

/// Bytes of the file system in all, and those free for us.
fn room(folder: &Path) -> Option<(u64, u64)> {
    let told = statvfs(folder).ok()?;
    let fragment = told.fragment_size();
    Some((told.blocks().saturating_mul(fragment), told.blocks_available().saturating_mul(fragment)))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_file_system_has_room_and_a_folder_that_is_gone_has_none() {
        let (total, free) = room(Path::new("/")).unwrap();
        assert!(total > 0 && free <= total);
        assert_eq!(room(Path::new("/does/not/exist")), None);
    }
}
