//! Memory of a host: how dense it may be packed (policy), what each guest is owed (wish), and what an agent tells of it.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::{GuestId, MiB, Stamp};

/// Longest chain of causes that is told of one act.
pub const CAUSES: usize = 12;
/// Acts that a host remembers and tells; older ones are dropped.
pub const ACTS: usize = 64;

/// Message version of trust groups; an older agent would merge what must not be.
pub const TRUST_SINCE: u32 = 5;
/// Sizes of guests that a host counts room for.
pub const SIZES: usize = 16;

/// Largest weight of a guest.
pub const WEIGHT: u32 = 10_000;

/// Letters of a trust group's name.
const TRUST: usize = 32;
const NO_TRUST: &str = "trust is the name of a group: 1 to 32 of a-z, 0-9 and -";

fn is_trust(name: &str) -> bool {
    let letter = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
    (1..=TRUST).contains(&name.len()) && name.bytes().all(letter)
}

/// When equal pages of guests are merged (KSM).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// Before memory gets short, and for as long as it pays.
    #[default]
    #[n(0)]
    Auto,
    /// Also where memory is plenty; it still stops when it no longer pays.
    #[n(1)]
    Always,
    /// The agent leaves page sharing alone.
    #[n(2)]
    Never,
}

/// How dense one host may be packed. Permille are of the host's memory unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryPolicy {
    #[n(0)]
    pub sharing: Sharing,
    /// Take memory back from guests that don't use it.
    #[n(1)]
    pub balloons: bool,
    /// What guests never get, and the least of it.
    #[n(2)]
    pub reserve_permille: u32,
    #[n(3)]
    pub reserve_least_mib: MiB,
    /// Guests are squeezed when less than this is available. MOM and ksmtuned: 200.
    #[n(4)]
    pub squeeze_below_permille: u32,
    /// Pages are merged when less than this is available.
    #[n(5)]
    pub share_below_permille: u32,
    /// Memory of all running guests may add up to this; 1000 is no overcommit.
    #[n(6)]
    pub overcommit_permille: u32,
    /// A guest is never squeezed below this much of its own memory.
    #[n(7)]
    pub floor_permille: u32,
    /// Part of its memory that a new guest is expected to use.
    #[n(8)]
    pub start_permille: u32,
    /// Most CPU that merging may use, permille of one CPU; the kernel's advisor: 700.
    #[n(9)]
    pub ksm_cpu_permille: u32,
    /// Merging must gain this much for each second of CPU, or it stops.
    #[n(10)]
    pub ksm_pay_mib: MiB,
    /// Pages of guests of this trust group are merged, of no others; absent: of guests of none. Who shares pages with
    /// another can find out by timing what that one holds, and one kernel merges all that it is told to, so a host is for
    /// one group.
    #[n(11)]
    pub trust: Option<String>,
}

impl Default for MemoryPolicy {
    fn default() -> Self {
        Self {
            sharing: Sharing::Auto,
            balloons: true,
            reserve_permille: 50,
            reserve_least_mib: MiB(512),
            squeeze_below_permille: 200,
            share_below_permille: 500,
            overcommit_permille: 2_000,
            floor_permille: 400,
            start_permille: 600,
            ksm_cpu_permille: 700,
            ksm_pay_mib: MiB(8),
            trust: None,
        }
    }
}

impl MemoryPolicy {
    /// All of it by the names of its settings, for people.
    pub fn values(&self) -> [(&'static str, String); 12] {
        let sharing = match self.sharing {
            Sharing::Auto => "auto",
            Sharing::Always => "always",
            Sharing::Never => "never",
        };
        [
            ("sharing", sharing.to_owned()),
            ("balloons", self.balloons.to_string()),
            ("reserve_permille", self.reserve_permille.to_string()),
            ("reserve_least_mib", self.reserve_least_mib.0.to_string()),
            ("squeeze_below_permille", self.squeeze_below_permille.to_string()),
            ("share_below_permille", self.share_below_permille.to_string()),
            ("overcommit_permille", self.overcommit_permille.to_string()),
            ("floor_permille", self.floor_permille.to_string()),
            ("start_permille", self.start_permille.to_string()),
            ("ksm_cpu_permille", self.ksm_cpu_permille.to_string()),
            ("ksm_pay_mib", self.ksm_pay_mib.0.to_string()),
            ("trust", self.trust.clone().unwrap_or_else(|| "nobody's".into())),
        ]
    }

    /// Whether pages of such a guest are merged under this policy.
    pub fn merges(&self, wish: &MemoryWish) -> bool {
        wish.share && wish.trust == self.trust
    }

    /// What is wrong with it, for people.
    pub fn problem(&self) -> Option<&'static str> {
        if self.reserve_permille > 500 {
            return Some("reserve_permille is at most 500");
        }
        if self.squeeze_below_permille > 800 || self.squeeze_below_permille < self.reserve_permille {
            return Some("squeeze_below_permille is between reserve_permille and 800");
        }
        if self.share_below_permille > 1_000 {
            return Some("share_below_permille is at most 1000");
        }
        if !(500..=5_000).contains(&self.overcommit_permille) {
            return Some("overcommit_permille is 500 to 5000");
        }
        if !(100..=1_000).contains(&self.floor_permille) || !(100..=1_000).contains(&self.start_permille) {
            return Some("floor_permille and start_permille are 100 to 1000");
        }
        if !(10..=1_000).contains(&self.ksm_cpu_permille) {
            return Some("ksm_cpu_permille is 10 to 1000");
        }
        (!self.trust.as_deref().is_none_or(is_trust)).then_some(NO_TRUST)
    }
}

