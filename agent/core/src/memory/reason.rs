//! Why something was done or refused: causes with their numbers, in the order in which one led to the next.

use std::fmt;

use roost_protocol::memory::Rung;
use roost_protocol::{MiB, Millis};

/// One link of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The host's available memory beside the level that counts.
    Available {
        available: MiB,
        total: MiB,
        level: MiB,
        name: &'static str,
    },
    /// Available memory falls this fast.
    Falling {
        mib_per_minute: u64,
        reserve_in: Millis,
    },
    /// PSI `some avg10` of memory.
    Stalled {
        centi: u32,
    },
    Rung(Rung),
    /// To be taken from all guests together.
    Wanted {
        wanted: MiB,
        under_way: MiB,
        guests: usize,
    },
    /// What a guest could give, and what it gives as its part.
    Idle {
        used: MiB,
        current: MiB,
        usable: MiB,
        keeps: MiB,
        floor: MiB,
        weight: u32,
    },
    Step {
        take: MiB,
        permille: u64,
    },
    /// The guest runs short.
    Short {
        usable: MiB,
        wants: MiB,
    },
    SwapsIn {
        mib: MiB,
    },
    Faults {
        per_second: u64,
    },
    /// It took memory from its balloon by itself.
    Rescued {
        asked: MiB,
        current: MiB,
    },
    /// Nothing came of what was asked this long ago.
    Deaf {
        asked: MiB,
        current: MiB,
        since: Millis,
    },
    /// Its numbers are too old to go on taking.
    Silent {
        age: Option<Millis>,
    },
    /// It is owed memory and there is enough again.
    Plenty {
        spare: MiB,
        owed: MiB,
    },
    /// It is not for us to squeeze any more.
    NotOurs,
    Grown {
        mib: MiB,
    },
    Lost {
        mib: MiB,
    },
    Pays {
        mib_per_cpu_s: i64,
        least: MiB,
    },
    PaysNot {
        mib_per_cpu_s: i64,
        least: MiB,
    },
    Saves {
        saved: MiB,
    },
    Committed {
        committed: MiB,
        total: MiB,
    },
    CpuShort {
        centi: u32,
    },
    /// Guests run mergeable that are not of the host's trust group.
    Strangers {
        guests: usize,
        trust: Option<String>,
    },
    Wished,
    /// A value of the policy.
    Policy {
        name: &'static str,
        before: String,
        now: String,
    },
    /// This knob is not in this kernel.
    Missing {
        knob: &'static str,
    },
    AgentSilent {
        since: Millis,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Available { available, total, level, name } => {
                write!(f, "{available} of {total} are available, {name} is {level}")
            }
            Self::Falling { mib_per_minute, reserve_in } => {
                write!(f, "it falls by {mib_per_minute} MiB a minute, the reserve is reached in {}", s(*reserve_in))
            }
            Self::Stalled { centi } => write!(f, "programs waited for memory {} % of the last 10 s", percent(*centi)),
            Self::Rung(rung) => f.write_str(rung_text(*rung)),
            Self::Wanted { wanted, under_way, guests } => {
                write!(f, "{wanted} are wanted from {guests} guests, {under_way} are under way")
            }
            Self::Idle { used, current, usable, keeps, floor, weight } => write!(
                f,
                "it uses {used} of {current}, {usable} are free to it, it keeps {keeps} of them; floor {floor}, weight \
                 {weight}"
            ),
            Self::Step { take, permille } => write!(f, "its part is {take}, {permille} thousandths of its memory"),
            Self::Short { usable, wants } => write!(f, "only {usable} are free to it, it should have {wants}"),
            Self::SwapsIn { mib } => write!(f, "it swapped in {mib} since its last numbers"),
            Self::Faults { per_second } => write!(f, "it waits for {per_second} pages a second from disk"),
            Self::Rescued { asked, current } => {
                write!(f, "it was asked to live with {asked} and took back up to {current} by itself")
            }
            Self::Deaf { asked, current, since } => {
                write!(f, "it was asked for {asked} {} ago and stands at {current}: no driver answers", s(*since))
            }
            Self::Silent { age: Some(age) } => write!(f, "its last numbers are {} old", s(*age)),
            Self::Silent { age: None } => f.write_str("it tells no numbers"),
            Self::Plenty { spare, owed } => write!(f, "{spare} can be spared, guests are owed {owed}"),
            Self::NotOurs => f.write_str("it may not be squeezed"),
            Self::Grown { mib } => write!(f, "guests have {mib} that were not looked through yet"),
            Self::Lost { mib } => write!(f, "{mib} of merged pages were written to and are single again"),
            Self::Pays { mib_per_cpu_s, least } => {
                write!(f, "a second of CPU gains {mib_per_cpu_s} MiB, at least {least} are asked for")
            }
            Self::PaysNot { mib_per_cpu_s, least } => {
                write!(f, "a second of CPU gains only {mib_per_cpu_s} MiB, {least} are asked for")
            }
            Self::Saves { saved } => write!(f, "merged pages save {saved}"),
            Self::Committed { committed, total } => write!(f, "guests are promised {committed} of {total}"),
            Self::CpuShort { centi } => write!(f, "programs waited for a CPU {} % of the last 10 s", percent(*centi)),
            Self::Strangers { guests, trust: Some(trust) } => {
                write!(
                    f,
                    "{guests} guests run mergeable that are not of trust group {trust}; from their next start they don't"
                )
            }
            Self::Strangers { guests, trust: None } => {
                write!(
                    f,
                    "{guests} guests of a trust group run mergeable on a host of none; from their next start they don't"
                )
            }
            Self::Wished => f.write_str("the policy says so"),
            Self::Policy { name, before, now } => write!(f, "{name} was {before}, is {now}"),
            Self::Missing { knob } => write!(f, "this kernel has no {knob}"),
            Self::AgentSilent { since } => write!(f, "the agent was silent for {}", s(*since)),
        }
    }
}

/// A rung in words.
pub fn rung_text(rung: Rung) -> &'static str {
    match rung {
        Rung::Free => "there are free pages",
        Rung::Share => "equal pages are merged",
        Rung::Squeeze => "idle guests give memory back",
        Rung::Refuse => "no guest is started",
        Rung::Alarm => "guests have to go to another host",
    }
}

fn s(span: Millis) -> String {
    format!("{} s", span.0 / 1_000)
}

fn percent(centi: u32) -> String {
    format!("{}.{:02}", centi / 100, centi % 100)
}
