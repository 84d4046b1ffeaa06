//! The subagent's side of one AgentX session (RFC 2741 §7), without a socket and without a clock: told what came in and
//! what time it is, it says what to send.

use std::collections::VecDeque;

use roost_protocol::{Millis, Time};

use crate::pdu::{Address, Body, DecodeError, Header, Reason, Said, encode};
use crate::{Oid, Tree, VarBind};

/// How long the master may take for an answer; it answers from memory.
const PATIENCE: Millis = Millis::seconds(10);
/// A session on which nothing was said for so long is asked whether it still stands.
const PING_EVERY: Millis = Millis::seconds(30);
/// First and longest wait before the master is tried again.
const RETRY: (Millis, Millis) = (Millis(1_000), Millis(30_000));
/// Notifications that wait while there is no master, or one that is slow. The oldest go first: what counts is the last state.
const NOTES: usize = 256;
/// Notifications on their way at once; the master's own queue to slow receivers is not ours to fill.
const FLYING: usize = 16;
/// How long the master is to wait for an answer of ours, seconds. We answer from memory; a stopped agent costs no more.
const TIMEOUT_S: u8 = 1;
/// The usual priority of a registration (RFC 2741 §6.2.3).
const PRIORITY: u8 = 127;

/// Errors that are told in a Response (RFC 2741 §6.2.16 and RFC 3416).
mod code {
    pub(super) const NONE: u16 = 0;
    pub(super) const GENERAL: u16 = 5;
    pub(super) const NOT_WRITABLE: u16 = 17;
    pub(super) const COMMIT_FAILED: u16 = 14;
    pub(super) const UNDO_FAILED: u16 = 15;
    pub(super) const NOT_OPEN: u16 = 257;
    pub(super) const UNSUPPORTED_CONTEXT: u16 = 262;
    pub(super) const PARSE: u16 = 266;
}

/// What a subagent says of itself.
#[derive(Clone, Debug)]
pub struct Identity {
    pub id: Oid,
    pub description: String,
    /// Subtrees it answers for.
    pub subtrees: Vec<Oid>,
}

/// What to do on the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Connect,
    Send(Vec<u8>),
    HangUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Down {
        retry_at: Time,
    },
    Connecting,
    Opening {
        until: Time,
    },
    /// `next` counts the subtrees that are registered.
    Registering {
        session: u32,
        next: usize,
        until: Time,
    },
    Up {
        session: u32,
        ping_at: Time,
        pinged: Option<Time>,
    },
}

/// One session and its successors.
#[derive(Debug)]
pub struct Session {
    identity: Identity,
    state: State,
    backoff: Millis,
    packet: u32,
    waiting: VecDeque<Vec<VarBind>>,
    flying: VecDeque<(u32, Time, Vec<VarBind>)>,
    dropped: u64,
    refused: u64,
    /// The master's sysUpTime in ticks, and when it was told.
    uptime: Option<(u32, Time)>,
}

impl Session {
    /// A session that will be opened at once.
    pub fn new(identity: Identity, now: Time) -> Self {
        Self {
            identity,
            state: State::Down { retry_at: now },
            backoff: RETRY.0,
            packet: 0,
            waiting: VecDeque::new(),
            flying: VecDeque::new(),
            dropped: 0,
            refused: 0,
            uptime: None,
        }
    }

    /// Whether the master asks us.
    pub fn is_up(&self) -> bool {
        match self.state {
            State::Up { .. } => true,
            State::Down { .. } | State::Connecting | State::Opening { .. } | State::Registering { .. } => false,
        }
    }

    /// Notifications that nobody got: dropped because too many waited, and refused by the master.
    pub fn lost(&self) -> (u64, u64) {
        (self.dropped, self.refused)
    }

    /// The master's sysUpTime now, in milliseconds; `None` before it told it.
    pub fn uptime(&self, now: Time) -> Option<Millis> {
        self.uptime.map(|(ticks, at)| Millis(u64::from(ticks).saturating_mul(10).saturating_add(now.since(at).0)))
    }

