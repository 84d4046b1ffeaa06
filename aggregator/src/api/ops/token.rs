//! Join tokens for hosts, API tokens for programs. Each is shown once and kept as a hash.

use roost_aggregator_core::account::Account;
use roost_aggregator_core::intent::{ApiTokenRecord, JoinTokenRecord};
use roost_aggregator_core::{Call, Grid};
use roost_protocol::enrol::{JoinToken, NAME as HOST_NAME};
use roost_protocol::{Millis, Stamp};
use serde_json::json;

use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::page::{Wanted, show_all, thing, version};
use crate::api::problem::Problem;
use crate::api::view::{JoinTokenView, Named, join_token_state};
use crate::auth::{API_TOKEN, Caller, Secret, end, random};
use crate::clock;
use crate::listen::is_host_name;

/// Life of a join token unless asked otherwise, and at most.
const JOIN_TTL: Millis = Millis::seconds(3_600);
const JOIN_TTL_MOST: Millis = Millis::seconds(7 * 24 * 3_600);
/// Life of an API token unless asked otherwise, and at most.
const API_TTL: Millis = Millis::seconds(90 * 24 * 3_600);
const API_TTL_MOST: Millis = Millis::seconds(10 * 365 * 24 * 3_600);
/// Bytes of a token's name or note.
const LABEL: usize = 256;

pub(crate) async fn list_join(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<JoinTokenView<'_>>(&input)?;
    let page = api.handle.read(move |grid, _, wall| {
        let fits = |view: &JoinTokenView<'_>| {
            input.text("state").is_none_or(|state| join_token_state(view.record, wall) == state)
        };
        let all = grid.intent().join_tokens.iter().map(|(id, record)| join_token(grid, id, record, wall));
        wanted.page(all.filter(fits))
    });
    Ok(Output::List(page.await?))
}

fn join_token<'a>(grid: &'a Grid, id: &'a str, record: &'a JoinTokenRecord, wall: Stamp) -> JoinTokenView<'a> {
    let host_name = record.used_by.and_then(|host| grid.intent().hosts.get(&host)).map(|host| host.name.as_str());
    JoinTokenView { id, record, host_name, wall }
}

pub(crate) async fn get_join(api: &Api, _: &Caller, input: Input) -> Done {
    let id = input.required("id")?.to_owned();
    let token = api.handle.read(move |grid, _, wall| {
        let record = grid.intent().join_tokens.get(&id).ok_or_else(|| Problem::not_found("join token", &id))?;
        Ok::<_, Problem>(thing(&join_token(grid, &id, record, wall)))
    });
    let (value, version) = token.await??;
    Ok(Output::Thing(value, version))
}

pub(crate) async fn create_join(api: &Api, caller: &Caller, input: Input) -> Done {
    let ttl = ttl(&input, JOIN_TTL, JOIN_TTL_MOST)?;
    let (host_name, note) = (host_name(&input)?, label(&input, "note")?);
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
        host_name,
    };
    let mut value = show_all(&JoinTokenView { id: &token.id(), record: &record, host_name: None, wall: now });
    value["token"] = json!(token.reveal());
    api.handle.call(&caller.user, Call::PutJoinToken { id: token.id(), record }).await?;
    Ok(Output::Object(value))
}

/// The name the host gets: as the machine itself would have to give it.
fn host_name(input: &Input) -> Result<Option<String>, Problem> {
    let Some(name) = input.text("name") else { return Ok(None) };
    if is_host_name(name) {
        return Ok(Some(name.to_owned()));
    }
    let rule = format!("must be a host's name: 1 to {HOST_NAME} letters a-z, digits, dots, dashes or underscores");
    Err(Problem::fault("/name", format!("{rule}; what it is for goes into `note`")))
}

pub(crate) async fn delete_join(api: &Api, caller: &Caller, mut input: Input) -> Done {
    let id = input.required("id")?.to_owned();
    let wanted = id.clone();
    let only_if = input.only_if(move |grid, _, wall| {
        let record = grid.intent().join_tokens.get(&wanted)?;
        Some(version(&join_token(grid, &wanted, record, wall)))
    });
    api.handle.call_if(&caller.user, Call::DeleteJoinToken { id }, only_if).await?;
    Ok(Output::Nothing)
}

pub(crate) async fn list_api(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<Named<'_, ApiTokenRecord>>(&input)?;
    let page = api.handle.read(move |grid, _, _| {
        wanted.page(grid.intent().api_tokens.iter().map(|(id, record)| api_token(grid, id, record)))
    });
    Ok(Output::List(page.await?))
}

fn api_token<'a>(grid: &Grid, id: &'a str, record: &'a ApiTokenRecord) -> Named<'a, ApiTokenRecord> {
    Named { name: id, record, last_use: grid.uses().get(&Account::ApiToken(id.to_owned())).copied() }
}

pub(crate) async fn get_api(api: &Api, _: &Caller, input: Input) -> Done {
    let id = input.required("id")?.to_owned();
    let token = api.handle.read(move |grid, _, _| {
        let record = grid.intent().api_tokens.get(&id).ok_or_else(|| Problem::not_found("API token", &id))?;
        Ok::<_, Problem>(thing(&api_token(grid, &id, record)))
    });
    let (value, version) = token.await??;
    Ok(Output::Thing(value, version))
}

pub(crate) async fn create_api(api: &Api, caller: &Caller, input: Input) -> Done {
    let ttl = ttl(&input, API_TTL, API_TTL_MOST)?;
    let name = label(&input, "name")?;
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
    let mut value = show_all(&Named { name: &secret.id(), record: &record, last_use: None });
    value["token"] = json!(secret.reveal());
    api.handle.call(&caller.user, Call::PutApiToken { id: secret.id(), record }).await?;
    Ok(Output::Object(value))
}

pub(crate) async fn delete_api(api: &Api, caller: &Caller, mut input: Input) -> Done {
    let id = input.required("id")?.to_owned();
    let wanted = id.clone();
    let only_if = input
        .only_if(move |grid, _, _| Some(version(&api_token(grid, &wanted, grid.intent().api_tokens.get(&wanted)?))));
    api.handle.call_if(&caller.user, Call::DeleteApiToken { id }, only_if).await?;
    Ok(Output::Nothing)
}

fn ttl(input: &Input, default: Millis, most: Millis) -> Result<Millis, Problem> {
    let ttl = input.number("ttl_s").map_or(default, Millis::seconds);
    if ttl == Millis(0) || ttl > most {
        return Err(Problem::fault("/ttl_s", format!("must be 1 to {}", most.0 / 1_000)));
    }
    Ok(ttl)
}

/// A text for people.
fn label(input: &Input, name: &str) -> Result<String, Problem> {
    let text = input.text(name).unwrap_or_default();
    if text.len() > LABEL || text.chars().any(char::is_control) {
        return Err(Problem::fault(format!("/{name}"), format!("must have at most {LABEL} bytes and no line break")));
    }
    Ok(text.to_owned())
}

fn no_random(error: impl std::fmt::Display) -> Problem {
    tracing::error!("{error}");
    Problem::new("internal", "The system gives no random bytes.")
}
