//! Hosts.

use roost_aggregator_core::Call;
use roost_protocol::HostId;
use serde_json::Value;

use super::find;
use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::page::{Wanted, show_all, thing, version};
use crate::api::problem::Problem;
use crate::api::view::{HostView, presence};
use crate::auth::Caller;

/// Letters of a zone's name.
const ZONE: usize = 32;

pub(crate) async fn list(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<HostView<'_>>(&input)?;
    let page = api
        .handle
        .read(move |grid, now, wall| {
            let name = |host: &HostView<'_>| input.text("name").is_none_or(|name| host.host.name.contains(name));
            let state = |host: &HostView<'_>| input.text("state").is_none_or(|state| presence(host.host) == state);
            let hosts = grid.hosts().values().map(|host| HostView { grid, host, now, wall });
            wanted.page(hosts.filter(|host| name(host) && state(host)))
        })
        .await?;
    Ok(Output::List(page))
}

pub(crate) async fn get(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = input.required("ref")?.to_owned();
    let host = api
        .handle
        .read(move |grid, now, wall| find::host(grid, &wanted).map(|host| thing(&HostView { grid, host, now, wall })));
    let (value, version) = host.await??;
    Ok(Output::Thing(value, version))
}

pub(crate) async fn remove(api: &Api, caller: &Caller, mut input: Input) -> Done {
    let wanted = input.required("ref")?.to_owned();
    let host = api.handle.read(move |grid, _, _| find::host(grid, &wanted).map(|host| host.id)).await??;
    let only_if = input.only_if(move |grid, now, wall| {
        let host = grid.hosts().get(&host)?;
        Some(version(&HostView { grid, host, now, wall }))
    });
    api.handle.call_if(&caller.user, Call::RemoveHost { host }, only_if).await?;
    Ok(Output::Nothing)
}

pub(crate) async fn maintenance(api: &Api, caller: &Caller, input: Input) -> Done {
    set_maintenance(api, caller, input, Some(false)).await
}

pub(crate) async fn drain(api: &Api, caller: &Caller, input: Input) -> Done {
    set_maintenance(api, caller, input, Some(true)).await
}

pub(crate) async fn resume(api: &Api, caller: &Caller, input: Input) -> Done {
    set_maintenance(api, caller, input, None).await
}

async fn set_maintenance(api: &Api, caller: &Caller, input: Input, drain: Option<bool>) -> Done {
    let wanted = input.required("ref")?.to_owned();
    let host = api.handle.read(move |grid, _, _| find::host(grid, &wanted).map(|host| host.id)).await??;
    api.handle.call_if(&caller.user, Call::Maintenance { host, drain }, None).await?;
    shown(api, host).await
}

pub(crate) async fn set_zone(api: &Api, caller: &Caller, input: Input) -> Done {
    let wanted = input.required("ref")?.to_owned();
    let zone = checked_zone(input.required("zone")?)?.to_owned();
    let host = api.handle.read(move |grid, _, _| find::host(grid, &wanted).map(|host| host.id)).await??;
    api.handle.call_if(&caller.user, Call::Zone { host, zone }, None).await?;
    shown(api, host).await
}

fn checked_zone(zone: &str) -> Result<&str, Problem> {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    if zone.len() <= ZONE && zone.chars().all(allowed) {
        return Ok(zone);
    }
    Err(Problem::fault("/zone", format!("must be at most {ZONE} of the letters a-z A-Z 0-9 . _ -")))
}

async fn shown(api: &Api, host: HostId) -> Done {
    let shown = api.handle.read(move |grid, now, wall| {
        grid.hosts().get(&host).map_or(Value::Null, |host| show_all(&HostView { grid, host, now, wall }))
    });
    Ok(Output::Object(shown.await?))
}
