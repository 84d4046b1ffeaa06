//! The one connection to the aggregator: kept up, joined first where need be, and its certificate renewed. Nothing here
//! decides about guests; what comes is handed on, what is to be told is handed in.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quinn::{Connection, Endpoint};
use roost_protocol::enrol::JoinToken;
use roost_protocol::host::{Alarm, HostFacts};
use roost_protocol::identity::{Fingerprint, GridPublic, peer_identity};
use roost_protocol::look::{Look, Seen};
use roost_protocol::message::{Der, Hello, Refusal, Refused, ToAgent, ToAggregator, Welcome};
use roost_protocol::operation::{Failure, FailureCode};
use roost_protocol::transport::{self, CloseCode, FrameReader, FrameWriter, Purpose, TransportError};
use roost_protocol::{GridId, HostId, Stamp, document};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use super::identity::{Membership, Store};
use super::join::{self, Applicant, JoinError};
use super::service;
use crate::backoff::Backoff;
use crate::look::Looks;
use crate::told::chain;

/// Messages that may wait to be sent. Should an aggregator take none, the connection is given up and begun anew.
const OUTBOX: usize = 512;
/// First and longest wait before the aggregator is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A host that was removed, or speaks no common version, asks again so often.
const REFUSED: Duration = Duration::from_secs(3_600);
/// A token that was refused is not tried again sooner.
const HOPELESS: Duration = Duration::from_secs(300);
/// How soon a membership made by `roost-agent join` is noticed.
const LOOK: Duration = Duration::from_secs(2);
/// A renewal that was not answered is asked for again after this long.
const RENEW_AGAIN: Duration = Duration::from_secs(600);
/// A certificate so much older than its middle is renewed as soon as it can be, but not in a tight loop.
const RENEW_SOONEST: Duration = Duration::from_secs(1);
const ALARM: &str = "grid-refused";
/// People who look at something of this host at a time.
const LOOKS: usize = 4;

/// What the link tells the driver.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// The first message is wanted.
    WantHello(oneshot::Sender<Hello>),
    /// Taken in; what is put into `outbox` is sent. Dropping it ends the connection.
    Up {
        welcome: Welcome,
        outbox: mpsc::Sender<ToAggregator>,
    },
    Received(ToAgent),
    Down,
    Condition {
        alarm: Alarm,
        raised: bool,
    },
}

/// All that the link needs.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) store: Store,
    /// From the settings; else the one that was joined.
    pub(crate) aggregator: Option<String>,
    pub(crate) token: Option<JoinToken>,
    pub(crate) host: HostId,
    pub(crate) facts: HostFacts,
    pub(crate) looks: Looks,
    pub(crate) events: mpsc::Sender<LinkEvent>,
}

/// The driver is gone.
#[derive(Debug)]
struct Over;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the agent ends")]
    Over,
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Store(#[from] super::identity::StoreError),
    #[error("use the grid's certificate")]
    Identity(#[from] roost_protocol::identity::IdentityError),
    #[error("the aggregator refused this host ({:?}): {}", .0.reason, .0.text)]
    Refused(Refused),
    #[error("the aggregator's first message was neither welcome nor refusal")]
    NoWelcome,
    #[error("messages wait longer than the aggregator takes them")]
    Clogged,
    #[error("no aggregator is configured")]
    Alone,
    #[error(
        "this host's data disk belongs to grid {disk}, its join token to grid {token}, and the aggregator that answers is \
         not of {disk}: nothing was changed, because the guests on that disk are {disk}'s; boot with the right data disk or \
         an emptied one, or remove the token and give the address of {disk}'s aggregator"
    )]
    OtherGrid { disk: GridId, token: GridId, source: TransportError },
}

impl From<Over> for Ended {
    fn from(Over: Over) -> Self {
        Ended::Over
    }
}

