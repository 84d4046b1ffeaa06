//! What snmpd has to be told so that it serves us: the text of a drop-in for its configuration.

use std::fmt::Write;
use std::path::Path;

use crate::Oid;
use crate::mib::arc::{ROOST, VM};

/// Name of the drop-in in the folder that Debian's snmpd.conf includes.
pub const FILE: &str = "roost.conf";

/// What is to be set up.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// AgentX socket, where it isn't snmpd's own default.
    pub socket: Option<&'a Path>,
    /// Group of the agent's process, which may then use the socket; needless while the agent is root.
    pub agent_group: Option<&'a str>,
    /// Addresses to listen on besides those in snmpd.conf, as snmpd writes them: `udp:161`, `udp:10.0.0.1:161`.
    pub listen: &'a [String],
    /// Community of SNMPv2c for reading.
    pub community: Option<&'a str>,
    /// SNMPv3 user for reading, with its passwords.
    pub user: Option<User<'a>>,
    /// Receivers of notifications.
    pub receivers: &'a [Receiver<'a>],
}

/// A user of SNMPv3; authenticated by SHA-256, its messages encrypted by AES.
#[derive(Clone, Copy, Debug)]
pub struct User<'a> {
    pub name: &'a str,
    pub auth: &'a str,
    pub privacy: &'a str,
}

/// Who gets notifications.
#[derive(Clone, Copy, Debug)]
pub enum Receiver<'a> {
    /// An SNMPv2c trap; `address` as snmpd writes it.
    Trap { address: &'a str, community: &'a str },
    /// An SNMPv3 inform, acknowledged and repeated.
    Inform { address: &'a str, user: User<'a> },
}

/// Why this can't be written to snmpd's configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    #[error("{what} {text:?} has a blank, a quote, a backslash, a # or a control character, or is empty")]
    Word { what: &'static str, text: String },
    #[error("the {what} of SNMPv3 has fewer than 8 characters, which snmpd refuses")]
    Short { what: &'static str },
}

/// The text of the drop-in. It may hold passwords: only root and snmpd should read it.
///
/// # Errors
/// When a word could not be told from the rest of its line.
pub fn drop_in(setup: &Setup<'_>) -> Result<String, SetupError> {
    let mut text = String::from(
        "# Written by `roost-agent snmp setup`; written anew by it. Your own settings belong into another file.\n\
         master agentx\n\
         # Sizes of more than 2^31 blocks are told as they are and not scaled.\n\
         realStorageUnits 0\n",
    );
    if let Some(socket) = setup.socket {
        line(&mut text, &["agentXSocket", word("the socket", &socket.display().to_string())?.as_str()]);
    }
    if let Some(group) = setup.agent_group {
        line(&mut text, &["agentXPerms", "0660", "0755", "Debian-snmp", &word("the agent's group", group)?]);
    }
    for address in setup.listen {
        line(&mut text, &["agentaddress", &word("the address", address)?]);
    }
    views(&mut text);
    if let Some(community) = setup.community {
        let community = word("the community", community)?;
        line(&mut text, &["rocommunity", &community, "default", "-V", "roostpublic"]);
        line(&mut text, &["rocommunity6", &community, "default", "-V", "roostpublic"]);
    }
    if let Some(user) = &setup.user {
        create(&mut text, user)?;
        line(&mut text, &["rouser", user.name, "priv", "-V", "roost"]);
    }
    for receiver in setup.receivers {
        send_to(&mut text, receiver)?;
    }
    Ok(text)
}

/// Where snmpd would be told to listen twice on one port, and so not start: the new address and the one that is in its
/// main configuration, `main`, already. Debian's listens on 127.0.0.1 and [::1].
pub fn clash<'a>(main: &'a str, listen: &'a [String]) -> Option<(&'a str, &'a str)> {
    let told = |line: &'a str| {
        let (word, addresses) = line.trim_start().split_once(char::is_whitespace)?;
        word.eq_ignore_ascii_case("agentaddress").then(|| addresses.split('#').next().unwrap_or_default().split(','))
    };
    let there: Vec<&str> = main.lines().filter_map(told).flatten().map(str::trim).collect();
    let meets = |new: &str, old: &str| {
        let ((kind, host, port), (other_kind, other_host, other_port)) = (endpoint(new), endpoint(old));
        let all = |host: &str| matches!(host, "" | "0.0.0.0" | "::");
        kind == other_kind && port == other_port && (host == other_host || all(host) || all(other_host))
    };
    let with = |new: &'a String| Some((new.as_str(), *there.iter().find(|old| meets(new, old))?));
    listen.iter().find_map(with)
}

