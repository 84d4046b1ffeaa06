//! Local users.

use roost_aggregator_core::account::Account;
use roost_aggregator_core::intent::UserRecord;
use roost_aggregator_core::{Call, Grid};

use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::page::{Wanted, show_all, thing, version};
use crate::api::problem::Problem;
use crate::api::view::Named;
use crate::auth::Caller;
use crate::clock;
use crate::handle::Condition;

/// Letters of a user's name.
const NAME: usize = 64;
/// Letters of a password: NIST SP 800-63B asks for 8 at least.
const PASSWORD: usize = 8;
const PASSWORD_MOST: usize = 1_024;

pub(crate) async fn list(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<Named<'_, UserRecord>>(&input)?;
    let page = api
        .handle
        .read(move |grid, _, _| wanted.page(grid.intent().users.iter().map(|(name, record)| user(grid, name, record))));
    Ok(Output::List(page.await?))
}

fn user<'a>(grid: &Grid, name: &'a str, record: &'a UserRecord) -> Named<'a, UserRecord> {
    Named { name, record, last_use: grid.uses().get(&Account::User(name.to_owned())).copied() }
}

pub(crate) async fn get(api: &Api, _: &Caller, input: Input) -> Done {
    let name = input.required("name")?.to_owned();
    let user = api.handle.read(move |grid, _, _| {
        let record = grid.intent().users.get(&name).ok_or_else(|| Problem::not_found("user", &name))?;
        Ok::<_, Problem>(thing(&user(grid, &name, record)))
    });
    let (value, version) = user.await??;
    Ok(Output::Thing(value, version))
}

pub(crate) async fn create(api: &Api, caller: &Caller, input: Input) -> Done {
    let name = checked_name(input.required("name")?)?.to_owned();
    let password = checked_password(input.required("password")?)?;
    let password_hash = api.auth.hash(password).await?;
    let record = UserRecord { password_hash, created: clock::wall(), full_name: String::new() };
    let value = show_all(&Named { name: &name, record: &record, last_use: None });
    api.handle.call(&caller.user, Call::PutUser { name, record, create: true }).await?;
    Ok(Output::Object(value))
}

pub(crate) async fn set_password(api: &Api, caller: &Caller, mut input: Input) -> Done {
    let name = input.required("name")?.to_owned();
    let password = checked_password(input.required("password")?)?;
    let wanted = name.clone();
    let record = api.handle.read(move |grid, _, _| grid.intent().users.get(&wanted).cloned()).await?;
    let record = record.ok_or_else(|| Problem::not_found("user", &name))?;
    let record = UserRecord { password_hash: api.auth.hash(password).await?, ..record };
    let only_if = unchanged(&mut input, &name);
    api.handle.call_if(&caller.user, Call::PutUser { name: name.clone(), record, create: false }, only_if).await?;
    api.auth.logout_user(&name);
    Ok(Output::Nothing)
}

pub(crate) async fn delete(api: &Api, caller: &Caller, mut input: Input) -> Done {
    let name = input.required("name")?.to_owned();
    let only_if = unchanged(&mut input, &name);
    api.handle.call_if(&caller.user, Call::DeleteUser { name: name.clone() }, only_if).await?;
    api.auth.logout_user(&name);
    Ok(Output::Nothing)
}

fn unchanged(input: &mut Input, name: &str) -> Option<Condition> {
    let name = name.to_owned();
    input.only_if(move |grid, _, _| Some(version(&user(grid, &name, grid.intent().users.get(&name)?))))
}

fn checked_name(name: &str) -> Result<&str, Problem> {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "._@-".contains(letter);
    let begins = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    if begins && name.len() <= NAME && name.chars().all(allowed) {
        return Ok(name);
    }
    let rule = format!("must be 1 to {NAME} of the letters a-z A-Z 0-9 . _ @ -, and begin with a letter or digit");
    Err(Problem::fault("/name", rule))
}

fn checked_password(password: &str) -> Result<String, Problem> {
    if password.chars().count() < PASSWORD || password.len() > PASSWORD_MOST {
        return Err(Problem::fault("/password", format!("must have {PASSWORD} to {PASSWORD_MOST} letters")));
    }
    Ok(password.to_owned())
}
