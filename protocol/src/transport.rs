//! QUIC between hosts and their aggregator, and between hosts: TLS 1.3, purposes told apart by ALPN. A machine that joins
//! has no certificate yet; a host has one, and is known by its key.

mod frame;
pub mod local;
mod tls;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::{
    Connection, ConnectionError, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, Incoming, TokioRuntime,
    TransportConfig, VarInt,
};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::CertificateDer;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::enrol::EXPORTER;
use crate::identity::{Fingerprint, GridKey, HostKey, IdentityError, PeerIdentity, SERVER_NAME, peer_identity};
use crate::message::{Der, FRAME, FRAME_BEFORE_HELLO};
use crate::{Stamp, codec};

pub use frame::{FRAME_TIME, FrameReader, FrameWriter, SEND_TIME};

/// A connection that is silent for this long is dead: seven heartbeats.
pub const IDLE: Duration = Duration::from_secs(15);
/// The host sends at least this often.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Longest handshake.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time a peer has for its first message.
pub const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// Handshakes at once; more are refused. 5,000 hosts that come back at once need about 2 s in all.
pub const HANDSHAKES: usize = 1_024;
/// The same for a host: few others call it.
pub const HOST_HANDSHAKES: usize = 64;
/// From this many handshakes at once, an address must first show that it receives: forged ones cost no memory then.
pub const RETRY_FROM: usize = 64;
/// Bytes of a connection's id, as quinn's own.
const CONNECTION_ID: usize = 8;
const RESET_SALT: &[u8] = b"roost stateless reset";
/// At most one "I don't know you" in this time: 5,000 hosts are told within 5 s, and strangers can't make us shout.
const RESET_EVERY: Duration = Duration::from_millis(1);
/// Connection attempts that wait to be looked at, and the memory of them all.
const WAITING: usize = 1_024;
const WAITING_BYTES: u64 = 4 << 20;
/// The default of 208 KiB loses packets when thousands of hosts come back at once; taken as far as the system allows.
const SOCKET_BUFFER: usize = 8 << 20;
/// Streams a peer may open: the one for messages and one to spare.
const STREAMS: u32 = 2;
/// A whole second frame may be on its way while one is read.
const TRUSTED_WINDOW: usize = 2 * FRAME;

const EXPORTER_LABEL: &[u8] = b"EXPORTER-roost-join";

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A host of the grid reports and is told what to do.
    Link,
    /// A machine wants to become a host.
    Join,
    /// Two hosts of a grid exchange restore points.
    Peer,
    /// A host of the grid fetches a file of a newer image.
    Image,
}

impl Purpose {
    const ALL: [Purpose; 4] = [Purpose::Link, Purpose::Join, Purpose::Peer, Purpose::Image];
    /// What an aggregator listens for.
    pub(crate) const AGGREGATOR: [Purpose; 3] = [Purpose::Link, Purpose::Join, Purpose::Image];

    /// The protocol's name in the TLS handshake.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Purpose::Link => b"roost/1",
            Purpose::Join => b"roost-join/1",
            Purpose::Peer => b"roost-peer/1",
            Purpose::Image => b"roost-image/1",
        }
    }
}

/// Why a connection is closed; the number travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    Done = 0,
    Misbehaved = 1,
    NoCertificate = 2,
    Replaced = 3,
    ShuttingDown = 4,
}

impl From<CloseCode> for VarInt {
    fn from(code: CloseCode) -> Self {
        VarInt::from_u32(code as u32)
    }
}

