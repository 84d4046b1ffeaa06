//! Join tokens for hosts, API tokens for programs. Each is shown once and kept as a hash.

use roost_aggregator_core::Call;
use roost_aggregator_core::intent::{ApiTokenRecord, JoinTokenRecord};
use roost_protocol::Millis;
use roost_protocol::enrol::JoinToken;
use serde_json::json;

use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::page::{Wanted, show_all};
use crate::api::problem::Problem;
use crate::api::view::Named;
use crate::auth::{API_TOKEN, Caller, Secret, end, random};
use crate::clock;

/// Life of a join token unless asked otherwise, and at most.
const JOIN_TTL: Millis = Millis::seconds(3_600);
const JOIN_TTL_MOST: Millis = Millis::seconds(7 * 24 * 3_600);
/// Life of an API token unless asked otherwise, and at most.
const API_TTL: Millis = Millis::seconds(90 * 24 * 3_600);
const API_TTL_MOST: Millis = Millis::seconds(10 * 365 * 24 * 3_600);
/// Letters of a token's name.
const NAME: usize = 256;

pub(crate) async fn list_join(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<Named<'_, JoinTokenRecord>>(&input)?;
    let page = api.handle.read(move |grid, _, _| {
        let unused = grid.intent().join_tokens.iter().filter(|(_, record)| record.used.is_none());
        wanted.page(unused.map(|(name, record)| Named { name, record }))
    });
    Ok(Output::List(page.await?))
}

pub(crate) async fn create_join(api: &Api, caller: &Caller, input: Input) -> Done {
    let ttl = ttl(&input, JOIN_TTL, JOIN_TTL_MOST)?;
    let note = name(&input)?;
    let token = JoinToken::mint(api.handle.key.fingerprint(), random().map_err(no_random)?);
    let now = clock::wall();
    let record = JoinTokenRecord {
        secret_hash: token.secret_hash(),
        created: now,
        expires: end(now, ttl),
        created_by: caller.user.clone(),
        used_by: None,
        used: None,
        note,
    };
    let mut value = show_all(&Named { name: &token.id(), record: &record });
    value["token"] = json!(token.reveal());
    api.handle.call(&caller.user, Call::PutJoinToken { id: token.id(), record }).await?;
    Ok(Output::Object(value))
}

pub(crate) async fn delete_join(api: &Api, caller: &Caller, input: Input) -> Done {
    let id = input.required("id")?.to_owned();
    api.handle.call(&caller.user, Call::DeleteJoinToken { id }).await?;
    Ok(Output::Nothing)
}

pub(crate) async fn list_api(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<Named<'_, ApiTokenRecord>>(&input)?;
    let page = api.handle.read(move |grid, _, _| {
        wanted.page(grid.intent().api_tokens.iter().map(|(name, record)| Named { name, record }))
    });
    Ok(Output::List(page.await?))
}

pub(crate) async fn create_api(api: &Api, caller: &Caller, input: Input) -> Done {
    let ttl = ttl(&input, API_TTL, API_TTL_MOST)?;
    let name = name(&input)?;
    let secret = Secret::new(API_TOKEN).map_err(no_random)?;
    let now = clock::wall();
    let (user, wanted) = (caller.user.clone(), name.clone());
    let taken = api.handle.read(move |grid, _, _| {
        grid.intent().api_tokens.values().any(|token| token.user == user && token.name == wanted)
    });
    if taken.await? {
        return Err(Problem::new("already_exists", format!("You have an API token named {name:?} already.")));
    }
    let record =
        ApiTokenRecord { hash: secret.hash(), user: caller.user.clone(), name, created: now, expires: end(now, ttl) };
    let mut value = show_all(&Named { name: &secret.id(), record: &record });
    value["token"] = json!(secret.reveal());
    api.handle.call(&caller.user, Call::PutApiToken { id: secret.id(), record }).await?;
    Ok(Output::Object(value))
}

pub(crate) async fn delete_api(api: &Api, caller: &Caller, input: Input) -> Done {
    let id = input.required("id")?.to_owned();
    api.handle.call(&caller.user, Call::DeleteApiToken { id }).await?;
    Ok(Output::Nothing)
}

fn ttl(input: &Input, default: Millis, most: Millis) -> Result<Millis, Problem> {
    let ttl = input.number("ttl_s").map_or(default, Millis::seconds);
    if ttl == Millis(0) || ttl > most {
        return Err(Problem::fault("/ttl_s", format!("must be 1 to {}", most.0 / 1_000)));
    }
    Ok(ttl)
}

fn name(input: &Input) -> Result<String, Problem> {
    let name = input.text("name").unwrap_or_default();
    if name.len() > NAME || name.chars().any(char::is_control) {
        return Err(Problem::fault("/name", format!("must have at most {NAME} bytes and no line break")));
    }
    Ok(name.to_owned())
}

fn no_random(error: impl std::fmt::Display) -> Problem {
    tracing::error!("{error}");
    Problem::new("internal", "The system gives no random bytes.")
}
