//! Silences: nobody is told of some alarms for a while.

use data_encoding::HEXLOWER;
use roost_aggregator_core::notify::Silence;
use roost_aggregator_core::{Call, Grid};
use roost_protocol::{Millis, Stamp};
use serde_json::Value;

use super::find;
use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::page::{Wanted, show_all, thing, version};
use crate::api::problem::Problem;
use crate::api::view::notify::SilenceView;
use crate::auth::{Caller, end, random};
use crate::clock;

/// Bytes of a code: the longest one has some twenty.
const CODE: usize = 64;

pub(crate) async fn list(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<SilenceView<'_>>(&input)?;
    let page = api.handle.read(move |grid, _, wall| {
        let all = grid.intent().telling.silences.iter();
        wanted.page(all.map(|(id, silence)| SilenceView { grid, id, silence, wall }))
    });
    Ok(Output::List(page.await?))
}

fn one<'a>(grid: &'a Grid, id: &'a str, wall: Stamp) -> Option<SilenceView<'a>> {
    let silence = grid.intent().telling.silences.get(id)?;
    Some(SilenceView { grid, id, silence, wall })
}

pub(crate) async fn get(api: &Api, _: &Caller, input: Input) -> Done {
    let id = input.required("id")?.to_owned();
    let found = api.handle.read(move |grid, _, wall| {
        let view = one(grid, &id, wall).ok_or_else(|| Problem::not_found("silence", &id))?;
        Ok::<_, Problem>(thing(&view))
    });
    let (value, version) = found.await??;
    Ok(Output::Thing(value, version))
}

pub(crate) async fn create(api: &Api, caller: &Caller, input: Input) -> Done {
    let no_random = |_| Problem::new("internal", "The system gives no random bytes.");
    let id = HEXLOWER.encode(&random::<16>().map_err(no_random)?);
    let code = input.text("code").map(str::to_owned);
    if code.as_ref().is_some_and(|code| code.is_empty() || code.len() > CODE || code.chars().any(char::is_control)) {
        return Err(Problem::fault("/code", "must be an alarm's code, such as guest-down"));
    }
    let note = input.text("note").unwrap_or_default().to_owned();
    let now = clock::wall();
    let until = end(now, input.number("for_s").map_or(Millis(0), Millis::seconds));
    let wanted = input.clone();
    let about = api.handle.read(move |grid, _, _| {
        let host = wanted.text("host").map(|host| find::host(grid, host).map(|host| host.id)).transpose()?;
        let guest =
            wanted.text("guest").map(|guest| find::guest(grid, guest).map(|it| it.guest.report.id)).transpose()?;
        Ok::<_, Problem>((host, guest))
    });
    let (host, guest) = about.await??;
    let silence = Silence { code, host, guest, until, by: caller.user.clone(), note, created: now };
    api.handle.call(&caller.user, Call::PutSilence { id: id.clone(), silence }).await?;
    let made = api.handle.read(move |grid, _, wall| one(grid, &id, wall).map_or(Value::Null, |view| show_all(&view)));
    Ok(Output::Object(made.await?))
}

pub(crate) async fn delete(api: &Api, caller: &Caller, mut input: Input) -> Done {
    let id = input.required("id")?.to_owned();
    let wanted = id.clone();
    let only_if = input.only_if(move |grid, _, wall| Some(version(&one(grid, &wanted, wall)?)));
    api.handle.call_if(&caller.user, Call::DeleteSilence { id }, only_if).await?;
    Ok(Output::Nothing)
}