impl Link {
    /// Keeps the connection up until the driver is gone.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut alarmed = false;
        loop {
            let Err(why) = self.session(&mut alarmed, &mut backoff).await else { continue };
            if matches!(why, Ended::Over) {
                return;
            }
            let wait = self.after(&why, &mut backoff, &mut alarmed).await;
            let (Ok(wait), false) = (wait, self.events.is_closed()) else { return };
            sleep(wait).await;
        }
    }

    /// How long to wait after that, and whether people should know.
    async fn after(&self, why: &Ended, backoff: &mut Backoff, alarmed: &mut bool) -> Result<Duration, Over> {
        let (wait, alarm) = match why {
            Ended::Alone => return Ok(LOOK),
            Ended::Refused(refused) => {
                let told = Duration::from_millis(refused.retry_after_ms.0).min(REFUSED);
                let wait = match refused.reason {
                    Refusal::Removed => REFUSED,
                    Refusal::Version | Refusal::UnknownKey | Refusal::Replaced | Refusal::Misbehaved => told,
                };
                (wait.max(backoff.wait()), true)
            }
            Ended::Join(error) if error.hopeless() => (HOPELESS, true),
            Ended::Store(_) | Ended::Identity(_) | Ended::OtherGrid { .. } => (backoff.wait(), true),
            Ended::Over | Ended::Join(_) | Ended::Transport(_) | Ended::NoWelcome | Ended::Clogged => {
                (backoff.wait(), false)
            }
        };
        let text = chain(why);
        tracing::warn!(why = text, wait_s = wait.as_secs_f32(), "no connection to the aggregator");
        service::status(&format!("no connection to the aggregator: {text}; guests are looked after"));
        if alarm {
            *alarmed = true;
            self.condition(text, true).await?;
        }
        Ok(wait)
    }

    async fn condition(&self, text: String, raised: bool) -> Result<(), Over> {
        let alarm = Alarm { code: ALARM.into(), guest: None, since: wall(), text };
        self.tell(LinkEvent::Condition { alarm, raised }).await
    }

    async fn tell(&self, event: LinkEvent) -> Result<(), Over> {
        self.events.send(event).await.map_err(|_| Over)
    }

    /// One connection, from its beginning to its end.
    async fn session(&mut self, alarmed: &mut bool, backoff: &mut Backoff) -> Result<(), Ended> {
        let endpoint = transport::client_endpoint()?;
        let membership = match self.store.membership()? {
            Some(membership) => membership,
            None => self.join(&endpoint).await?,
        };
        let public = membership.grid_public()?;
        let token = self.token.as_ref().map(JoinToken::fingerprint);
        let connected = self.connect(&endpoint, &membership, &public).await;
        let connection = connected.map_err(|why| other_grid(why, public.fingerprint(), token))?;
        let (mut reader, mut writer) = transport::open(&connection).await?;
        let (sender, hello) = oneshot::channel();
        self.tell(LinkEvent::WantHello(sender)).await?;
        let mut hello = hello.await.map_err(|_| Ended::Over)?;
        hello.host = membership.host;
        writer.send(&ToAggregator::Hello(hello)).await?;
        let welcome = match reader.recv_within(transport::FIRST_MESSAGE).await? {
            ToAgent::Welcome(welcome) => welcome,
            ToAgent::Refused(refused) => return Err(Ended::Refused(refused)),
            ToAgent::Command(_)
            | ToAgent::BeatSeen { .. }
            | ToAgent::OutcomeSeen { .. }
            | ToAgent::Certificate { .. }
            | ToAgent::Document { .. }
            | ToAgent::Cancel { .. }
            | ToAgent::Points(_)
            | ToAgent::Peers { .. }
            | ToAgent::Councils { .. } => return Err(Ended::NoWelcome),
        };
        tracing::info!(grid = %welcome.grid, version = welcome.version, "connected to the aggregator");
        // However long it was away before: should it be restarted next, hosts are to be back in seconds.
        backoff.reset();
        if std::mem::take(alarmed) {
            self.condition(String::new(), false).await?;
        }
        let (outbox, messages) = mpsc::channel(OUTBOX);
        self.tell(LinkEvent::Up { welcome, outbox }).await?;
        let ended = self.talk(&connection, membership, &public, reader, writer, messages).await;
        connection.close(CloseCode::Done.into(), b"");
        self.tell(LinkEvent::Down).await?;
        ended
    }

    async fn connect(
        &self,
        endpoint: &Endpoint,
        membership: &Membership,
        public: &GridPublic,
    ) -> Result<Connection, Ended> {
        let address = self.address()?.ok_or(Ended::Alone)?;
        let identity = self.store.identity(membership)?;
        let mut failed = Ended::Alone;
        for address in join::resolve(&address).await? {
            match transport::connect(endpoint, address, Purpose::Link, public.fingerprint(), Some(&identity)).await {
                Ok(connection) => return Ok(connection),
                // Who answered tells more than who did not.
                Err(_) if matches!(&failed, Ended::Transport(before) if before.other_key()) => {}
                Err(error) => failed = error.into(),
            }
        }
        Err(failed)
    }

    fn address(&self) -> Result<Option<String>, Ended> {
        match &self.aggregator {
            Some(address) => Ok(Some(address.clone())),
            None => Ok(self.store.aggregator()?),
        }
    }

    async fn join(&self, endpoint: &Endpoint) -> Result<Membership, Ended> {
        let (Some(token), Some(address)) = (&self.token, self.address()?) else { return Err(Ended::Alone) };
        let (name, facts) = (self.facts.name.as_str(), self.facts.clone());
        let applicant = Applicant { token, address: &address, name, host: Some(self.host), facts };
        let membership = join::join(endpoint, &self.store, &applicant).await?;
        tracing::info!(grid = %membership.grid, host = %membership.host, "joined the grid");
        Ok(membership)
    }

    /// Both directions, until one of them ends.
    async fn talk(
        &self,
        connection: &Connection,
        membership: Membership,
        public: &GridPublic,
        mut reader: FrameReader,
        writer: FrameWriter,
        messages: mpsc::Receiver<ToAggregator>,
    ) -> Result<(), Ended> {
        let (renewed, renewals) = mpsc::channel(1);
        let first = renew_first(&membership);
        let write = self.write(writer, messages, first, renewals);
        let read = async {
            let mut membership = membership;
            loop {
                match reader.recv().await? {
                    ToAgent::Certificate { chain } => {
                        let life = self.renewed(&mut membership, chain)?;
                        // A second one before the first was noticed changes nothing.
                        let _ = renewed.try_send(life / 3);
                    }
                    ToAgent::Refused(refused) => return Err(Ended::Refused(refused)),
                    ToAgent::Document { generation, sealed } => match document::peek(public, &sealed) {
                        Ok((_, signed)) if signed == generation => {
                            self.tell(LinkEvent::Received(ToAgent::Document { generation, sealed })).await?;
                        }
                        Ok((_, signed)) => tracing::error!(%generation, %signed, "grid document with a false number"),
                        Err(error) => tracing::error!(%error, "grid document refused"),
                    },
                    message @ (ToAgent::Welcome(_)
                    | ToAgent::Command(_)
                    | ToAgent::BeatSeen { .. }
                    | ToAgent::OutcomeSeen { .. }
                    | ToAgent::Cancel { .. }
                    | ToAgent::Points(_)
                    | ToAgent::Peers { .. }
                    | ToAgent::Councils { .. }) => self.tell(LinkEvent::Received(message)).await?,
                }
            }
        };
        tokio::select! {
            ended = read => ended,
            ended = write => ended,
            ended = self.show(connection) => ended,
            lost = connection.closed() => Err(TransportError::Lost { source: lost }.into()),
            () = self.events.closed() => Err(Ended::Over),
        }
    }

    /// Answers what people look at through the aggregator, each on its own stream. An answer that fails harms no other.
    async fn show(&self, connection: &Connection) -> Result<(), Ended> {
        let looking = Arc::new(Semaphore::new(LOOKS));
        loop {
            let opened = connection.accept_bi().await;
            let (send, receive) = opened.map_err(|source| TransportError::Lost { source })?;
            let (looks, looking) = (self.looks.clone(), looking.clone());
            tokio::spawn(async move {
                if let Err(error) = show_one(looks, &looking, FrameReader::new(receive), FrameWriter::new(send)).await {
                    tracing::debug!(error = chain(&error), "somebody looked and did not see");
                }
            });
        }
    }

    async fn write(
        &self,
        mut writer: FrameWriter,
        mut messages: mpsc::Receiver<ToAggregator>,
        first: Duration,
        mut renewals: mpsc::Receiver<Duration>,
    ) -> Result<(), Ended> {
        let mut renew_at = Instant::now() + first;
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => writer.send(&message).await?,
                    None => return Err(Ended::Clogged),
                },
                Some(third) = renewals.recv() => renew_at = Instant::now() + third.max(RENEW_SOONEST),
                () = sleep_until(renew_at) => {
                    renew_at = Instant::now() + RENEW_AGAIN;
                    let request = self.store.key()?.csr()?;
                    writer.send(&ToAggregator::Renew { request }).await?;
                }
            }
        }
    }

    /// Keeps a new certificate; says how long it lasts. It is used from the next connection on.
    fn renewed(&self, membership: &mut Membership, chain: Vec<Der>) -> Result<Duration, Ended> {
        let renewed = Membership { chain, ..membership.clone() };
        // Checks that the certificate is of this host's key.
        let identity = self.store.identity(&renewed)?;
        let leaf = identity.chain.first().ok_or(Ended::NoWelcome)?;
        let named = peer_identity(&leaf.0)?;
        if named.host != membership.host || named.grid != membership.grid {
            tracing::error!(host = %named.host, grid = %named.grid, "a certificate of another host was refused");
            return Ok(RENEW_AGAIN * 3);
        }
        self.store.keep(&renewed)?;
        *membership = renewed;
        tracing::info!("the host's certificate was renewed");
        Ok(Duration::from_millis(named.not_after.0.saturating_sub(named.not_before.0)))
    }
}

