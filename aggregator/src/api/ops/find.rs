//! Hosts and guests by id or by a name that only one has.

use roost_aggregator_core::Grid;
use roost_aggregator_core::grid::Host;
use roost_protocol::{GuestId, HostId};

use crate::api::problem::Problem;
use crate::api::view::GuestView;

/// Ids told when a name stands for several.
const TOLD: usize = 10;

pub(crate) fn host<'a>(grid: &'a Grid, wanted: &str) -> Result<&'a Host, Problem> {
    let hosts = grid.hosts();
    if let Ok(id) = wanted.parse::<HostId>() {
        return hosts.get(&id).ok_or_else(|| Problem::not_found("host", wanted));
    }
    one("host", wanted, hosts.values().filter(|host| host.name == wanted), |host| host.id.to_string())
}

pub(crate) fn guest<'a>(grid: &'a Grid, wanted: &str) -> Result<GuestView<'a>, Problem> {
    if let Ok(id) = wanted.parse::<GuestId>() {
        let host = grid.guest_host(id).and_then(|host| grid.hosts().get(&host));
        let found = host.and_then(|host| Some(GuestView { grid, host, guest: host.guests.get(&id)? }));
        return found.ok_or_else(|| Problem::not_found("guest", wanted));
    }
    // Where two hosts report the same guest, the first counts, as by its id.
    let first = |view: &GuestView<'_>| grid.guest_host(view.guest.report.id) == Some(view.host.id);
    let named = grid.guests_by_name(Some((wanted, GuestId::from_bytes([0; 16]))), |_| true);
    let named = named.map(|(host, guest)| GuestView { grid, host, guest });
    let named = named.take_while(|view| view.guest.report.name == wanted).filter(first);
    one("guest", wanted, named, |view| view.guest.report.id.to_string())
}

/// All guests.
pub(crate) fn guests(grid: &Grid) -> impl Iterator<Item = GuestView<'_>> {
    grid.hosts().values().flat_map(move |host| host.guests.values().map(move |guest| GuestView { grid, host, guest }))
}

fn one<T>(what: &str, name: &str, mut found: impl Iterator<Item = T>, id: impl Fn(&T) -> String) -> Result<T, Problem> {
    let first = found.next().ok_or_else(|| Problem::not_found(what, name))?;
    let others: Vec<String> = found.map(|other| id(&other)).take(TOLD).collect();
    if others.is_empty() {
        return Ok(first);
    }
    let detail = format!("Several {what}s are named {name:?}: {}, {}.", id(&first), others.join(", "));
    Err(Problem::new("ambiguous", detail).advice("Use the id."))
}
