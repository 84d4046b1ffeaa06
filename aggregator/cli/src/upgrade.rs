//! `roost host upgrade`: hosts are brought to their newest image one after the other. It keeps nothing anywhere: what it
//! does next is read off the grid each time, so that the same command goes on where one was interrupted.

mod decide;
mod interrupt;
#[cfg(test)]
mod test;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clap::ArgMatches;
use roost_registry::find;
use serde_json::{Value, json};

use crate::client::{Client, Request};
use crate::failure::{Exit, Failure, nearest};
use crate::input::switch;
use crate::out::{Out, clean};
use crate::perform;
use decide::{Grid, Image, Run, Step, Until, Wish};
use interrupt::Interrupt;

/// A search for an image takes this long at most: hosts give up after an hour themselves.
const SEARCH: Duration = Duration::from_secs(3_700);
/// Between an answer that a process of a guest still executes and the last try: a restore point that is proven ends by then.
const BUSY: Duration = Duration::from_secs(300);
/// A server that is away for longer is given up.
const AWAY: Duration = Duration::from_secs(120);

impl Until {
    /// And what to do when it is over.
    fn limit(self) -> (Duration, &'static str) {
        match self {
            Until::Calm => (Duration::from_secs(120), "roost guest list -o wide; --force begins all the same"),
            Until::Empty => (Duration::from_secs(1_800), "roost host if-lost NAME says why; the same command goes on"),
            Until::Heard => (Duration::from_secs(120), "is it switched on, and roost-agent running there?"),
            Until::Going => (
                Duration::from_secs(300),
                "is its agent of this version, and does its reboot_command restart it? It stays drained: roost host resume NAME",
            ),
            // Two starts of an image that does not come up, its trial, and a server's own checks before them.
            Until::Back => {
                (Duration::from_secs(2_400), "look at its console; once it is back the same command goes on")
            }
            Until::Protected => (Duration::from_secs(1_800), "roost guest list -o wide; the same command goes on"),
        }
    }
}

/// One upgrade of hosts.
struct Upgrade<'a, 'b> {
    client: Client,
    wish: Wish,
    interrupt: Interrupt,
    out: &'a mut Out<'b>,
    away: Option<Instant>,
    said: String,
}

pub(crate) fn upgrade(
    matches: &ArgMatches,
    connect: &dyn Fn() -> Result<Client, Failure>,
    out: &mut Out<'_>,
) -> Result<(), Failure> {
    let names: Vec<String> = matches.get_many::<String>("names").into_iter().flatten().cloned().collect();
    if names.len() != 1 && !switch(matches, "one-by-one") {
        let why = "more than one host may be meant, and they are restarted one after the other";
        return Err(Failure::usage("upgrade hosts", why, "add --one-by-one, or name one host"));
    }
    // Before the client has threads, so that none of them is ended by it.
    let interrupt = Interrupt::listen()?;
    let wish = Wish {
        restart_only: switch(matches, "restart-only"),
        force: switch(matches, "force"),
        named: !names.is_empty(),
        excused: BTreeSet::new(),
    };
    let mut all = Upgrade { client: connect()?, wish, interrupt, out, away: None, said: String::new() };
    let grid = all.look()?;
    let hosts = decide::order(&grid, chosen(&grid, names)?);
    if all.wish.force {
        let bare = grid.guests.iter().filter(|guest| guest.protected == Some(false));
        all.wish.excused = bare.map(|guest| guest.id.clone()).collect();
    }
    hosts.iter().try_for_each(|host| all.host(host))
}

/// Names of the hosts that are meant.
fn chosen(grid: &Grid, names: Vec<String>) -> Result<Vec<String>, Failure> {
    if names.is_empty() {
        return Ok(grid.hosts.iter().map(|host| host.name.clone()).collect());
    }
    let mut found = Vec::new();
    for name in names {
        let Some(host) = grid.host(&name) else {
            let near = nearest(&name, grid.hosts.iter().map(|host| host.name.as_str()));
            let hint = near.map_or("roost host list".into(), |near| format!("did you mean {near}?"));
            return Err(Failure::new(Exit::NotFound, format!("upgrade {name}"), "there is no such host", hint));
        };
        if !found.contains(&host.name) {
            found.push(host.name.clone());
        }
    }
    Ok(found)
}

impl Upgrade<'_, '_> {
    /// One host, to its end.
    fn host(&mut self, name: &str) -> Result<(), Failure> {
        let (mut run, mut since) = (Run::Begun, None::<(Option<Until>, Instant)>);
        loop {
            let grid = match self.look() {
                Ok(grid) => grid,
                Err(why) => {
                    self.may_come_back(why)?;
                    self.pause(name)?;
                    continue;
                }
            };
            if self.interrupt.came_already() {
                return Err(self.interrupted(name));
            }
            let step = decide::next(&grid, name, &run, &self.wish);
            let waits = if let Step::Wait(until, _) = &step { Some(*until) } else { None };
            let begun = since.filter(|(until, _)| *until == waits).map_or_else(Instant::now, |(_, begun)| begun);
            since = Some((waits, begun));
            match step {
                Step::Look => self.search(&grid, name, &mut run, begun)?,
                Step::Drain => self.act("host.drain", "drain", name, "is drained: its guests are handed over")?,
                Step::Restart { boot, wanted } => {
                    if self.restart(name, begun)? {
                        run = Run::Restarting { boot, wanted };
                    }
                }
                Step::Resume => self.act("host.resume", "resume", name, "takes part again")?,
                Step::Wait(until, what) => self.wait(name, until, &what, begun)?,
                Step::Done(how) => {
                    self.say(name, &how);
                    return Ok(());
                }
                Step::Stop(why, hint) => {
                    return Err(Failure::new(Exit::WrongState, format!("upgrade {name}"), why, hint));
                }
            }
        }
    }

