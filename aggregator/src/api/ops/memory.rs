//! Memory of hosts: how it is shared out, and why. Asked of the host at the moment; nothing is kept here.

use roost_aggregator_core::Call;
use roost_protocol::memory::{ACTS, MemoryOrder, MemoryPolicy, MemoryReport, PolicyFrom, Sharing};
use roost_protocol::operation::{Failure, FailureCode};
use roost_protocol::{HostId, MiB};
use serde_json::json;

use super::fence::if_unchanged;
use super::find;
use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::page::Wanted;
use crate::api::problem::Problem;
use crate::api::view::memory::{ActView, host_memory};
use crate::auth::Caller;
use crate::look;

pub(crate) async fn show(api: &Api, _: &Caller, input: Input) -> Done {
    let host = asked(api, &input).await?;
    let report = look::memory(&api.handle, host).await??;
    Ok(Output::Object(api.handle.read(move |grid, _, _| host_memory(grid, host, &report)).await?))
}

pub(crate) async fn explain(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<ActView<'_>>(&input)?;
    let host = asked(api, &input).await?;
    let report = look::memory(&api.handle, host).await??;
    let page = api.handle.read(move |grid, _, _| {
        let views = (0..).zip(report.acts.iter().rev().take(ACTS)).map(|(place, act)| ActView { grid, place, act });
        wanted.page(views)
    });
    Ok(Output::List(page.await?))
}

/// What is not given stays as it was said last, or as the host follows it now.
pub(crate) async fn set(api: &Api, caller: &Caller, mut input: Input) -> Done {
    let host = asked(api, &input).await?;
    let said = api.handle.read(move |grid, _, _| grid.memory_order(host).cloned()).await?;
    let heard = look::memory(&api.handle, host).await?;
    let policy = changed(base(said, heard)?, &input)?;
    let order = Box::new(MemoryOrder { policy: Some(policy.clone()) });
    let only_if = if_unchanged(&mut input, host);
    api.handle.call_if(&caller.user, Call::SetMemory { host, order }, only_if).await?;
    Ok(Output::Object(json!(policy)))
}

pub(crate) async fn clear(api: &Api, caller: &Caller, mut input: Input) -> Done {
    let host = asked(api, &input).await?;
    let only_if = if_unchanged(&mut input, host);
    api.handle.call_if(&caller.user, Call::SetMemory { host, order: Box::default() }, only_if).await?;
    Ok(Output::Nothing)
}

/// The policy that is to be changed: what was said last, which the host may not have heard yet, else what it follows.
fn base(said: Option<MemoryOrder>, heard: Result<MemoryReport, Failure>) -> Result<MemoryPolicy, Problem> {
    let cleared = said.is_some();
    match (said.and_then(|order| order.policy), heard) {
        (Some(policy), Err(Failure { code: FailureCode::HostUnreachable | FailureCode::TimedOut, .. })) => Ok(policy),
        (_, Err(why)) if why.code == FailureCode::HostUnreachable => {
            Err(Problem::from(why).advice("What is not given stays as the host follows it: try again when it is back."))
        }
        (_, Err(why)) => Err(why.into()),
        (said, Ok(report)) => match (said, report.policy) {
            (_, None) => Err(Problem::new("unsupported", "The host's agent is too old to follow it.")
                .advice("Upgrade it, or set `memory` in its settings.")),
            (Some(policy), Some(_)) => Ok(policy),
            (None, Some(now)) if cleared && now.from == PolicyFrom::Grid => {
                Err(Problem::new("busy", "The host has not gone back to its settings yet.").advice("Try again."))
            }
            (None, Some(now)) => Ok(now.policy),
        },
    }
}

/// With what the caller gives.
fn changed(mut policy: MemoryPolicy, input: &Input) -> Result<MemoryPolicy, Problem> {
    match input.text("sharing") {
        Some("always") => policy.sharing = Sharing::Always,
        Some("never") => policy.sharing = Sharing::Never,
        Some(_) => policy.sharing = Sharing::Auto,
        None => {}
    }
    policy.balloons = input.boolean("balloons").unwrap_or(policy.balloons);
    let permille = [
        ("reserve_permille", &mut policy.reserve_permille),
        ("squeeze_below_permille", &mut policy.squeeze_below_permille),
        ("share_below_permille", &mut policy.share_below_permille),
        ("overcommit_permille", &mut policy.overcommit_permille),
        ("floor_permille", &mut policy.floor_permille),
        ("start_permille", &mut policy.start_permille),
        ("ksm_cpu_permille", &mut policy.ksm_cpu_permille),
    ];
    for (name, value) in permille {
        if let Some(given) = input.number(name) {
            // What is too large stays so, and is refused below.
            *value = u32::try_from(given).unwrap_or(u32::MAX);
        }
    }
    for (name, value) in
        [("reserve_least_mib", &mut policy.reserve_least_mib), ("ksm_pay_mib", &mut policy.ksm_pay_mib)]
    {
        *value = input.number(name).map_or(*value, MiB);
    }
    if let Some(trust) = input.text("trust") {
        policy.trust = (!trust.is_empty()).then(|| trust.to_owned());
    }
    match policy.problem() {
        None => Ok(policy),
        Some(problem) => {
            let pointer = problem.split(' ').next().unwrap_or_default();
            Err(Problem::fault(format!("/{pointer}"), problem)
                .advice("Give another value; `roost host memory` shows them."))
        }
    }
}

async fn asked(api: &Api, input: &Input) -> Result<HostId, Problem> {
    let wanted = input.required("ref")?.to_owned();
    api.handle.read(move |grid, _, _| find::host(grid, &wanted).map(|host| host.id)).await?
}

#[cfg(test)]
mod test {
    use roost_protocol::memory::InForce;

    use super::*;

    /// What the change begins with, or the word of the refusal.
    fn begins(said: Option<Option<u32>>, heard: Result<Option<InForce>, FailureCode>) -> Result<u32, String> {
        let said = said.map(|policy| MemoryOrder { policy: policy.map(dense) });
        let report = heard.map(|policy| MemoryReport { policy, ..MemoryReport::default() });
        let base = base(said, report.map_err(|code| Failure { code, text: "t".into() }));
        base.map(|policy| policy.overcommit_permille).map_err(|why| why.json(None)["code"].as_str().unwrap().to_owned())
    }

    fn dense(overcommit_permille: u32) -> MemoryPolicy {
        MemoryPolicy { overcommit_permille, ..MemoryPolicy::default() }
    }

    #[test]
    fn a_change_begins_with_what_was_said_last_else_with_what_the_host_follows() {
        let file = || Ok(Some(InForce::of(None, &dense(1_700))));
        let grid = || Ok(Some(InForce::of(Some(&dense(1_200)), &dense(1_700))));
        let away = || Err(FailureCode::HostUnreachable);
        assert_eq!(begins(None, file()), Ok(1_700));
        assert_eq!(begins(None, grid()), Ok(1_200), "a grid that lost all");
        assert_eq!(begins(Some(Some(900)), grid()), Ok(900), "the host has not heard it yet");
        assert_eq!(begins(Some(Some(900)), away()), Ok(900));
        assert_eq!(begins(Some(None), file()), Ok(1_700));
        let refused = |said, heard| begins(said, heard).unwrap_err();
        assert_eq!(refused(Some(None), grid()), "busy");
        assert_eq!(refused(None, away()), "host_unreachable");
        assert_eq!(refused(None, Ok(None)), "unsupported", "an older agent");
        assert_eq!(refused(Some(Some(900)), Err(FailureCode::Unsupported)), "unsupported", "it doesn't tune");
    }
}
