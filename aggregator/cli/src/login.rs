//! Logging in and out, and the contexts that are kept of it.

use std::collections::BTreeMap;

use clap::ArgMatches;
use roost_registry::find;
use serde_json::json;

use crate::ask;
use crate::client::{self, Client, Request};
use crate::context::{self, Connection, Context, Contexts, Trust, Wanted};
use crate::failure::{Exit, Failure};
use crate::input::{switch, text};
use crate::out::{Out, clean};
use crate::run::Surroundings;
use crate::trust;

/// Logs in, and keeps server, trust and session as the context in use.
pub(crate) fn login(
    matches: &ArgMatches,
    wanted: &Wanted,
    around: &Surroundings,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let mut contexts = context::load(around)?;
    let url = address(matches, wanted, around, &contexts)?;
    let before = contexts.contexts.iter().find(|(_, context)| context.url == url.as_str());
    let before = before.map(|(name, context)| (name.clone(), context.clone()));
    let kept = before.as_ref().map(|(_, context)| context);
    let trust = believe(matches, wanted, around, &url, kept, out)?;
    let user = text(matches, "user").or_else(|| kept?.user.clone()).unwrap_or_else(|| "admin".to_owned());
    let password = ask::password(&format!("Password of {}", clean(&user)), switch(matches, "password-stdin"))?;
    let token = session(&url, &trust, &user, &password)?;

    let name = text(matches, "name").or_else(|| Some(before?.0)).unwrap_or_else(|| free_name(&url, &contexts));
    let ca = match trust {
        Trust::Pem(pem) => Some(pem),
        Trust::System => None,
    };
    let kept = Context { url: url.to_string(), user: Some(user.clone()), ca, token: Some(token) };
    contexts.contexts.insert(name.clone(), kept);
    contexts.current = Some(name.clone());
    context::save(around, &contexts)?;
    out.say(&format!("logged in to {url} as {}; context {} is in use", clean(&user), clean(&name)));
    Ok(())
}

/// The server that is named, or that of the context.
fn address(
    matches: &ArgMatches,
    wanted: &Wanted,
    around: &Surroundings,
    contexts: &Contexts,
) -> Result<reqwest::Url, Failure> {
    let given = text(matches, "server").or_else(|| wanted.url.clone()).or_else(|| around.var("ROOST_URL"));
    let of_context = || {
        let name =
            wanted.context.clone().or_else(|| around.var("ROOST_CONTEXT")).or_else(|| contexts.current.clone())?;
        Some(contexts.contexts.get(&name)?.url.clone())
    };
    let no_server = || Failure::usage("log in", "no server is named", "roost login https://HOST:8443");
    client::url(&given.or_else(of_context).ok_or_else(no_server)?)
}

fn session(url: &reqwest::Url, trust: &Trust, user: &str, password: &str) -> Result<String, Failure> {
    let connection = Connection { url: url.to_string(), trust: trust.clone(), token: None, source: String::new() };
    let gone = || Failure::new(Exit::Failed, "log in", "session.login is not in the table", "report this");
    let operation = find("session.login").ok_or_else(gone)?;
    let body = Some(json!({"user": user, "password": password}));
    let request = Request { path: vec!["sessions".into()], query: Vec::new(), body };
    let answer = Client::new(&connection)?.call(operation, &format!("log in as {user}"), &request)?;
    let token = answer.body["token"].as_str().map(str::to_owned);
    token.ok_or_else(|| Failure::new(Exit::Login, "log in", "the server gave no token", "roost doctor"))
}

/// The server's name; with its port where a context of another server has that name.
fn free_name(url: &reqwest::Url, contexts: &Contexts) -> String {
    let host = url.host_str().unwrap_or("default").to_owned();
    match url.port() {
        Some(port) if contexts.contexts.contains_key(&host) => format!("{host}:{port}"),
        Some(_) | None => host,
    }
}

/// Whose certificates to believe: a CA that was given, a fingerprint that was given, those of the log-in before while they
/// vouch for the server, the machine's CAs if they do, and else the person at the terminal.
fn believe(
    matches: &ArgMatches,
    wanted: &Wanted,
    around: &Surroundings,
    url: &reqwest::Url,
    before: Option<&Context>,
    out: &mut Out<'_>,
) -> Result<Trust, Failure> {
    let file = wanted.ca.clone().or_else(|| around.var("ROOST_CA").map(Into::into));
    if let Some(path) = file {
        let read = std::fs::read_to_string(&path);
        return read
            .map(Trust::Pem)
            .map_err(|cause| Failure::usage(format!("read {}", path.display()), cause.to_string(), "check the path"));
    }
    if url.scheme() == "http" {
        return Ok(Trust::System);
    }
    let pinned = text(matches, "fingerprint");
    if pinned.is_none() {
        let known = before.and_then(|context| context.ca.clone()).map(Trust::Pem);
        let vouching = known.into_iter().chain([Trust::System]).find(|trust| vouched_for(url, trust));
        if let Some(trust) = vouching {
            return Ok(trust);
        }
    }
    let shown = trust::ask(url)?;
    match pinned {
        Some(pinned) if trust::same(&pinned, &shown.fingerprint) => {}
        Some(_) => {
            let why = format!("the server shows {}", shown.fingerprint);
            return Err(Failure::new(
                Exit::Login,
                "believe the server",
                why,
                "check the address, and compare with `roost-aggregator ca` on the server",
            ));
        }
        None => question(&shown, url, out)?,
    }
    Ok(Trust::Pem(shown.pem))
}

