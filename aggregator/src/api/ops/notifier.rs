//! Notifiers: who is told of alarms, and whether that works.

use roost_aggregator_core::notify::{Digest, Hidden, Mail, MailTls, Notifier, Snmp, Syslog, Way, Webhook};
use roost_aggregator_core::{Call, Grid};
use roost_protocol::Millis;
use roost_protocol::alarm::{SEVERITIES, Severity};
use serde_json::Value;

use crate::api::Api;
use crate::api::dispatch::{Done, Output};
use crate::api::input::Input;
use crate::api::page::{Wanted, show_all, thing, version};
use crate::api::problem::Problem;
use crate::api::view::notify::NotifierView;
use crate::auth::Caller;
use crate::clock;

/// What comes within this after the first change travels with it: people rather get one mail, programs know at once.
const GATHER_MAIL: Millis = Millis::seconds(30);
const GATHER: Millis = Millis::seconds(2);

pub(crate) async fn list(api: &Api, _: &Caller, input: Input) -> Done {
    let wanted = Wanted::of::<NotifierView<'_>>(&input)?;
    let page = api.handle.read(move |grid, _, _| {
        let all = grid.intent().telling.notifiers.values();
        wanted.page(all.map(|notifier| NotifierView { grid, notifier }))
    });
    Ok(Output::List(page.await?))
}

fn one<'a>(grid: &'a Grid, name: &str) -> Option<NotifierView<'a>> {
    Some(NotifierView { grid, notifier: grid.intent().telling.notifiers.get(name)? })
}

pub(crate) async fn get(api: &Api, _: &Caller, input: Input) -> Done {
    let name = input.required("name")?.to_owned();
    let found = api.handle.read(move |grid, _, _| {
        let view = one(grid, &name).ok_or_else(|| Problem::not_found("notifier", &name))?;
        Ok::<_, Problem>(thing(&view))
    });
    let (value, version) = found.await??;
    Ok(Output::Thing(value, version))
}

pub(crate) async fn create(api: &Api, caller: &Caller, input: Input) -> Done {
    put(api, caller, input, true).await
}

pub(crate) async fn replace(api: &Api, caller: &Caller, input: Input) -> Done {
    put(api, caller, input, false).await
}

async fn put(api: &Api, caller: &Caller, mut input: Input, create: bool) -> Done {
    let notifier = Box::new(notifier(&input)?);
    let name = notifier.name.clone();
    let wanted = name.clone();
    let only_if = input.only_if(move |grid, _, _| Some(version(&one(grid, &wanted)?))).filter(|_| !create);
    api.handle.call_if(&caller.user, Call::PutNotifier { notifier, create }, only_if).await?;
    let made = api.handle.read(move |grid, _, _| one(grid, &name).map_or(Value::Null, |view| show_all(&view)));
    Ok(Output::Object(made.await?))
}

pub(crate) async fn delete(api: &Api, caller: &Caller, mut input: Input) -> Done {
    let name = input.required("name")?.to_owned();
    let wanted = name.clone();
    let only_if = input.only_if(move |grid, _, _| Some(version(&one(grid, &wanted)?)));
    api.handle.call_if(&caller.user, Call::DeleteNotifier { name }, only_if).await?;
    Ok(Output::Nothing)
}

/// Sends one that says it is a test, and answers with what came of it.
pub(crate) async fn test(api: &Api, _: &Caller, mut input: Input) -> Done {
    let name = input.required("name")?.to_owned();
    let wanted = name.clone();
    let only_if = input.only_if(move |grid, _, _| Some(version(&one(grid, &wanted)?)));
    let found = api.handle.read(move |grid, now, wall| {
        let view = one(grid, &name).ok_or_else(|| Problem::not_found("notifier", &name))?;
        only_if.map_or(Ok(()), |holds| holds(grid, now, wall))?;
        Ok::<_, Problem>(view.notifier.clone())
    });
    let notifier = found.await??;
    api.courier.deliver(&notifier, &Digest::trial(clock::wall())).await.map_err(|error| {
        Problem::new("target_away", format!("The test did not arrive: {}.", crate::chain(&error)))
            .advice("Check address, port, security and secret, and the receiver's log; of a file the room on its disk.")
    })?;
    Ok(Output::Nothing)
}

fn notifier(input: &Input) -> Result<Notifier, Problem> {
    let kind = input.required("kind")?;
    strangers(input, kind)?;
    let text = |name: &str| input.text(name).map(str::to_owned);
    let needed = |name: &str| {
        text(name)
            .ok_or_else(|| Problem::fault(format!("/{name}"), format!("is missing: a notifier by {kind} needs it")))
    };
    let way = match kind {
        "mail" => Way::Mail(Mail {
            server: needed("server")?,
            tls: match input.text("security") {
                Some("tls") => MailTls::Tls,
                Some("plain") => MailTls::Plain,
                _ => MailTls::StartTls,
            },
            user: text("user"),
            from: needed("from")?,
            to: texts(input, "to"),
        }),
        "webhook" => Way::Webhook(Webhook { url: needed("url")? }),
        "snmp" => Way::Snmp(Snmp {
            server: needed("server")?,
            user: text("user"),
            hosts_too: input.value("hosts_too").and_then(Value::as_bool).unwrap_or(false),
        }),
        "file" => Way::File,
        _ => Way::Syslog(Syslog { server: needed("server")?, tcp: input.text("transport") == Some("tcp") }),
    };
    let gather = if kind == "mail" { GATHER_MAIL } else { GATHER };
    let least = SEVERITIES.into_iter().find(|severity| input.text("severity") == Some(severity.word()));
    Ok(Notifier {
        name: input.required("name")?.to_owned(),
        way,
        least: least.unwrap_or(Severity::Warning),
        gather: input.number("gather_s").map_or(gather, Millis::seconds),
        ca: text("ca"),
        secret: text("secret").map(Hidden),
    })
}

/// Inputs that say nothing of this kind are mistakes, not decoration.
fn strangers(input: &Input, kind: &str) -> Result<(), Problem> {
    let own: &[&str] = match kind {
        "mail" => &["server", "security", "user", "from", "to", "secret", "ca"],
        "webhook" => &["url", "secret", "ca"],
        "snmp" => &["server", "user", "hosts_too", "secret"],
        "file" => &[],
        _ => &["server", "transport"],
    };
    let all = ["server", "security", "user", "from", "to", "secret", "ca", "url", "transport", "hosts_too"];
    match all.into_iter().find(|name| !own.contains(name) && input.value(name).is_some()) {
        Some(name) => Err(Problem::fault(format!("/{name}"), format!("says nothing of a notifier by {kind}"))),
        None => Ok(()),
    }
}

fn texts(input: &Input, name: &str) -> Vec<String> {
    let all = input.value(name).and_then(Value::as_array).into_iter().flatten();
    all.filter_map(Value::as_str).map(str::to_owned).collect()
}
