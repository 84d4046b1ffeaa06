//! Memory density: one plan from one look. Equal pages are merged, idle guests give memory back, and what does not fit is
//! refused; no guest and no host runs out of memory for it. Pure: see `sample` for what comes in, [`Plan`] for what goes
//! out.
//!
//! The rungs, in this order: free pages; merge equal pages; take from idle guests; start no guest; tell people.

pub mod admit;
mod balloon;
pub mod deadman;
mod guest;
mod ladder;
pub mod reason;
pub mod sample;
mod sharing;
mod state;
#[cfg(test)]
mod test;

use roost_protocol::memory::{MemoryAct, MemoryPolicy, Rung};
use roost_protocol::{GuestId, MiB, Millis, Time};

pub use admit::{Limit, Refusal, Room, admit, fits, how_many_more};
pub use guest::{floor, floor_of};
pub use ladder::{Levels, committed};
pub use reason::Cause;
pub use sample::{Balloon, GuestMemory, HostMemory, Knobs, Ksm, Node, Sample, Told};
pub use state::State;

use balloon::{Change, Look};

/// Between two looks; the host's own tables cost some 100 µs each time.
pub const LOOK_EVERY: Millis = Millis::seconds(2);
/// Between two questions to the guests' balloons while memory is short, and else; each costs some 100 µs a guest.
const ASK_EVERY: (Millis, Millis) = (Millis::seconds(2), Millis::seconds(10));

/// What to do about memory now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub rung: Rung,
    /// In this order.
    pub deeds: Vec<Deed>,
    /// The same for people: what and why.
    pub told: Vec<MemoryAct>,
    /// Raise or clear the alarm that this host is short of memory; absent: as it was.
    pub alarm: Option<Alarm>,
    /// How old the guests' numbers may be at the next look.
    pub ask_guests: Millis,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Write these knobs of page sharing; all others stay.
    Share(Knobs),
    /// Ask the guest's balloon for this size.
    Resize { guest: GuestId, from: MiB, to: MiB },
    /// Have the guest tell its memory each so many seconds.
    Period { guest: GuestId, seconds: u32 },
}

/// Guests have to go elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alarm {
    Raise(String),
    Clear,
}

/// Decides about one look. Same looks, same plans.
pub fn plan(now: Time, sample: &Sample, policy: &MemoryPolicy, state: &mut State) -> Plan {
    let levels = Levels::of(sample, policy);
    state.looked(now);
    state.ladder.climb(now, sample, &levels, policy);
    let rung = state.ladder.rung;
    let mut plan = Plan { rung, ask_guests: ASK_EVERY.1, ..Plan::default() };
    if let Some((knobs, why)) = sharing::plan(now, sample, &levels, rung, policy, &mut state.sharing) {
        let mut chain = state.ladder.why.clone();
        chain.extend(why);
        plan.told.push(state.remember(sample.at, None, sharing::in_words(&knobs), &chain));
        plan.deeds.push(Deed::Share(knobs));
    }
    let ladder = state.ladder.clone();
    let look = Look { now, sample, levels: &levels, ladder: &ladder, policy };
    for change in balloon::plan(look, &mut state.balloons) {
        plan.deeds.push(match change {
            Change::Size { guest, from, to, why } => {
                let word = if to < from { "takes memory" } else { "gives memory back" };
                plan.told.push(state.remember(sample.at, Some(guest), format!("{word}: {from} to {to}"), &why));
                Deed::Resize { guest, from, to }
            }
            Change::Period { guest, seconds } => Deed::Period { guest, seconds },
        });
    }
    plan.alarm = alarm(rung, state);
    let busy = rung >= Rung::Squeeze || state.balloons.guests.values().any(|guest| guest.asked.is_some());
    if busy {
        plan.ask_guests = ASK_EVERY.0;
    }
    plan
}

fn alarm(rung: Rung, state: &mut State) -> Option<Alarm> {
    let now = rung == Rung::Alarm;
    if std::mem::replace(&mut state.alarmed, now) == now {
        return None;
    }
    let chain: Vec<String> = state.ladder.why.iter().map(ToString::to_string).collect();
    Some(if now { Alarm::Raise(chain.join("; ")) } else { Alarm::Clear })
}