/// Transport, host (empty: all) and port of an address as snmpd writes it: `161`, `127.0.0.1`, `[::1]`, `udp:10.0.0.1:161`.
fn endpoint(text: &str) -> (&str, &str, &str) {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (kind, rest) = match text.split_once(':') {
        Some((kind, rest)) if kind.starts_with(char::is_alphabetic) => (kind, rest),
        Some(_) | None => ("udp", text),
    };
    if let Some((host, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let kind = if kind == "tcp" || kind == "tcp6" { "tcp6" } else { "udp6" };
        return (kind, host, after.strip_prefix(':').unwrap_or("161"));
    }
    match rest.rsplit_once(':') {
        Some((host, port)) => (kind, host, port),
        None if number(rest) => (kind, "", rest),
        None => (kind, rest, "161"),
    }
}

/// `roost` is all that monitoring wants; `roostpublic`, for communities that travel readable, leaves out who uses a desktop.
fn views(text: &mut String) {
    let vm = Oid::from(&VM[..]).to_string();
    let roost = Oid::from(&ROOST[..]).to_string();
    // system to ifTable, host resources, ifXTable, UCD with disk IO, and our own; processes and installed software stay out.
    let mib_2 = ".1.3.6.1.2.1";
    for view in ["roost", "roostpublic"] {
        for arc in [mib_2, ".1.3.6.1.4.1.2021", ".1.3.6.1.6.3.10.2.1", &roost] {
            line(text, &["view", view, "included", arc]);
        }
        for arc in [".1.3.6.1.2.1.25.4", ".1.3.6.1.2.1.25.5", ".1.3.6.1.2.1.25.6"] {
            line(text, &["view", view, "excluded", arc]);
        }
        line(text, &["view", view, "included", &vm]);
    }
    for column in [1, 6] {
        line(text, &["view", "roostpublic", "excluded", &format!("{roost}.1.3.1.{column}")]);
    }
}

fn create(text: &mut String, user: &User<'_>) -> Result<(), SetupError> {
    let name = word("the SNMPv3 user", user.name)?;
    let (auth, privacy) =
        (password("authentication password", user.auth)?, password("privacy password", user.privacy)?);
    line(text, &["createUser", &name, "SHA-256", &auth, "AES", &privacy]);
    Ok(())
}

fn send_to(text: &mut String, receiver: &Receiver<'_>) -> Result<(), SetupError> {
    match receiver {
        Receiver::Trap { address, community } => {
            line(text, &["trap2sink", &word("the receiver", address)?, &word("the community", community)?]);
        }
        Receiver::Inform { address, user } => {
            let name = word("the SNMPv3 user", user.name)?;
            let auth = password("authentication password", user.auth)?;
            let privacy = password("privacy password", user.privacy)?;
            let words = ["trapsess", "-Ci", "-v", "3", "-l", "authPriv", "-u", &name, "-a", "SHA-256", "-A", &auth];
            let rest = ["-x", "AES", "-X", &privacy, &word("the receiver", address)?];
            line(text, &[&words[..], &rest].concat());
        }
    }
    Ok(())
}

fn line(text: &mut String, words: &[&str]) {
    // Writing into a String can't fail.
    let _ = writeln!(text, "{}", words.join(" "));
}

fn word(what: &'static str, text: &str) -> Result<String, SetupError> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || "\"'\\#".contains(c);
    if text.is_empty() || text.starts_with('-') || text.contains(bad) {
        return Err(SetupError::Word { what, text: text.into() });
    }
    Ok(text.to_owned())
}

fn password(what: &'static str, text: &str) -> Result<String, SetupError> {
    if text.chars().count() < 8 {
        return Err(SetupError::Short { what });
    }
    word(what, text)
}

#[cfg(test)]
mod test {
    use super::*;

    const USER: User<'static> = User { name: "mon", auth: "authpass12345", privacy: "privpass12345" };

    fn setup<'a>() -> Setup<'a> {
        Setup { socket: None, agent_group: None, listen: &[], community: None, user: Some(USER), receivers: &[] }
    }

    #[test]
    fn a_community_does_not_see_who_uses_a_desktop() {
        let text = drop_in(&Setup { community: Some("watch"), ..setup() }).unwrap();
        let owner = format!("view roostpublic excluded {}.1.3.1.1\n", Oid::from(&ROOST[..]));
        assert!(text.contains(&owner), "{text}");
        assert!(text.contains("rocommunity watch default -V roostpublic\n"), "{text}");
        assert!(text.contains("rouser mon priv -V roost\n"), "{text}");
        assert!(!text.contains("view roost excluded .1.3.6.1.4.1"), "{text}");
    }

    #[test]
    fn a_port_that_snmpd_listens_on_already_is_noticed() {
        let debian = "# comment\nagentaddress  127.0.0.1,[::1]\nAgentAddress tcp:10.0.0.1:705 # x\n";
        for (new, old) in [
            ("udp:161", Some("127.0.0.1")),
            ("161", Some("127.0.0.1")),
            ("udp:0.0.0.0:161", Some("127.0.0.1")),
            ("127.0.0.1", Some("127.0.0.1")),
            ("udp6:161", Some("[::1]")),
            ("udp6:[::]:161", Some("[::1]")),
            ("tcp:705", Some("tcp:10.0.0.1:705")),
            ("udp:10.0.0.1:161", None),
            ("10.0.0.1", None),
            ("udp:1161", None),
            ("tcp:161", None),
            ("[2001:db8::1]:161", None),
        ] {
            assert_eq!(clash(debian, &[new.into()]), old.map(|old| (new, old)), "{new}");
        }
        assert_eq!(clash("agentaddress udp:161\n", &["10.0.0.1".into()]), Some(("10.0.0.1", "udp:161")));
        assert_eq!(clash("rocommunity agentaddress\n", &["udp:161".into()]), None);
    }

    #[test]
    fn a_word_that_would_become_another_setting_is_refused() {
        for bad in ["", "a b", "a\nrwcommunity x", "a\"", "a#", "-v"] {
            let refused = drop_in(&Setup { community: Some(bad), ..setup() });
            assert_eq!(refused, Err(SetupError::Word { what: "the community", text: bad.into() }));
        }
        let short = User { auth: "1234567", ..USER };
        let refused = drop_in(&Setup { user: Some(short), ..setup() });
        assert_eq!(refused, Err(SetupError::Short { what: "authentication password" }));
    }
}
