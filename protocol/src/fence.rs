//! Fence devices: what cuts a host's power from outside, spoken to by the distribution's fence-agents. A host without one
//! is fenced by its own watchdog; one with a device is taken over sooner, and never later.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use crate::Hidden;

/// Bytes of an agent's name, an address, a user, a plug, a parameter, a secret.
pub const TEXT: usize = 255;
/// Parameters beside address, user, secret and plug.
pub const OPTIONS: usize = 16;
/// All fence agents are called so.
const PREFIX: &str = "fence_";
/// Writes a word into a file and cuts nobody's power: for tests.
const DUMMY: &str = "fence_dummy";
/// Where that file is.
const DUMMY_FILE: &str = "/tmp/fence_dummy.";
/// Parameters that say how a device is spoken to. Those left out name programs and files of the host that asks, or would
/// have another action done.
const KNOWN: &[&str] = &[
    "auth",
    "cipher",
    "inet4_only",
    "inet6_only",
    "ipport",
    "lanplus",
    "login_timeout",
    "notls",
    "power_timeout",
    "power_wait",
    "privlvl",
    "retry_on",
    "secure",
    "shell_timeout",
    "snmp_auth_prot",
    "snmp_priv_prot",
    "snmp_sec_level",
    "snmp_version",
    "ssh",
    "ssl",
    "ssl_insecure",
    "ssl_secure",
    "status_file",
    "switch",
    "systems_uri",
    "tls1.0",
];

/// How a host's power is cut.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FenceDevice {
    /// The program that speaks to it: `fence_ipmilan`.
    #[n(0)]
    pub agent: String,
    /// The device's name or address.
    #[n(1)]
    pub address: Option<String>,
    #[n(2)]
    pub user: Option<String>,
    #[n(3)]
    pub secret: Option<Hidden>,
    /// The host's outlet or name there.
    #[n(4)]
    pub plug: Option<String>,
    /// Other parameters of the program.
    #[n(5)]
    pub options: BTreeMap<String, String>,
}

/// What a device says of its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Power {
    #[n(0)]
    On,
    #[n(1)]
    Off,
}

impl FenceDevice {
    /// Why it can't be so.
    pub fn check(&self) -> Result<(), String> {
        let name = self.agent.strip_prefix(PREFIX).unwrap_or_default();
        let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if name.is_empty() || self.agent.len() > TEXT || !name.bytes().all(letters) {
            return Err("the agent must be the name of a fence agent, for example fence_ipmilan".into());
        }
        let texts = [("address", &self.address), ("user", &self.user), ("plug", &self.plug)];
        let secret = self.secret.as_ref().map(|secret| &secret.0);
        let texts = texts.into_iter().filter_map(|(what, text)| Some((what, text.as_ref()?)));
        if let Some((what, _)) = texts.chain(secret.map(|text| ("secret", text))).find(|(_, text)| !one_line(text)) {
            return Err(format!("the {what} must be one line of 1 to {TEXT} bytes without spaces at its ends"));
        }
        if self.address.as_ref().is_some_and(|address| address.starts_with('-')) {
            return Err("the address must be a name or an address".into());
        }
        if self.options.len() > OPTIONS {
            return Err(format!("at most {OPTIONS} options"));
        }
        self.options.iter().try_for_each(|(name, value)| self.option(name, value))
    }

    fn option(&self, name: &str, value: &str) -> Result<(), String> {
        let file = value.strip_prefix(DUMMY_FILE).unwrap_or_default();
        match name {
            _ if !KNOWN.contains(&name) => {
                Err(format!("option {name:?} is none of those that may be set: {}", KNOWN.join(", ")))
            }
            _ if !one_line(value) => Err(format!("option {name} must be one line of 1 to {TEXT} bytes")),
            "status_file" if self.agent != DUMMY => Err(format!("option {name} is one of {DUMMY} only")),
            "status_file" if file.is_empty() || !file.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                Err(format!("option {name} must be {DUMMY_FILE} and letters or digits"))
            }
            _ => Ok(()),
        }
    }

    /// What the program reads of it: a line a parameter. In no other way, as all see the words that a program is started with.
    pub fn parameters(&self, action: &str) -> String {
        let secret = self.secret.as_ref().map(|secret| &secret.0);
        let texts = [("ip", self.address.as_ref()), ("username", self.user.as_ref()), ("password", secret)];
        let texts = texts.into_iter().chain([("plug", self.plug.as_ref())]);
        let texts = texts.filter_map(|(name, text)| Some((name, text?.as_str())));
        let options = self.options.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all = [("action", action)].into_iter().chain(texts).chain(options);
        all.map(|(name, value)| format!("{name}={value}\n")).collect()
    }

    /// The same text without the secret: programs say what they were told.
    pub fn without_secret(&self, text: &str) -> String {
        match &self.secret {
            Some(secret) if !secret.0.is_empty() => text.replace(&secret.0, "…"),
            Some(_) | None => text.to_owned(),
        }
    }
}

fn one_line(text: &str) -> bool {
    !text.is_empty() && text.len() <= TEXT && text.trim() == text && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod test {
    use super::*;

    fn device() -> FenceDevice {
        FenceDevice {
            agent: "fence_ipmilan".into(),
            address: Some("bmc1.example.org".into()),
            user: Some("admin".into()),
            secret: Some(Hidden("pa=ss word".into())),
            plug: None,
            options: [("lanplus".into(), "1".into())].into(),
        }
    }

    fn refused(change: impl Fn(&mut FenceDevice)) -> String {
        let mut device = device();
        change(&mut device);
        device.check().unwrap_err()
    }

    #[test]
    fn a_device_is_told_line_by_line_and_shown_without_its_secret() {
        let device = device();
        assert_eq!(device.check(), Ok(()));
        let told = device.parameters("status");
        assert_eq!(told, "action=status\nip=bmc1.example.org\nusername=admin\npassword=pa=ss word\nlanplus=1\n");
        assert!(!format!("{device:?}").contains("pa=ss"));
        assert!(!device.without_secret(&told).contains("pa=ss"));
    }

    #[test]
    fn nothing_but_a_fence_agent_is_run_and_it_is_told_nothing_but_how_to_reach_the_device() {
        for agent in ["", "fence_", "sh", "fence_../sh", "fence_a b", "/usr/sbin/fence_ipmilan"] {
            assert!(refused(|device| device.agent = agent.into()).contains("fence_ipmilan"), "{agent}");
        }
        assert!(refused(|device| device.secret = Some(Hidden("a\naction=on".into()))).contains("secret"));
        assert!(refused(|device| device.plug = Some(" 1".into())).contains("plug"));
        for option in
            ["action", "missing_as_off", "passwd_script", "ipmitool_path", "debug_file", "identity_file", "delay"]
        {
            let refused = refused(|device| drop(device.options.insert(option.into(), "x".into())));
            assert!(refused.contains("none of those"), "{refused}");
        }
        assert!(refused(|device| drop(device.options.insert("lanplus".into(), "1\nip=x".into()))).contains("one line"));
        let file = |agent: &str, file: &str| {
            let options = [("status_file".to_owned(), file.to_owned())].into();
            FenceDevice { agent: agent.into(), options, ..device() }.check()
        };
        assert_eq!(file("fence_dummy", "/tmp/fence_dummy.h1"), Ok(()));
        assert!(file("fence_dummy", "/etc/passwd").is_err() && file("fence_dummy", "/tmp/fence_dummy.a/../b").is_err());
        assert!(file("fence_ipmilan", "/tmp/fence_dummy.h1").is_err());
    }
}
