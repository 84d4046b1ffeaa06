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
use crate::api::view::performance::{Performance, report};
use crate::auth::Caller;
use crate::look::history;

/// An hour, in steps of a minute.
const SPAN_S: u64 = 3_600;
const POINTS: u64 = 60;

/// A day, for reports.
const REPORT_S: u64 = 24 * 3_600;

pub(crate) async fn of_host(api: &Api, _: &Caller, input: Input) -> Done {
    let page = Wanted::of::<HostMomentView<'_>>(&input)?;
    let host = host(api, &input).await?;
    let History { step, of } = ask(api, host, None, &input).await?;
    let Course::Host(moments) = of else { return Err(other()) };
    Ok(Output::List(page.page(moments.iter().map(|moment| HostMomentView { step, moment }))))
}

pub(crate) async fn of_guest(api: &Api, _: &Caller, input: Input) -> Done {
    let page = Wanted::of::<GuestMomentView<'_>>(&input)?;
    let (host, guest) = guest(api, &input).await?;
    let History { step, of } = ask(api, host, Some(guest), &input).await?;
    let Course::Guest(moments) = of else { return Err(other()) };
    Ok(Output::List(page.page(moments.iter().map(|moment| GuestMomentView { step, moment }))))
}

pub(crate) async fn report_of_host(api: &Api, _: &Caller, input: Input) -> Done {
    let page = Wanted::of::<&Performance>(&input)?;
    let host = host(api, &input).await?;
    Ok(Output::List(page.page(report(&summed_up(api, host, None, &input).await?).iter())))
}

pub(crate) async fn report_of_guest(api: &Api, _: &Caller, input: Input) -> Done {
    let page = Wanted::of::<&Performance>(&input)?;
    let (host, guest) = guest(api, &input).await?;
    Ok(Output::List(page.page(report(&summed_up(api, host, Some(guest), &input).await?).iter())))
}

async fn host(api: &Api, input: &Input) -> Result<HostId, Problem> {
    let wanted = input.required("ref")?.to_owned();
    api.handle.read(move |grid, _, _| find::host(grid, &wanted).map(|host| host.id)).await?
}

async fn guest(api: &Api, input: &Input) -> Result<(HostId, GuestId), Problem> {
    let wanted = input.required("ref")?.to_owned();
    let found =
        api.handle.read(move |grid, _, _| find::guest(grid, &wanted).map(|view| (view.host.id, view.guest.report.id)));
    found.await?
}

/// As a chart shows it.
async fn ask(api: &Api, host: HostId, guest: Option<GuestId>, input: &Input) -> Result<History, Problem> {
    let points = u32::try_from(input.number("points").unwrap_or(POINTS)).unwrap_or(u32::MAX);
    if !(1..=MOMENTS).contains(&points) {
        return Err(Problem::fault("/points", format!("must be 1 to {MOMENTS}")));
    }
    past(api, host, guest, input, (SPAN_S, points)).await
}

/// As finely as the host tells it.
async fn summed_up(api: &Api, host: HostId, guest: Option<GuestId>, input: &Input) -> Result<History, Problem> {
    let history = past(api, host, guest, input, (REPORT_S, MOMENTS)).await?;
    match (&history.of, guest) {
        (Course::Host(_), None) | (Course::Guest(_), Some(_)) => Ok(history),
        (Course::Host(_), Some(_)) | (Course::Guest(_), None) => Err(other()),
    }
}

async fn past(
    api: &Api,
    host: HostId,
    guest: Option<GuestId>,
    input: &Input,
    (default_s, points): (u64, u32),
) -> Result<History, Problem> {
    let span = Millis(input.number("last").unwrap_or(default_s).saturating_mul(1_000));
    let until = input.text("until").map(moment).transpose()?;
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