async fn show_one(
    looks: Looks,
    looking: &Arc<Semaphore>,
    mut reader: FrameReader,
    mut writer: FrameWriter,
) -> Result<(), TransportError> {
    let look: Look = reader.recv_within(transport::FIRST_MESSAGE).await?;
    let seen = match looking.clone().try_acquire_owned() {
        // The permit stays with the thread: libvirt may hang for longer than anybody waits.
        Ok(permit) => tokio::task::spawn_blocking(move || {
            let seen = looks.answer(look);
            drop(permit);
            seen
        })
        .await
        .unwrap_or_else(|error| Seen::Nothing(Failure { code: FailureCode::Internal, text: error.to_string() })),
        Err(_) => Seen::Nothing(Failure { code: FailureCode::Busy, text: "others look at this host just now".into() }),
    };
    writer.send(&seen).await?;
    writer.finish().await
}

/// Tells a data disk of another grid than the token's. That is so only where somebody else answers: an aggregator that is
/// down for a while says nothing about either, and a token that was used up may lie in the settings for ever.
fn other_grid(why: Ended, disk: Fingerprint, token: Option<Fingerprint>) -> Ended {
    match (why, token) {
        (Ended::Transport(source), Some(token)) if source.other_key() && token != disk => {
            Ended::OtherGrid { disk: disk.grid_id(), token: token.grid_id(), source }
        }
        (why, _) => why,
    }
}

