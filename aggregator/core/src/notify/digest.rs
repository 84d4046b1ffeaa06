//! What one notification says: what, since when, why, what to do. The same words for people and for programs.

use roost_protocol::Stamp;
use roost_protocol::alarm::{Severity, advice, title};

use super::{Key, Standing};

/// Alarms of one notification; the rest follows in the next one.
pub const ITEMS: usize = 2_000;
/// Alarms that a mail tells in full; of the others it has a line each.
const IN_FULL: usize = 50;

/// Changes told together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// What matters most first.
    pub items: Vec<Item>,
    /// An admin tries whether it arrives; nothing has happened.
    pub test: bool,
}

/// One alarm that was raised or is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub alarm: Standing,
    /// When it was over; none: it stands.
    pub cleared: Option<Stamp>,
}

impl Item {
    /// What: in one sentence.
    pub fn what(&self) -> String {
        let Key { code, .. } = &self.alarm.key;
        let title = title(code);
        match (&self.alarm.guest_name, &self.alarm.host_name) {
            (Some(guest), Some(host)) => format!("guest {guest} on host {host} {title}"),
            (Some(guest), None) => format!("guest {guest} {title}"),
            (None, Some(host)) => format!("host {host} {title}"),
            (None, None) => format!("the grid {title}"),
        }
    }

    /// Why: what was seen.
    pub fn why(&self) -> &str {
        &self.alarm.text
    }

    pub fn to_do(&self) -> &'static str {
        if self.cleared.is_some() { "Nothing: it is over." } else { advice(&self.alarm.key.code) }
    }

    pub fn severity(&self) -> Severity {
        self.alarm.severity()
    }
}

impl Digest {
    /// A notification that only tries the way.
    pub fn trial(wall: Stamp) -> Self {
        let alarm = Standing {
            key: Key { code: "test".into(), host: None, guest: None },
            since: wall,
            text: "somebody pressed the test button".into(),
            host_name: None,
            guest_name: None,
        };
        Self { items: vec![Item { alarm, cleared: None }], test: true }
    }

    /// Raised ones, then those that are over.
    pub fn counts(&self) -> (usize, usize) {
        let cleared = self.items.iter().filter(|item| item.cleared.is_some()).count();
        (self.items.len() - cleared, cleared)
    }

    /// One line that says it all, or how much there is.
    pub fn subject(&self) -> String {
        let counted = |count: usize, what: &str| format!("{count} alarm{} {what}", if count == 1 { "" } else { "s" });
        match (&self.items[..], self.counts()) {
            _ if self.test => "Roost: a test, nothing has happened".into(),
            ([item], (1, _)) => format!("Roost: {}", item.what()),
            ([item], _) => format!("Roost: over: {}", item.what()),
            (_, (raised, 0)) => format!("Roost: {}", counted(raised, "raised")),
            (_, (0, cleared)) => format!("Roost: {}", counted(cleared, "over")),
            (_, (raised, cleared)) => format!("Roost: {}, {cleared} over", counted(raised, "raised")),
        }
    }

    /// For people. `time`: how a moment is written.
    pub fn text(&self, time: impl Fn(Stamp) -> String) -> String {
        let mut text = String::new();
        for item in self.items.iter().take(IN_FULL) {
            let state = if item.cleared.is_some() { "over" } else { item.severity().word() };
            text.push_str(&format!("[{state}] {}\n", item.what()));
            text.push_str(&format!("  since:  {}\n", time(item.alarm.since)));
            if let Some(cleared) = item.cleared {
                text.push_str(&format!("  over:   {}\n", time(cleared)));
            }
            text.push_str(&format!("  why:    {}\n", item.why()));
            text.push_str(&format!("  to do:  {}\n", item.to_do()));
            text.push_str(&format!("  id:     {}\n\n", item.alarm.key.fingerprint()));
        }
        for item in self.items.iter().skip(IN_FULL) {
            let state = if item.cleared.is_some() { "over" } else { item.severity().word() };
            text.push_str(&format!("[{state}] {} since {}\n", item.what(), time(item.alarm.since)));
        }
        text.push_str(
            "`roost alarm list` shows what stands; `roost alarm acknowledge ID` says that you look after it.\n",
        );
        text
    }
}
