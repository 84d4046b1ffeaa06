//! Callers that say too much at once, too little for too long, or nothing: they are cut off, and others don't notice.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use roost_protocol::transport::Purpose;
use roost_tests::grid::{self, Grid, HTTPS, Peer, QUIC, lasts, tiny};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Longest a command may take meanwhile: less than the 10 s after which the first callers are cut off.
const PROMPT: Duration = Duration::from_secs(8);
/// A frame, a first message or a handshake has 10 s, a request's head 15 s, its body 30 s: that, and as much again for a
/// loaded machine.
const CUT_FRAME: Duration = Duration::from_secs(20);
const CUT_REQUEST: Duration = Duration::from_secs(60);
/// Callers of each kind.
const SLOW_REQUESTS: usize = 100;
const SLOW_PEERS: usize = 20;
/// What all of them may cost the aggregator.
const MEMORY_KIB: u64 = 64 << 10;
/// Claims four gigabytes.
const OVERSIZE: [u8; 4] = [0xff; 4];

type Tls = StreamOwned<ClientConnection, TcpStream>;

#[test]
fn real_slow_and_oversize_callers_are_cut_off_and_cost_others_nothing() {
    grid::story(1, |grid| {
        grid.join_all()?;
        grid.api.done(Method::POST, "/guests", &tiny("calm", "h1", true))?;
        let address = format!("{}:{QUIC}", grid.lab.address(0));
        let token = grid.token("stranger")?;
        let stranger = Peer::stranger(&address, &token)?;
        let (large, slow) =
            (Peer::join(&address, &token, "large")?, Peer::join(&address, &grid.token("slow")?, "slow")?);
        let before = grid.memory_kib(0)?;
        let host = format!("{}:{HTTPS}", grid.lab.address(0));
        let body = format!("POST /api/v1/sessions HTTP/1.1\r\nHost: {host}\r\nContent-Length: 999\r\n\r\n");
        let over = AtomicBool::new(false);
        let grid = &*grid;
        thread::scope(|scope| {
            let honest = scope.spawn(|| prompt_until(grid, &over));
            let callers = [
                scope.spawn(|| strangers(&stranger)),
                scope.spawn(|| hosts(&large, &slow)),
                scope.spawn(|| slow_requests(grid, b"GET / HTTP/1.1\r\nX: ")),
                scope.spawn(|| slow_requests(grid, body.as_bytes())),
            ];
            let ends: Vec<Result<()>> = callers.into_iter().map(|caller| joined(caller.join())).collect();
            over.store(true, Ordering::Relaxed);
            joined(honest.join())?;
            ends.into_iter().collect::<Result<()>>()
        })?;
        let after = grid.memory_kib(0)?;
        ensure!(after < before + MEMORY_KIB, "the aggregator had {before} KiB and has {after}");
        let host = grid.api.get("/hosts/h1")?;
        ensure!(host["state"] == "up", "{host}");
        Ok(())
    });
}

fn joined(ended: thread::Result<Result<()>>) -> Result<()> {
    ended.unwrap_or_else(|_| Err(anyhow::anyhow!("a caller's thread fell over")))
}

/// Somebody who works as ever.
fn prompt_until(grid: &Grid, over: &AtomicBool) -> Result<()> {
    while !over.load(Ordering::Relaxed) {
        for verb in ["pause", "resume"] {
            let began = Instant::now();
            grid.api.act("calm", verb)?;
            ensure!(began.elapsed() < PROMPT, "{verb} took {:?}", began.elapsed());
        }
        lasts(Duration::from_millis(500));
    }
    Ok(())
}

/// Callers without a certificate.
fn strangers(stranger: &Peer) -> Result<()> {
    let mut large = stranger.connect(Purpose::Join)?;
    large.drip(&[&OVERSIZE], Duration::ZERO)?;
    let began = Instant::now();
    large.closed()?;
    ensure!(began.elapsed() < PROMPT, "an oversize frame was cut off after {:?}", began.elapsed());
    let mut slow = (0..SLOW_PEERS).map(|_| stranger.connect(Purpose::Join)).collect::<Result<Vec<_>>>()?;
    for link in &mut slow {
        // The begin of a message of 256 bytes, and no more.
        link.drip(&[&[0, 0, 1]], Duration::ZERO)?;
    }
    // This one never opens its mouth.
    slow.push(stranger.connect(Purpose::Join)?);
    let began = Instant::now();
    slow.iter().try_for_each(|link| link.closed().map(drop))?;
    ensure!(began.elapsed() < CUT_FRAME, "slow strangers were cut off after {:?}", began.elapsed());
    Ok(())
}

/// Hosts with a certificate, after a welcome.
fn hosts(large: &Peer, slow: &Peer) -> Result<()> {
    let mut link = large.hello()?;
    link.drip(&[&OVERSIZE], Duration::ZERO)?;
    let end = link.end()?;
    ensure!(end.starts_with("Misbehaved") && end.contains("4294967295 bytes"), "oversize: {end}");
    let mut link = slow.hello()?;
    let began = Instant::now();
    // A byte each second is not silence, and still too slow; sending fails once it is cut off.
    let pieces: Vec<&[u8]> = std::iter::once(&[0, 0, 1, 0][..]).chain([&[0][..]; 30]).collect();
    let _cut_off = link.drip(&pieces, Duration::from_secs(1));
    let end = link.end()?;
    ensure!(began.elapsed() < CUT_FRAME && end.starts_with("Misbehaved"), "after {:?}: {end}", began.elapsed());
    Ok(())
}

/// Requests that begin so and go on with a byte each second.
fn slow_requests(grid: &Grid, begin: &[u8]) -> Result<()> {
    let mut open = (0..SLOW_REQUESTS).map(|_| request(grid, begin)).collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    while !open.is_empty() {
        ensure!(began.elapsed() < CUT_REQUEST, "{} requests stand after {:?}", open.len(), began.elapsed());
        lasts(Duration::from_secs(1));
        open.retain_mut(|stream| stream.write_all(b"x").and_then(|()| stream.flush()).is_ok() && is_open(stream));
    }
    Ok(())
}

fn request(grid: &Grid, begin: &[u8]) -> Result<Tls> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&fs::read(grid.folder.join("ca.pem"))?)?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let address: IpAddr = grid.lab.address(0).parse()?;
    let session = ClientConnection::new(Arc::new(config), ServerName::from(address))?;
    let socket = TcpStream::connect((address, HTTPS))?;
    socket.set_read_timeout(Some(Duration::from_millis(1)))?;
    let mut stream = StreamOwned::new(session, socket);
    // The handshake is done on the way, with some waiting for answers.
    while let Err(why) = stream.write_all(begin) {
        ensure!(why.kind() == ErrorKind::WouldBlock, "{why}");
    }
    stream.flush().context("begin a request")?;
    Ok(stream)
}

/// An answer means that the request was given up; silence that it is still waited for.
fn is_open(stream: &mut Tls) -> bool {
    let mut answer = [0; 1_024];
    matches!(stream.read(&mut answer), Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}
