//! The one way from a face to an operation: may the caller, then the handler of that name. REST and XML-RPC both come
//! through here.

use futures_util::future::BoxFuture;
use roost_protocol::OperationId;
use roost_protocol::look::Picture;
use roost_registry::{Kind, Operation};
use serde_json::Value;

use super::Api;
use super::input::Input;
use super::ops::{
    alarm, backup, event, failover, fence, grid, guest, history, host, image, memory, notifier, operation, policy,
    room, session, silence, token, user, watchdog,
};
use super::page::Page;
use super::problem::Problem;
use super::replay::{self, Turn};
use super::stream::Follow;
use super::version::Version;
use crate::auth::{Caller, Via, authorize};

/// What an operation came to.
#[derive(Debug)]
pub(crate) enum Output {
    Object(Value),
    /// One thing that was read.
    Thing(Value, Version),
    List(Page),
    /// Slow work that goes on: its id and how it stands.
    Operation(OperationId, Value),
    Stream(Box<Follow>),
    Picture(Picture),
    Nothing,
}

pub(crate) type Done = Result<Output, Problem>;
type Handler = for<'a> fn(&'a Api, &'a Caller, Input) -> BoxFuture<'a, Done>;

/// Carries out an operation for a caller.
pub(crate) async fn run(api: &Api, caller: &Caller, operation: &Operation, input: Input) -> Done {
    if !operation.public {
        if caller.via == Via::Nobody {
            return Err(Problem::new("login_required", "This needs a log-in.")
                .advice("Send `Authorization: Bearer` with an API token or a session's token."));
        }
        if !authorize(caller, operation.permission) {
            let detail = format!("{} may not do {}.", caller.user, operation.permission);
            return Err(Problem::new("forbidden", detail));
        }
    }
    let none = || Problem::new("internal", format!("{} has no handler.", operation.name));
    let handler = handler(operation.name).ok_or_else(none)?;
    match input.key.clone().filter(|_| operation.keyed()).map(|key| (caller.user.clone(), key)) {
        Some(key) => once(api, caller, operation, input, key, handler).await,
        None => handler(api, caller, input).await,
    }
}

/// With a key: carried out once, and answered as then from then on.
async fn once(
    api: &Api,
    caller: &Caller,
    operation: &Operation,
    input: Input,
    key: replay::Key,
    handler: Handler,
) -> Done {
    if operation.kind == Kind::Slow {
        // The grid keeps these keys with its operations; here only others are known.
        return if api.replays.know(&key) { Err(replay::reused()) } else { handler(api, caller, input).await };
    }
    let of_operation = grid_key(&key.0, &key.1);
    if api.handle.read(move |grid, _, _| grid.operation_of_key(&of_operation).is_some()).await? {
        return Err(replay::reused());
    }
    match api.replays.begin(key, input.print(operation), (api.now)())? {
        Turn::Again(answer) => Ok(Output::Object(answer)),
        Turn::First(ticket) => {
            let done = handler(api, caller, input).await?;
            if let Output::Object(answer) = &done {
                ticket.keep(answer.clone());
            }
            Ok(done)
        }
    }
}

/// How the grid knows a key. User names have no slash, so that nobody meets another's keys.
pub(crate) fn grid_key(user: &str, key: &str) -> String {
    format!("{user}/{key}")
}

macro_rules! handlers {
    ($wanted:expr, $($name:literal => $handler:path,)*) => {
        match $wanted {
            $($name => {
                let handler: Handler = |api, caller, input| Box::pin($handler(api, caller, input));
                Some(handler)
            })*
            _ => None,
        }
    };
}

