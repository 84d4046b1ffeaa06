//! Room for more guests like one that there is: each host counts for itself, and is asked at the moment.

use std::sync::Arc;

use roost_aggregator_core::Grid;
use roost_protocol::HostId;
use roost_protocol::memory::MemoryReport;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::find;
use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::problem::Problem;
use crate::api::view::presence;
use crate::api::view::room::{HostRoom, guest_room};
use crate::auth::Caller;
use crate::handle::Handle;
use crate::look;

/// Hosts that are asked at a time.
const AT_A_TIME: usize = 64;

pub(crate) async fn show(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = input.required("ref")?.to_owned();
    let found = api.handle.read(move |grid, _, _| {
        let view = find::guest(grid, &wanted)?;
        Ok::<_, Problem>((view.guest.report.name.clone(), view.guest.report.memory_mib, hosts(grid)))
    });
    let (name, memory, hosts) = found.await??;
    let (mut rooms, mut asking) = (Vec::new(), JoinSet::new());
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    for (host, name, barred) in hosts {
        if let Some(why) = barred {
            rooms.push(HostRoom::unknown(name, why.into()));
            continue;
        }
        let (handle, places) = (api.handle.clone(), places.clone());
        asking.spawn(async move {
            // Nobody closes it.
            let _place = places.acquire().await;
            match report(&handle, host).await {
                Ok(report) => HostRoom::of(name, memory, &report),
                Err(why) => HostRoom::unknown(name, why),
            }
        });
    }
    while let Some(done) = asking.join_next().await {
        rooms.extend(done.ok());
    }
    Ok(Output::Object(guest_room(&name, memory, rooms)))
}

/// Every host, and why it gets no new guest.
fn hosts(grid: &Grid) -> Vec<(HostId, String, Option<&'static str>)> {
    let hosts = grid.hosts().values().map(|host| {
        let barred = match grid.maintenance(host.id) {
            Some(_) => Some("is in maintenance"),
            None => (presence(host) != "up").then_some("is not up"),
        };
        (host.id, host.name.clone(), barred)
    });
    hosts.collect()
}

async fn report(handle: &Handle, host: HostId) -> Result<MemoryReport, String> {
    match look::memory(handle, host).await {
        Ok(Ok(report)) => Ok(report),
        Ok(Err(failure)) => Err(failure.text),
        Err(_) => Err("the aggregator ends".to_owned()),
    }
}
