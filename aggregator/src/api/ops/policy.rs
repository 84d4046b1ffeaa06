//! Backup policies: the rules that admins choose from.

use jiff::{Span, Timestamp, tz::TimeZone};
use roost_aggregator_core::{Call, Grid};
use roost_protocol::backup::policy::SHIFTS;
use roost_protocol::backup::{
    BackupPolicy, Freeze, ProofPolicy, ReplicaPolicy, Retention, Schedule, Shift, Target, Zone,
};
use roost_protocol::{Generation, HostId, Millis, Stamp};
use serde_json::Value;

use super::find;
use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::page::{Wanted, show_all, thing, version};
use crate::api::problem::Problem;
use crate::api::view::backup::PolicyView;
use crate::auth::Caller;

/// Time a point under proof has for its guest's sign of life.
const PROOF_PATIENCE: Millis = Millis::seconds(300);
/// The greatest lag of a replica, in renewals, unless it is given.
const LAG: u64 = 3;
/// Years of a time zone's changes that travel with a schedule.
const YEARS: i64 = 30;

pub(crate) async fn list(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<PolicyView<'_>>(&input)?;
    let page = api
        .handle
        .read(move |grid, _, _| wanted.page(grid.intent().backup_policies.values().map(|policy| view(grid, policy))));
    Ok(Output::List(page.await?))
}

fn view<'a>(grid: &Grid, policy: &'a BackupPolicy) -> PolicyView<'a> {
    PolicyView { policy, guests: grid.followers(&policy.name) }
}

pub(crate) async fn get(api: &Api, _: &Caller, input: Input) -> Done {
    let name = input.required("name")?.to_owned();
    let found = api.handle.read(move |grid, _, _| {
        let policy = grid.intent().backup_policies.get(&name);
        Ok::<_, Problem>(thing(&view(grid, policy.ok_or_else(|| Problem::not_found("backup policy", &name))?)))
    });
    let (value, version) = found.await??;
    Ok(Output::Thing(value, version))
}

pub(crate) async fn create(api: &Api, caller: &Caller, input: Input) -> Done {
    put(api, caller, input, true).await
}

pub(crate) async fn replace(api: &Api, caller: &Caller, input: Input) -> Done {
    put(api, caller, input, false).await
}

async fn put(api: &Api, caller: &Caller, mut input: Input, create: bool) -> Done {
    let policy = policy(api, &input).await?;
    let name = policy.name.clone();
    let wanted = name.clone();
    let only_if = input
        .only_if(move |grid, _, _| Some(version(&view(grid, grid.intent().backup_policies.get(&wanted)?))))
        .filter(|_| !create);
    let call = Call::PutBackupPolicy { policy: Box::new(policy), create };
    api.handle.call_if(&caller.user, call, only_if).await?;
    let made = api.handle.read(move |grid, _, _| {
        let policy = grid.intent().backup_policies.get(&name);
        policy.map_or(Value::Null, |policy| show_all(&view(grid, policy)))
    });
    Ok(Output::Object(made.await?))
}

pub(crate) async fn delete(api: &Api, caller: &Caller, mut input: Input) -> Done {
    let name = input.required("name")?.to_owned();
    let wanted = name.clone();
    let only_if =
        input.only_if(move |grid, _, _| Some(version(&view(grid, grid.intent().backup_policies.get(&wanted)?))));
    api.handle.call_if(&caller.user, Call::DeleteBackupPolicy { name }, only_if).await?;
    Ok(Output::Nothing)
}

async fn policy(api: &Api, input: &Input) -> Result<BackupPolicy, Problem> {
    let keep = |name: &str| count(input, name);
    Ok(BackupPolicy {
        name: input.required("name")?.to_owned(),
        generation: Generation(0),
        schedule: schedule(input)?,
        retention: Retention {
            last: keep("keep_last")?,
            hourly: keep("keep_hourly")?,
            daily: keep("keep_daily")?,
            weekly: keep("keep_weekly")?,
            monthly: keep("keep_monthly")?,
            yearly: keep("keep_yearly")?,
        },
        targets: targets(api, input).await?,
        max_age: input.number("max_age_s").map(Millis::seconds),
        replica: replica(api, input).await?,
        freeze: freeze(input),
        priority: count(input, "priority")?,
        proof: input
            .number("prove_every_s")
            .map(|every| ProofPolicy { every: Millis::seconds(every), patience: PROOF_PATIENCE }),
    })
}

