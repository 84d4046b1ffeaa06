//! What is wished: when a guest is backed up, how long points are kept, where to, and who keeps its replica.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::SENTENCE;
use crate::calendar::Calendar;
use crate::guest::NAME;
use crate::{Generation, HostId, Millis, Stamp};

/// Highest priority: enough tiers for databases, servers and desktops.
pub const PRIORITY_MOST: u32 = 9;
/// Copies of one point beside the local store.
const TARGETS: usize = 8;
/// Points that one rule of a retention may keep; a set has 500 as a rule.
const KEEP: u32 = 10_000;
/// Changes of a zone's offset that travel with a schedule: two a year for 40 years.
pub const SHIFTS: usize = 80;
/// Longest calendar expression.
const EXPRESSION: usize = 200;
/// Shortest time between two deltas of a replica.
const EVERY_LEAST: Millis = Millis::seconds(5);
/// Longest time between two deltas, and of jitter.
const DAY: Millis = Millis::seconds(86_400);
/// Longest path of a target folder.
const PATH: usize = 1_024;

/// How one guest is backed up. Its host keeps it and follows it with nobody's help.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupPolicy {
    /// What the admin calls it.
    #[n(0)]
    pub name: String,
    /// Newer wins, older is refused, equal is nothing.
    #[n(1)]
    pub generation: Generation,
    /// Absent: only by command.
    #[n(2)]
    pub schedule: Option<Schedule>,
    #[n(3)]
    pub retention: Retention,
    /// Where copies of each point go beside the host's own store.
    #[n(4)]
    pub targets: Vec<Target>,
    /// The newest whole point may be so old before people are told; absent: two moments of the schedule have passed.
    #[n(5)]
    pub max_age: Option<Millis>,
    #[n(6)]
    pub replica: Option<ReplicaPolicy>,
    #[n(7)]
    pub freeze: Freeze,
    /// Higher goes first where not all can at once: backups, starts at host boot, and takeovers, where those of a lower one
    /// begin only when those of a higher one run. At most [`PRIORITY_MOST`].
    #[n(8)]
    pub priority: u32,
    /// Absent: points are never booted to prove them.
    #[n(9)]
    pub proof: Option<ProofPolicy>,
}

/// When: a calendar expression (`hourly`, `daily`, `mon..fri 20:30`, `*-*-* 02:00`, `*:0/15`), see [`crate::calendar`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    #[n(0)]
    pub expression: String,
    /// Each guest is late by its own fixed share of this, so that not all begin at once.
    #[n(1)]
    pub jitter: Millis,
    /// Absent: UTC.
    #[n(2)]
    pub zone: Option<Zone>,
}

/// A time zone as a table, so that a host needs no zone database and gives the same answer everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Zone {
    /// For people: `Europe/Zurich`.
    #[n(0)]
    pub name: String,
    /// In order of time. Before the first the first holds; without any: UTC.
    #[n(1)]
    pub shifts: Vec<Shift>,
}

/// From this moment local time is UTC plus that many minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shift {
    #[n(0)]
    pub from: Stamp,
    #[n(1)]
    pub minutes: i32,
}

/// How many points are kept: of each rule the newest point of each of so many last hours, days, ... that have one.
/// All zero: everything is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    #[n(0)]
    pub last: u32,
    #[n(1)]
    pub hourly: u32,
    #[n(2)]
    pub daily: u32,
    /// Weeks begin on Monday.
    #[n(3)]
    pub weekly: u32,
    #[n(4)]
    pub monthly: u32,
    #[n(5)]
    pub yearly: u32,
}

/// A place for points. Whoever keeps its own encrypted keeps them so everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
#[serde(tag = "to", rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// The host's own store.
    #[default]
    #[n(0)]
    Local,
    /// The store of another host of the grid.
    #[n(1)]
    Peer {
        #[n(0)]
        host: HostId,
    },
    /// A folder below one of those that the host's configuration allows; NFS and SMB mounts are folders.
    #[n(2)]
    Directory {
        #[n(0)]
        path: String,
    },
}

