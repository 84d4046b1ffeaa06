//! The commands beside `run`: each asks the running guard on its socket and prints what it says.

use std::io::{Read, Write, stdout};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use data_encoding::HEXLOWER;
use roost_protocol::codec;
use roost_protocol::failover::Fencing;
use roost_ward::door::{LONGEST_FRAME, Note, Reply, Request, Status, Told};
use roost_ward::{Council, Policy, Profile, WardId};

use crate::clock;
use crate::config::{Config, ProfileName, Question};

/// A guard that doesn't answer within this hangs, or its disk does.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks and prints.
pub(crate) fn ask(config: &Config, question: Question) -> anyhow::Result<()> {
    let path = config.socket();
    let mut guard = Guard::at(&path).with_context(|| format!("ask the guard at {}", path.display()))?;
    let said = match question {
        Question::Status => text(&guard.status()?),
        Question::Explain { ward } => {
            let notes = guard.notes()?;
            let wanted = notes.iter().filter(|note| ward.is_none_or(|ward| note.ward == WardId(ward)));
            wanted.map(line).collect()
        }
        Question::Peers { peers } => guard.done(&Request::Peers(peers))?,
        Question::Found { ward, voters, homes, profile } => {
            let profile = match profile {
                ProfileName::Fast => Profile::Fast,
                ProfileName::Normal => Profile::Normal,
                ProfileName::Calm => Profile::Calm,
            };
            let council = Council::new(voters, homes, Policy::Strict, profile)?;
            guard.done(&Request::Found { ward: WardId(ward), council })?
        }
        Question::Guests { ward, guests, anywhere } => {
            guard.done(&Request::Guests { ward: WardId(ward), guests, anywhere })?
        }
        Question::Release { ward } => guard.done(&Request::Tell { ward: WardId(ward), what: Told::Release })?,
        Question::TestWatchdog => guard.done(&Request::TestWatchdog)?,
        Question::Nominate { ward, start_stale_copy } => {
            let what = Told::Nominate { force: start_stale_copy };
            guard.done(&Request::Tell { ward: WardId(ward), what })?
        }
    };
    Ok(stdout().write_all(said.as_bytes())?)
}

/// The running guard, from outside.
struct Guard(UnixStream);

impl Guard {
    fn at(path: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    fn hear(&mut self) -> anyhow::Result<Reply> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).context("the guard doesn't answer")?;
        let length = usize::try_from(u32::from_be_bytes(length))?;
        ensure!(length <= LONGEST_FRAME, "an answer of {length} bytes");
        let mut answer = vec![0; length];
        self.0.read_exact(&mut answer)?;
        Ok(codec::decode(&answer)?)
    }

    fn ask(&mut self, request: &Request) -> anyhow::Result<Reply> {
        let request = codec::encode(request);
        self.0.write_all(&u32::try_from(request.len())?.to_be_bytes())?;
        self.0.write_all(&request)?;
        match self.hear()? {
            Reply::Refused(why) => bail!(why),
            other @ (Reply::Done | Reply::Status(_) | Reply::Note(_)) => Ok(other),
        }
    }

    /// Nothing is said of what went well.
    fn done(&mut self, request: &Request) -> anyhow::Result<String> {
        self.ask(request).map(|_| String::new())
    }

    fn status(&mut self) -> anyhow::Result<Status> {
        match self.ask(&Request::Status)? {
            Reply::Status(status) => Ok(status),
            Reply::Done | Reply::Refused(_) | Reply::Note(_) => bail!("the answer is none"),
        }
    }

    /// What it remembers.
    fn notes(&mut self) -> anyhow::Result<Vec<Note>> {
        let Status { first_note, next_note, .. } = self.status()?;
        self.ask(&Request::Follow { from: first_note })?;
        let mut notes: Vec<Note> = Vec::new();
        while notes.last().map_or(first_note, |last| last.number + 1) < next_note {
            if let Reply::Note(note) = self.hear()? {
                notes.push(note);
            }
        }
        Ok(notes)
    }
}

fn line(note: &Note) -> String {
    let ago = clock::stamp().0.saturating_sub(note.at.0);
    format!("{:>6}.{} s ago  {}: {}\n", ago / 1_000, ago % 1_000 / 100, note.ward, note.text)
}

fn text(status: &Status) -> String {
    let fence = match &status.fencing {
        Fencing::Hardware(name) => format!("hardware watchdog ({name})"),
        Fencing::Soft(name) => format!("software watchdog only ({name}): no fence when the whole host hangs"),
        Fencing::Parent => "a parent process (for tests)".to_owned(),
        Fencing::None(why) => format!("none: {why}"),
    };
    let key = HEXLOWER.encode(&status.key);
    let test = status.watchdog_test.as_ref();
    let test = test.map_or("never".to_owned(), |test| format!("{}: {test}", test.result.word()));
    let mut out = format!("voter  {}\nkey    {key}\nfence  {fence}\ntested {test}\n", status.me);
    for peer in &status.peers {
        let heard = peer.silent.map_or("never heard".to_owned(), |ms| format!("heard {} ms ago", ms.0));
        out.push_str(&format!("peer   {} {heard}\n", peer.id));
    }
    for ward in &status.wards {
        let owner = ward.owner.map_or("nobody".to_owned(), |owner| owner.to_string());
        let (standing, policy) = (ward.standing, ward.policy);
        out.push_str(&format!(
            "{}: {standing:?} here, {policy:?}, epoch {} of {owner}, {} guests, {} up, votes for no other for {} ms\n",
            ward.ward,
            ward.epoch,
            ward.guests.len(),
            ward.processes,
            ward.promise_left.0
        ));
    }
    out
}
