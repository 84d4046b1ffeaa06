//! Hosts.

use roost_aggregator_core::Call;

use super::find;
use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::page::{Wanted, thing, version};
use crate::api::view::{HostView, presence};
use crate::auth::Caller;

pub(crate) async fn list(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<HostView<'_>>(&input)?;
    let page = api
        .handle
        .read(move |grid, now, wall| {
            let name = |host: &HostView<'_>| input.text("name").is_none_or(|name| host.host.name.contains(name));
            let state = |host: &HostView<'_>| input.text("state").is_none_or(|state| presence(host.host) == state);
            let hosts = grid.hosts().values().map(|host| HostView { host, now, wall });
            wanted.page(hosts.filter(|host| name(host) && state(host)))
        })
        .await?;
    Ok(Output::List(page))
}

pub(crate) async fn get(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = input.required("ref")?.to_owned();
    let host = api
        .handle
        .read(move |grid, now, wall| find::host(grid, &wanted).map(|host| thing(&HostView { host, now, wall })));
    let (value, version) = host.await??;
    Ok(Output::Thing(value, version))
}

pub(crate) async fn remove(api: &Api, caller: &Caller, mut input: Input) -> Done {
    let wanted = input.required("ref")?.to_owned();
    let host = api.handle.read(move |grid, _, _| find::host(grid, &wanted).map(|host| host.id)).await??;
    let only_if = input.only_if(move |grid, now, wall| {
        let host = grid.hosts().get(&host)?;
        Some(version(&HostView { host, now, wall }))
    });
    api.handle.call_if(&caller.user, Call::RemoveHost { host }, only_if).await?;
    Ok(Output::Nothing)
}