/// What went wrong between two machines.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    #[error("open UDP socket {address}")]
    Bind {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("set up TLS")]
    Tls(#[from] rustls::Error),
    #[error("set up TLS: no cipher for QUIC")]
    NoCipher,
    #[error("use the grid's or the host's key")]
    Identity(#[from] IdentityError),
    #[error("connect to {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: quinn::ConnectError,
    },
    #[error("handshake")]
    Handshake(#[source] ConnectionError),
    #[error("the connection was lost")]
    Lost {
        #[source]
        source: ConnectionError,
    },
    #[error("the connection was closed: {why}")]
    Closed { why: String },
    #[error("the stream ended within a message")]
    Truncated,
    #[error("message of {length} bytes; at most {limit} are allowed")]
    Oversize { length: usize, limit: usize },
    #[error("nothing, or too little, came or went for {limit:?}")]
    Slow { limit: Duration },
    #[error("read a message")]
    Decode(#[from] codec::Error),
    #[error("a host showed no certificate of this grid")]
    NoCertificate,
    #[error("TLS gave no secret to bind to")]
    Exporter,
}

impl TransportError {
    /// True where the peer broke the rules, as against a network or a peer that went away.
    pub fn misbehaved(&self) -> bool {
        matches!(
            self,
            Self::Oversize { .. } | Self::Slow { .. } | Self::Decode(_) | Self::NoCertificate | Self::Truncated
        )
    }

    /// True where somebody answered, and it was not who has the pinned grid key.
    pub fn other_key(&self) -> bool {
        let code = quinn::TransportErrorCode::crypto(rustls::AlertDescription::UnknownCA.into());
        matches!(self, Self::Handshake(ConnectionError::TransportError(error)) if error.code == code)
    }
}

/// A host's certificate chain (leaf first) and its key.
#[derive(Debug)]
pub struct Identity {
    pub chain: Vec<Der>,
    pub key: HostKey,
}

/// The endpoint of an aggregator, or of a host for its peers.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    handshakes: Arc<Semaphore>,
    /// Handshakes at once.
    most: usize,
}

impl Listener {
    /// Listens on this UDP address; `[::]` takes IPv4 as well. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The address is taken, or the key can't be used.
    pub fn bind(address: SocketAddr, grid: &GridKey, now: Stamp) -> Result<Self, TransportError> {
        let endpoint = server_endpoint(address, grid.secret(), server_config(grid, now)?)?;
        Ok(Self::on(endpoint, HANDSHAKES))
    }

    /// Listens for other hosts of the grid whose certificate is `ca`, as this host. Only callers with a certificate of that
    /// grid get through the handshake; whether they belong to it still is for the caller of this to know.
    ///
    /// # Errors
    /// The address is taken, or key or certificates can't be used.
    pub fn bind_host(address: SocketAddr, own: &Identity, ca: &Der) -> Result<Self, TransportError> {
        let endpoint = server_endpoint(address, own.key.secret(), quic_server(tls::host(ca, own)?)?)?;
        Ok(Self::on(endpoint, HOST_HANDSHAKES))
    }

    fn on(endpoint: Endpoint, most: usize) -> Self {
        Self { endpoint, handshakes: Arc::new(Semaphore::new(most)), most }
    }

    /// A fresh certificate of its own for connections from now on; those that stand are not touched.
    ///
    /// # Errors
    /// The key can't be used.
    pub fn renew(&self, grid: &GridKey, now: Stamp) -> Result<(), TransportError> {
        self.endpoint.set_server_config(Some(server_config(grid, now)?));
        Ok(())
    }

    /// The next machine that calls; its handshake is still to be made, in a task of its own. `None`: the endpoint is
    /// closed. Cancel-safe.
    pub async fn accept(&self) -> Option<Handshake> {
        loop {
            let incoming = self.endpoint.accept().await?;
            if self.most.saturating_sub(self.handshakes.available_permits()) >= RETRY_FROM && incoming.may_retry() {
                // Fails only where `may_retry` is false.
                let _asked = incoming.retry();
                continue;
            }
            match self.handshakes.clone().try_acquire_owned() {
                Ok(permit) => return Some(Handshake { incoming, permit }),
                Err(_) => incoming.refuse(),
            }
        }
    }

    /// The endpoint itself: its address, its statistics, and closing it.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

/// A machine that calls, before TLS.
#[derive(Debug)]
pub struct Handshake {
    incoming: Incoming,
    permit: OwnedSemaphorePermit,
}

impl Handshake {
    /// Where the call comes from.
    pub fn remote_address(&self) -> SocketAddr {
        self.incoming.remote_address()
    }

    /// TLS, within [`HANDSHAKE`]. A caller with another purpose than `Join` has shown a certificate of this grid, whose
    /// dates were not looked at.
    ///
    /// # Errors
    /// The handshake failed or took too long.
    pub async fn finish(self) -> Result<Peer, TransportError> {
        let connecting = self.incoming.accept().map_err(TransportError::Handshake)?;
        let connection = within_handshake(connecting).await?;
        drop(self.permit);
        match Peer::of(connection.clone()) {
            Ok(peer) => Ok(peer),
            Err(error) => {
                connection.close(CloseCode::NoCertificate.into(), error.to_string().as_bytes());
                Err(error)
            }
        }
    }
}

/// The other end of a connection that was taken.
#[derive(Debug)]
pub struct Peer {
    pub connection: Connection,
    pub purpose: Purpose,
    /// Always there but for `Join`.
    pub identity: Option<PeerIdentity>,
}

impl Peer {
    fn of(connection: Connection) -> Result<Self, TransportError> {
        let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
        let alpn = data.and_then(|data| data.protocol).unwrap_or_default();
        let purpose = Purpose::ALL.into_iter().find(|purpose| purpose.alpn() == alpn);
        let purpose = purpose.ok_or(TransportError::NoCertificate)?;
        let identity = peer_certificate(&connection).map(|der| peer_identity(&der)).transpose()?;
        match (purpose, &identity) {
            (Purpose::Link | Purpose::Peer | Purpose::Image, None) => Err(TransportError::NoCertificate),
            (Purpose::Link | Purpose::Peer | Purpose::Image, Some(_)) | (Purpose::Join, _) => {
                Ok(Self { connection, purpose, identity })
            }
        }
    }

    /// The stream that the caller opens, to be read and written, once it has said something on it.
    ///
    /// # Errors
    /// It opened none within [`FIRST_MESSAGE`], or went away.
    pub async fn accept(&self) -> Result<(FrameReader, FrameWriter), TransportError> {
        let slow = |_| TransportError::Slow { limit: FIRST_MESSAGE };
        let opened = tokio::time::timeout(FIRST_MESSAGE, self.connection.accept_bi()).await.map_err(slow)?;
        let (send, recv) = opened.map_err(|source| TransportError::Lost { source })?;
        Ok((FrameReader::new(recv), FrameWriter::new(send)))
    }
}

/// The peer is known and welcome: allow it as much data on the way as its frames need.
pub fn trust(connection: &Connection, reader: &mut FrameReader) {
    reader.trust();
    connection.set_receive_window(window(TRUSTED_WINDOW));
}

/// The host's endpoint, on any free port.
///
/// # Errors
/// No socket.
pub fn client_endpoint() -> Result<Endpoint, TransportError> {
    let any_v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    // A kernel without IPv6 refuses the first.
    let socket = udp_socket(any_v6).or_else(|_| udp_socket(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))?;
    Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))
        .map_err(|source| TransportError::Bind { address: any_v6, source })
}

