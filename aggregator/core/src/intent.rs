//! What admins want and whom they trust: the only thing the aggregator keeps on disk besides operations, and what the
//! grid document carries. No grid state is in it.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use roost_protocol::backup::BackupPolicy;
use roost_protocol::memory::MemoryOrder;
use roost_protocol::{Generation, GuestId, HostId, Stamp};

use crate::fence::Fence;
use crate::notify::{Acknowledgement, Notifier, Silence, Telling};

/// All of it. The grid document is this, encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Intent {
    /// Rises with every change.
    #[n(0)]
    pub generation: Generation,
    #[n(1)]
    pub hosts: BTreeMap<HostId, HostRecord>,
    /// By the token's id (hex of the first bytes of its secret's hash).
    #[n(2)]
    pub join_tokens: BTreeMap<String, JoinTokenRecord>,
    /// By user name.
    #[n(3)]
    pub users: BTreeMap<String, UserRecord>,
    /// By the token's id.
    #[n(4)]
    pub api_tokens: BTreeMap<String, ApiTokenRecord>,
    /// By name. Hosts keep the ones that their guests follow; here is what admins choose from.
    #[n(5)]
    #[cbor(default)]
    pub backup_policies: BTreeMap<String, BackupPolicy>,
    /// Who is told of alarms.
    #[n(6)]
    #[cbor(default)]
    pub telling: Telling,
    /// Doors of guests that their hosts try, as texts of [`roost_protocol::probe::Probe`].
    #[n(7)]
    #[cbor(default)]
    pub probes: BTreeMap<GuestId, Vec<String>>,
}

/// A host that joined once.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HostRecord {
    #[n(0)]
    pub name: String,
    /// SHA-256 of its public key (SPKI).
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub key: [u8; 32],
    #[n(2)]
    pub joined: Stamp,
    /// When an admin removed it; its key is refused from then on.
    #[n(3)]
    pub removed: Option<Stamp>,
    /// It gets no new guests, replicas or takeovers.
    #[n(4)]
    pub maintenance: Option<Maintenance>,
    /// What falls together with it, such as its rack; empty: not known.
    #[n(5)]
    #[cbor(default)]
    pub zone: String,
    /// What cuts its power.
    #[n(6)]
    pub fence: Option<Box<Fence>>,
    /// How dense it is packed; absent: nobody said anything, and it is told nothing.
    #[n(7)]
    pub memory: Option<Box<MemoryOrder>>,
}

impl HostRecord {
    /// A host that joined just now, of which nothing else is known.
    pub fn new(name: String, key: [u8; 32], joined: Stamp) -> Self {
        Self { name, key, joined, removed: None, maintenance: None, zone: String::new(), fence: None, memory: None }
    }
}

/// Why a host is left alone.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Maintenance {
    #[n(0)]
    pub since: Stamp,
    #[n(1)]
    pub by: String,
    /// Its protected guests are handed over.
    #[n(2)]
    pub drain: bool,
}

/// A one-time join token; only its hash is kept.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct JoinTokenRecord {
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub secret_hash: [u8; 32],
    #[n(1)]
    pub created: Stamp,
    #[n(2)]
    pub expires: Stamp,
    #[n(3)]
    pub created_by: String,
    /// The host that used it, and when.
    #[n(4)]
    pub used_by: Option<HostId>,
    #[n(5)]
    pub used: Option<Stamp>,
    /// What it is for, for people.
    #[n(6)]
    pub note: String,
    /// The name the host gets; absent: the one it brings.
    #[n(7)]
    pub host_name: Option<String>,
}

impl JoinTokenRecord {
    /// When it was used or expired; none: it still lets a host in.
    pub fn spent(&self, wall: Stamp) -> Option<Stamp> {
        self.used.or((self.expires < wall).then_some(self.expires))
    }
}

/// A local user.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UserRecord {
    /// PHC string, argon2id.
    #[n(0)]
    pub password_hash: String,
    #[n(1)]
    pub created: Stamp,
    #[n(2)]
    pub full_name: String,
}

/// An API token; only its hash is kept.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ApiTokenRecord {
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub hash: [u8; 32],
    #[n(1)]
    pub user: String,
    #[n(2)]
    pub name: String,
    #[n(3)]
    pub created: Stamp,
    #[n(4)]
    pub expires: Stamp,
}

/// One durable change; a list of them is one transaction and one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntentChange {
    Host {
        id: HostId,
        record: HostRecord,
    },
    JoinToken {
        id: String,
        record: Option<JoinTokenRecord>,
    },
    User {
        name: String,
        record: Option<UserRecord>,
    },
    ApiToken {
        id: String,
        record: Option<ApiTokenRecord>,
    },
    BackupPolicy {
        name: String,
        record: Option<Box<BackupPolicy>>,
    },
    Notifier {
        name: String,
        record: Option<Box<Notifier>>,
    },
    Silence {
        id: String,
        record: Option<Silence>,
    },
    Acknowledged {
        id: String,
        record: Option<Acknowledgement>,
    },
    /// None: nothing of it is tried.
    Probes {
        guest: GuestId,
        probes: Vec<String>,
    },
    /// Everything, from an adopted grid document.
    Replace(Box<Intent>),
}

impl Intent {
    /// Takes in one change; the generation is the caller's.
    pub fn apply(&mut self, change: &IntentChange) {
        match change {
            IntentChange::Host { id, record } => {
                self.hosts.insert(*id, record.clone());
            }
            IntentChange::JoinToken { id, record } => put(&mut self.join_tokens, id, record.as_ref()),
            IntentChange::User { name, record } => put(&mut self.users, name, record.as_ref()),
            IntentChange::ApiToken { id, record } => put(&mut self.api_tokens, id, record.as_ref()),
            IntentChange::BackupPolicy { name, record } => put(&mut self.backup_policies, name, record.as_deref()),
            IntentChange::Notifier { name, record } => put(&mut self.telling.notifiers, name, record.as_deref()),
            IntentChange::Silence { id, record } => put(&mut self.telling.silences, id, record.as_ref()),
            IntentChange::Acknowledged { id, record } => put(&mut self.telling.acknowledged, id, record.as_ref()),
            IntentChange::Probes { guest, probes } if probes.is_empty() => drop(self.probes.remove(guest)),
            IntentChange::Probes { guest, probes } => drop(self.probes.insert(*guest, probes.clone())),
            IntentChange::Replace(intent) => *self = (**intent).clone(),
        }
    }
}

fn put<T: Clone>(map: &mut BTreeMap<String, T>, key: &str, value: Option<&T>) {
    match value {
        Some(value) => map.insert(key.into(), value.clone()),
        None => map.remove(key),
    };
}