/// The handler of an operation; a test sees to it that each has one.
pub(crate) fn handler(name: &str) -> Option<Handler> {
    let others = backup_handler(name).or_else(|| alarm_handler(name)).or_else(|| memory_handler(name));
    if let Some(handler) = others {
        return Some(handler);
    }
    handlers! { name,
        "host.list" => host::list,
        "host.get" => host::get,
        "host.maintenance" => host::maintenance,
        "host.set_zone" => host::set_zone,
        "host.drain" => host::drain,
        "host.set_fence" => fence::set,
        "host.test_fence" => fence::test,
        "host.clear_fence" => fence::clear,
        "host.test_watchdog" => watchdog::test,
        "host.fetch_image" => image::fetch,
        "host.reboot" => image::reboot,
        "host.resume" => host::resume,
        "host.history" => history::of_host,
        "report.guests" => history::report_of_guests,
        "host.report" => history::report_of_host,
        "guest.report" => history::report_of_guest,
        "guest.history" => history::of_guest,
        "host.if_lost" => failover::if_lost,
        "failover.plan" => failover::plan,
        "host.remove" => host::remove,
        "guest.list" => guest::list,
        "guest.get" => guest::get,
        "guest.screen" => guest::screen,
        "guest.explain" => failover::explain,
        "failover.list" => failover::list,
        "guest.create" => guest::create,
        "guest.import" => guest::import,
        "guest.start" => guest::start,
        "guest.shutdown" => guest::shutdown,
        "guest.stop" => guest::stop,
        "guest.pause" => guest::pause,
        "guest.resume" => guest::resume,
        "guest.reset" => guest::reset,
        "guest.delete" => guest::delete,
        "guest.manage" => guest::manage,
        "guest.hand_over" => guest::hand_over,
        "guest.release" => guest::release,
        "guest.probe" => guest::probe,
        "operation.list" => operation::list,
        "operation.get" => operation::get,
        "operation.wait" => operation::wait,
        "operation.cancel" => operation::cancel,
        "grid.get" => grid::get,
        "event.list" => event::list,
        "event.stream" => event::stream,
        "join_token.list" => token::list_join,
        "join_token.get" => token::get_join,
        "join_token.create" => token::create_join,
        "join_token.delete" => token::delete_join,
        "api_token.list" => token::list_api,
        "api_token.get" => token::get_api,
        "api_token.create" => token::create_api,
        "api_token.delete" => token::delete_api,
        "user.list" => user::list,
        "user.get" => user::get,
        "user.create" => user::create,
        "user.set_password" => user::set_password,
        "user.delete" => user::delete,
        "session.login" => session::login,
        "session.get" => session::get,
        "session.list" => session::list,
        "session.logout" => session::logout,
    }
}

fn memory_handler(name: &str) -> Option<Handler> {
    handlers! { name,
        "host.memory" => memory::show,
        "host.set_memory" => memory::set,
        "host.clear_memory" => memory::clear,
        "host.explain_memory" => memory::explain,
        "guest.room" => room::show,
    }
}

fn alarm_handler(name: &str) -> Option<Handler> {
    handlers! { name,
        "alarm.list" => alarm::list,
        "alarm.get" => alarm::get,
        "alarm.acknowledge" => alarm::acknowledge,
        "alarm.unacknowledge" => alarm::unacknowledge,
        "silence.list" => silence::list,
        "silence.get" => silence::get,
        "silence.create" => silence::create,
        "silence.delete" => silence::delete,
        "notifier.list" => notifier::list,
        "notifier.get" => notifier::get,
        "notifier.create" => notifier::create,
        "notifier.replace" => notifier::replace,
        "notifier.delete" => notifier::delete,
        "notifier.test" => notifier::test,
    }
}

fn backup_handler(name: &str) -> Option<Handler> {
    handlers! { name,
        "backup_policy.list" => policy::list,
        "backup_policy.get" => policy::get,
        "backup_policy.create" => policy::create,
        "backup_policy.replace" => policy::replace,
        "backup_policy.delete" => policy::delete,
        "backup_set.list" => backup::list,
        "backup_set.get" => backup::get,
        "backup_set.picture" => backup::picture,
        "backup_set.run" => backup::run,
        "backup_set.verify" => backup::verify,
        "backup_set.prune" => backup::prune,
        "backup_set.prove" => backup::prove,
        "backup_set.set_policy" => backup::set_policy,
        "backup.list" => backup::points,
        "backup.get" => backup::point,
        "backup.delete" => backup::delete_point,
        "backup.pin" => backup::pin,
        "backup.unpin" => backup::unpin,
        "backup.verify" => backup::verify_point,
        "backup.prove" => backup::prove_point,
        "backup.restore" => backup::restore,
        "replica.list" => backup::replicas,
        "replica.get" => backup::replica,
    }
}
