//! Tries doors of desktops from the host, as `roost_agent_core::probe` decides: never from inside, where all looks well
//! while nobody outside can reach it. What comes back is looked at for a few bytes and thrown away.

mod echo;
#[cfg(test)]
mod theirs;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use roost_agent_core::probe::{Pace, Prober, TIMEOUT, Try, Wanted};
use roost_protocol::probe::{Access, Answer, Probe, Speech};
use roost_protocol::{GuestId, Stamp, Time};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How all doors stand.
pub(crate) type Doors = Arc<BTreeMap<GuestId, Vec<Access>>>;

/// Most that is read of an answer.
const ANSWER: usize = 64;
/// Connection request of RDP (X.224 in TPKT) that offers all kinds of security.
const RDP: &[u8] = b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00";
/// First words of SPICE for the main channel, with the capabilities that all clients have.
const SPICE: &[u8] = b"REDQ\x02\x00\x00\x00\x02\x00\x00\x00\x16\x00\x00\x00\
    \x00\x00\x00\x00\x01\x00\x01\x00\x00\x00\x00\x00\x00\x00\x12\x00\x00\x00\x0b\x00\x00\x00";

/// Begins; ends when nobody wants to know any more.
pub(crate) fn start(wanted: watch::Receiver<Arc<Wanted>>, pace: Pace) -> watch::Receiver<Doors> {
    let (sender, doors) = watch::channel(Doors::default());
    tokio::spawn(run(wanted, Prober::new(pace), sender));
    doors
}

async fn run(mut wanted: watch::Receiver<Arc<Wanted>>, mut prober: Prober, doors: watch::Sender<Doors>) {
    let began = Instant::now();
    let now = || Time(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
    let mut tries: JoinSet<(Try, Answer, Option<u32>)> = JoinSet::new();
    loop {
        for (guest, probe) in prober.due(now()) {
            tries.spawn(async move {
                let (answer, rtt_ms) = ask(&probe, Duration::from_millis(TIMEOUT.0)).await;
                ((guest, probe), answer, rtt_ms)
            });
        }
        let deadline = prober.deadline().map(|at| began + Duration::from_millis(at.0));
        let deadline = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(ended) = tries.join_next() => {
                // A try neither panics nor is it aborted.
                let Ok((door, answer, rtt_ms)) = ended else { continue };
                prober.ended(now(), wall(), &door, answer, rtt_ms);
            }
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                let all = wanted.borrow_and_update().clone();
                prober.want(now(), &all);
            }
            () = deadline => continue,
        }
        let shown = prober.shown();
        doors.send_if_modified(|before| {
            let changed = **before != shown;
            if changed {
                *before = Arc::new(shown);
            }
            changed
        });
    }
}

fn wall() -> Stamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Stamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// One try; the milliseconds that a good answer took.
async fn ask(probe: &Probe, patience: Duration) -> (Answer, Option<u32>) {
    let began = Instant::now();
    match timeout(patience, talk(probe)).await {
        Ok(Ok(true)) => (Answer::Ok, Some(u32::try_from(began.elapsed().as_millis()).unwrap_or(u32::MAX))),
        Ok(Ok(false)) => (Answer::BadReply, None),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => (Answer::Refused, None),
        // No way there, which the kernel may find out before our patience ends.
        Ok(Err(_)) | Err(_) => (Answer::TimedOut, None),
    }
}

/// Whether who answers there speaks what it should. An error: nobody takes the connection.
async fn talk(probe: &Probe) -> io::Result<bool> {
    let connect = || TcpStream::connect(probe.address);
    let request = match probe.speech {
        Speech::Ping => return echo::echo(probe.address.ip()).await.map(|()| true),
        Speech::Arp => return echo::arp(probe.address.ip()).await.map(|()| true),
        Speech::Tcp => return connect().await.map(|_| true),
        Speech::Rdp => RDP.to_vec(),
        Speech::Spice => SPICE.to_vec(),
        Speech::Http => {
            let (path, host) = (&probe.path, probe.address);
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: roost-agent\r\nConnection: close\r\n\r\n")
                .into()
        }
        Speech::Vnc | Speech::Ssh => Vec::new(),
    };
    let mut stream = connect().await?;
    // Who hangs up in the middle of this has answered, and badly.
    Ok(stream.write_all(&request).await.is_ok() && answers(probe.speech, &mut stream).await)
}

async fn answers(speech: Speech, stream: &mut TcpStream) -> bool {
    let mut got = Vec::with_capacity(ANSWER);
    let mut part = [0; ANSWER];
    loop {
        if let Some(verdict) = verdict(speech, &got) {
            return verdict;
        }
        match stream.read(&mut part[..ANSWER - got.len()]).await {
            Ok(0) | Err(_) => return false,
            Ok(more) => got.extend_from_slice(&part[..more]),
        }
    }
}

