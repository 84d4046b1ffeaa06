//! Operations: slow work, watched and cancelled.

use std::time::Duration;

use roost_aggregator_core::{Call, Grid};
use roost_protocol::OperationId;
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;

use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::page::{Wanted, thing, version};
use crate::api::problem::Problem;
use crate::api::version::Version;
use crate::api::view::{OperationView, operation_state};
use crate::auth::Caller;

/// Longest wait a caller may ask for; proxies cut connections that are silent for longer.
pub(crate) const WAIT_MOST_S: u64 = 60;

pub(crate) async fn list(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<OperationView<'_>>(&input)?;
    let page = api.handle.read(move |grid, _, _| {
        let fits = |view: &OperationView<'_>| {
            let operation = view.operation;
            let about = |wanted: &str| operation.guest.to_string() == wanted || operation.host.to_string() == wanted;
            input.text("state").is_none_or(|state| operation_state(operation) == state)
                && input.text("resource").is_none_or(about)
        };
        let all = grid.operations().values().map(|operation| view(grid, operation));
        wanted.page(all.filter(fits))
    });
    Ok(Output::List(page.await?))
}

fn view<'a>(grid: &'a Grid, operation: &'a roost_aggregator_core::operation::Operation) -> OperationView<'a> {
    let host_name = grid.hosts().get(&operation.host).map(|host| host.name.as_str());
    OperationView { operation, host_name }
}

pub(crate) async fn get(api: &Api, _: &Caller, input: Input) -> Done {
    let id = id(&input)?;
    let (value, version) = until_ended(api, id, input.number("wait").unwrap_or(0)).await?;
    Ok(Output::Thing(value, version))
}

pub(crate) async fn wait(api: &Api, _: &Caller, input: Input) -> Done {
    let id = id(&input)?;
    let (value, version) = until_ended(api, id, input.number("seconds").unwrap_or(0)).await?;
    Ok(Output::Thing(value, version))
}

pub(crate) async fn cancel(api: &Api, caller: &Caller, mut input: Input) -> Done {
    let operation = id(&input)?;
    let only_if = input.only_if(move |grid, _, _| Some(version(&view(grid, grid.operations().get(&operation)?))));
    api.handle.call_if(&caller.user, Call::Cancel { operation }, only_if).await?;
    Ok(Output::Object(now(api, operation).await?.1.0))
}

fn id(input: &Input) -> Result<OperationId, Problem> {
    let text = input.required("id")?;
    text.parse().map_err(|_| Problem::not_found("operation", text))
}

/// How the operation stands when it has ended, or after that long.
pub(crate) async fn until_ended(api: &Api, id: OperationId, seconds: u64) -> Result<(Value, Version), Problem> {
    // Listening begins before looking, so that an end in between is not missed.
    let mut events = api.handle.subscribe();
    let (ended, value) = now(api, id).await?;
    if ended || seconds == 0 {
        return Ok(value);
    }
    let watch = async {
        loop {
            match events.recv().await {
                Ok(event) if event.operation != Some(id) => continue,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Err(Problem::from(crate::handle::Away)),
            }
            let (ended, value) = now(api, id).await?;
            if ended {
                return Ok(value);
            }
        }
    };
    match tokio::time::timeout(Duration::from_secs(seconds.min(WAIT_MOST_S)), watch).await {
        Ok(ended) => ended,
        Err(_) => Ok(now(api, id).await?.1),
    }
}

async fn now(api: &Api, id: OperationId) -> Result<(bool, (Value, Version)), Problem> {
    let found = api.handle.read(move |grid, _, _| {
        let operation = grid.operations().get(&id)?;
        Some((operation.state.ended(), thing(&view(grid, operation))))
    });
    found.await?.ok_or_else(|| Problem::not_found("operation", &id.to_string()))
}
