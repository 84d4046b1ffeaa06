//! The peer: Prometheus scraping as many targets with the same series as the simulated hosts report.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use roost_benches::process;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::host::{GUEST_SERIES, HOST_SERIES, guests_of};

const ADDRESS: &str = "127.0.0.1:19390";
/// Seconds between two scrapes of a target.
const EVERY_S: u64 = 10;

/// What it cost.
#[derive(Debug)]
pub(crate) struct Cost {
    pub(crate) us_per_sample: f64,
    pub(crate) rss_mib: f64,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Measures it, or gives nothing where it is not installed.
pub(crate) async fn measure(hosts: usize, series: usize, rounds: usize) -> Result<Option<Cost>> {
    if Command::new("prometheus").arg("--version").output().is_err() {
        eprintln!("prometheus is not installed: no peer");
        return Ok(None);
    }
    // Every address of 127.0.0.0/8 is this machine; a target an address.
    let listener = TcpListener::bind("0.0.0.0:0").await?;
    let port = listener.local_addr()?.port();
    let serving = tokio::spawn(serve(listener));
    let folder = tempfile::Builder::new().prefix("roost-bench.").tempdir_in("/var/tmp")?;
    let running = start(folder.path(), hosts, port)?;
    let cost = watch(running.0.id(), hosts, series, rounds).await;
    serving.abort();
    cost.map(Some)
}

fn start(folder: &Path, hosts: usize, port: u16) -> Result<Running> {
    let targets: Vec<String> = (0..hosts).map(|i| format!("'127.{}.1.{}:{port}'", 1 + i / 250, 1 + i % 250)).collect();
    let settings = format!(
        "global: {{scrape_interval: {EVERY_S}s, scrape_timeout: {EVERY_S}s}}\nscrape_configs:\n- job_name: hosts\n  \
         static_configs:\n  - targets: [{}]\n",
        targets.join(",")
    );
    let file = folder.join("prometheus.yml");
    std::fs::write(&file, settings)?;
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", file.display()));
    command.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
    command.arg(format!("--web.listen-address={ADDRESS}"));
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    Ok(Running(child.context("start prometheus")?))
}

/// The cheapest of so many windows, after two scrapes of everything.
async fn watch(pid: u32, hosts: usize, series: usize, rounds: usize) -> Result<Cost> {
    tokio::time::sleep(Duration::from_secs(2 * EVERY_S + 5)).await;
    let answer = reqwest::get(format!("http://{ADDRESS}/api/v1/query?query=sum(up)")).await?.bytes().await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    let up = answer["data"]["result"][0]["value"][1].as_str().unwrap_or("0").to_owned();
    ensure!(up == hosts.to_string(), "prometheus reaches {up} of {hosts} targets");
    let samples = f64::from(u32::try_from(series)?);
    let mut us_per_sample = f64::INFINITY;
    for _ in 0..rounds {
        let before = process::cpu(pid)?;
        tokio::time::sleep(Duration::from_secs(EVERY_S)).await;
        us_per_sample = us_per_sample.min((process::cpu(pid)? - before) * 1e6 / samples);
    }
    Ok(Cost { us_per_sample, rss_mib: process::resident(pid)? })
}

async fn serve(listener: TcpListener) {
    let answers = [answer(guests_of(0)), answer(guests_of(1))].map(|text| &*Box::leak(text.into_boxed_str()));
    while let Ok((stream, _)) = listener.accept().await {
        let even = match stream.local_addr() {
            Ok(SocketAddr::V4(address)) => address.ip().octets()[3] % 2 == 1,
            Ok(SocketAddr::V6(_)) | Err(_) => continue,
        };
        tokio::spawn(target(stream, if even { answers[0] } else { answers[1] }));
    }
}

async fn target(mut stream: TcpStream, answer: &'static str) -> Result<()> {
    let mut request = Vec::new();
    loop {
        request.clear();
        while !request.ends_with(b"\r\n\r\n") {
            ensure!(stream.read_buf(&mut request).await? > 0, "closed");
        }
        stream.write_all(answer.as_bytes()).await?;
    }
}

fn answer(guests: usize) -> String {
    let mut body = String::new();
    for series in 0..HOST_SERIES {
        body += &format!("node_metric_{series} {}\n", 1_000 + series);
    }
    for guest in 0..guests {
        for series in ["cpu", "resident_bytes", "read_bps", "write_bps", "balloon_bytes", "available_bytes"] {
            body += &format!("guest_{series}{{guest=\"vd-{guest:02}\"}} {}\n", 12_345 * guest);
        }
    }
    debug_assert_eq!(body.lines().count(), HOST_SERIES + GUEST_SERIES * guests);
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {length}\r\n\r\n{body}")
}
