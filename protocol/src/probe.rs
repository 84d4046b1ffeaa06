//! Desktops asked from their hosts whether they answer: where, and what came of it.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::str::FromStr;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::{GuestId, Stamp};

/// Most probes of one guest.
pub const PROBES: usize = 4;
/// Longest path of a probe by HTTP, bytes.
const PATH: usize = 128;

/// What is spoken there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Speech {
    Rdp,
    Vnc,
    Spice,
    Ssh,
    /// Nothing: it is enough that it takes the connection.
    Tcp,
    Http,
    /// It answers an echo request.
    Ping,
    /// It answers ARP: seen from a host on the same network only, and whatever its firewall drops.
    Arp,
}

const SPEECHES: [(Speech, &str, Option<u16>); 8] = [
    (Speech::Rdp, "rdp", Some(3_389)),
    (Speech::Vnc, "vnc", Some(5_900)),
    (Speech::Spice, "spice", Some(5_900)),
    (Speech::Ssh, "ssh", Some(22)),
    (Speech::Tcp, "tcp", None),
    (Speech::Http, "http", Some(80)),
    (Speech::Ping, "ping", None),
    (Speech::Arp, "arp", None),
];

impl Speech {
    /// In one word, as in a probe's text.
    pub fn word(self) -> &'static str {
        SPEECHES.iter().find(|(speech, ..)| *speech == self).map_or("", |(_, word, _)| word)
    }

    /// It is for the system itself, not for a program of it.
    fn has_no_port(self) -> bool {
        matches!(self, Self::Ping | Self::Arp)
    }
}

/// A door of a desktop that is tried. As text: `rdp://192.0.2.7`, `tcp://192.0.2.7:8080`, `http://[2001:db8::7]/health`,
/// `ping://192.0.2.7`.
/// No names, only addresses: a name server that hangs is not the desktop's fault.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    pub speech: Speech,
    /// The port is 0 where there is none.
    pub address: SocketAddr,
    /// Of HTTP; begins with a slash. Empty for the others.
    pub path: String,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, path) = (self.speech.word(), &self.path);
        match self.address {
            SocketAddr::V4(address) if self.speech.has_no_port() => write!(f, "{word}://{}", address.ip()),
            SocketAddr::V6(address) if self.speech.has_no_port() => write!(f, "{word}://[{}]", address.ip()),
            SocketAddr::V4(_) | SocketAddr::V6(_) => write!(f, "{word}://{}{path}", self.address),
        }
    }
}

/// A text that is no probe: why not, and what one looks like.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: give one such as rdp://192.0.2.7, ssh://192.0.2.7:22 or http://192.0.2.7/health")]
pub struct NoProbe {
    what: &'static str,
}

impl FromStr for Probe {
    type Err = NoProbe;

    fn from_str(text: &str) -> Result<Self, NoProbe> {
        let no = |what| NoProbe { what };
        let (word, rest) = text.split_once("://").ok_or(no("a probe says what is spoken, and where"))?;
        let known = SPEECHES.iter().find(|(_, known, _)| *known == word);
        let (speech, _, usual) = known.ok_or(no("a probe speaks rdp, vnc, spice, ssh, tcp, http, ping or arp"))?;
        let (place, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let path = match (*speech, path) {
            (Speech::Http, "") => "/",
            (Speech::Http, path) if path.len() <= PATH && path.bytes().all(|byte| byte.is_ascii_graphic()) => path,
            (Speech::Http, _) => return Err(no("the path has more than 128 bytes, or one that has no place in it")),
            (_, "") => "",
            _ => return Err(no("only http has a path")),
        };
        let bare = place.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(place);
        let bare = bare.parse::<IpAddr>().ok();
        let address = if speech.has_no_port() {
            let address = bare.ok_or(no("ping and arp take an IP address and no port"))?;
            SocketAddr::new(address, 0)
        } else {
            let usual = || Some(SocketAddr::new(bare?, (*usual)?));
            let address = place.parse::<SocketAddr>().ok().or_else(usual);
            let address =
                address.ok_or(no("a probe names an IP address, and a port where what it speaks has no usual one"))?;
            if address.port() == 0 {
                return Err(no("nobody can be reached at port 0"));
            }
            address
        };
        let all = IpAddr::V4(Ipv4Addr::BROADCAST);
        if address.ip().is_unspecified() || address.ip().is_multicast() || address.ip() == all {
            return Err(no("nobody can be reached there"));
        }
        if *speech == Speech::Arp && address.is_ipv6() {
            return Err(no("arp is for IPv4 addresses; ping knows both"));
        }
        Ok(Self { speech: *speech, address, path: path.into() })
    }
}

/// What is to be tried of one guest.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct GuestProbes {
    #[n(0)]
    pub guest: GuestId,
    /// Texts of [`Probe`]; one that a host doesn't understand is left out there.
    #[n(1)]
    pub probes: Vec<String>,
}

/// What came of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    #[n(0)]
    Ok,
    /// A connection is refused there.
    #[n(1)]
    Refused,
    #[n(2)]
    TimedOut,
    /// Somebody else answers.
    #[n(3)]
    BadReply,
}

impl Answer {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Ok => "it answers",
            Self::Refused => "the connection is refused",
            Self::TimedOut => "no answer in time",
            Self::BadReply => "something else answers there",
        }
    }
}

/// How one door of a guest stands.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Access {
    #[n(0)]
    pub probe: String,
    /// Judged over several tries.
    #[n(1)]
    pub up: bool,
    /// What came of the last one.
    #[n(2)]
    pub answer: Answer,
    /// How long its answer took.
    #[n(3)]
    pub rtt_ms: Option<u32>,
    /// When it became so.
    #[n(4)]
    pub since: Stamp,
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_probe_is_read_and_written_and_what_is_none_is_refused_with_what_one_looks_like() {
        let check = |text: &str, written: &str| assert_eq!(text.parse::<Probe>().unwrap().to_string(), written);
        check("rdp://192.0.2.7", "rdp://192.0.2.7:3389");
        check("vnc://[2001:db8::7]", "vnc://[2001:db8::7]:5900");
        check("spice://2001:db8::7", "spice://[2001:db8::7]:5900");
        check("ssh://192.0.2.7:2222", "ssh://192.0.2.7:2222");
        check("tcp://192.0.2.7:1", "tcp://192.0.2.7:1");
        check("http://192.0.2.7", "http://192.0.2.7:80/");
        check("http://192.0.2.7:8080/a?b=c", "http://192.0.2.7:8080/a?b=c");
        check("ping://192.0.2.7", "ping://192.0.2.7");
        check("ping://2001:db8::7", "ping://[2001:db8::7]");
        check("arp://192.0.2.7", "arp://192.0.2.7");
        let long = format!("http://192.0.2.7/{}", "a".repeat(PATH));
        for text in [
            "",
            "192.0.2.7",
            "ftp://192.0.2.7",
            "rdp://desk.example.org",
            "tcp://192.0.2.7",
            "rdp://192.0.2.7/x",
            "tcp://192.0.2.7:0",
            "tcp://0.0.0.0:1",
            "tcp://224.0.0.1:1",
            "tcp://192.0.2.7:65536",
            "ping://192.0.2.7:7",
            "ping://192.0.2.7/x",
            "arp://255.255.255.255",
            "arp://2001:db8::7",
            "http://192.0.2.7/a b",
            "http://192.0.2.7/\r\nX:",
            long.as_str(),
        ] {
            let why = text.parse::<Probe>().unwrap_err().to_string();
            assert!(why.contains("give one such as"), "{text}: {why}");
        }
    }
}
