//! Alarms that stand in the grid, and who looks after them.

use roost_aggregator_core::{Call, Grid};
use roost_protocol::Stamp;
use roost_protocol::alarm::SEVERITIES;

use super::find;
use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::page::{Wanted, thing, version};
use crate::api::problem::Problem;
use crate::api::view::notify::AlarmView;
use crate::auth::Caller;

pub(crate) async fn list(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<AlarmView<'_>>(&input)?;
    let page = api.handle.read(move |grid, _, wall| {
        let host = input.text("host").map(|host| find::host(grid, host).map(|host| host.id)).transpose()?;
        let guest =
            input.text("guest").map(|guest| find::guest(grid, guest).map(|it| it.guest.report.id)).transpose()?;
        let least = SEVERITIES.into_iter().find(|severity| input.text("severity") == Some(severity.word()));
        let such = grid.standing().filter(|alarm| {
            host.is_none_or(|host| alarm.key.host == Some(host))
                && guest.is_none_or(|guest| alarm.key.guest == Some(guest))
                && least.is_none_or(|least| alarm.severity() >= least)
        });
        Ok::<_, Problem>(wanted.page(such.map(|alarm| AlarmView { grid, alarm, wall })))
    });
    Ok(Output::List(page.await??))
}

fn one<'a>(grid: &'a Grid, id: &str, wall: Stamp) -> Option<AlarmView<'a>> {
    let alarm = grid.standing().find(|alarm| alarm.key.fingerprint() == id)?;
    Some(AlarmView { grid, alarm, wall })
}

pub(crate) async fn get(api: &Api, _: &Caller, input: Input) -> Done {
    let id = input.required("id")?.to_owned();
    let found = api.handle.read(move |grid, _, wall| {
        let view = one(grid, &id, wall).ok_or_else(|| Problem::not_found("alarm", &id))?;
        Ok::<_, Problem>(thing(&view))
    });
    let (value, version) = found.await??;
    Ok(Output::Thing(value, version))
}

pub(crate) async fn acknowledge(api: &Api, caller: &Caller, input: Input) -> Done {
    let note = input.text("note").unwrap_or_default().to_owned();
    changed(api, caller, input, Some(note)).await
}

pub(crate) async fn unacknowledge(api: &Api, caller: &Caller, input: Input) -> Done {
    changed(api, caller, input, None).await
}

async fn changed(api: &Api, caller: &Caller, mut input: Input, note: Option<String>) -> Done {
    let id = input.required("id")?.to_owned();
    let wanted = id.clone();
    let only_if = input.only_if(move |grid, _, wall| Some(version(&one(grid, &wanted, wall)?)));
    api.handle.call_if(&caller.user, Call::Acknowledge { alarm: id, note }, only_if).await?;
    Ok(Output::Nothing)
}
