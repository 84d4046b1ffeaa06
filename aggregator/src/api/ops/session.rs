//! Log-ins.

use serde_json::json;

use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::page::{Wanted, show_all, thing, version};
use crate::api::problem::Problem;
use crate::api::version::changed;
use crate::auth::{Caller, Session, Via};

pub(crate) async fn login(api: &Api, caller: &Caller, input: Input) -> Done {
    let (user, password) = (input.required("user")?, input.required("password")?.to_owned());
    let logged_in = match api.auth.login(user, password, caller.address, (api.now)()).await {
        Ok(logged_in) => logged_in,
        Err(error) => {
            // Debug escapes the name: it is the caller's text.
            tracing::warn!(user = ?user, address = %caller.address, %error, "log-in failed");
            return Err(error.into());
        }
    };
    let mut value = show_all(&&logged_in.session);
    value["token"] = json!(logged_in.secret.reveal());
    Ok(Output::Object(value))
}

pub(crate) async fn list(api: &Api, _: &Caller, input: Input) -> Done {
    let sessions = api.auth.sessions((api.now)());
    Ok(Output::List(Wanted::of::<&Session>(&input)?.page(sessions.iter())))
}

pub(crate) async fn get(api: &Api, caller: &Caller, input: Input) -> Done {
    let (value, version) = thing(&&one(api, caller, &input)?);
    Ok(Output::Thing(value, version))
}

pub(crate) async fn logout(api: &Api, caller: &Caller, input: Input) -> Done {
    let session = one(api, caller, &input)?;
    // A session is never changed, only used.
    if input.if_match.is_some_and(|tags| !tags.hold(&version(&&session))) {
        return Err(changed().into());
    }
    if api.auth.logout(&session.id) { Ok(Output::Nothing) } else { Err(Problem::not_found("session", &session.id)) }
}

fn one(api: &Api, caller: &Caller, input: &Input) -> Result<Session, Problem> {
    let wanted = input.required("id")?;
    let id = match (&caller.via, wanted) {
        (Via::Session(id), "current") => id,
        (Via::Session(_) | Via::ApiToken(_) | Via::Link | Via::Nobody, id) => id,
    };
    let session = api.auth.sessions((api.now)()).into_iter().find(|session| session.id == id);
    session.ok_or_else(|| Problem::not_found("session", wanted))
}