    fn look(&mut self) -> Result<Grid, Failure> {
        let all = |operation: &str, path: &str, fields: &str| {
            let missing =
                || Failure::new(Exit::Failed, format!("list {path}"), "it is not in the table", "report this");
            let list = find(operation).ok_or_else(missing)?;
            let query = vec![("fields".into(), fields.into())];
            perform::all(&self.client, list, Request { path: vec![path.into()], query, body: None }, None)
        };
        let grid = Grid::read(&all("host.list", "hosts", decide::HOST)?, &all("guest.list", "guests", decide::GUEST)?);
        self.away = None;
        Ok(grid)
    }

    /// Has the host look, or hears that it still does.
    fn search(&mut self, grid: &Grid, name: &str, run: &mut Run, begun: Instant) -> Result<(), Failure> {
        self.say(name, "looks for a newer image");
        match self.ask("host.fetch_image", "fetch-image", name) {
            Ok(found) if found["state"] == "looking" => {
                if begun.elapsed() > SEARCH {
                    let hint = "is where it takes images from slow? roost host fetch-image tells how it ends";
                    let what = format!("upgrade {name}");
                    return Err(Failure::new(Exit::Timeout, what, "it still looks for a newer image", hint));
                }
                return self.pause(name);
            }
            Ok(found) => *run = Run::Looked(Image::read(&found["image"])),
            Err(why) => {
                // One that was brought another way waits there all the same.
                let waits = grid.host(name).and_then(|host| host.waits.clone()).ok_or(why.clone())?;
                self.say(name, &format!("can't look for a newer image: {}", why.why));
                *run = Run::Looked(Some(waits));
            }
        }
        if let Run::Looked(Some(image)) = run {
            let told = format!("image {} of {} waits for its next start", image.version, image.made);
            self.say(name, &told);
        }
        Ok(())
    }

    /// False: something still executes there, and it is tried again.
    fn restart(&mut self, name: &str, begun: Instant) -> Result<bool, Failure> {
        match self.ask("host.reboot", "reboot", name) {
            Ok(_) => self.say(name, "restarts"),
            // It may have gone before its answer came: whether it did is seen by its boot id.
            Err(why) if matches!(why.code.as_deref(), None | Some("host_unreachable" | "timed_out")) => {
                self.say(name, &format!("was asked to restart, and gave no answer: {}", why.why));
            }
            Err(why) if matches!(why.code.as_deref(), Some("wrong_state" | "busy")) && begun.elapsed() < BUSY => {
                self.say(name, &format!("can't restart yet: {}", why.why));
                self.pause(name)?;
                return Ok(false);
            }
            Err(why) => return Err(why),
        }
        Ok(true)
    }

    fn wait(&mut self, name: &str, until: Until, what: &str, begun: Instant) -> Result<(), Failure> {
        self.say(name, what);
        let (limit, hint) = until.limit();
        if begun.elapsed() < limit {
            return self.pause(name);
        }
        let why = format!("{what}; that was waited for {} min", limit.as_secs() / 60);
        Err(Failure::new(Exit::Timeout, format!("upgrade {name}"), why, hint.replace("NAME", name)))
    }

    fn act(&mut self, operation: &str, verb: &str, name: &str, done: &str) -> Result<(), Failure> {
        self.ask(operation, verb, name)?;
        self.say(name, done);
        Ok(())
    }

    fn ask(&self, operation: &str, verb: &str, name: &str) -> Result<Value, Failure> {
        let missing = || Failure::new(Exit::Failed, operation, "it is not in the table", "report this");
        let path = ["hosts", name, "actions", verb].map(str::to_owned).to_vec();
        let request = Request { path, body: Some(json!({})), ..Request::default() };
        let what = format!("{operation} {name}");
        Ok(self.client.call(find(operation).ok_or_else(missing)?, &what, &request)?.body)
    }

    /// An aggregator that restarts is away for a while.
    fn may_come_back(&mut self, why: Failure) -> Result<(), Failure> {
        let silent = why.code.is_none() || why.code.as_deref() == Some("not_ready");
        let since = *self.away.get_or_insert_with(Instant::now);
        if silent && since.elapsed() < AWAY { Ok(()) } else { Err(why) }
    }

    fn pause(&mut self, name: &str) -> Result<(), Failure> {
        if self.interrupt.came() { Err(self.interrupted(name)) } else { Ok(()) }
    }

    fn interrupted(&self, name: &str) -> Failure {
        let again = match self.wish.restart_only {
            true => "the same command goes on, but restarts those again that were done: name the hosts that are left",
            false => "the same command goes on",
        };
        let hint = format!(
            "{again}; what was begun with {name} stays as it is (roost host get {name}), and if it is in maintenance \
             roost host resume {name} ends that"
        );
        Failure::new(Exit::Interrupted, format!("upgrade {name}"), "interrupted", hint)
    }

    /// What is new.
    fn say(&mut self, name: &str, text: &str) {
        let line = clean(&format!("{name}: {text}"));
        if line != self.said {
            self.out.say(&line);
            self.said = line;
        }
    }
}