/// What an admin said of a host's memory through the grid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct MemoryOrder {
    /// Instead of the one in the host's settings; absent: that one holds again.
    #[n(0)]
    pub policy: Option<MemoryPolicy>,
}

/// Who said how dense a host is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyFrom {
    /// The host's settings, or nobody.
    #[default]
    #[n(0)]
    File,
    /// An admin, through the grid.
    #[n(1)]
    Grid,
}

/// The policy that a host follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct InForce {
    #[n(0)]
    pub policy: MemoryPolicy,
    #[n(1)]
    pub from: PolicyFrom,
}

impl InForce {
    /// What the grid said, else what the host's settings say.
    pub fn of(grid: Option<&MemoryPolicy>, file: &MemoryPolicy) -> Self {
        let from = if grid.is_some() { PolicyFrom::Grid } else { PolicyFrom::File };
        Self { policy: grid.unwrap_or(file).clone(), from }
    }
}

/// What one guest is owed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryWish {
    /// Of two guests alike, one with twice the weight gives half as much.
    #[n(0)]
    pub weight: u32,
    /// Never squeezed below this; absent: the policy's part of its memory.
    #[n(1)]
    pub floor_mib: Option<MiB>,
    /// May give memory back at all.
    #[n(2)]
    pub squeeze: bool,
    /// Its pages may be merged with those of others. False keeps others from finding out by timing what it holds.
    #[n(3)]
    pub share: bool,
    /// Its trust group: its pages are merged only with those of its group, on hosts whose policy names the same.
    #[n(4)]
    pub trust: Option<String>,
}

impl Default for MemoryWish {
    fn default() -> Self {
        Self { weight: 100, floor_mib: None, squeeze: true, share: true, trust: None }
    }
}

impl MemoryWish {
    /// What is wrong with it for a guest of so much memory.
    pub fn problem(&self, full: MiB) -> Option<String> {
        match self.floor_mib {
            _ if !(1..=WEIGHT).contains(&self.weight) => {
                Some(format!("memory weight {}: give 1 to {WEIGHT}", self.weight))
            }
            Some(floor) if floor > full => Some(format!("a memory floor of {floor} is more than its memory, {full}")),
            _ if !self.trust.as_deref().is_none_or(is_trust) => Some(NO_TRUST.into()),
            Some(_) | None => None,
        }
    }
}

/// How short memory is, and what is done about it; each rung includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// Enough free pages.
    #[default]
    #[n(0)]
    Free,
    /// Equal pages are merged.
    #[n(1)]
    Share,
    /// Idle guests give memory back.
    #[n(2)]
    Squeeze,
    /// No guest is started.
    #[n(3)]
    Refuse,
    /// Nothing is left to do here: guests have to go elsewhere.
    #[n(4)]
    Alarm,
}

/// Something the agent did about memory, and why: the causes from the first to the last, with their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct MemoryAct {
    #[n(0)]
    pub at: Stamp,
    /// The guest it was done to; absent: the host.
    #[n(1)]
    pub guest: Option<GuestId>,
    #[n(2)]
    pub what: String,
    #[n(3)]
    pub why: Vec<String>,
}

/// A host's memory as its agent sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct MemoryReport {
    #[n(0)]
    pub rung: Rung,
    #[n(1)]
    pub total_mib: MiB,
    #[n(2)]
    pub available_mib: MiB,
    #[n(3)]
    pub reserve_mib: MiB,
    /// Memory of all running guests, unsqueezed.
    #[n(4)]
    pub committed_mib: MiB,
    /// Committed to total, permille.
    #[n(5)]
    pub overcommit_permille: u32,
    /// What would be needed more without merged pages.
    #[n(6)]
    pub saved_by_sharing_mib: MiB,
    #[n(7)]
    pub saved_by_balloons_mib: MiB,
    /// CPU that merging uses, permille of one CPU; absent where it can't be seen.
    #[n(8)]
    pub ksm_cpu_permille: Option<u32>,
    /// The largest guest that could be started now.
    #[n(9)]
    pub fits_mib: MiB,
    #[n(10)]
    pub guests: Vec<GuestMemoryReport>,
    #[n(11)]
    pub acts: Vec<MemoryAct>,
    /// How many more guests could be started, by their size, at most [`SIZES`]; older agents don't tell.
    #[n(12)]
    #[cbor(default)]
    pub more: Vec<MoreGuests>,
    /// Older agents don't tell.
    #[n(13)]
    pub policy: Option<InForce>,
}