/// What the beginning of an answer says; none: not enough of it is here.
fn verdict(speech: Speech, got: &[u8]) -> Option<bool> {
    let begins = |word: &[u8]| match got.get(..word.len()) {
        Some(begin) => Some(begin == word),
        None if word.starts_with(got) => None,
        None => Some(false),
    };
    match speech {
        Speech::Vnc => begins(b"RFB 003."),
        // 1.99: version 2, and older ones too.
        Speech::Ssh => match begins(b"SSH-2.0-") {
            Some(false) => begins(b"SSH-1.99-"),
            other => other,
        },
        Speech::Spice => begins(b"REDQ"),
        // TPKT, then a connection confirm.
        Speech::Rdp => match begins(b"\x03\x00") {
            Some(true) => got.get(5).map(|kind| *kind == 0xd0),
            other => other,
        },
        // What the server says of itself with 5xx is no good news.
        Speech::Http => match begins(b"HTTP/1.") {
            Some(true) => got.get(8..10).map(|end| end[0] == b' ' && matches!(end[1], b'1'..=b'4')),
            other => other,
        },
        Speech::Tcp | Speech::Ping | Speech::Arp => Some(true),
    }
}

#[cfg(test)]
mod test {
    use std::net::Ipv4Addr;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[test]
    fn answers_are_known_by_their_first_bytes_and_nothing_else_is_taken_for_one() {
        let check = |speech, got: &[u8], expected| assert_eq!(verdict(speech, got), expected, "{speech:?} {got:?}");
        check(Speech::Vnc, b"RFB 003.008\n", Some(true));
        check(Speech::Vnc, b"RFB", None);
        check(Speech::Vnc, b"RFX", Some(false));
        check(Speech::Ssh, b"SSH-2.0-OpenSSH_9.2", Some(true));
        check(Speech::Ssh, b"SSH-1.99-x", Some(true));
        check(Speech::Ssh, b"SSH-1.5-x", Some(false));
        check(Speech::Ssh, b"SSH-", None);
        check(Speech::Spice, b"REDQ\x02", Some(true));
        check(Speech::Spice, b"RFB 003.008", Some(false));
        check(Speech::Rdp, b"\x03\x00\x00\x13\x0e\xd0", Some(true));
        check(Speech::Rdp, b"\x03\x00\x00\x13\x0e\xf0", Some(false));
        check(Speech::Rdp, b"\x03\x00\x00", None);
        check(Speech::Rdp, b"SSH-2.0-x", Some(false));
        check(Speech::Http, b"HTTP/1.1 200 OK", Some(true));
        check(Speech::Http, b"HTTP/1.0 401", Some(true));
        check(Speech::Http, b"HTTP/1.1 503", Some(false));
        check(Speech::Http, b"HTTP/1.1", None);
        check(Speech::Tcp, b"", Some(true));
        // Whatever was read is enough to judge, so no more is ever wanted.
        for speech in [Speech::Vnc, Speech::Ssh, Speech::Spice, Speech::Rdp, Speech::Http, Speech::Tcp] {
            for filler in [b'R', b'H', b'S', 3, 0, 0xff] {
                assert!(verdict(speech, &[filler; ANSWER]).is_some());
            }
        }
    }

    /// A server that says these words to each who comes and keeps the connection open.
    async fn server(words: &'static [u8]) -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(words).await;
                kept.push(stream);
            }
        });
        address.to_string()
    }

    async fn answer(word: &str, address: &str) -> Answer {
        // Far more than it takes on a busy machine.
        ask(&format!("{word}://{address}").parse().unwrap(), Duration::from_secs(60)).await.0
    }

    #[tokio::test]
    async fn who_refuses_says_nothing_or_speaks_something_else_is_told_apart() {
        let ssh = server(b"SSH-2.0-x\r\n").await;
        assert_eq!(answer("ssh", &ssh).await, Answer::Ok);
        assert_eq!(answer("tcp", &ssh).await, Answer::Ok);
        assert_eq!(answer("rdp", &ssh).await, Answer::BadReply);
        let silent = format!("vnc://{}", server(b"").await).parse().unwrap();
        assert_eq!(ask(&silent, Duration::from_millis(50)).await, (Answer::TimedOut, None));
        // Endless nonsense is not read to its end.
        static NONSENSE: [u8; 1 << 16] = [3; 1 << 16];
        assert_eq!(answer("rdp", &server(&NONSENSE).await).await, Answer::BadReply);
        // Taken, so that nobody else gets it, and not listened at.
        let taken = TcpSocket::new_v4().unwrap();
        taken.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        assert_eq!(answer("tcp", &taken.local_addr().unwrap().to_string()).await, Answer::Refused);
    }
}