/// A connection to the aggregator whose grid key has this fingerprint, within [`HANDSHAKE`].
///
/// # Errors
/// Not reached, or not that aggregator.
pub async fn connect(
    endpoint: &Endpoint,
    address: SocketAddr,
    purpose: Purpose,
    pin: Fingerprint,
    identity: Option<&Identity>,
) -> Result<Connection, TransportError> {
    dial(endpoint, address, tls::client(purpose, pin, identity)?).await
}

/// A connection to another host of the grid, which has to show a certificate of the grid key `pin` for its own `key`.
///
/// # Errors
/// Not reached, or not that host.
pub async fn connect_host(
    endpoint: &Endpoint,
    address: SocketAddr,
    pin: Fingerprint,
    key: Fingerprint,
    own: &Identity,
) -> Result<Connection, TransportError> {
    dial(endpoint, address, tls::caller(pin, key, own)?).await
}

async fn dial(
    endpoint: &Endpoint,
    address: SocketAddr,
    tls: rustls::ClientConfig,
) -> Result<Connection, TransportError> {
    let crypto = QuicClientConfig::try_from(tls);
    let mut config = quinn::ClientConfig::new(Arc::new(crypto.map_err(|_| TransportError::NoCipher)?));
    let mut transport = transport_config(TRUSTED_WINDOW);
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    config.transport_config(Arc::new(transport));
    let connecting = endpoint
        .connect_with(config, address, SERVER_NAME)
        .map_err(|source| TransportError::Connect { address, source })?;
    within_handshake(connecting).await
}

/// The host's stream for messages. The aggregator learns of it with the first message.
///
/// # Errors
/// The connection is gone.
pub async fn open(connection: &Connection) -> Result<(FrameReader, FrameWriter), TransportError> {
    let slow = |_| TransportError::Slow { limit: HANDSHAKE };
    let opened = tokio::time::timeout(HANDSHAKE, connection.open_bi()).await.map_err(slow)?;
    let (send, recv) = opened.map_err(|source| TransportError::Lost { source })?;
    // The aggregator is known by its pinned key: it may send large frames at once.
    let mut reader = FrameReader::new(recv);
    reader.trust();
    Ok((reader, FrameWriter::new(send)))
}

