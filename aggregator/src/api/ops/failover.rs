//! Failover: reading what happened.

use roost_protocol::cause::ward_of;

use super::find;
use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::page::Wanted;
use crate::api::problem::Problem;
use crate::api::view::failover::{CauseView, FailoverView, HostLossView, LossView};
use crate::auth::Caller;

pub(crate) async fn explain(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<CauseView<'_>>(&input)?;
    let guest = input.required("ref")?.to_owned();
    let page = api.handle.read(move |grid, _, _| {
        let links = grid.explanation(find::guest(grid, &guest)?.guest.report.id);
        let views = (0..).zip(&links).map(|(place, link)| CauseView { grid, place, link });
        Ok::<_, Problem>(wanted.page(views))
    });
    Ok(Output::List(page.await??))
}

pub(crate) async fn list(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<FailoverView<'_>>(&input)?;
    let page = api.handle.read(move |grid, _, _| {
        let guest = input.text("guest").map(|guest| find::guest(grid, guest).map(|view| view.guest.report.id));
        let ward = guest.transpose()?.map(ward_of);
        let all = grid.failovers();
        let such = all.iter().filter(|failover| ward.is_none_or(|ward| failover.ward == ward));
        Ok::<_, Problem>(wanted.page(such.map(|failover| FailoverView { grid, failover })))
    });
    Ok(Output::List(page.await??))
}

pub(crate) async fn if_lost(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<LossView<'_>>(&input)?;
    let host = input.required("ref")?.to_owned();
    let page = api.handle.read(move |grid, _, _| {
        let losses = grid.if_lost(find::host(grid, &host)?);
        Ok::<_, Problem>(wanted.page(losses.iter().map(|loss| LossView { grid, loss })))
    });
    Ok(Output::List(page.await??))
}

pub(crate) async fn plan(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<HostLossView<'_>>(&input)?;
    let page = api.handle.read(move |grid, _, _| {
        let all: Vec<_> = grid.hosts().values().map(|host| (host, grid.if_lost(host))).collect();
        wanted.page(all.iter().map(|(host, losses)| HostLossView { host, losses }))
    });
    Ok(Output::List(page.await?))
}
