//! Events: history, and following them.

use roost_aggregator_core::event::GridEvent;

use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::page::Wanted;
use crate::api::problem::Problem;
use crate::api::stream::Follow;
use crate::auth::Caller;

pub(crate) async fn list(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<&GridEvent>(&input)?;
    let page = api.handle.read(move |grid, _, _| {
        let events = match input.number("since") {
            Some(since) => grid.events_after(since, usize::MAX).ok_or_else(trimmed)?,
            None => grid.events_newest(usize::MAX),
        };
        let kind = input.text("kind").unwrap_or_default();
        Ok::<_, Problem>(wanted.page(events.iter().filter(|event| event.kind.starts_with(kind))))
    });
    Ok(Output::List(page.await??))
}

pub(crate) async fn stream(api: &Api, caller: &Caller, input: Input) -> Done {
    let kind = input.text("kind").unwrap_or_default().to_owned();
    Ok(Output::Stream(Box::new(Follow::begin(api, caller, input.number("since"), kind).await?)))
}

/// What was asked for is not kept any more.
pub(crate) fn trimmed() -> Problem {
    Problem::new("trimmed", "Some of the events after that one are no longer kept.")
        .advice("Begin anew without a sequence number, and read the lists of hosts and guests once.")
}