/// Bytes that only the two ends of this TLS session know; see [`crate::enrol`].
///
/// # Errors
/// Never on a connection whose handshake is done.
pub fn exporter(connection: &Connection) -> Result<[u8; EXPORTER], TransportError> {
    let mut bytes = [0; EXPORTER];
    match connection.export_keying_material(&mut bytes, EXPORTER_LABEL, b"") {
        Ok(()) => Ok(bytes),
        Err(_) => Err(TransportError::Exporter),
    }
}

/// A listening endpoint without [`Listener`]'s care for floods.
fn server_endpoint(
    address: SocketAddr,
    secret: &[u8],
    config: quinn::ServerConfig,
) -> Result<Endpoint, TransportError> {
    let socket = udp_socket(address)?;
    Endpoint::new(resetting(secret)?, Some(config), socket, Arc::new(TokioRuntime))
        .map_err(|source| TransportError::Bind { address, source })
}

/// Keys that outlive the process: a listener that was started again tells callers at their next packet that it knows
/// their connection no more (RFC 9000, 10.3), and they connect anew at once instead of after [`IDLE`].
fn resetting(secret: &[u8]) -> Result<EndpointConfig, TransportError> {
    let derived = Salt::new(HKDF_SHA256, RESET_SALT).extract(secret);
    let mut key = [0; 32];
    let filled = derived.expand(&[b"reset key 1"], HKDF_SHA256).and_then(|okm| okm.fill(&mut key));
    filled.map_err(|_| TransportError::NoCipher)?;
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &key)));
    config.min_reset_interval(RESET_EVERY);
    config.cid_generator(|| Box::new(RandomIds));
    Ok(config)
}

/// Ids of connections that any process of the grid answers for: quinn's own are bound to one process, and those of the
/// process before are dropped without a word.
#[derive(Debug)]
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; CONNECTION_ID];
        // Were there no randomness, ids would collide and connections fail; keys don't come from here.
        let _filled = SystemRandom::new().fill(&mut id);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn server_config(grid: &GridKey, now: Stamp) -> Result<quinn::ServerConfig, TransportError> {
    quic_server(tls::server(grid.ca_certificate(), grid.issue_server(&[], now)?)?)
}

fn quic_server(tls: rustls::ServerConfig) -> Result<quinn::ServerConfig, TransportError> {
    let crypto = QuicServerConfig::try_from(tls).map_err(|_| TransportError::NoCipher)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config
        .max_incoming(WAITING)
        .incoming_buffer_size(FRAME_BEFORE_HELLO as u64)
        .incoming_buffer_size_total(WAITING_BYTES);
    config.transport_config(Arc::new(transport_config(FRAME_BEFORE_HELLO)));
    Ok(config)
}

fn transport_config(receive: usize) -> TransportConfig {
    let mut config = TransportConfig::default();
    let idle = u32::try_from(IDLE.as_millis()).map_or(VarInt::MAX, VarInt::from_u32);
    config.max_idle_timeout(Some(idle.into()));
    config.max_concurrent_bidi_streams(VarInt::from_u32(STREAMS)).max_concurrent_uni_streams(VarInt::from_u32(0));
    config.receive_window(window(receive)).stream_receive_window(window(TRUSTED_WINDOW));
    config.send_window(2 * FRAME as u64);
    config.datagram_receive_buffer_size(None);
    config
}

fn window(bytes: usize) -> VarInt {
    u32::try_from(bytes).map_or(VarInt::MAX, VarInt::from_u32)
}

fn udp_socket(address: SocketAddr) -> Result<std::net::UdpSocket, TransportError> {
    let open = || -> io::Result<std::net::UdpSocket> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        // As much as the system gives; too little costs time when all hosts come back, nothing else.
        let _best_effort = (socket.set_recv_buffer_size(SOCKET_BUFFER), socket.set_send_buffer_size(SOCKET_BUFFER));
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    };
    open().map_err(|source| TransportError::Bind { address, source })
}

async fn within_handshake(connecting: quinn::Connecting) -> Result<Connection, TransportError> {
    let slow = |_| TransportError::Slow { limit: HANDSHAKE };
    tokio::time::timeout(HANDSHAKE, connecting).await.map_err(slow)?.map_err(TransportError::Handshake)
}

fn peer_certificate(connection: &Connection) -> Option<Vec<u8>> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.first().map(|leaf| leaf.to_vec())
}
