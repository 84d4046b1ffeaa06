//! Newer images of hosts, and the restarts that they are used from.

use roost_aggregator_core::Call;
use roost_protocol::look::Newer;
use serde_json::json;

use super::fence::{asked, if_unchanged, shown};
use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::problem::Problem;
use crate::api::view::facts::next_image;
use crate::auth::Caller;
use crate::look;

/// Begins a search or tells of the one that goes on; whoever asks again is told of its end.
pub(crate) async fn fetch(api: &Api, _: &Caller, input: Input) -> Done {
    let host = asked(api, &input).await?;
    api.handle.read(move |grid, _, _| grid.may_look_for_image(host).map_err(Problem::from)).await??;
    let newer = look::newer_image(&api.handle, host).await?.map_err(Problem::from)?;
    Ok(Output::Object(match newer {
        Newer::Looking => json!({"state": "looking"}),
        Newer::Waits(image) => json!({"state": "waits", "image": next_image(&image)}),
        Newer::None => json!({"state": "none"}),
    }))
}

/// Begins it; the host goes soon after the answer.
pub(crate) async fn reboot(api: &Api, caller: &Caller, mut input: Input) -> Done {
    let host = asked(api, &input).await?;
    let only_if = if_unchanged(&mut input, host);
    let may = api.handle.read(move |grid, now, wall| {
        only_if.map_or(Ok(()), |holds| holds(grid, now, wall))?;
        grid.may_reboot(host).map_err(Problem::from)
    });
    let boot = may.await??;
    // First: of a host that goes at once no answer comes.
    api.handle.call(&caller.user, Call::RebootBegun { host }).await?;
    look::reboot(&api.handle, host, boot).await?.map_err(Problem::from)?;
    shown(api, host).await
}
