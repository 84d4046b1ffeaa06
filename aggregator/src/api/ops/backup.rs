//! Backup sets, restore points, replicas: reading them, and the verbs, each of which becomes an operation of the host
//! that has the points.

use roost_aggregator_core::call::Done as CoreDone;
use roost_aggregator_core::{Call, Grid};
use roost_protocol::backup::{BackupOptions, BackupSummary, PointQuery, RestoreAs, RestoreOrder, Target, query};
use roost_protocol::look::Look;
use roost_protocol::operation::Verb;
use roost_protocol::{GuestId, HostId, Millis, PointId, Time};

use super::guest::{Wish, ask, chosen_host, new_guest};
use super::{find, policy};
use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::page::{Wanted, thing, version};
use crate::api::problem::Problem;
use crate::api::view::backup::{ReplicaView, SetView};
use crate::auth::Caller;
use crate::handle::Condition;
use crate::look;

/// A first full backup, a restore or a verification of a large guest takes hours.
const TIMEOUT: Millis = Millis::seconds(24 * 3_600);
/// What only changes a note.
const TIMEOUT_SHORT: Millis = Millis::seconds(300);
/// Points of one guest that are looked at; a policy keeps some hundred.
const POINTS: usize = 20_000;

pub(crate) async fn list(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<SetView<'_>>(&input)?;
    let page = api.handle.read(move |grid, _, _| {
        let host = input.text("host").map(|host| find::host(grid, host).map(|host| host.id)).transpose()?;
        let fits = |view: &SetView<'_>| {
            host.is_none_or(|host| view.host.id == host)
                && input.text("policy").is_none_or(|policy| view.set.policy_name == policy)
        };
        Ok::<_, Problem>(wanted.page(sets(grid).filter(fits)))
    });
    Ok(Output::List(page.await??))
}

fn sets(grid: &Grid) -> impl Iterator<Item = SetView<'_>> {
    grid.hosts().values().flat_map(|host| host.backups.sets.values().map(move |set| SetView { host, set }))
}

pub(crate) async fn get(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = input.required("ref")?.to_owned();
    let found = api.handle.read(move |grid, _, _| {
        let none = || Problem::not_found("backup set", &wanted);
        let guest = find_set(grid, &wanted)?;
        let host = grid.set_host(guest).map_err(|_| none())?;
        let host = grid.hosts().get(&host).ok_or_else(none)?;
        let set = host.backups.sets.get(&guest).ok_or_else(none)?;
        Ok::<_, Problem>(thing(&SetView { host, set }))
    });
    let (value, version) = found.await??;
    Ok(Output::Thing(value, version))
}

/// A PNG of the newest trial, where the set is.
pub(crate) async fn picture(api: &Api, _: &Caller, input: Input) -> Done {
    let guest = set_of(api, &input).await?;
    let host = api.handle.read(move |grid, _, _| grid.set_host(guest)).await??;
    let seen = look::picture(&api.handle, host, Look::Trial { guest }).await?;
    Ok(Output::Picture(seen?))
}

/// A guest, or one that is gone but has points.
fn find_set(grid: &Grid, wanted: &str) -> Result<GuestId, Problem> {
    let Err(why) = find::guest(grid, wanted).map(|view| view.guest.report.id) else {
        return find::guest(grid, wanted).map(|view| view.guest.report.id);
    };
    let named = |view: &SetView<'_>| view.set.guest_name == wanted || view.set.guest.to_string() == wanted;
    let mut found: Vec<GuestId> = sets(grid).filter(named).map(|view| view.set.guest).collect();
    found.sort_unstable();
    found.dedup();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(why),
        [..] => Err(Problem::new("ambiguous", format!("Several guests that are gone were named {wanted:?}."))
            .advice("Use the id.")),
    }
}

pub(crate) async fn points(api: &Api, caller: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<&BackupSummary>(&input)?;
    let guest = set_of(api, &input).await?;
    let points = all_points(api, caller, guest, chosen_host(api, &input).await?).await?;
    Ok(Output::List(wanted.page(points.iter())))
}

pub(crate) async fn point(api: &Api, caller: &Caller, input: Input) -> Done {
    let (guest, id) = (set_of(api, &input).await?, point_id(&input)?);
    let points = all_points(api, caller, guest, None).await?;
    let found = points.iter().find(|point| point.point == id);
    let (value, version) = thing(&found.ok_or_else(|| Problem::not_found("restore point", &id.to_string()))?);
    Ok(Output::Thing(value, version))
}

async fn set_of(api: &Api, input: &Input) -> Result<GuestId, Problem> {
    let wanted = input.required("ref")?.to_owned();
    api.handle.read(move |grid, _, _| find_set(grid, &wanted)).await?
}

fn point_id(input: &Input) -> Result<PointId, Problem> {
    let text = input.required("point")?;
    text.parse().map_err(|_| Problem::not_found("restore point", text))
}

