//! Hosts.

use roost_aggregator_core::Call;

use super::find;
use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::page::{Wanted, show_all};
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
        .read(move |grid, now, wall| find::host(grid, &wanted).map(|host| show_all(&HostView { host, now, wall })));
    Ok(Output::Object(host.await??))
}

pub(crate) async fn remove(api: &Api, caller: &Caller, input: Input) -> Done {
    let wanted = input.required("ref")?.to_owned();
    let host = api.handle.read(move |grid, _, _| find::host(grid, &wanted).map(|host| host.id)).await??;
    api.handle.call(&caller.user, Call::RemoveHost { host }).await?;
    Ok(Output::Nothing)
}