    /// When [`Session::tick`] has something to do at the latest.
    pub fn deadline(&self) -> Option<Time> {
        let own = match self.state {
            State::Down { retry_at } => Some(retry_at),
            State::Connecting => None,
            State::Opening { until } | State::Registering { until, .. } => Some(until),
            State::Up { ping_at, pinged, .. } => Some(pinged.map_or(ping_at, |at| at + PATIENCE)),
        };
        let flying = self.flying.front().map(|(_, at, _)| *at + PATIENCE);
        [own, flying].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time) -> Vec<Output> {
        if self.flying.front().is_some_and(|(_, at, _)| now >= *at + PATIENCE) {
            return self.hang_up(now);
        }
        match self.state {
            State::Down { retry_at } if now >= retry_at => {
                self.state = State::Connecting;
                vec![Output::Connect]
            }
            State::Opening { until } | State::Registering { until, .. } if now >= until => self.hang_up(now),
            State::Up { pinged: Some(at), .. } if now >= at + PATIENCE => self.hang_up(now),
            State::Up { session, ping_at, pinged: None } if now >= ping_at => {
                self.state = State::Up { session, ping_at, pinged: Some(now) };
                vec![self.ask(session, &Body::Ping)]
            }
            State::Down { .. }
            | State::Connecting
            | State::Opening { .. }
            | State::Registering { .. }
            | State::Up { .. } => vec![],
        }
    }

    /// The socket is there.
    pub fn connected(&mut self, now: Time) -> Vec<Output> {
        self.state = State::Opening { until: now + PATIENCE };
        let open = Body::Open {
            timeout_s: TIMEOUT_S,
            id: self.identity.id.clone(),
            description: self.identity.description.clone().into_bytes(),
        };
        vec![self.ask(0, &open)]
    }

    /// The socket is gone, or could not be had. What was on its way waits again, before all else.
    pub fn disconnected(&mut self, now: Time) {
        self.state = State::Down { retry_at: now + self.backoff };
        self.backoff = Millis(self.backoff.0.saturating_mul(2)).min(RETRY.1);
        self.uptime = None;
        while let Some((_, _, binds)) = self.flying.pop_back() {
            self.waiting.push_front(binds);
        }
        self.bound();
    }

    /// Ends the session in good order, before the socket is closed.
    pub fn close(&mut self, now: Time) -> Vec<Output> {
        let goodbye = match self.state {
            State::Registering { session, .. } | State::Up { session, .. } => {
                Some(self.ask(session, &Body::Close(Reason::Shutdown)))
            }
            State::Down { .. } | State::Connecting | State::Opening { .. } => None,
        };
        self.disconnected(now);
        goodbye.into_iter().chain([Output::HangUp]).collect()
    }

    /// Something to tell the receivers of traps; sent when there is a master.
    pub fn notify(&mut self, now: Time, binds: Vec<VarBind>) -> Vec<Output> {
        self.waiting.push_back(binds);
        self.bound();
        self.send_notes(now)
    }

    fn bound(&mut self) {
        while self.waiting.len() > NOTES {
            self.waiting.pop_front();
            self.dropped += 1;
        }
    }

    fn send_notes(&mut self, now: Time) -> Vec<Output> {
        let State::Up { session, .. } = self.state else { return vec![] };
        let mut all = Vec::new();
        while self.flying.len() < FLYING
            && let Some(binds) = self.waiting.pop_front()
        {
            let packet = self.packet.wrapping_add(1);
            all.push(self.ask(session, &Body::Notify(binds.clone())));
            self.flying.push_back((packet, now, binds));
        }
        all
    }

    fn ask(&mut self, session: u32, body: &Body) -> Output {
        self.packet = self.packet.wrapping_add(1);
        Output::Send(encode(Address { session, transaction: self.packet, packet: self.packet }, body))
    }

    fn hang_up(&mut self, now: Time) -> Vec<Output> {
        self.disconnected(now);
        vec![Output::HangUp]
    }

