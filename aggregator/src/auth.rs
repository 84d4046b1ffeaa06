//! Who calls: local users, sessions and API tokens, and what they may. Secrets are kept as hashes only.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use roost_aggregator_core::account::Account;
use roost_aggregator_core::intent::{ApiTokenRecord, UserRecord};
use roost_protocol::{Millis, Stamp, Time};

use crate::clock;
use crate::handle::{Away, Handle};

mod limit;
mod link;
mod password;
mod secret;
mod session;

pub(crate) use limit::Wait;
pub(crate) use password::{NoHash, hash_password};
pub(crate) use secret::{API_TOKEN, SESSION, Secret, random};
pub(crate) use session::Session;

use limit::Limiter;
use password::Hasher;
use session::Sessions;

/// The use of an API token is noted this often: programs that ask each second would wear out the disk otherwise.
const NOTE_EVERY: Millis = Millis::seconds(60);

/// Who asks, proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Empty for somebody who has not logged in.
    pub(crate) user: String,
    pub(crate) via: Via,
    pub(crate) address: IpAddr,
}

/// By what it was proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// Not at all.
    Nobody,
    /// The session with this id.
    Session(String),
    /// The API token with this id.
    ApiToken(String),
    /// A link to one list, made by somebody who had logged in.
    Link,
}