/// Page by page from this host, or else from one that has them and is there.
async fn all_points(
    api: &Api,
    caller: &Caller,
    guest: GuestId,
    host: Option<HostId>,
) -> Result<Vec<BackupSummary>, Problem> {
    let host: HostId = match host {
        Some(host) => host,
        None => api.handle.read(move |grid, _, _| grid.points_host(guest)).await??,
    };
    let mut points: Vec<BackupSummary> = Vec::new();
    loop {
        let after = points.last().map(|point| (point.guest, point.started, point.point));
        let limit = u32::try_from(query::PAGE).unwrap_or(u32::MAX);
        let query = PointQuery { ask: 0, guest: Some(guest), after, limit };
        match api.handle.call(&caller.user, Call::Points { host, query }).await? {
            CoreDone::Points(page) => {
                let more = page.more && !page.points.is_empty();
                points.extend(page.points.into_iter().filter(|point| point.guest == guest));
                if !more || points.len() >= POINTS {
                    return Ok(points);
                }
            }
            CoreDone::Nothing | CoreDone::Operation(_) => {
                return Err(Problem::new("internal", "The grid answered without points."));
            }
        }
    }
}

pub(crate) async fn run(api: &Api, caller: &Caller, input: Input) -> Done {
    let options = BackupOptions {
        freeze: policy::freeze(&input),
        full: input.boolean("full").unwrap_or(false),
        pin: input.boolean("pin").unwrap_or(false),
        label: input.text("note").unwrap_or_default().to_owned(),
    };
    on_set(api, caller, input, Verb::Backup { options }, TIMEOUT).await
}

pub(crate) async fn verify(api: &Api, caller: &Caller, input: Input) -> Done {
    on_set(api, caller, input, Verb::VerifyBackup { point: None }, TIMEOUT).await
}

pub(crate) async fn prune(api: &Api, caller: &Caller, input: Input) -> Done {
    on_set(api, caller, input, Verb::PruneNow, TIMEOUT).await
}

pub(crate) async fn prove(api: &Api, caller: &Caller, input: Input) -> Done {
    on_set(api, caller, input, Verb::ProveBackup { point: None }, TIMEOUT).await
}

pub(crate) async fn set_policy(api: &Api, caller: &Caller, input: Input) -> Done {
    let policy = match input.text("policy").map(str::to_owned) {
        Some(name) => {
            let found = api.handle.read(move |grid, _, _| {
                let policy = grid.intent().backup_policies.get(&name).cloned();
                policy.ok_or_else(|| Problem::not_found("backup policy", &name))
            });
            Some(Box::new(found.await??))
        }
        None => None,
    };
    on_set(api, caller, input, Verb::SetBackupPolicy { policy }, TIMEOUT_SHORT).await
}

pub(crate) async fn delete_point(api: &Api, caller: &Caller, input: Input) -> Done {
    let (point, even_last) = (point_id(&input)?, input.boolean("even_last").unwrap_or(false));
    on_set(api, caller, input, Verb::DeletePoint { point, even_last }, TIMEOUT_SHORT).await
}

pub(crate) async fn pin(api: &Api, caller: &Caller, input: Input) -> Done {
    let point = point_id(&input)?;
    on_set(api, caller, input, Verb::PinPoint { point, pinned: true }, TIMEOUT_SHORT).await
}

pub(crate) async fn unpin(api: &Api, caller: &Caller, input: Input) -> Done {
    let point = point_id(&input)?;
    on_set(api, caller, input, Verb::PinPoint { point, pinned: false }, TIMEOUT_SHORT).await
}

pub(crate) async fn verify_point(api: &Api, caller: &Caller, input: Input) -> Done {
    let point = Some(point_id(&input)?);
    on_set(api, caller, input, Verb::VerifyBackup { point }, TIMEOUT).await
}

pub(crate) async fn prove_point(api: &Api, caller: &Caller, input: Input) -> Done {
    let point = Some(point_id(&input)?);
    on_set(api, caller, input, Verb::ProveBackup { point }, TIMEOUT).await
}

async fn on_set(api: &Api, caller: &Caller, mut input: Input, verb: Verb, timeout: Millis) -> Done {
    let guest = set_of(api, &input).await?;
    let only_if = only_if(api, caller, &mut input, guest).await?;
    let wish = Wish { guest, name: None, host: None, verb, timeout, key: input.key, only_if };
    ask(api, caller, wish).await
}

/// If-Match compares with the set, or with the point where one is named: that one is read from its host right before.
async fn only_if(api: &Api, caller: &Caller, input: &mut Input, guest: GuestId) -> Result<Option<Condition>, Problem> {
    if !input.conditional() {
        return Ok(None);
    }
    if input.text("point").is_none() {
        return Ok(input.only_if(move |grid, _, _| {
            let host = grid.hosts().get(&grid.set_host(guest).ok()?)?;
            Some(version(&SetView { host, set: host.backups.sets.get(&guest)? }))
        }));
    }
    let id = point_id(input)?;
    let points = all_points(api, caller, guest, None).await?;
    let seen = points.iter().find(|point| point.point == id).map(|point| version(&point));
    Ok(input.only_if(move |_, _, _| seen))
}

