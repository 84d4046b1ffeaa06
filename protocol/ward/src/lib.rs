//! Who may run a guest, and how another host takes over: votes, leases and councils, without IO, clock or chance.
//!
//! `Ward` is one ward on one machine, `Wards` all of a machine and its watchdog. README.md shows why no guest runs twice.

mod ballot;
mod candidate;
mod council;
pub mod door;
mod event;
mod fingerprint;
mod id;
mod inquiry;
mod message;
mod messages;
mod own;
mod owner;
mod rules;
pub mod selftest;
mod sentence;
mod timers;
mod voter;
mod ward;
mod wards;

pub use ballot::{Ballot, Kept};
pub use council::{Council, CouncilRefusal, Councils, MOST_MEMBERS, Policy, Version};
pub use event::{Action, Bars, Change, ChangeRefusal, Event, Ground, Refusal, Replica, Report};
pub use id::{MemberId, Order, Round, WardId};
pub use message::{Candidacy, Denial, LONGEST_PACKET, Letter, MOST_WARDS_IN_PACKET, Message, Packet};
pub use rules::{Rule, Rules};
pub use timers::{CALM, FAST, Fence, NORMAL, Profile, Timers, TimersRefusal};
pub use ward::{Standing, Start, Ward};
pub use wards::{Wards, WardsAction};
