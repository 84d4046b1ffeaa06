//! Which host a new guest comes to.

use roost_protocol::host::HostSample;
use roost_protocol::memory::{MemoryOrder, MemoryPolicy};
use roost_protocol::message::{Beat, Snapshot, ToAggregator};
use roost_protocol::{HostId, MiB, Stamp, Time};

use super::{config, hello, record};
use crate::event::{CallId, LinkId};
use crate::{Call, CallErrorCode, Event, Grid, Intent};

fn host(number: u128) -> HostId {
    HostId::from_u128(number)
}

/// Hosts with so much memory left.
fn grid(left: &[u64]) -> Grid {
    let all = || (1..).zip(left);
    let hosts = all().map(|(n, _)| (host(u128::from(n)), record(n))).collect();
    let mut grid = Grid::new(config(), Intent { hosts, ..Intent::default() }, Vec::new());
    let mut tell = |event| drop(grid.on(Time(1_000), Stamp(1_000), event));
    for (n, left) in all() {
        let (link, hello) = (LinkId(u64::from(n)), hello(host(u128::from(n))));
        tell(Event::Hello { link, key: [n; 32], certified: true, hello, remote: "192.0.2.1:1".into() });
        tell(Event::Received { link, message: ToAggregator::Snapshot(Snapshot::default()) });
        let sample = HostSample { at: Stamp(1), memory_available_mib: MiB(*left), ..HostSample::default() };
        let beat = Beat { sample: Some(sample), ..Beat::default() };
        tell(Event::Received { link, message: ToAggregator::Beat(beat) });
    }
    grid
}

fn is_for(grid: &mut Grid, host: HostId, trust: &str) {
    let policy = Some(MemoryPolicy { trust: Some(trust.into()), ..MemoryPolicy::default() });
    let what = Call::SetMemory { host, order: Box::new(MemoryOrder { policy }) };
    grid.on(Time(2_000), Stamp(2_000), Event::Called { call: CallId(1), by: "ann".into(), what });
}

#[test]
fn a_guest_comes_to_the_host_with_the_most_memory_left_of_its_own_trust_group_if_one_has_room() {
    let mut grid = grid(&[1_000, 3_000, 2_000]);
    let place = |grid: &Grid, trust| grid.place(MiB(500), trust);
    assert_eq!(place(&grid, None), Ok(host(2)));
    is_for(&mut grid, host(1), "red");
    is_for(&mut grid, host(2), "blue");
    assert_eq!(place(&grid, None), Ok(host(3)), "the only one of no group");
    assert_eq!(place(&grid, Some("red")), Ok(host(1)));
    assert_eq!(place(&grid, Some("blue")), Ok(host(2)));
    assert_eq!(place(&grid, Some("green")), Ok(host(2)), "nobody's group: it runs apart where most is left");
    assert_eq!(grid.place(MiB(900), Some("red")), Ok(host(2)), "its own has no room");
    assert_eq!(grid.place(MiB(9_000), None).unwrap_err().code, CallErrorCode::Unplaceable);
}
