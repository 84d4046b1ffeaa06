//! The text of the page.

use std::fmt::Write;

/// Widest line: that of a plain screen.
const WIDTH: usize = 79;
/// Findings, and alarms, that fit on the page.
const FEW: usize = 8;

/// All that is shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Page {
    pub(super) name: String,
    pub(super) version: &'static str,
    pub(super) addresses: Vec<String>,
    pub(super) joined: Option<Joined>,
    /// Of the host's key, once there is one.
    pub(super) fingerprint: Option<String>,
    /// What the agent says of itself.
    pub(super) agent: String,
    pub(super) guests: usize,
    /// Raised ones.
    pub(super) alarms: Vec<String>,
    /// What was found at boot.
    pub(super) findings: Vec<String>,
}

/// The grid that it is of.
#[derive(Clone, Debug)]
pub(super) struct Joined {
    pub(super) host: String,
    pub(super) grid: String,
}

impl Page {
    /// What is told by the host itself is shown as printable letters only.
    pub(super) fn text(&self) -> String {
        let mut text = format!("Roost {} host {}\n\n", self.version, self.name);
        let addresses = match self.addresses[..] {
            [] => "none yet (no cable, or no DHCP?)".to_owned(),
            _ => self.addresses.join(" "),
        };
        let grid = match &self.joined {
            Some(joined) => format!("{}, as host {}", joined.grid, joined.host),
            None => "not joined; press Enter to answer the two questions".into(),
        };
        let key = self.fingerprint.as_deref().unwrap_or("none yet");
        let guests = format!("{} running", self.guests);
        let rows =
            [("addresses", &*addresses), ("grid", &grid), ("agent", &self.agent), ("guests", &guests), ("key", key)];
        for (name, value) in rows {
            row(&mut text, name, value);
        }
        for (name, all) in [("alarm", &self.alarms), ("note", &self.findings)] {
            for one in all.iter().take(FEW) {
                row(&mut text, name, one);
            }
            if all.len() > FEW {
                row(&mut text, "", &format!("and {} more", all.len() - FEW));
            }
        }
        text
    }
}

/// The status that a service tells, from `systemctl show`; else the state it is in.
pub(super) fn told(shown: &str) -> String {
    let value = |key: &str| shown.lines().find_map(|line| line.strip_prefix(key)).filter(|value| !value.is_empty());
    value("StatusText=").or(value("ActiveState=")).unwrap_or("unknown").to_owned()
}

/// One row, broken where it is too wide for a screen.
fn row(text: &mut String, name: &str, value: &str) {
    let clean: Vec<char> = value.chars().filter(|c| !c.is_control()).collect();
    for (at, piece) in clean.chunks(WIDTH - 12).enumerate() {
        let name = if at == 0 { name } else { "" };
        // Writing into a String can't fail.
        let _ = writeln!(text, "{name:<12}{}", piece.iter().collect::<String>());
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn page() -> Page {
        Page { name: "rack3".into(), version: "1.0", agent: "connected".into(), guests: 2, ..Page::default() }
    }

    #[test]
    fn a_host_that_has_not_joined_says_what_to_do() {
        let text = page().text();
        assert!(text.starts_with("Roost 1.0 host rack3\n"), "{text}");
        assert!(text.contains("press Enter") && text.contains("none yet (no cable"), "{text}");
    }

    #[test]
    fn a_joined_host_shows_addresses_grid_guests_key_alarms_and_findings() {
        let joined = Joined { host: "H".into(), grid: "G".into() };
        let findings = vec!["no data disk: none is labelled".to_owned()];
        let addresses = vec!["10.0.0.7".into(), "fd00::7".into()];
        let fingerprint = Some("ab".repeat(32));
        let alarms = vec!["the disk is full".to_owned()];
        let text = Page { addresses, joined: Some(joined), alarms, findings, fingerprint, ..page() }.text();
        let rows = ["10.0.0.7 fd00::7", "G, as host H", "2 running", "abababab", "note        no data disk"];
        for wanted in rows.iter().chain(&["alarm       the disk is full"]) {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
    }

    #[test]
    fn the_agent_s_own_words_go_before_its_state() {
        assert_eq!(told("ActiveState=active\nStatusText=connected\n"), "connected");
        assert_eq!(told("StatusText=\nActiveState=activating\n"), "activating");
        assert_eq!(told(""), "unknown");
    }

    #[test]
    fn no_line_is_wider_than_a_screen_and_no_escape_gets_through() {
        let text = Page { agent: format!("\x1b[31m{}", "x".repeat(500)), ..page() }.text();
        assert!(text.lines().all(|line| line.len() <= WIDTH) && !text.contains('\x1b'), "{text}");
        let many = Page { findings: vec!["f".into(); 100], ..page() }.text();
        assert!(many.matches("note").count() == FEW && many.contains("and 92 more"), "{many}");
    }
}