/// Why a log-in failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    #[error("user or password is wrong")]
    Wrong,
    #[error("too many log-ins were tried")]
    Slow(Wait),
    #[error(transparent)]
    Hash(#[from] NoHash),
    #[error(transparent)]
    Away(#[from] Away),
}

/// A log-in that succeeded: the secret is shown this once.
#[derive(Debug)]
pub(crate) struct LoggedIn {
    pub(crate) secret: Secret,
    pub(crate) session: Session,
}

/// What log-ins need.
#[derive(Debug)]
pub(crate) struct Auth {
    handle: Handle,
    hasher: Hasher,
    // Both are this edge's own, small, and never held across an await.
    limiter: Mutex<Limiter>,
    sessions: Arc<Mutex<Sessions>>,
}

impl Caller {
    /// Somebody who has not logged in.
    pub(crate) fn nobody(address: IpAddr) -> Self {
        Self { user: String::new(), via: Via::Nobody, address }
    }
}

/// Whether this caller may do this. Every operation of every face asks here, and names the permission; until there are
/// roles, whoever has logged in may do everything.
pub(crate) fn authorize(caller: &Caller, permission: &str) -> bool {
    !permission.is_empty() && caller.via != Via::Nobody && !caller.user.is_empty()
}

impl Auth {
    /// For the users in the grid behind this handle.
    pub(crate) fn new(handle: Handle) -> Self {
        Self { handle, hasher: Hasher::new(), limiter: Mutex::default(), sessions: Arc::default() }
    }

    /// Hash a new password.
    pub(crate) async fn hash(&self, password: String) -> Result<String, NoHash> {
        self.hasher.hash(password).await
    }

    /// A new session, or why not. Unknown users take as long as known ones.
    pub(crate) async fn login(
        &self,
        user: &str,
        password: String,
        address: IpAddr,
        at: Time,
    ) -> Result<LoggedIn, LoginError> {
        lock(&self.limiter).admit(user, address, at).map_err(LoginError::Slow)?;
        let name = user.to_owned();
        let stored = self
            .handle
            .read(move |grid, _, _| grid.intent().users.get(&name).map(|user| user.password_hash.clone()))
            .await?;
        let right = self.hasher.verify(stored.clone(), password).await?;
        let (true, Some(password_hash)) = (right, stored) else {
            return Err(LoginError::Wrong);
        };
        lock(&self.limiter).succeeded(user, address);
        let secret = Secret::new(SESSION).map_err(|_| NoHash)?;
        let session = Session::new(&secret, user, &password_hash, address, at, clock::wall());
        lock(&self.sessions).add(secret.hash(), session.clone());
        self.handle.used(Account::User(user.to_owned())).await?;
        Ok(LoggedIn { secret, session })
    }

    /// Who has this secret, a session's or an API token's.
    pub(crate) async fn by_secret(&self, text: &str, address: IpAddr, at: Time) -> Result<Option<Caller>, Away> {
        let Some(secret) = Secret::parse(text) else { return Ok(None) };
        match secret.kind() {
            SESSION => self.by_session(&secret, address, at).await,
            API_TOKEN => self.by_api_token(&secret, address).await,
            _ => Ok(None),
        }
    }

    async fn by_session(&self, secret: &Secret, address: IpAddr, at: Time) -> Result<Option<Caller>, Away> {
        let hash = secret.hash();
        let Some(session) = lock(&self.sessions).used(&hash, at, clock::wall()) else { return Ok(None) };
        let (user, sign) = (session.user.clone(), session.password);
        // A session ends with the password it began with, however that was changed.
        let still = self
            .handle
            .read(move |grid, _, _| {
                grid.intent().users.get(&user).is_some_and(|user| session::sign(&user.password_hash) == sign)
            })
            .await?;
        if !still {
            lock(&self.sessions).remove(&session.id);
            return Ok(None);
        }
        Ok(Some(Caller { user: session.user, via: Via::Session(session.id), address }))
    }

    async fn by_api_token(&self, secret: &Secret, address: IpAddr) -> Result<Option<Caller>, Away> {
        let (id, hash) = (secret.id(), secret.hash());
        let wanted = id.clone();
        // Comparing the hashes of two 256-bit random values tells nothing by its time.
        let found = self
            .handle
            .read(move |grid, _, wall| {
                let intent = grid.intent();
                let token =
                    intent.api_tokens.get(&wanted).filter(|token| token.hash == hash && wall < token.expires)?;
                let last = grid.uses().get(&Account::ApiToken(wanted));
                let noted = last.is_some_and(|last| wall.0.abs_diff(last.0) < NOTE_EVERY.0);
                intent.users.contains_key(&token.user).then(|| (token.user.clone(), noted))
            })
            .await?;
        let Some((user, noted)) = found else { return Ok(None) };
        if !noted {
            self.handle.used(Account::ApiToken(id.clone())).await?;
        }
        Ok(Some(Caller { user, via: Via::ApiToken(id), address }))
    }

    /// For work that goes on: whether its caller may still be here.
    pub(crate) fn pass(&self, caller: &Caller) -> Pass {
        let Caller { user, via, address: _ } = caller.clone();
        Pass { handle: self.handle.clone(), sessions: Arc::clone(&self.sessions), user, via }
    }

    /// Sessions that have not ended.
    pub(crate) fn sessions(&self, at: Time) -> Vec<Session> {
        lock(&self.sessions).list(at)
    }

    /// End a session; false: there is none.
    pub(crate) fn logout(&self, id: &str) -> bool {
        lock(&self.sessions).remove(id)
    }

    /// End all sessions of a user.
    pub(crate) fn logout_user(&self, user: &str) {
        lock(&self.sessions).remove_user(user);
    }
}

/// The right of one caller, looked at again and again.
#[derive(Debug)]
pub(crate) struct Pass {
    handle: Handle,
    sessions: Arc<Mutex<Sessions>>,
    user: String,
    via: Via,
}

impl Pass {
    /// False once the session or token has ended, was taken back, or its user is gone or has another password.
    pub(crate) async fn holds(&self, at: Time) -> bool {
        let user = self.user.clone();
        let held = match self.via.clone() {
            // A link is to what ends at once.
            Via::Nobody | Via::Link => return false,
            Via::Session(id) => {
                let Some(sign) = lock(&self.sessions).sign_of(&id, at) else { return false };
                let same = move |user: &UserRecord| session::sign(&user.password_hash) == sign;
                self.handle.read(move |grid, _, _| grid.intent().users.get(&user).is_some_and(same)).await
            }
            Via::ApiToken(id) => {
                let good = move |token: &ApiTokenRecord, wall| token.user == user && wall < token.expires;
                let read = self.handle.read(move |grid, _, wall| {
                    grid.intent().api_tokens.get(&id).is_some_and(|token| good(token, wall))
                });
                read.await
            }
        };
        held.unwrap_or(false)
    }
}

/// When something made now and good for `ttl` ends.
pub(crate) fn end(now: Stamp, ttl: Millis) -> Stamp {
    Stamp(now.0.saturating_add(ttl.0))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
