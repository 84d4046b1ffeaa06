//! HTTPS: connections, their number and their time-outs. Everything slower than it should be is cut off.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::Version;
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::Peer;
use super::heads::Watched;

/// Connections at once; more wait until one ends.
const CONNECTIONS: usize = 1_024;
/// Time for the TLS handshake, and for the head of each request (slow loris).
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
const HEAD_WITHIN: Duration = Duration::from_secs(15);
/// A peer that takes nothing of what it is sent for this long is gone.
const WRITE_WITHIN: Duration = Duration::from_secs(60);
/// Bytes and number of headers.
const HEAD: usize = 64 << 10;
const HEADERS: usize = 100;
/// Requests at once on one HTTP/2 connection.
const HTTP2_STREAMS: u32 = 64;
/// A silent HTTP/2 peer is asked whether it lives this often.
const HTTP2_PING: Duration = Duration::from_secs(30);
/// After a fault of accepting (no file descriptors), before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// At the end, time for requests under way.
const DRAIN: Duration = Duration::from_secs(5);

/// Marks a request of a connection whose heads are not clear.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubtful;

/// What the server is made of.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) listener: TcpListener,
    /// Its resolver says which certificate counts for a new connection. ALPN is set here.
    pub(crate) tls: ServerConfig,
    pub(crate) router: Router,
}

/// Serves until told to stop, then lets requests under way end.
pub(crate) async fn serve(serving: Serving, stop: CancellationToken) {
    let Serving { listener, mut tls, router } = serving;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let turns = Arc::new(Semaphore::new(CONNECTIONS));
    let open = TaskTracker::new();
    loop {
        let accepted = async {
            let turn = Arc::clone(&turns).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((turn, listener.accept().await?))
        };
        let (turn, (socket, peer)) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
        open.spawn(async move {
            connection(socket, peer, &acceptor, router, &stop).await;
            drop(turn);
        });
    }
    open.close();
    if tokio::time::timeout(DRAIN, open.wait()).await.is_err() {
        tracing::info!(connections = open.len(), "closing connections that did not end");
    }
}

async fn connection(
    socket: TcpStream,
    peer: SocketAddr,
    acceptor: &TlsAcceptor,
    router: Router,
    stop: &CancellationToken,
) {
    // Small answers go out at once; where that fails they go out a little later.
    drop(socket.set_nodelay(true));
    let stream = match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(Patient::new(socket))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake"),
        Err(_) => return tracing::debug!(%peer, "the TLS handshake took too long"),
    };
    let address = Peer(peer.ip().to_canonical());
    let doubtful = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&doubtful);
    let service = router.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(address);
        // HTTP/2 says in its frames how long a body is.
        if request.version() < Version::HTTP_2 && seen.load(Ordering::Relaxed) {
            request.extensions_mut().insert(Doubtful);
        }
        request
    });
    let builder = builder();
    let stream = TokioIo::new(Watched::new(stream, doubtful));
    let served = builder.serve_connection(stream, TowerToHyperService::new(service));
    tokio::pin!(served);
    let stopping = stop.cancelled().fuse();
    tokio::pin!(stopping);
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = &mut stopping => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection");
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(HEAD).max_headers(HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS)
        .max_header_list_size(u32::try_from(HEAD).unwrap_or(u32::MAX))
        .keep_alive_interval(HTTP2_PING)
        .keep_alive_timeout(HEAD_WITHIN);
    builder
}

/// A socket whose writes fail when the peer takes nothing for [`WRITE_WITHIN`].
#[derive(Debug)]
struct Patient {
    socket: TcpStream,
    /// Set while a write waits.
    until: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(socket: TcpStream) -> Self {
        Self { socket, until: None }
    }

    fn judge<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.until = None;
            return poll;
        }
        let until = self.until.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + WRITE_WITHIN)));
        match until.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.judge(cx, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.socket).poll_flush(cx);
        self.judge(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.socket).poll_shutdown(cx);
        self.judge(cx, poll)
    }
}

#[cfg(test)]
mod test {
    use roost_protocol::identity::{GridKey, SERVER_NAME};
    use rustls::{ClientConfig, RootCertStore};
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsConnector;

    use super::super::fake::Fake;
    use super::*;