fn count(input: &Input, name: &str) -> Result<u32, Problem> {
    u32::try_from(input.number(name).unwrap_or(0)).map_err(|_| Problem::fault(format!("/{name}"), "is too large"))
}

/// How file systems are frozen, by the registry's words.
pub(crate) fn freeze(input: &Input) -> Freeze {
    match input.text("freeze") {
        Some("require") => Freeze::Require,
        Some("never") => Freeze::Never,
        _ => Freeze::Try,
    }
}

fn schedule(input: &Input) -> Result<Option<Schedule>, Problem> {
    let zone = input.text("time_zone").map(zone).transpose()?;
    let jitter = Millis::seconds(input.number("jitter_s").unwrap_or(0));
    match input.text("schedule") {
        Some(expression) => Ok(Some(Schedule { expression: expression.to_owned(), jitter, zone })),
        None if zone.is_some() || jitter > Millis(0) => {
            Err(Problem::fault("/schedule", "is missing: a time zone and jitter say something only of a schedule"))
        }
        None => Ok(None),
    }
}

/// The zone as a table of its changes, so that no host needs a zone database.
fn zone(name: &str) -> Result<Zone, Problem> {
    let fault = |_| Problem::fault("/time_zone", "is no time zone: give for example Europe/Zurich");
    let zone = TimeZone::get(name).map_err(fault)?;
    let now = Timestamp::now();
    let end = now.checked_add(Span::new().hours(YEARS * 8_766)).unwrap_or(Timestamp::MAX);
    let shift = |from: Timestamp| Shift {
        from: Stamp(u64::try_from(from.as_millisecond()).unwrap_or(0)),
        minutes: zone.to_offset(from).seconds() / 60,
    };
    let later = zone.following(now).map(|change| change.timestamp()).take_while(|at| *at < end);
    let shifts = std::iter::once(now).chain(later).take(SHIFTS).map(shift).collect();
    Ok(Zone { name: name.to_owned(), shifts })
}

async fn targets(api: &Api, input: &Input) -> Result<Vec<Target>, Problem> {
    let mut targets = Vec::new();
    for text in input.value("targets").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        targets.push(match text.strip_prefix("host:") {
            Some(host) => Target::Peer { host: host_id(api, host).await? },
            None if text.starts_with('/') => Target::Directory { path: text.to_owned() },
            None => {
                return Err(Problem::fault("/targets", "must be host:NAME or an absolute folder on the guest's host"));
            }
        });
    }
    Ok(targets)
}

async fn replica(api: &Api, input: &Input) -> Result<Option<ReplicaPolicy>, Problem> {
    let Some(every) = input.number("replica_every_s").map(Millis::seconds) else {
        return match ["replica_max_lag_s", "replica_host", "replica_failover"]
            .into_iter()
            .find(|name| input.value(name).is_some())
        {
            Some(name) => Err(Problem::fault(format!("/{name}"), "needs replica_every_s")),
            None => Ok(None),
        };
    };
    let max_lag = input.number("replica_max_lag_s").map_or(Millis(every.0.saturating_mul(LAG)), Millis::seconds);
    let host = match input.text("replica_host") {
        Some(host) => Some(host_id(api, host).await?),
        None => None,
    };
    let failover = input.boolean("replica_failover").unwrap_or(false);
    Ok(Some(ReplicaPolicy { host, every, max_lag, failover }))
}

async fn host_id(api: &Api, wanted: &str) -> Result<HostId, Problem> {
    let wanted = wanted.to_owned();
    api.handle.read(move |grid, _, _| find::host(grid, &wanted).map(|host| host.id)).await?
}
