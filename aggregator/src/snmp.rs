//! The grid by SNMP (roostGrid of ROOST-MIB): a subagent of this machine's snmpd, where the settings name its socket. It
//! answers from a snapshot, so nobody who asks waits for the grid, or the grid for them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use roost_aggregator_core::Grid;
use roost_aggregator_core::grid::Presence;
use roost_snmp::edge::Edge;
use roost_snmp::mib::GridView;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::handle::Handle;

/// Between two snapshots; managers ask once in minutes.
const EVERY: Duration = Duration::from_secs(5);

/// Until stopped; then the session is closed in good order.
pub(crate) async fn serve(socket: PathBuf, handle: Handle, stop: CancellationToken) {
    // Before the first look there is nothing to tell: zeros would be taken for a grid without hosts.
    let Ok(first) = handle.read(|grid, _, _| seen(grid)).await else { return };
    let (view, views) = watch::channel(Arc::new(first));
    // Notifications take a way of their own, without an snmpd; the subagent ends with their sender.
    let (notes, none) = mpsc::channel(1);
    let (began, asked) = (Instant::now(), Arc::default());
    let serving = tokio::spawn(Edge { socket, began, view: views, notes: none, asked }.run());
    let mut turn = interval(EVERY);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(turn.tick()).await.is_some() {
        let Ok(now) = handle.read(|grid, _, _| seen(grid)).await else { break };
        view.send_if_modified(|before| {
            let changed = **before != now;
            if changed {
                *before = Arc::new(now);
            }
            changed
        });
    }
    drop(notes);
    // It ends in good order; it neither panics nor is it aborted.
    let _ = serving.await;
}

/// One that fell silent counts as up until it is down.
fn seen(grid: &Grid) -> GridView {
    let up = grid.hosts().values().filter(|host| match host.presence {
        Presence::Up { .. } | Presence::Suspect { .. } => true,
        Presence::Never | Presence::Down { .. } => false,
    });
    let (up, all, tally) = (up.count(), grid.hosts().len(), grid.tally());
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    GridView {
        hosts_up: number(up),
        hosts_down: number(all - up),
        failovers: tally.begun,
        failovers_failed: tally.failed,
    }
}

#[cfg(test)]
mod test {
    use roost_aggregator_core::event::LinkId;
    use roost_aggregator_core::intent::HostRecord;
    use roost_aggregator_core::{Config, Event, Intent};
    use roost_protocol::host::HostFacts;
    use roost_protocol::message::{Hello, VERSION};
    use roost_protocol::{Epoch, Generation, GridId, HostId, Millis, Stamp, Time};

    use super::*;

    #[test]
    fn a_host_is_up_from_its_hello_until_it_is_down_and_down_before_it() {
        let (one, key) = (HostId::from_u128(1), [7; 32]);
        let hosts = [one, HostId::from_u128(2)].map(|id| (id, HostRecord::new(id.to_string(), key, Stamp(0))));
        let intent = Intent { hosts: hosts.into(), ..Intent::default() };
        let config = Config {
            grid: GridId::from_u128(1),
            epoch: Epoch(1),
            suspect_after: Millis::seconds(6),
            down_after: Millis::seconds(15),
            recovering: false,
        };
        let mut grid = Grid::new(config, intent, Vec::new());
        let hosts = |grid: &Grid| (seen(grid).hosts_up, seen(grid).hosts_down);
        assert_eq!(hosts(&grid), (0, 2));
        let (facts, epoch, document, clock) = (HostFacts::default(), Epoch(0), Generation(0), Stamp(0));
        let hello = Hello { newest: VERSION, oldest: VERSION, host: one, facts, epoch, document, clock };
        let (link, remote) = (LinkId(1), String::new());
        grid.on(Time(0), Stamp(0), Event::Hello { link, key, certified: true, hello, remote });
        for (seconds, wanted) in [(1, (1, 1)), (8, (1, 1)), (20, (0, 2))] {
            // Every tick comes, as they do unless the aggregator itself was asleep.
            (0..seconds * 4).for_each(|turn| drop(grid.on(Time(turn * 250), Stamp(0), Event::Tick)));
            assert_eq!(hosts(&grid), wanted, "after {seconds} s");
        }
    }
}