/// How many more guests of one size could be started one after the other, each settled before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct MoreGuests {
    #[n(0)]
    pub memory_mib: MiB,
    #[n(1)]
    pub more: u32,
}

/// One guest's part of it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct GuestMemoryReport {
    #[n(0)]
    pub id: GuestId,
    #[n(1)]
    pub full_mib: MiB,
    /// What its balloon leaves it; absent where it has none.
    #[n(2)]
    pub current_mib: Option<MiB>,
    #[n(3)]
    pub resident_mib: MiB,
    /// Available to its programs, as its driver tells; absent where it doesn't.
    #[n(4)]
    pub usable_mib: Option<MiB>,
    /// Merged with equal pages of others.
    #[n(5)]
    pub shared_mib: Option<MiB>,
    /// Its pages may be merged as it runs now; older agents don't tell.
    #[n(6)]
    pub mergeable: Option<bool>,
    /// Its trust group.
    #[n(7)]
    pub trust: Option<String>,
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::codec;

    #[test]
    fn a_policy_that_can_not_hold_is_refused() {
        assert_eq!(MemoryPolicy::default().problem(), None);
        let refused = |change: fn(&mut MemoryPolicy)| {
            let mut policy = MemoryPolicy::default();
            change(&mut policy);
            assert!(policy.problem().is_some(), "{policy:?}");
        };
        refused(|policy| policy.reserve_permille = 501);
        refused(|policy| policy.squeeze_below_permille = 10);
        refused(|policy| policy.share_below_permille = 1_001);
        refused(|policy| policy.overcommit_permille = 0);
        refused(|policy| policy.floor_permille = 0);
        refused(|policy| policy.ksm_cpu_permille = 0);
        refused(|policy| policy.trust = Some("Red!".into()));
        refused(|policy| policy.trust = Some(String::new()));
        refused(|policy| policy.trust = Some("r".repeat(TRUST + 1)));
    }

    #[test]
    fn only_pages_of_the_host_s_own_trust_group_are_merged() {
        let group = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        let merges = |host, guest, share| {
            let policy = MemoryPolicy { trust: group(host), ..MemoryPolicy::default() };
            policy.merges(&MemoryWish { trust: group(guest), share, ..MemoryWish::default() })
        };
        assert!(merges("", "", true) && merges("red", "red", true));
        assert!(!merges("", "red", true) && !merges("red", "", true) && !merges("red", "blue", true));
        assert!(!merges("red", "red", false), "its owner's own wish goes before");
        let wrong = MemoryWish { trust: group("a b"), ..MemoryWish::default() };
        assert_eq!(wrong.problem(MiB(64)).as_deref(), Some(NO_TRUST));
    }

    #[test]
    fn a_report_survives_the_wire() {
        let guest = GuestMemoryReport {
            id: GuestId::from_u128(1),
            full_mib: MiB(512),
            current_mib: Some(MiB(256)),
            resident_mib: MiB(300),
            usable_mib: None,
            shared_mib: Some(MiB(5)),
            mergeable: Some(true),
            trust: Some("red".into()),
        };
        let act = MemoryAct { guest: Some(guest.id), what: "w".into(), why: vec!["y".into()], ..MemoryAct::default() };
        let more = vec![MoreGuests { memory_mib: MiB(512), more: 7 }];
        let (guests, acts) = (vec![guest], vec![act]);
        let policy = Some(InForce::of(Some(&MemoryPolicy::default()), &MemoryPolicy::default()));
        let report = MemoryReport { rung: Rung::Squeeze, guests, acts, more, policy, ..MemoryReport::default() };
        assert_eq!(codec::decode::<MemoryReport>(&codec::encode(&report)).unwrap(), report);
        let older = MemoryReport { policy: None, ..report };
        assert_eq!(codec::decode::<MemoryReport>(&codec::encode(&older)).unwrap(), older);
        let wish: MemoryWish = serde_json::from_str("{\"share\":false}").unwrap();
        assert_eq!((wish.weight, wish.share, wish.squeeze), (100, false, true));
        assert_eq!(wish.problem(MiB(64)), None);
        let (light, high) = (MemoryWish { weight: 0, ..wish.clone() }, MemoryWish { floor_mib: Some(MiB(65)), ..wish });
        assert!(light.problem(MiB(64)).is_some() && high.problem(MiB(64)).is_some());
    }
}
