//! Syslog, RFC 5424: one line an alarm, over UDP (RFC 5426) or TCP with octet counting (RFC 6587). Its own protocol says
//! nothing of arrival; what can be known by the socket is.

use std::time::Duration;

use roost_aggregator_core::notify::{Digest, Item, Syslog};
use roost_protocol::alarm::Severity;
use roost_snmp::mib::arc::ENTERPRISE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket, lookup_host};

use super::{Undelivered, time};

/// Daemons (RFC 5424, 6.2.1).
const FACILITY: u8 = 3;
/// What every receiver must take is 480 bytes, what it should is this (RFC 5424, 6.1).
const LONGEST: usize = 2_048;
/// What a receiver gets to close its end.
const CLOSING: Duration = Duration::from_secs(2);

pub(super) async fn send(way: &Syslog, digest: &Digest) -> Result<(), Undelivered> {
    let wrap = |what| move |source| Undelivered::Socket { what, server: way.server.clone(), source };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let now = crate::clock::wall();
    let lines = digest.items.iter().map(|item| line(item, &time(now), host.trim()));
    if way.tcp {
        let mut stream = TcpStream::connect(&way.server).await.map_err(wrap("connect to"))?;
        let all: Vec<u8> = lines.flat_map(|line| [format!("{} ", line.len()).as_bytes(), &line].concat()).collect();
        stream.write_all(&all).await.map_err(wrap("write to"))?;
        stream.shutdown().await.map_err(wrap("write to"))?;
        // One that has read all closes too, one that has not resets the connection; some do neither.
        let mut rest = [0; 256];
        let closed = async {
            while stream.read(&mut rest).await? > 0 {}
            std::io::Result::Ok(())
        };
        let closed = tokio::time::timeout(CLOSING, closed).await;
        return closed.unwrap_or(Ok(())).map_err(wrap("be heard by"));
    }
    let server = lookup_host(&way.server).await.map_err(wrap("find"))?.next();
    let none = || std::io::Error::from(std::io::ErrorKind::NotFound);
    let server = server.ok_or_else(none).map_err(wrap("find"))?;
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await.map_err(wrap("open a socket for"))?;
    socket.connect(server).await.map_err(wrap("find"))?;
    for line in lines {
        socket.send(&line).await.map_err(wrap("send to"))?;
    }
    Ok(())
}

/// One message.
pub(super) fn line(item: &Item, now: &str, host: &str) -> Vec<u8> {
    let alarm = &item.alarm;
    let priority = FACILITY * 8 + level(item);
    let state = if item.cleared.is_some() { "cleared" } else { "raised" };
    let mut data = format!("[roost@{ENTERPRISE}");
    let since = time(alarm.since);
    let mut pairs = vec![
        ("id", alarm.key.fingerprint()),
        ("state", state.to_owned()),
        ("severity", item.severity().word().to_owned()),
        ("since", since),
    ];
    pairs.extend(alarm.host_name.clone().map(|name| ("host", name)));
    pairs.extend(alarm.guest_name.clone().map(|name| ("guest", name)));
    for (name, value) in pairs {
        data.push_str(&format!(" {name}=\"{}\"", escaped(&value)));
    }
    data.push(']');
    let host = word(host, 255);
    let kind = word(&alarm.key.code, 32);
    let head = format!("<{priority}>1 {now} {host} roost {} {kind} {data} \u{feff}", std::process::id());
    let over = if item.cleared.is_some() { "over: " } else { "" };
    let text = format!("{over}{}. Why: {}. To do: {}", item.what(), item.why(), item.to_do());
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut line = format!("{head}{text}");
    while line.len() > LONGEST {
        line.pop();
    }
    line.into_bytes()
}

fn level(item: &Item) -> u8 {
    match (item.cleared, item.severity()) {
        (Some(_), _) => 5,
        (None, Severity::Critical) => 2,
        (None, Severity::Error) => 3,
        (None, Severity::Warning) => 4,
        (None, Severity::Info) => 6,
    }
}

/// Printable ASCII without blanks, as fields of the header must be; `-` where there is none.
fn word(text: &str, most: usize) -> String {
    let word: String = text.chars().filter(char::is_ascii_graphic).take(most).collect();
    if word.is_empty() { "-".to_owned() } else { word }
}

/// The value of a parameter (RFC 5424, 6.3.3).
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars().take(256) {
        match letter {
            '"' | '\\' | ']' => escaped.extend(['\\', letter]),
            letter if letter.is_control() => escaped.push(' '),
            letter => escaped.push(letter),
        }
    }
    escaped
}
