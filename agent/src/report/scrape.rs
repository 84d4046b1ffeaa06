//! The door for Prometheus: answers `GET /metrics` and nothing else.

use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::metrics;
use super::monitor::Shot;
use crate::detail::{Demand, Details};

/// Scrapers at once; a monitoring system has one or two.
const CONNECTIONS: usize = 8;
/// A scraper says what it wants within this time, and lets go after the longest time it may keep its connection.
const HEADER: Duration = Duration::from_secs(10);
const CONNECTION: Duration = Duration::from_secs(600);
/// When no connection can be accepted, for want of files, the next try comes after this.
const PAUSE: Duration = Duration::from_secs(1);
/// Largest head of a request.
const HEAD: usize = 16 << 10;
const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a scrape is answered from.
#[derive(Clone, Debug)]
pub(crate) struct Scrape {
    pub(crate) shots: watch::Receiver<Arc<Shot>>,
    pub(crate) details: Details,
    pub(crate) demand: Demand,
}

impl Scrape {
    /// Listens there.
    pub(crate) async fn start(self, address: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(address).await?;
        let bound = listener.local_addr()?;
        tokio::spawn(self.serve(listener));
        Ok(bound)
    }

    async fn serve(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let own = self.clone();
                    tokio::spawn(async move {
                        // However it ends: the scraper comes again.
                        let _ = tokio::time::timeout(CONNECTION, own.talk(stream)).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept a scraper");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn talk(self, stream: TcpStream) -> Result<(), hyper::Error> {
        let answer = service_fn(|request: Request<Incoming>| ready(Ok::<_, Infallible>(self.answer(&request))));
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEADER).max_buf_size(HEAD);
        server.serve_connection(TokioIo::new(stream), answer).await
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<String> {
        let mut response = Response::default();
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/metrics") => {
                self.demand.raise();
                let shot = self.shots.borrow().clone();
                *response.body_mut() = metrics::text(&shot, &self.details);
                response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(TYPE));
            }
            (_, "/metrics") => {
                *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
                response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
            }
            _ => {
                *response.status_mut() = StatusCode::NOT_FOUND;
                "metrics are at /metrics\n".clone_into(response.body_mut());
            }
        }
        response
    }
}