/// A second host that always has a recent point of the guest and can start it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplicaPolicy {
    /// Absent: the guest's host chooses among its peers.
    #[n(0)]
    pub host: Option<HostId>,
    /// Time between two deltas.
    #[n(1)]
    pub every: Millis,
    /// People are told when the copy is older; never widened by itself.
    #[n(2)]
    pub max_lag: Millis,
    /// That host goes on with the guest when the guest's own dies; both need a guard. Since version 4.
    #[n(3)]
    #[cbor(default)]
    pub failover: bool,
}

/// Whether a guest's file systems are frozen for the moment of the point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Freeze {
    /// If the guest's agent answers in time; otherwise the point is crash-consistent and says so.
    #[default]
    #[n(0)]
    Try,
    /// The backup fails when the guest can't be frozen.
    #[n(1)]
    Require,
    #[n(2)]
    Never,
}

/// Booting points in isolation to prove that they start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProofPolicy {
    /// The newest point is proven when the last proof is so old.
    #[n(0)]
    pub every: Millis,
    /// How long the guest has for its sign of life.
    #[n(1)]
    pub patience: Millis,
}

impl Retention {
    /// True where no rule is given: nothing is ever removed by itself.
    pub fn keeps_all(&self) -> bool {
        *self == Self::default()
    }
}

impl BackupPolicy {
    /// Whether a host may be given this.
    ///
    /// # Errors
    /// What is wrong, and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        if self.name.len() > NAME || self.name.chars().any(char::is_control) {
            return Err(format!("the policy's name has control characters or more than {NAME} bytes"));
        }
        if let Some(schedule) = &self.schedule {
            schedule.check()?;
        }
        let rules = &self.retention;
        if [rules.last, rules.hourly, rules.daily, rules.weekly, rules.monthly, rules.yearly].iter().any(|n| *n > KEEP)
        {
            return Err(format!("a retention rule keeps at most {KEEP} points"));
        }
        if self.priority > PRIORITY_MOST {
            return Err(format!("the priority is 0 to {PRIORITY_MOST}"));
        }
        if self.targets.len() > TARGETS {
            return Err(format!("a policy has at most {TARGETS} targets"));
        }
        self.targets.iter().try_for_each(Target::check)?;
        match &self.replica {
            Some(replica) => replica.check(),
            None => Ok(()),
        }
    }
}

impl Schedule {
    fn check(&self) -> Result<(), String> {
        if self.expression.len() > EXPRESSION {
            return Err(format!("the calendar expression has more than {EXPRESSION} bytes"));
        }
        if self.jitter > DAY {
            return Err("jitter is at most one day".into());
        }
        Calendar::parse(&self.expression)?;
        match &self.zone {
            Some(zone) => zone.check(),
            None => Ok(()),
        }
    }
}

impl Zone {
    fn check(&self) -> Result<(), String> {
        /// No place is further from UTC than 14 hours; a day leaves room.
        const FARTHEST: i32 = 24 * 60;
        if self.shifts.len() > SHIFTS || self.name.len() > SENTENCE {
            return Err(format!("a time zone has at most {SHIFTS} shifts and a name of {SENTENCE} bytes"));
        }
        if self.shifts.iter().any(|shift| shift.minutes.abs() > FARTHEST) {
            return Err("a time zone is more than a day away from UTC".into());
        }
        if self.shifts.windows(2).any(|two| two[0].from >= two[1].from) {
            return Err("the shifts of a time zone are not in order of time".into());
        }
        Ok(())
    }
}

impl Target {
    fn check(&self) -> Result<(), String> {
        let Target::Directory { path } = self else { return Ok(()) };
        let climbs = path.split('/').any(|part| part == "..");
        if !path.starts_with('/') || climbs || path.len() > PATH || path.chars().any(char::is_control) {
            return Err(format!("a target folder is an absolute path without .. and at most {PATH} bytes"));
        }
        Ok(())
    }
}

impl ReplicaPolicy {
    fn check(&self) -> Result<(), String> {
        if !(EVERY_LEAST..=DAY).contains(&self.every) {
            return Err("a replica is renewed every 5 seconds to one day".into());
        }
        if self.max_lag < self.every {
            return Err("a replica's greatest lag is shorter than the time between two deltas".into());
        }
        Ok(())
    }
}