/// When a certificate that was kept is first renewed. Clocks may be years off, so the wall clock says only where in its
/// life it is; a wrong one brings the renewal forward.
fn renew_first(membership: &Membership) -> Duration {
    let Some(Ok(named)) = membership.chain.first().map(|leaf| peer_identity(&leaf.0)) else { return RENEW_SOONEST };
    renew_in(named.not_before, named.not_after, wall())
}

fn renew_in(not_before: Stamp, not_after: Stamp, now: Stamp) -> Duration {
    let third = not_after.0.saturating_sub(not_before.0) / 3;
    let due = not_before.0.saturating_add(third);
    Duration::from_millis(due.saturating_sub(now.0).min(third)).max(RENEW_SOONEST)
}

/// Wall-clock time, for people.
pub(crate) fn wall() -> Stamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Stamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_at_a_third_of_its_life_whatever_the_clock_says() {
        let (begin, end) = (Stamp(3_000_000), Stamp(3_300_000));
        let check = |now: u64, seconds: u64| {
            assert_eq!(renew_in(begin, end, Stamp(now)), Duration::from_secs(seconds), "{now}");
        };
        check(3_000_000, 100);
        check(3_060_000, 40);
        check(3_100_000, 1);
        check(u64::MAX, 1);
        check(0, 100);
    }

    #[test]
    fn a_disk_of_another_grid_is_told_only_where_another_grid_answers_and_the_token_is_not_of_the_disk_s() {
        let alert = |code: u8| {
            let error = quinn::TransportErrorCode::crypto(code).into();
            Ended::Transport(TransportError::Handshake(quinn::ConnectionError::TransportError(error)))
        };
        let (unknown_ca, bad_certificate) = (48, 42);
        let silent = || Ended::Transport(TransportError::Slow { limit: transport::HANDSHAKE });
        let (disk, other) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
        let check = |why: Ended, token: Option<Fingerprint>, told: bool| {
            let text = why.to_string();
            assert_eq!(matches!(other_grid(why, disk, token), Ended::OtherGrid { .. }), told, "{text}, {token:?}");
        };
        check(alert(unknown_ca), Some(other), true);
        check(alert(unknown_ca), Some(disk), false);
        check(alert(unknown_ca), None, false);
        check(alert(bad_certificate), Some(other), false);
        check(silent(), Some(other), false);
        check(Ended::Alone, Some(other), false);
    }
}