    /// A PDU came in; questions are answered from `tree`.
    pub fn received(
        &mut self,
        now: Time,
        header: &Header,
        said: Result<Said, DecodeError>,
        tree: &Tree,
    ) -> Vec<Output> {
        self.heard(now);
        let Said { context, body } = match said {
            Ok(said) => said,
            // Never an answer to an answer.
            Err(_) if header.kind == RESPONSE => return self.hang_up(now),
            Err(DecodeError::Type(_)) => return vec![respond(header, code::GENERAL, 0, vec![])],
            Err(_) => return vec![respond(header, code::PARSE, 0, vec![])],
        };
        if let Body::Response { uptime_ticks, error, .. } = body {
            self.uptime = Some((uptime_ticks, now));
            return self.responded(now, header, error);
        }
        let ours = match self.state {
            State::Registering { session, .. } | State::Up { session, .. } => session == header.session,
            State::Down { .. } | State::Connecting | State::Opening { .. } => false,
        };
        if body == Body::CleanupSet {
            // Never answered (RFC 2741 §7.2.4.4).
            return vec![];
        }
        if !ours {
            return vec![respond(header, code::NOT_OPEN, 0, vec![])];
        }
        if matches!(body, Body::Close(_)) {
            return self.hang_up(now);
        }
        if context.is_some() {
            return vec![respond(header, code::UNSUPPORTED_CONTEXT, 0, vec![])];
        }
        vec![answer(header, &body, tree)]
    }

    /// What the master says shows that it lives.
    fn heard(&mut self, now: Time) {
        if let State::Up { session, .. } = self.state {
            self.state = State::Up { session, ping_at: now + PING_EVERY, pinged: None };
        }
    }

    fn responded(&mut self, now: Time, header: &Header, error: u16) -> Vec<Output> {
        match self.state {
            State::Opening { .. } if error == code::NONE => self.register(now, header.session, 0),
            State::Registering { session, next, .. } if error == code::NONE => self.register(now, session, next + 1),
            State::Opening { .. } | State::Registering { .. } => {
                tracing::warn!(error, "snmpd refused the agent");
                self.hang_up(now)
            }
            State::Up { .. } => {
                if let Some(at) = self.flying.iter().position(|(packet, ..)| *packet == header.packet) {
                    self.flying.remove(at);
                    self.refused += u64::from(error != code::NONE);
                }
                // A session the master does not know any more is begun anew.
                if error == code::NOT_OPEN { self.hang_up(now) } else { self.send_notes(now) }
            }
            State::Down { .. } | State::Connecting => vec![],
        }
    }

    fn register(&mut self, now: Time, session: u32, next: usize) -> Vec<Output> {
        match self.identity.subtrees.get(next).cloned() {
            Some(subtree) => {
                self.state = State::Registering { session, next, until: now + PATIENCE };
                vec![self.ask(session, &Body::Register { timeout_s: TIMEOUT_S, priority: PRIORITY, subtree })]
            }
            None => {
                tracing::info!(session, "snmpd asks the agent");
                self.backoff = RETRY.0;
                self.state = State::Up { session, ping_at: now + PING_EVERY, pinged: None };
                self.send_notes(now)
            }
        }
    }
}

/// The type of [`Body::Response`].
const RESPONSE: u8 = 18;

fn answer(header: &Header, body: &Body, tree: &Tree) -> Output {
    if let Some(binds) = tree.answer(body) {
        return respond(header, code::NONE, 0, binds);
    }
    match body {
        Body::TestSet(_) => respond(header, code::NOT_WRITABLE, 1, vec![]),
        Body::CommitSet => respond(header, code::COMMIT_FAILED, 1, vec![]),
        Body::UndoSet => respond(header, code::UNDO_FAILED, 1, vec![]),
        Body::Open { .. }
        | Body::Close(_)
        | Body::Register { .. }
        | Body::Unregister { .. }
        | Body::Get(_)
        | Body::GetNext(_)
        | Body::GetBulk { .. }
        | Body::CleanupSet
        | Body::Notify(_)
        | Body::Ping
        | Body::IndexAllocate(_)
        | Body::IndexDeallocate(_)
        | Body::AddAgentCaps { .. }
        | Body::RemoveAgentCaps(_)
        | Body::Response { .. } => respond(header, code::GENERAL, 0, vec![]),
    }
}

fn respond(header: &Header, error: u16, index: u16, binds: Vec<VarBind>) -> Output {
    let address = Address { session: header.session, transaction: header.transaction, packet: header.packet };
    Output::Send(encode(address, &Body::Response { uptime_ticks: 0, error, index, binds }))
}

#[cfg(test)]
mod test;
