//! Guests: reading them, and the verbs, each of which becomes an operation.

use roost_aggregator_core::Call;
use roost_aggregator_core::call::Done as CoreDone;
use roost_protocol::guest::{Boot, DiskSpec, GuestSpec, NicSpec, Power, PowerState};
use roost_protocol::look::Look;
use roost_protocol::memory::MemoryWish;
use roost_protocol::operation::Verb;
use roost_protocol::{GuestId, HostId, MiB, Millis, OperationId};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{domain, find};
use crate::api::Api;
use crate::api::dispatch::{Done, Output, grid_key};
use crate::api::input::Input;
use crate::api::page::{Wanted, show_all, thing, version};
use crate::api::problem::Problem;
use crate::api::view::{GuestView, OperationView};
use crate::auth::Caller;
use crate::handle::Condition;
use crate::look;

/// A verb that has not ended after this long has failed.
const TIMEOUT: Millis = Millis::seconds(300);
/// The same for a guest that is made: images are copied.
const TIMEOUT_CREATE: Millis = Millis::seconds(3_600);
/// A guest that is handed over and doesn't listen to its power button is switched off after this.
const HAND_OVER_SHUTDOWN: Millis = Millis::seconds(60);

pub(crate) async fn list(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<GuestView<'_>>(&input)?;
    let page = api.handle.read(move |grid, _, _| {
        let host = input.text("host").map(|host| find::host(grid, host).map(|host| host.id)).transpose()?;
        let filter = Filter::of(&input, host)?;
        if !wanted.sorted_by("name") {
            return Ok::<_, Problem>(wanted.page(find::guests(grid).filter(|guest| filter.lets(guest))));
        }
        let from = wanted.after_text().map(|(name, id)| (name, GuestId::from_bytes(id)));
        // Counting needs all of them.
        let from = from.filter(|_| !wanted.counts());
        let guests =
            grid.guests_by_name(from, |name| filter.named(name)).map(|(host, guest)| GuestView { grid, host, guest });
        Ok(wanted.page_of_ordered(guests.filter(|guest| filter.lets(guest))))
    });
    Ok(Output::List(page.await??))
}

/// Which guests a list is to have.
struct Filter<'a> {
    host: Option<HostId>,
    name: Option<&'a str>,
    state: Option<PowerState>,
    managed: Option<bool>,
}

impl<'a> Filter<'a> {
    fn of(input: &'a Input, host: Option<HostId>) -> Result<Self, Problem> {
        let state = input.text("state").map(|state| serde_json::from_value(json!(state))).transpose();
        Ok(Self {
            host,
            name: input.text("name"),
            state: state.map_err(|error| Problem::fault("/state", error.to_string()))?,
            managed: input.boolean("managed"),
        })
    }

    fn named(&self, name: &str) -> bool {
        self.name.is_none_or(|part| name.contains(part))
    }

    fn lets(&self, guest: &GuestView<'_>) -> bool {
        let report = &guest.guest.report;
        self.host.is_none_or(|host| guest.host.id == host)
            && self.state.is_none_or(|state| report.state == state)
            && self.managed.is_none_or(|managed| report.managed() == managed)
            && self.named(&report.name)
    }
}

pub(crate) async fn get(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = input.required("ref")?.to_owned();
    let guest = api.handle.read(move |grid, _, _| find::guest(grid, &wanted).map(|guest| thing(&guest)));
    let (value, version) = guest.await??;
    Ok(Output::Thing(value, version))
}

/// A PNG.
pub(crate) async fn screen(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = input.required("ref")?.to_owned();
    let found =
        api.handle.read(move |grid, _, _| find::guest(grid, &wanted).map(|view| (view.host.id, view.guest.report.id)));
    let (host, guest) = found.await??;
    let seen = look::picture(&api.handle, host, Look::Screen { guest }).await?;
    Ok(Output::Picture(seen?))
}

pub(crate) async fn create(api: &Api, caller: &Caller, input: Input) -> Done {
    let spec = GuestSpec {
        name: input.required("name")?.to_owned(),
        memory_mib: MiB(input.number("memory_mib").unwrap_or(0)),
        vcpus: u32::try_from(input.number("vcpus").unwrap_or(1))
            .map_err(|_| Problem::fault("/vcpus", "is too large"))?,
        disks: part::<Vec<DiskSpec>>(&input, "disks")?,
        nics: part::<Vec<NicSpec>>(&input, "nics")?,
        boot: boot(&input)?,
        memory: part::<Option<MemoryWish>>(&input, "memory_wish")?,
    };
    let host = chosen_host(api, &input).await?;
    let verb = Verb::Create { spec, start: input.boolean("start").unwrap_or(false) };
    ask(
        api,
        caller,
        Wish { guest: new_guest(), name: None, host, verb, timeout: TIMEOUT_CREATE, key: input.key, only_if: None },
    )
    .await
}

/// A part of the specification; what the registry can't say about it (which members go with which `from`) is said here.
fn part<T: DeserializeOwned + Default>(input: &Input, name: &str) -> Result<T, Problem> {
    let Some(value) = input.value(name) else { return Ok(T::default()) };
    serde_json::from_value(value.clone()).map_err(|error| Problem::fault(format!("/{name}"), error.to_string()))
}

fn boot(input: &Input) -> Result<Boot, Problem> {
    let Some(value) = input.value("boot") else { return Ok(Boot::default()) };
    let mut value = value.clone();
    if value["from"] == "kernel" && value.get("cmdline").is_none() {
        value["cmdline"] = json!("");
    }
    serde_json::from_value(value).map_err(|error| Problem::fault("/boot", error.to_string()))
}

