//! Memory of hosts: how it is shared out, and why. Asked of the host at the moment; nothing is kept here.

use roost_protocol::HostId;
use roost_protocol::memory::ACTS;

use super::find;
use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::page::Wanted;
use crate::api::problem::Problem;
use crate::api::view::memory::{ActView, host_memory};
use crate::auth::Caller;
use crate::look;

pub(crate) async fn show(api: &Api, _: &Caller, input: Input) -> Done {
    let host = asked(api, &input).await?;
    let report = look::memory(&api.handle, host).await??;
    Ok(Output::Object(api.handle.read(move |grid, _, _| host_memory(grid, host, &report)).await?))
}

pub(crate) async fn explain(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<ActView<'_>>(&input)?;
    let host = asked(api, &input).await?;
    let report = look::memory(&api.handle, host).await??;
    let page = api.handle.read(move |grid, _, _| {
        let views = (0..).zip(report.acts.iter().rev().take(ACTS)).map(|(place, act)| ActView { grid, place, act });
        wanted.page(views)
    });
    Ok(Output::List(page.await?))
}

async fn asked(api: &Api, input: &Input) -> Result<HostId, Problem> {
    let wanted = input.required("ref")?.to_owned();
    api.handle.read(move |grid, _, _| find::host(grid, &wanted).map(|host| host.id)).await?
}
