//! A host made of words alone: it joins with a real token and then says what a test wants, true or not.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use quinn::{Connection, Endpoint, SendStream};
use roost_protocol::enrol::{EnrolAnswer, EnrolRequest, JoinToken};
use roost_protocol::host::HostFacts;
use roost_protocol::identity::{Fingerprint, HostKey};
use roost_protocol::message::{Hello, OLDEST, ToAgent, ToAggregator, VERSION};
use roost_protocol::peer::{FromCalled, FromCaller};
use roost_protocol::transport::{self, FrameReader, Identity, Purpose, TransportError};
use roost_protocol::{Epoch, Generation, HostId, Stamp, backup, codec};
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// Longest wait for a word or an end; only a hang is longer.
const WORD: Duration = Duration::from_secs(60);

/// Whoever speaks the protocol; joined once it has an identity.
#[derive(Debug)]
pub struct Peer {
    runtime: Runtime,
    endpoint: Endpoint,
    address: SocketAddr,
    pin: Fingerprint,
    joined: Option<(HostId, Identity)>,
}

/// One connection with its stream.
#[derive(Debug)]
pub struct Link<'a> {
    peer: &'a Peer,
    connection: Connection,
    reader: FrameReader,
    writer: SendStream,
}

impl Peer {
    /// A stranger that knows no more of the grid than what is in a token.
    pub fn stranger(address: &str, token: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let endpoint = runtime.block_on(async { transport::client_endpoint() })?;
        let pin = JoinToken::parse(token)?.fingerprint();
        Ok(Self { runtime, endpoint, address: address.parse()?, pin, joined: None })
    }

    /// A host that joined with this token.
    pub fn join(address: &str, token: &str, name: &str) -> Result<Self> {
        let mut peer = Self::stranger(address, token)?;
        let key = HostKey::generate()?;
        let csr = key.csr()?;
        match peer.enrol(token, name, None, csr)? {
            EnrolAnswer::Accepted { host, chain, .. } => peer.joined = Some((host, Identity { chain, key })),
            EnrolAnswer::Refused { reason, text } => bail!("not joined: {reason:?} {text}"),
        }
        Ok(peer)
    }

    /// Asks to be taken in, with this signing request and as this host; the aggregator's answer.
    pub fn enrol(&self, token: &str, name: &str, host: Option<HostId>, csr: Vec<u8>) -> Result<EnrolAnswer> {
        self.runtime.block_on(async {
            let token = JoinToken::parse(token)?;
            let connection = transport::connect(&self.endpoint, self.address, Purpose::Join, self.pin, None).await?;
            let (mut reader, mut writer) = transport::open(&connection).await?;
            let exporter = transport::exporter(&connection)?;
            writer.send(&EnrolRequest::new(&token, &exporter, csr, name.into(), host, HostFacts::default())).await?;
            Ok(reader.recv_within(WORD).await?)
        })
    }

    /// The id it was given.
    pub fn id(&self) -> Result<HostId> {
        Ok(self.joined.as_ref().context("not joined")?.0)
    }

    /// A connection on which nothing was said yet: as a host, or as one that wants to join.
    pub fn connect(&self, purpose: Purpose) -> Result<Link<'_>> {
        let identity = self.joined.as_ref().map(|(_, identity)| identity);
        self.runtime.block_on(async {
            let connection = transport::connect(&self.endpoint, self.address, purpose, self.pin, identity).await?;
            let (writer, incoming) = connection.open_bi().await?;
            let mut reader = FrameReader::new(incoming);
            reader.trust();
            Ok(Link { peer: self, connection, reader, writer })
        })
    }

    /// A connection on which it said it was this host; the answer is still to be read.
    pub fn hello_as(&self, host: HostId) -> Result<Link<'_>> {
        let mut link = self.connect(Purpose::Link)?;
        let hello = Hello {
            newest: VERSION,
            oldest: OLDEST,
            host,
            facts: HostFacts::default(),
            epoch: Epoch(0),
            document: Generation(0),
            clock: Stamp(0),
        };
        link.say(&ToAggregator::Hello(hello))?;
        Ok(link)
    }

    /// Calls another host as its peer, says these words after a greeting, and gives all that is answered until the end.
    ///
    /// # Errors
    /// Nobody there, or not heard.
    pub fn call(&self, other: &backup::Peer, words: &[FromCaller]) -> Result<Vec<FromCalled>> {
        let (_, identity) = self.joined.as_ref().context("not joined")?;
        let (key, pin) = (Fingerprint(other.key), self.pin);
        self.runtime.block_on(async {
            let address = other.addresses.first().context("its address")?.parse()?;
            let connection = transport::connect_host(&self.endpoint, address, pin, key, identity).await?;
            let (mut reader, mut writer) = transport::open(&connection).await?;
            writer.send(&FromCaller::Hello { newest: 1, oldest: 1, to: other.host }).await?;
            let mut answers = vec![reader.recv_within(WORD).await?];
            for word in words {
                writer.send(word).await?;
                answers.push(reader.recv_within(WORD).await?);
            }
            Ok(answers)
        })
    }

    /// A connection as itself, welcome.
    pub fn hello(&self) -> Result<Link<'_>> {
        let mut link = self.hello_as(self.id()?)?;
        let answer = link.hear()?;
        ensure!(matches!(answer, ToAgent::Welcome(_)), "no welcome but {answer:?}");
        Ok(link)
    }
}

impl Link<'_> {
    /// Says a word of the protocol.
    pub fn say(&mut self, message: &ToAggregator) -> Result<()> {
        let body = codec::encode(message);
        let header = u32::try_from(body.len())?.to_be_bytes();
        self.drip(&[&[&header[..], &body].concat()], Duration::ZERO)
    }

    /// The next word of the aggregator.
    pub fn hear(&mut self) -> Result<ToAgent, TransportError> {
        self.peer.runtime.block_on(self.reader.recv_within(WORD))
    }

    /// Hears until it is told of its peers.
    pub fn peers(&mut self) -> Result<Vec<backup::Peer>> {
        loop {
            if let ToAgent::Peers { peers, .. } = self.hear()? {
                return Ok(peers);
            }
        }
    }

    /// Hears until cut off; the last words, or why the connection ended.
    pub fn end(&mut self) -> Result<String> {
        loop {
            match self.hear() {
                Ok(ToAgent::Refused(refused)) => return Ok(format!("{:?}: {}", refused.reason, refused.text)),
                Ok(_) => {}
                Err(TransportError::Slow { limit }) => bail!("not cut off within {limit:?}"),
                Err(_) => return self.closed(),
            }
        }
    }

    /// Waits until the aggregator closes the connection, and its reason.
    pub fn closed(&self) -> Result<String> {
        let closed = self.peer.runtime.block_on(async { timeout(WORD, self.connection.closed()).await });
        Ok(closed.context("the connection stands")?.to_string())
    }

    /// Sends bytes that need not be a message, each piece `between` after the one before, until all are gone.
    pub fn drip(&mut self, pieces: &[&[u8]], between: Duration) -> Result<()> {
        self.peer.runtime.block_on(async {
            for (n, piece) in pieces.iter().enumerate() {
                if n > 0 {
                    tokio::time::sleep(between).await;
                }
                timeout(WORD, self.writer.write_all(piece)).await??;
            }
            Ok(())
        })
    }
}
