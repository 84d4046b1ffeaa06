//! Tests of hosts' watchdogs.

use roost_aggregator_core::Call;

use super::fence::{asked, if_unchanged, shown};
use crate::api::Api;
use crate::api::dispatch::Done;
use crate::api::input::Input;
use crate::api::problem::Problem;
use crate::auth::Caller;
use crate::look;

/// Begins it; the host is ended soon after the answer.
pub(crate) async fn test(api: &Api, caller: &Caller, mut input: Input) -> Done {
    let host = asked(api, &input).await?;
    let only_if = if_unchanged(&mut input, host);
    let may = api.handle.read(move |grid, now, wall| {
        only_if.map_or(Ok(()), |holds| holds(grid, now, wall))?;
        grid.may_test_watchdog(host).map_err(Problem::from)
    });
    may.await??;
    look::test_watchdog(&api.handle, host).await?.map_err(Problem::from)?;
    api.handle.call(&caller.user, Call::WatchdogTestBegun { host }).await?;
    shown(api, host).await
}
