//! The grid as a whole.

use serde_json::json;

use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::version::Version;
use crate::api::view::{presence, running, time};
use crate::auth::Caller;

pub(crate) async fn get(api: &Api, _: &Caller, _: Input) -> Done {
    let fingerprint = api.handle.key.fingerprint().to_string();
    let since = time(api.started);
    let grid = api.handle.read(move |grid, _, _| {
        let hosts = grid.hosts();
        json!({
            "id": grid.config().grid,
            "version": env!("CARGO_PKG_VERSION"),
            "epoch": grid.config().epoch,
            "generation": grid.intent().generation,
            "generation_kept_by": hosts.values().filter(|host| host.document == grid.intent().generation).count(),
            "digest": format!("{:016x}", grid.digest()),
            "fingerprint": fingerprint,
            "hosts": hosts.len(),
            "hosts_up": hosts.values().filter(|host| presence(host) == "up").count(),
            "guests": hosts.values().map(|host| host.guests.len()).sum::<usize>(),
            "guests_running": hosts.values().map(running).sum::<usize>(),
            "since": since,
        })
    });
    let grid = grid.await?;
    let version = Version::of("grid", &grid, "");
    Ok(Output::Thing(grid, version))
}
