//! Who is told of alarms, and by which way. A notifier is not sent events: it is told the difference between what stands
//! and what it was told last. So nothing is lost while its receiver is away, nothing is told twice, and no queue grows.

mod calls;
pub mod digest;
mod outbox;
pub mod standing;
#[cfg(test)]
mod test;

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
pub use roost_protocol::Hidden;
use roost_protocol::alarm::Severity;
use roost_protocol::{GuestId, HostId, Millis, Stamp};

pub use digest::{Digest, Item};
pub(crate) use outbox::Post;
pub use outbox::{Health, Told};
pub use standing::Standing;

/// Notifiers of a grid; each has at most one delivery under way.
pub const NOTIFIERS: usize = 20;
/// Silences that are kept, ended ones too until they are trimmed.
const SILENCES: usize = 200;
/// Acknowledged alarms that are kept.
const ACKNOWLEDGED: usize = 200;
/// Characters of a note.
pub const NOTE: usize = 300;

/// One way to people or programs.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Notifier {
    #[n(0)]
    pub name: String,
    #[n(1)]
    pub way: Way,
    /// Alarms that matter less are not told.
    #[n(2)]
    pub least: Severity,
    /// What comes within this after the first change is told together with it.
    #[n(3)]
    pub gather: Millis,
    /// PEM of certificates to believe besides those of the machine.
    #[n(4)]
    pub ca: Option<String>,
    /// Password of the mail account, or key of the webhook's signature.
    #[n(5)]
    pub secret: Option<Hidden>,
}

/// How it travels.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Way {
    #[n(0)]
    Mail(#[n(0)] Mail),
    #[n(1)]
    Webhook(#[n(0)] Webhook),
    #[n(2)]
    Syslog(#[n(0)] Syslog),
    #[n(3)]
    Snmp(#[n(0)] Snmp),
    /// A file of the aggregator's machine, named after the notifier: nobody who asks says where.
    #[n(4)]
    File,
}

impl Way {
    /// Whether such an alarm is told by this way at all.
    pub fn takes(&self, alarm: &Standing) -> bool {
        match self {
            Way::Snmp(snmp) => snmp.hosts_too || alarm.of_the_grid(),
            Way::Mail(_) | Way::Webhook(_) | Way::Syslog(_) | Way::File => true,
        }
    }
}

/// A mail server and addresses.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Mail {
    /// Name or address, and port.
    #[n(0)]
    pub server: String,
    #[n(1)]
    pub tls: MailTls,
    #[n(2)]
    pub user: Option<String>,
    #[n(3)]
    pub from: String,
    #[n(4)]
    pub to: Vec<String>,
}

/// How a mail server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum MailTls {
    /// Nothing is sent where the server has no STARTTLS.
    #[n(0)]
    StartTls,
    #[n(1)]
    Tls,
    /// Readable for everybody on the way.
    #[n(2)]
    Plain,
}

/// Alertmanager's webhook, body of version 4.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Webhook {
    #[n(0)]
    pub url: String,
}

/// A receiver of RFC 5424.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Syslog {
    /// Name or address, and port.
    #[n(0)]
    pub server: String,
    /// TCP with octet counting (RFC 6587); else UDP.
    #[n(1)]
    pub tcp: bool,
}

/// A receiver of SNMP notifications. Without a user the secret is the community of SNMPv2c traps, `public` where there is
/// none; with one it is the password, of authentication and of privacy, of SNMPv3 informs, which are acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Snmp {
    /// Name or address, and port.
    #[n(0)]
    pub server: String,
    #[n(1)]
    pub user: Option<String>,
    /// Alarms of hosts too, which their own snmpd may have told already.
    #[n(2)]
    pub hosts_too: bool,
}

/// Nobody is told of such alarms until then. What is left out fits all; one that leaves out everything silences the grid.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Silence {
    #[n(0)]
    pub code: Option<String>,
    #[n(1)]
    pub host: Option<HostId>,
    #[n(2)]
    pub guest: Option<GuestId>,
    #[n(3)]
    pub until: Stamp,
    #[n(4)]
    pub by: String,
    #[n(5)]
    pub note: String,
    #[n(6)]
    pub created: Stamp,
}

impl Silence {
    /// True while it holds and is about this alarm.
    pub fn covers(&self, wall: Stamp, key: &Key) -> bool {
        wall < self.until
            && self.code.as_ref().is_none_or(|code| *code == key.code)
            && self.host.is_none_or(|host| key.host == Some(host))
            && self.guest.is_none_or(|guest| key.guest == Some(guest))
    }
}

/// Somebody looks after an alarm: whoever was not told of it yet needn't be.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Acknowledgement {
    #[n(0)]
    pub by: String,
    #[n(1)]
    pub at: Stamp,
    #[n(2)]
    pub note: String,
    /// The alarm's own beginning: the next one of its kind is a new one.
    #[n(3)]
    pub since: Stamp,
}

/// What an alarm is about: it stays the same alarm as long as these are the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Key {
    #[n(0)]
    pub code: String,
    #[n(1)]
    pub host: Option<HostId>,
    #[n(2)]
    pub guest: Option<GuestId>,
}

impl Key {
    /// Sixteen hexadecimal digits that name it in paths and for receivers (FNV-1a, as Alertmanager makes its own).
    pub fn fingerprint(&self) -> String {
        const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0100_0000_01b3;
        let host = self.host.map(|host| host.to_string()).unwrap_or_default();
        let guest = self.guest.map(|guest| guest.to_string()).unwrap_or_default();
        let text = format!("{}\0{host}\0{guest}", self.code);
        let sum = text.bytes().fold(BASIS, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(PRIME));
        format!("{sum:016x}")
    }
}

/// All about telling that is intent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Telling {
    #[n(0)]
    pub notifiers: BTreeMap<String, Notifier>,
    #[n(1)]
    pub silences: BTreeMap<String, Silence>,
    /// By the alarm's fingerprint.
    #[n(2)]
    pub acknowledged: BTreeMap<String, Acknowledgement>,
}

impl Telling {
    /// The silence that covers an alarm and ends last.
    pub fn silence(&self, wall: Stamp, key: &Key) -> Option<&Silence> {
        let covering = self.silences.values().filter(|silence| silence.covers(wall, key));
        covering.max_by_key(|silence| silence.until)
    }

    /// The acknowledgement of an alarm that stands since then.
    pub fn acknowledgement(&self, key: &Key, since: Stamp) -> Option<&Acknowledgement> {
        self.acknowledged.get(&key.fingerprint()).filter(|it| it.since == since)
    }
}