fn vouched_for(url: &reqwest::Url, trust: &Trust) -> bool {
    let connection = Connection { url: url.to_string(), trust: trust.clone(), token: None, source: String::new() };
    Client::new(&connection).and_then(|client| client.outside("healthz")).is_ok()
}

fn question(shown: &trust::Shown, url: &reqwest::Url, out: &mut Out<'_>) -> Result<(), Failure> {
    let no = |why: &str| {
        Failure::new(
            Exit::Login,
            format!("believe {url}"),
            why.to_owned(),
            "`roost-aggregator ca` on the server shows its fingerprint; give it with --fingerprint, or the CA with --ca FILE",
        )
    };
    if !ask::can_ask() {
        return Err(no("its certificate is not known here, and there is nobody to ask"));
    }
    out.say(&format!("{url} is not known here. The key of its grid has the fingerprint\n  {}", shown.fingerprint));
    if ask::yes(out, "Is that the one shown on the server?")? { Ok(()) } else { Err(no("not agreed to")) }
}

/// Ends the session of the context in use and forgets its token.
pub(crate) fn logout(wanted: &Wanted, around: &Surroundings, out: &mut Out<'_>) -> Result<(), Failure> {
    let mut contexts = context::load(around)?;
    let name = wanted.context.clone().or_else(|| contexts.current.clone());
    let name = name.ok_or_else(|| Failure::usage("log out", "no context is in use", "roost context list"))?;
    let had_token = contexts.contexts.get(&name).is_some_and(|context| context.token.is_some());
    if contexts.contexts.contains_key(&name) && !had_token {
        out.say(&format!("nobody is logged in to {}", clean(&name)));
        return Ok(());
    }
    let chosen = Wanted { context: Some(name.clone()), url: None, ca: wanted.ca.clone() };
    let alone = Surroundings { vars: without_token(around), directory: around.directory.clone() };
    let ended = context::resolve(&chosen, &alone).and_then(|connection| {
        let request = Request { path: vec!["sessions".into(), "current".into()], ..Request::default() };
        Client::new(&connection)?.send(reqwest::Method::DELETE, "log out", &request)
    });
    if let Some(context) = contexts.contexts.get_mut(&name) {
        context.token = None;
    }
    context::save(around, &contexts)?;
    match ended {
        Ok(_) => out.say(&format!("logged out of {}", clean(&name))),
        // The session was over already.
        Err(failure) if failure.exit == Exit::Login => {
            out.say(&format!("the session of {} had ended already", clean(&name)))
        }
        Err(failure) => return Err(failure),
    }
    Ok(())
}

fn without_token(around: &Surroundings) -> BTreeMap<String, String> {
    around.vars.iter().filter(|(name, _)| *name != "ROOST_TOKEN").map(|(n, v)| (n.clone(), v.clone())).collect()
}

/// `roost context list|use|delete`.
pub(crate) fn contexts(matches: &ArgMatches, around: &Surroundings, out: &mut Out<'_>) -> Result<(), Failure> {
    let mut contexts = context::load(around)?;
    let Some((verb @ ("use" | "delete"), rest)) = matches.subcommand() else {
        for (name, context) in &contexts.contexts {
            let mark = if contexts.current.as_ref() == Some(name) { '*' } else { ' ' };
            let user = context.user.as_deref().unwrap_or("-");
            let state = if context.token.is_some() { "logged in" } else { "logged out" };
            out.data(&format!("{mark} {}  {}  {}  {state}\n", clean(name), clean(&context.url), clean(user)));
        }
        return Ok(());
    };
    let name = text(rest, "name").unwrap_or_default();
    if !contexts.contexts.contains_key(&name) {
        let near = crate::failure::nearest(&name, contexts.contexts.keys().map(String::as_str));
        let hint = near.map_or_else(|| "roost context list".to_owned(), |near| format!("did you mean {near}?"));
        return Err(Failure::usage(format!("{verb} context {name}"), "there is no such context", hint));
    }
    if verb == "use" {
        contexts.current = Some(name);
    } else {
        contexts.contexts.remove(&name);
        contexts.current = contexts.current.filter(|current| *current != name);
        out.say(&format!("forgot context {}", clean(&name)));
    }
    context::save(around, &contexts)
}
