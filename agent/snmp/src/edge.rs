//! The socket of a session: connects to snmpd, passes what comes in to [`Session`] and sends what it says. One task; a
//! question is answered in the turn in which it came.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use roost_protocol::{Millis, Time};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

use crate::mib::Served;
use crate::pdu::{DecodeError, HEADER, Header, PAYLOAD, Said};
use crate::session::{Output, Session};
use crate::{Tree, VarBind};

/// How long snmpd may take to accept, or to take bytes of ours, before the session is begun anew.
const SOCKET_PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes that are taken in before they are looked at: one PDU and the beginning of the next.
const BUFFER: usize = HEADER + PAYLOAD;

/// What the subagent is given.
#[derive(Debug)]
pub struct Edge<V> {
    /// snmpd's AgentX socket.
    pub socket: PathBuf,
    /// Where the clock of the view begins.
    pub began: Instant,
    /// What is served; the tree is made from it when somebody asks.
    pub view: watch::Receiver<Arc<V>>,
    /// Notifications to send.
    pub notes: mpsc::Receiver<Vec<VarBind>>,
    /// Counts questions, so that others know whether anybody asks.
    pub asked: Arc<AtomicU64>,
}

type Pdu = (Header, Result<Said, DecodeError>);

struct Socket {
    stream: UnixStream,
    /// What came in and is no whole PDU yet.
    buffer: Vec<u8>,
}

/// What the socket had.
enum Read {
    Bytes,
    End,
}

impl Socket {
    async fn connect(path: &Path) -> io::Result<Self> {
        let stream = tokio::time::timeout(SOCKET_PATIENCE, UnixStream::connect(path)).await??;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Waits for bytes. May be dropped while it waits: nothing is lost then.
    async fn read(&mut self) -> Read {
        let room = BUFFER.saturating_sub(self.buffer.len());
        match (&mut self.stream).take(u64::try_from(room).unwrap_or(0)).read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => Read::End,
            Ok(_) => Read::Bytes,
        }
    }

    /// The next whole PDU, if there is one.
    fn pdu(&mut self) -> Result<Option<Pdu>, DecodeError> {
        let Some((header, rest)) = self.buffer.split_first_chunk::<HEADER>() else { return Ok(None) };
        let header = Header::read(header)?;
        let length = usize::try_from(header.length).unwrap_or(PAYLOAD);
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let said = Said::read(&header, payload);
        self.buffer.drain(..HEADER + length);
        Ok(Some((header, said)))
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        tokio::time::timeout(SOCKET_PATIENCE, self.stream.write_all(bytes)).await?
    }
}

/// What the session is served with.
struct Shelf<V> {
    view: watch::Receiver<Arc<V>>,
    cached: Option<(Arc<V>, Tree)>,
    asked: Arc<AtomicU64>,
}

impl<V: Served> Shelf<V> {
    /// The tree of the newest view; made anew only when the view is another.
    fn tree(&mut self, now: Time, uptime: Option<Millis>) -> &Tree {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let newest = self.view.borrow().clone();
        if self.cached.as_ref().is_some_and(|(view, _)| !Arc::ptr_eq(view, &newest)) {
            self.cached = None;
        }
        let (_, tree) = self.cached.get_or_insert_with(|| {
            let tree = newest.tree(now, uptime);
            (newest, tree)
        });
        tree
    }
}

/// The socket and the session on it.
struct Talk {
    path: PathBuf,
    began: Instant,
    session: Session,
    socket: Option<Socket>,
}

impl<V: Served> Edge<V> {
    /// Serves until nobody can send notifications any more; then the session is closed in good order.
    pub async fn run(mut self) {
        let mut shelf = Shelf { view: self.view, cached: None, asked: self.asked };
        let session = Session::new(V::identity(), elapsed(self.began));
        let mut talk = Talk { path: self.socket, began: self.began, session, socket: None };
        loop {
            let deadline = talk.session.deadline().map(|at| talk.began + Duration::from_millis(at.0));
            let timer = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let read = async {
                match &mut talk.socket {
                    Some(socket) => socket.read().await,
                    None => std::future::pending().await,
                }
            };
            let outputs = tokio::select! {
                note = self.notes.recv() => match note {
                    Some(binds) => talk.session.notify(talk.now(), binds),
                    None => {
                        let outputs = talk.session.close(talk.now());
                        return talk.act(outputs).await;
                    }
                },
                read = read => match read {
                    Read::Bytes => {
                        talk.answer(&mut shelf).await;
                        vec![]
                    }
                    Read::End => {
                        tracing::info!("snmpd is gone; it is tried again");
                        talk.lose();
                        vec![]
                    }
                },
                () = timer => talk.session.tick(talk.now()),
            };
            talk.act(outputs).await;
        }
    }
}

impl Talk {
    fn now(&self) -> Time {
        elapsed(self.began)
    }

    fn lose(&mut self) {
        self.socket = None;
        self.session.disconnected(self.now());
    }

    /// Answers all whole PDUs that came in.
    async fn answer<V: Served>(&mut self, shelf: &mut Shelf<V>) {
        while let Some(socket) = &mut self.socket {
            match socket.pdu() {
                Ok(Some((header, said))) => {
                    let now = self.now();
                    let tree = shelf.tree(now, self.session.uptime(now));
                    let outputs = self.session.received(now, &header, said, tree);
                    self.act(outputs).await;
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "snmpd sent what is no PDU");
                    self.lose();
                }
            }
        }
    }

    async fn act(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Connect => match Socket::connect(&self.path).await {
                    Ok(made) => {
                        self.socket = Some(made);
                        for output in self.session.connected(self.now()) {
                            self.act_on_socket(output).await;
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%error, socket = %self.path.display(), "snmpd is not there");
                        self.session.disconnected(self.now());
                    }
                },
                Output::Send(_) | Output::HangUp => self.act_on_socket(output).await,
            }
        }
    }

    async fn act_on_socket(&mut self, output: Output) {
        match (output, &mut self.socket) {
            (Output::Send(bytes), Some(socket)) => {
                if let Err(error) = socket.send(&bytes).await {
                    tracing::info!(%error, "snmpd takes nothing; it is tried again");
                    self.lose();
                }
            }
            (Output::HangUp, _) => self.socket = None,
            (Output::Send(_) | Output::Connect, _) => {}
        }
    }
}

fn elapsed(began: Instant) -> Time {
    Time(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX))
}
