//! What happened, as a sentence for people, and as a kind for programs.

use std::fmt;

use roost_protocol::cause::NoteKind;
use roost_protocol::{Epoch, Millis};

use crate::event::{Ground, Report};
use crate::id::MemberId;
use crate::message::Denial;

impl Report {
    /// What kind of thing it is.
    pub fn kind(&self) -> NoteKind {
        match self {
            Report::Suspect { .. } => NoteKind::Suspect,
            Report::HeardAgain { .. } => NoteKind::Heard,
            Report::Voted { .. } => NoteKind::Vote,
            Report::Denied { .. } => NoteKind::Denial,
            Report::Asks { .. } => NoteKind::Candidacy,
            Report::Nominated { force: false } => NoteKind::Candidacy,
            Report::Nominated { force: true } => NoteKind::Override,
            Report::StandsNot(_) => NoteKind::Refusal,
            Report::Elected { .. } => NoteKind::Won,
            Report::Raised { .. } => NoteKind::Raised,
            Report::Runs { .. } => NoteKind::Runs,
            Report::LeaseEnded { .. } => NoteKind::LeaseEnded,
            Report::Kills { .. } | Report::Paused { .. } => NoteKind::Stopped,
            Report::Released { .. } => NoteKind::Released,
            Report::Lost { .. } => NoteKind::Lost,
            Report::CouncilOpen { .. } | Report::CouncilInForce { .. } | Report::CouncilRefused(_) => NoteKind::Council,
            Report::Missed { .. } | Report::Fenced { .. } => NoteKind::Fence,
            Report::Mute => NoteKind::Fault,
        }
    }

    /// The epoch it is about.
    pub fn epoch(&self) -> Option<Epoch> {
        match self {
            Report::Asks { epoch, .. }
            | Report::Voted { epoch, .. }
            | Report::Denied { epoch, .. }
            | Report::Elected { epoch, .. }
            | Report::Raised { epoch, .. }
            | Report::Runs { epoch }
            | Report::LeaseEnded { epoch }
            | Report::Kills { epoch }
            | Report::Paused { epoch }
            | Report::Released { epoch }
            | Report::Lost { in_epoch: epoch, .. }
            | Report::Missed { epoch, .. }
            | Report::Fenced { epoch, .. } => Some(*epoch),
            Report::Suspect { .. }
            | Report::HeardAgain { .. }
            | Report::Nominated { .. }
            | Report::StandsNot(_)
            | Report::CouncilOpen { .. }
            | Report::CouncilInForce { .. }
            | Report::CouncilRefused(_)
            | Report::Mute => None,
        }
    }

    /// How long the owner was silent.
    pub fn span(&self) -> Option<Millis> {
        if let Report::Suspect { silent, .. } = self { Some(*silent) } else { None }
    }

    /// Who it is about, beside who tells it.
    pub fn members(&self) -> Vec<MemberId> {
        match self {
            Report::Suspect { owner: one, .. }
            | Report::HeardAgain { owner: one }
            | Report::Voted { candidate: one, .. }
            | Report::Denied { candidate: one, .. }
            | Report::Missed { owner: one, .. }
            | Report::Fenced { owner: one, .. } => vec![*one],
            Report::Asks { owner: one, .. } | Report::Lost { to: one, .. } => one.iter().copied().collect(),
            Report::Elected { votes: all, .. }
            | Report::Raised { votes: all, .. }
            | Report::CouncilOpen { members: all }
            | Report::CouncilInForce { members: all } => all.clone(),
            Report::Nominated { .. }
            | Report::StandsNot(_)
            | Report::Runs { .. }
            | Report::LeaseEnded { .. }
            | Report::Kills { .. }
            | Report::Paused { .. }
            | Report::Released { .. }
            | Report::CouncilRefused(_)
            | Report::Mute => Vec::new(),
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
            Report::Suspect { owner, silent } => write!(f, "the owner {owner} was not heard for {} ms", silent.0),
            Report::HeardAgain { owner } => write!(f, "the owner {owner} is heard again"),
            Report::Asks { epoch, owner: Some(owner) } => {
                write!(f, "this home asks whether it may stand in epoch {epoch}, after {owner}")
            }
            Report::Asks { epoch, owner: None } => write!(f, "this home asks whether it may stand in epoch {epoch}"),
            Report::Nominated { force: false } => f.write_str("this home was asked to stand"),
            Report::Nominated { force: true } => {
                f.write_str("an admin asked this home to stand, whatever speaks against it, with the copy that it has")
            }
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
            Report::Missed { owner, by, .. } => {
                write!(f, "asked, the others miss the owner {owner} too: {}", Names(by))
            }
            Report::Fenced { owner, epoch } => write!(f, "{owner}, owner of epoch {epoch}, was fenced for certain"),
            Report::Mute => f.write_str("the vote store failed: no votes and no grants until a new start"),
        }
    }
}