pub(crate) async fn import(api: &Api, caller: &Caller, input: Input) -> Done {
    let host = chosen_host(api, &input).await?;
    let xml = input.required("xml")?.to_owned();
    let name = domain::name(&xml);
    let wish = Wish {
        guest: new_guest(),
        name,
        host,
        verb: Verb::Import { xml },
        timeout: TIMEOUT,
        key: input.key,
        only_if: None,
    };
    ask(api, caller, wish).await
}

pub(crate) async fn chosen_host(api: &Api, input: &Input) -> Result<Option<HostId>, Problem> {
    let Some(wanted) = input.text("host").map(str::to_owned) else { return Ok(None) };
    let host = api.handle.read(move |grid, _, _| find::host(grid, &wanted).map(|host| host.id));
    host.await?.map(Some)
}

pub(crate) fn new_guest() -> GuestId {
    Uuid::new_v4().into()
}

macro_rules! verbs {
    ($($name:ident => $verb:ident,)*) => {
        $(pub(crate) async fn $name(api: &Api, caller: &Caller, input: Input) -> Done {
            on_guest(api, caller, input, Verb::$verb, TIMEOUT).await
        })*
    };
}

verbs! {
    start => Start,
    stop => Stop,
    pause => Pause,
    resume => Resume,
    reset => Reset,
    release => Release,
}

pub(crate) async fn shutdown(api: &Api, caller: &Caller, input: Input) -> Done {
    let force_after_ms = input.number("force_after_s").map(Millis::seconds);
    let timeout = Millis(TIMEOUT.0.saturating_add(force_after_ms.map_or(0, |span| span.0)));
    on_guest(api, caller, input, Verb::Shutdown { force_after_ms }, timeout).await
}

pub(crate) async fn hand_over(api: &Api, caller: &Caller, input: Input) -> Done {
    let shutdown_ms = input.number("shutdown_s").map_or(HAND_OVER_SHUTDOWN, Millis::seconds);
    on_guest(api, caller, input, Verb::HandOver { shutdown_ms }, TIMEOUT).await
}

pub(crate) async fn delete(api: &Api, caller: &Caller, input: Input) -> Done {
    let keep_disks = input.boolean("keep_disks").unwrap_or(false);
    on_guest(api, caller, input, Verb::Delete { keep_disks }, TIMEOUT).await
}

pub(crate) async fn manage(api: &Api, caller: &Caller, input: Input) -> Done {
    let power = match input.required("power")? {
        "running" => Power::Running,
        _ => Power::Stopped,
    };
    on_guest(api, caller, input, Verb::Manage { power }, TIMEOUT).await
}

pub(crate) async fn probe(api: &Api, caller: &Caller, mut input: Input) -> Done {
    let wanted = input.required("ref")?.to_owned();
    let probes = part::<Vec<String>>(&input, "probes")?;
    let named = wanted.clone();
    let only_if = input.only_if(move |grid, _, _| Some(version(&find::guest(grid, &named).ok()?)));
    let found = api.handle.read(move |grid, _, _| find::guest(grid, &wanted).map(|view| view.guest.report.id));
    let guest = found.await??;
    api.handle.call_if(&caller.user, Call::SetProbes { guest, probes }, only_if).await?;
    let shown = api.handle.read(move |grid, _, _| find::guest(grid, &guest.to_string()).map(|view| show_all(&view)));
    Ok(Output::Object(shown.await??))
}

async fn on_guest(api: &Api, caller: &Caller, mut input: Input, verb: Verb, timeout: Millis) -> Done {
    let wanted = input.required("ref")?.to_owned();
    let only_if = input.only_if({
        let (wanted, key) = (wanted.clone(), input.key.as_deref().map(|key| grid_key(&caller.user, key)));
        move |grid, _, _| match key.and_then(|key| grid.operation_of_key(&key)) {
            // A repeat is answered, whatever the first one changed.
            Some(_) => None,
            None => find::guest(grid, &wanted).ok().map(|view| version(&view)),
        }
    });
    let guest =
        api.handle.read(move |grid, _, _| find::guest(grid, &wanted).map(|view| view.guest.report.id)).await??;
    ask(api, caller, Wish { guest, name: None, host: None, verb, timeout, key: input.key, only_if }).await
}

pub(crate) struct Wish {
    pub(crate) guest: GuestId,
    /// What an imported guest calls itself.
    pub(crate) name: Option<String>,
    pub(crate) host: Option<HostId>,
    pub(crate) verb: Verb,
    pub(crate) timeout: Millis,
    pub(crate) key: Option<String>,
    pub(crate) only_if: Option<Condition>,
}

pub(crate) async fn ask(api: &Api, caller: &Caller, wish: Wish) -> Done {
    let Wish { guest, name: guest_name, host, verb, timeout, key, only_if } = wish;
    let operation = OperationId::from(Uuid::new_v4());
    let key = key.map(|key| grid_key(&caller.user, &key));
    let call = Call::Guest { operation, guest, guest_name, host, verb, timeout, key };
    match api.handle.call_if(&caller.user, call, only_if).await? {
        CoreDone::Operation(operation) => {
            let host = operation.host;
            let name = api.handle.read(move |grid, _, _| grid.hosts().get(&host).map(|host| host.name.clone())).await?;
            let value: Value = show_all(&OperationView { operation: &operation, host_name: name.as_deref() });
            Ok(Output::Operation(operation.id, value))
        }
        CoreDone::Nothing | CoreDone::Points(_) => {
            Err(Problem::new("internal", "The grid answered without an operation."))
        }
    }
}
