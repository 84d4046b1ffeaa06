//! What happened, as a sentence for people, and as a kind for programs.

use std::fmt;

use crate::door::Kind;
use crate::event::{Ground, Report};
use crate::id::MemberId;
use crate::message::Denial;

impl Report {
    /// What kind of thing it is.
    pub fn kind(&self) -> Kind {
        match self {
            Report::Suspect { .. } | Report::HeardAgain { .. } => Kind::Suspect,
            Report::Voted { .. } => Kind::Vote,
            Report::Denied { .. } => Kind::Denial,
            Report::Asks { .. } | Report::StandsNot(_) => Kind::Candidacy,
            Report::Elected { .. } | Report::Raised { .. } => Kind::Won,
            Report::Runs { .. } => Kind::Runs,
            Report::LeaseEnded { .. } => Kind::LeaseEnded,
            Report::Kills { .. } | Report::Paused { .. } | Report::Released { .. } => Kind::Stopped,
            Report::Lost { .. } => Kind::Lost,
            Report::CouncilOpen { .. } | Report::CouncilInForce { .. } | Report::CouncilRefused(_) => Kind::Council,
            Report::Fenced { .. } | Report::Mute => Kind::Fault,
        }
    }
}

/// Members with commas between them.
struct Names<'a>(&'a [MemberId]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, member) in self.0.iter().enumerate() {
            write!(f, "{}{member}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ground::PromiseOver => "no promise to anybody was left",
            Ground::OwnerItself => "it is the recorded owner itself",
            Ground::OwnStopped => "this host is the recorded owner and runs nothing",
        })
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Denial::Behind => f.write_str("this voter was in that epoch or a later one already"),
            Denial::Promised(left) => write!(f, "this voter promised to wait for the owner, {} ms more", left.0),
            Denial::OtherCouncil => f.write_str("the asker doesn't know the newest council"),
            Denial::NoHome => f.write_str("the asker is no home of this ward"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Report::Suspect { owner } => write!(f, "the owner {owner} was not heard for a few rounds"),
            Report::HeardAgain { owner } => write!(f, "the owner {owner} is heard again"),
            Report::Asks { epoch } => write!(f, "this home asks whether it may stand in epoch {epoch}"),
            Report::StandsNot(why) => write!(f, "this home doesn't stand: {why}"),
            Report::Voted { candidate, epoch, ground } => {
                write!(f, "voted for {candidate} in epoch {epoch}: {ground}")
            }
            Report::Denied { candidate, epoch, why } => {
                write!(f, "no vote for {candidate} in epoch {epoch}: {why}")
            }
            Report::Elected { epoch, votes } => write!(f, "won epoch {epoch} with the votes of {}", Names(votes)),
            Report::Raised { epoch, votes } => {
                write!(f, "went on to epoch {epoch} with the votes of {}, since a voter had run ahead", Names(votes))
            }
            Report::Runs { epoch } => write!(f, "a majority granted a lease in epoch {epoch}: guests may execute"),
            Report::LeaseEnded { epoch } => write!(f, "the lease of epoch {epoch} ended: guests are paused"),
            Report::Kills { epoch } => write!(f, "guests of epoch {epoch} did not pause in time: they are killed"),
            Report::Paused { epoch } => write!(f, "no guest of epoch {epoch} executes"),
            Report::Released { epoch } => write!(f, "gave epoch {epoch} up: the next owner needs no wait"),
            Report::Lost { epoch, to: Some(to), in_epoch } => {
                write!(f, "the ward, owned here in epoch {epoch}, went to {to} in epoch {in_epoch}")
            }
            Report::Lost { epoch, to: None, in_epoch } => {
                write!(f, "the ward, owned here in epoch {epoch}, went to another in epoch {in_epoch}")
            }
            Report::CouncilOpen { members } => write!(f, "laid a new council down: {}", Names(members)),
            Report::CouncilInForce { members } => write!(f, "the new council is in force: {}", Names(members)),
            Report::CouncilRefused(why) => write!(f, "the council stays as it is: {why}"),
            Report::Fenced { owner, epoch } => write!(f, "{owner}, owner of epoch {epoch}, was fenced for certain"),
            Report::Mute => f.write_str("the vote store failed: no votes and no grants until a new start"),
        }
    }
}