pub(crate) async fn restore(api: &Api, caller: &Caller, mut input: Input) -> Done {
    let folder = folder(&input)?;
    let set = match (set_of(api, &input).await, input.required("ref")?.parse()) {
        // A grid that was lost with its hosts: only the copies know the guest.
        (Err(_), Ok(guest)) if folder.is_some() => guest,
        (set, _) => set?,
    };
    let only_if = only_if(api, caller, &mut input, set).await?;
    let (to_be, point) = (to_be(&input)?, point_id(&input)?);
    let chosen = chosen_host(api, &input).await?;
    let home = api.handle.read(move |grid, _, _| grid.points_host(set)).await?;
    let (host, from) = match (folder, chosen, home) {
        (Some(folder), Some(host), _) | (Some(folder), None, Ok(host)) => (host, folder),
        (Some(_), None, Err(_)) => return Err(Problem::fault("/host", "is needed: no host of the grid has the set")),
        (None, _, Err(why)) => return Err(why.into()),
        (None, chosen, Ok(home)) => {
            let host = chosen.unwrap_or(home);
            (host, source(api, caller, (set, point), host, home).await?)
        }
    };
    let order = RestoreOrder {
        set,
        point,
        from,
        start: input.boolean("start").unwrap_or(false),
        at_once: input.boolean("at_once").unwrap_or(false),
        to_be,
    };
    let guest = if order.to_be == RestoreAs::AsItWas { set } else { new_guest() };
    let verb = Verb::Restore { order: Box::new(order) };
    let wish = Wish { guest, name: None, host: Some(host), verb, timeout: TIMEOUT, key: input.key, only_if };
    ask(api, caller, wish).await
}

/// The folder that a point is to be read from, if one is named.
fn folder(input: &Input) -> Result<Option<Target>, Problem> {
    match input.text("from") {
        None => Ok(None),
        Some(path) if path.starts_with('/') => Ok(Some(Target::Directory { path: path.to_owned() })),
        Some(_) => Err(Problem::fault("/from", "must be an absolute folder on the host that restores")),
    }
}

/// Where a host reads a point: in its own store if it is there, else from the host that has it.
async fn source(
    api: &Api,
    caller: &Caller,
    (set, point): (GuestId, PointId),
    host: HostId,
    home: HostId,
) -> Result<Target, Problem> {
    if host == home {
        return Ok(Target::Local);
    }
    let keeps = move |grid: &Grid| grid.hosts().get(&host).is_some_and(|host| host.backups.sets.contains_key(&set));
    let kept = match api.handle.read(move |grid, _, _| keeps(grid)).await? {
        true => all_points(api, caller, set, Some(host)).await?,
        false => Vec::new(),
    };
    let here = kept.iter().any(|kept| kept.point == point);
    Ok(if here { Target::Local } else { Target::Peer { host: home } })
}

fn to_be(input: &Input) -> Result<RestoreAs, Problem> {
    let text = |name: &str| input.text(name).map(str::to_owned);
    let Some(name) = text("name") else {
        return match ["hostname", "windows_name", "domain"].into_iter().find(|name| input.value(name).is_some()) {
            Some(given) => Err(Problem::fault(format!("/{given}"), "needs a name: the guest as it was keeps its own")),
            None => Ok(RestoreAs::AsItWas),
        };
    };
    let (hostname, windows_name, domain) = (text("hostname"), text("windows_name"), text("domain"));
    Ok(RestoreAs::AsNew { name, hostname, windows_name, domain })
}

pub(crate) async fn replicas(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<ReplicaView<'_>>(&input)?;
    let page = api.handle.read(move |grid, now, _| {
        let host = input.text("host").map(|host| find::host(grid, host).map(|host| host.id)).transpose()?;
        Ok::<_, Problem>(
            wanted.page(all_replicas(grid, now).filter(|view| host.is_none_or(|host| view.host.id == host))),
        )
    });
    Ok(Output::List(page.await??))
}

fn all_replicas(grid: &Grid, now: Time) -> impl Iterator<Item = ReplicaView<'_>> {
    let of = move |host| move |replica| ReplicaView { grid, host, replica, now };
    grid.hosts().values().flat_map(move |host| host.backups.replicas.values().map(of(host)))
}

pub(crate) async fn replica(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = input.required("ref")?.to_owned();
    let found = api.handle.read(move |grid, now, _| {
        let guest = find_set(grid, &wanted)?;
        let view = all_replicas(grid, now).find(|view| view.replica.status.guest == guest);
        Ok::<_, Problem>(thing(&view.ok_or_else(|| Problem::not_found("replica", &wanted))?))
    });
    let (value, version) = found.await??;
    Ok(Output::Thing(value, version))
}
