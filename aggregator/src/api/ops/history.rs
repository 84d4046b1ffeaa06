//! What hosts sampled, asked of them when somebody looks; nothing of it is kept here.

use std::collections::BTreeMap;

use roost_protocol::look::{Course, History, MOMENTS, Past};
use roost_protocol::operation::{Failure, FailureCode};
use roost_protocol::{GuestId, HostId, Millis, Stamp};
use tokio::task::JoinSet;

use super::find;
use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::page::Wanted;
use crate::api::problem::Problem;
use crate::api::view::history::{GuestMomentView, HostMomentView};
use crate::api::view::performance::{GuestUse, Performance, report};
use crate::auth::Caller;
use crate::handle::Handle;
use crate::look::history;

/// An hour, in steps of a minute.
const SPAN_S: u64 = 3_600;
const POINTS: u64 = 60;

/// A day, for reports.
const REPORT_S: u64 = 24 * 3_600;
/// Guests of one report: each is a question to its host.
const GUESTS: usize = 2_000;
/// Steps that are asked of each of them: five minutes of a day.
const STEPS: u32 = 288;

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

/// Hosts are asked side by side, guests of one host one after the other.
pub(crate) async fn report_of_guests(api: &Api, _: &Caller, input: Input) -> Done {
    let page = Wanted::of::<&GuestUse>(&input)?;
    let asked = span(&input, REPORT_S)?;
    let mut asking = JoinSet::new();
    for (host, guests) in guests_by_host(api, &input).await? {
        let handle = api.handle.clone();
        asking.spawn(async move { uses(&handle, host, guests, asked).await });
    }
    let mut all: Vec<GuestUse> = Vec::new();
    while let Some(done) = asking.join_next().await {
        all.extend(done.unwrap_or_default());
    }
    Ok(Output::List(page.page(all.iter())))
}

type Named = (GuestId, String, String);

async fn guests_by_host(api: &Api, input: &Input) -> Result<BTreeMap<HostId, Vec<Named>>, Problem> {
    let wanted = input.text("host").map(str::to_owned);
    let found = api.handle.read(move |grid, _, _| {
        let only = wanted.map(|wanted| find::host(grid, &wanted).map(|host| host.id)).transpose()?;
        let mut all: BTreeMap<HostId, Vec<Named>> = BTreeMap::new();
        let guests = find::guests(grid).filter(|view| only.is_none_or(|host| view.host.id == host));
        for (count, view) in guests.enumerate() {
            if count == GUESTS {
                let text = format!("A report is of {GUESTS} guests at most, and there are more.");
                return Err(Problem::new("invalid", text).advice("Name a host."));
            }
            let report = &view.guest.report;
            let named = (report.id, report.name.clone(), view.host.name.clone());
            all.entry(view.host.id).or_default().push(named);
        }
        Ok(all)
    });
    found.await?
}

/// Once a host did not answer it is not asked on.
async fn uses(
    handle: &Handle,
    host: HostId,
    guests: Vec<Named>,
    (span, until): (Millis, Option<Stamp>),
) -> Vec<GuestUse> {
    let (mut all, mut silent) = (Vec::new(), None);
    for (guest, name, host_name) in guests {
        let report = match &silent {
            Some(why) => Err(String::clone(why)),
            None => match history(handle, host, Past { guest: Some(guest), span, until, points: STEPS }).await {
                Ok(Ok(history)) => Ok(report(&history)),
                Ok(Err(failure)) => Err(failure.text),
                Err(_) => Err("the aggregator ends".to_owned()),
            },
        };
        silent = report.as_ref().err().cloned();
        all.push(GuestUse { guest, name, host_name, report });
    }
    all
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
    let (span, until) = span(input, default_s)?;
    Ok(history(&api.handle, host, Past { guest, span, until, points }).await??)
}

fn span(input: &Input, default_s: u64) -> Result<(Millis, Option<Stamp>), Problem> {
    let span = Millis(input.number("last").unwrap_or(default_s).saturating_mul(1_000));
    let until = input.text("until").map(moment).transpose()?;
    if span == Millis(0) { Err(Problem::fault("/last", "must be a second at least")) } else { Ok((span, until)) }
}

fn moment(text: &str) -> Result<Stamp, Problem> {
    let wrong = || Problem::fault("/until", "must be a time as in RFC 3339: 2026-11-22T09:30:00Z");
    let stamp: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
    u64::try_from(stamp.as_millisecond()).map(Stamp).map_err(|_| wrong())
}

fn other() -> Problem {
    Failure { code: FailureCode::Internal, text: "its host told the history of something else".into() }.into()
}
