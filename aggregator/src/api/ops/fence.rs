//! Fence devices of hosts.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use roost_aggregator_core::Call;
use roost_protocol::fence::{FenceDevice, Power};
use roost_protocol::{Hidden, HostId};
use serde_json::Value;

use super::find;
use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::page::{show_all, version};
use crate::api::problem::Problem;
use crate::api::view::HostView;
use crate::auth::Caller;
use crate::handle::Condition;
use crate::look;

pub(crate) async fn set(api: &Api, caller: &Caller, mut input: Input) -> Done {
    let host = asked(api, &input).await?;
    let device = Some(Box::new(device(&input)?));
    let only_if = if_unchanged(&mut input, host);
    api.handle.call_if(&caller.user, Call::SetFence { host, device }, only_if).await?;
    shown(api, host).await
}

pub(crate) async fn clear(api: &Api, caller: &Caller, mut input: Input) -> Done {
    let host = asked(api, &input).await?;
    let only_if = if_unchanged(&mut input, host);
    api.handle.call_if(&caller.user, Call::SetFence { host, device: None }, only_if).await?;
    Ok(Output::Nothing)
}

/// All that would use it ask it at once; each must hear that the host is on.
pub(crate) async fn test(api: &Api, caller: &Caller, mut input: Input) -> Done {
    let host = asked(api, &input).await?;
    let only_if = if_unchanged(&mut input, host);
    let found = api.handle.read(move |grid, _, _| {
        let device = grid.fence(host).map(|fence| fence.device.clone());
        let testers = grid.fence_testers(host).into_iter();
        (device, testers.map(|tester| (tester, grid.host_name(tester).to_owned())).collect::<Vec<_>>())
    });
    let (device, testers) = found.await?;
    let device = device.ok_or_else(|| {
        Problem::new("wrong_state", "The host has no fence device.").advice("Set one: roost host set-fence.")
    })?;
    if testers.is_empty() {
        return Err(Problem::new("host_unreachable", "No other host is connected that could ask the device."));
    }
    let asked = testers.into_iter().map(|(tester, name)| ask(api, tester, name, &device));
    for answer in join_all(asked).await {
        answer?;
    }
    api.handle.call_if(&caller.user, Call::FenceTested { host, device: Box::new(device) }, only_if).await?;
    shown(api, host).await
}

async fn ask(api: &Api, tester: HostId, name: String, device: &FenceDevice) -> Result<(), Problem> {
    match look::power(&api.handle, tester, device.clone()).await? {
        Ok(Power::On) => Ok(()),
        Ok(Power::Off) => {
            let text = format!(
                "Asked by {name}, the device says that the host is off. It is another machine's, or the host is down."
            );
            Err(Problem::new("wrong_state", text).advice("Check address and plug."))
        }
        Err(mut why) => {
            why.text = format!("asked by {name}: {}", why.text);
            Err(Problem::from(why).advice("Check agent, address, user, secret, plug and options."))
        }
    }
}

pub(super) fn if_unchanged(input: &mut Input, host: HostId) -> Option<Condition> {
    input.only_if(move |grid, now, wall| {
        let host = grid.hosts().get(&host)?;
        Some(version(&HostView { grid, host, now, wall }))
    })
}

pub(super) async fn asked(api: &Api, input: &Input) -> Result<HostId, Problem> {
    let wanted = input.required("ref")?.to_owned();
    api.handle.read(move |grid, _, _| find::host(grid, &wanted).map(|host| host.id)).await?
}

pub(super) async fn shown(api: &Api, host: HostId) -> Done {
    let shown = api.handle.read(move |grid, now, wall| {
        grid.hosts().get(&host).map_or(Value::Null, |host| show_all(&HostView { grid, host, now, wall }))
    });
    Ok(Output::Object(shown.await?))
}

fn device(input: &Input) -> Result<FenceDevice, Problem> {
    let text = |name: &str| input.text(name).map(str::to_owned);
    Ok(FenceDevice {
        agent: input.required("agent")?.to_owned(),
        address: text("address"),
        user: text("user"),
        secret: text("secret").map(Hidden),
        plug: text("plug"),
        options: options(input)?,
    })
}

fn options(input: &Input) -> Result<BTreeMap<String, String>, Problem> {
    let all = input.value("options").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let mut options = BTreeMap::new();
    for option in all {
        let pair = option.split_once('=');
        let (name, value) =
            pair.ok_or_else(|| Problem::fault("/options", "must be NAME=VALUE, for example lanplus=1"))?;
        options.insert(name.to_owned(), value.to_owned());
    }
    Ok(options)
}