    fn provider() -> Arc<rustls::crypto::CryptoProvider> {
        Arc::new(rustls::crypto::ring::default_provider())
    }

    fn server_tls(key: &GridKey) -> ServerConfig {
        let issued = key.issue_server(&[], crate::clock::wall()).unwrap();
        let chain = issued.chain.into_iter().map(|der| CertificateDer::from(der.0)).collect();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(issued.key));
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        builder.with_no_client_auth().with_single_cert(chain, key).unwrap()
    }

    /// What a client that trusts the grid's CA gets for these bytes.
    async fn answer(key: &GridKey, address: SocketAddr, bytes: &[u8]) -> String {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(key.ca_certificate().0.clone())).unwrap();
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let connector = TlsConnector::from(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()));
        let socket = TcpStream::connect(address).await.unwrap();
        let mut stream = connector.connect(ServerName::try_from(SERVER_NAME).unwrap(), socket).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut text = Vec::new();
        // A server that closes without a TLS goodbye after an error is no fault of this test.
        let _ = stream.read_to_end(&mut text).await;
        String::from_utf8_lossy(&text).into_owned()
    }

    #[tokio::test]
    async fn https_answers_whom_the_grids_ca_convinces_bounds_heads_and_stops_when_told() {
        let key = GridKey::generate().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", axum::routing::get(|| async { "hello" }));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(Serving { listener, tls: server_tls(&key), router }, stop.clone()));
        let good = answer(&key, address, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(good.starts_with("HTTP/1.1 200") && good.ends_with("hello"), "{good}");
        let large = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(2 * HEAD));
        assert!(answer(&key, address, large.as_bytes()).await.starts_with("HTTP/1.1 431"));
        let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(2 * HEADERS));
        assert!(answer(&key, address, many.as_bytes()).await.starts_with("HTTP/1.1 431"));
        let two_lengths = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef";
        assert!(answer(&key, address, two_lengths).await.starts_with("HTTP/1.1 400"));
        stop.cancel();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn what_a_proxy_could_read_otherwise_is_refused_and_its_connection_closed() {
        let (key, fake) = (GridKey::generate().unwrap(), Fake::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let router = fake.router.clone();
        let serving = tokio::spawn(serve(Serving { listener, tls: server_tls(&key), router }, stop.clone()));
        let smuggled = "GET /healthz HTTP/1.1\r\nHost: grid.test\r\n\r\n";
        let length = format!("Content-Length: {}\r\n", 5 + smuggled.len());
        let chunked = "Transfer-Encoding: chunked\r\n";
        let healthy = "GET /healthz HTTP/1.1\r\nHost: grid.test\r\n\r\n";
        for (before, heads) in [
            ("", format!("{length}{chunked}")),
            ("", format!("{chunked}{length}")),
            (healthy, format!("{chunked}Accept: */*\r\n{}", length.to_ascii_uppercase())),
        ] {
            let text = format!("{before}POST /RPC2 HTTP/1.1\r\nHost: grid.test\r\n{heads}\r\n0\r\n\r\n{smuggled}");
            let answers = answer(&key, address, text.as_bytes()).await;
            assert!(answers.contains("HTTP/1.1 400 ") && answers.contains("bad_request"), "{heads}: {answers}");
            let answered = 1 + usize::from(!before.is_empty());
            assert_eq!(answers.matches("HTTP/1.1 ").count(), answered, "the rest is no request: {answers}");
        }
        let chunks =
            format!("POST /RPC2 HTTP/1.1\r\nHost: grid.test\r\nConnection: close\r\n{chunked}\r\n1\r\nx\r\n0\r\n\r\n");
        assert!(answer(&key, address, chunks.as_bytes()).await.starts_with("HTTP/1.1 200"), "chunks alone are fine");
        for (head, status) in [
            ("Host: evil.example\r\n", "421"),
            ("Host: grid.test\r\nHost: evil.example\r\n", "400"),
            ("", "400"),
            ("Host: 127.0.0.1:8443\r\n", "200"),
        ] {
            let text = format!("GET /healthz HTTP/1.1\r\n{head}Connection: close\r\n\r\n");
            let told = answer(&key, address, text.as_bytes()).await;
            assert!(told.starts_with(&format!("HTTP/1.1 {status}")), "{head}: {told}");
        }
        stop.cancel();
        serving.await.unwrap();
    }
}
