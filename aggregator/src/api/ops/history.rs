//! What hosts sampled, asked of them when somebody looks; nothing of it is kept here.

use roost_protocol::look::{Course, History, MOMENTS, Past};
use roost_protocol::operation::{Failure, FailureCode};
use roost_protocol::{GuestId, HostId, Millis, Stamp};

use super::find;
use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::page::Wanted;
use crate::api::problem::Problem;
use crate::api::view::history::{GuestMomentView, HostMomentView};
use crate::auth::Caller;
use crate::look::history;

/// An hour, in steps of a minute.
const SPAN_S: u64 = 3_600;
const POINTS: u64 = 60;

pub(crate) async fn of_host(api: &Api, _: &Caller, input: Input) -> Done {
    let page = Wanted::of::<HostMomentView<'_>>(&input)?;
    let wanted = input.required("ref")?.to_owned();
    let host = api.handle.read(move |grid, _, _| find::host(grid, &wanted).map(|host| host.id)).await??;
    let History { step, of } = ask(api, host, None, &input).await?;
    let Course::Host(moments) = of else { return Err(other()) };
    Ok(Output::List(page.page(moments.iter().map(|moment| HostMomentView { step, moment }))))
}

pub(crate) async fn of_guest(api: &Api, _: &Caller, input: Input) -> Done {
    let page = Wanted::of::<GuestMomentView<'_>>(&input)?;
    let wanted = input.required("ref")?.to_owned();
    let found =
        api.handle.read(move |grid, _, _| find::guest(grid, &wanted).map(|view| (view.host.id, view.guest.report.id)));
    let (host, guest) = found.await??;
    let History { step, of } = ask(api, host, Some(guest), &input).await?;
    let Course::Guest(moments) = of else { return Err(other()) };
    Ok(Output::List(page.page(moments.iter().map(|moment| GuestMomentView { step, moment }))))
}

async fn ask(api: &Api, host: HostId, guest: Option<GuestId>, input: &Input) -> Result<History, Problem> {
    let span = Millis(input.number("last").unwrap_or(SPAN_S).saturating_mul(1_000));
    let until = input.text("until").map(moment).transpose()?;
    let points = u32::try_from(input.number("points").unwrap_or(POINTS)).unwrap_or(u32::MAX);
    if !(1..=MOMENTS).contains(&points) {
        return Err(Problem::fault("/points", format!("must be 1 to {MOMENTS}")));
    }
    if span == Millis(0) {
        return Err(Problem::fault("/last", "must be a second at least"));
    }
    Ok(history(&api.handle, host, Past { guest, span, until, points }).await??)
}

fn moment(text: &str) -> Result<Stamp, Problem> {
    let wrong = || Problem::fault("/until", "must be a time as in RFC 3339: 2026-11-22T09:30:00Z");
    let stamp: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
    u64::try_from(stamp.as_millisecond()).map(Stamp).map_err(|_| wrong())
}

fn other() -> Problem {
    Failure { code: FailureCode::Internal, text: "its host told the history of something else".into() }.into()
}
