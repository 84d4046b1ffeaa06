//! What a machine tells, as a sentence for people.

use roost_ward::{Ground, MemberId, Report};

use super::world::World;

/// None for what would only fill the page.
pub(crate) fn sentence(world: &World, report: &Report) -> Option<String> {
    let name = |member: &MemberId| world.name_of(*member);
    let names = |members: &[MemberId]| members.iter().map(name).collect::<Vec<_>>().join(", ");
    let text = match report {
        Report::Suspect { owner, .. } => format!("misses {}", name(owner)),
        Report::HeardAgain { owner } => format!("hears {} again", name(owner)),
        Report::Asks { .. } | Report::Nominated { .. } | Report::Denied { .. } => return None,
        Report::StandsNot(refusal) => format!("does not stand: {refusal}"),
        Report::Voted { candidate, epoch, ground } => {
            let why = match ground {
                Ground::PromiseOver => "its promise is over",
                Ground::OwnerItself => "the owner itself asks",
                Ground::OwnStopped => "its own guests are stopped",
            };
            format!("votes for {} in epoch {epoch}: {why}", name(candidate))
        }
        Report::Elected { epoch, votes } => format!("is elected in epoch {epoch} by {}", names(votes)),
        Report::Raised { epoch, votes } => format!("raises its epoch to {epoch} by {}", names(votes)),
        Report::Runs { epoch } => format!("has the lease of epoch {epoch}"),
        Report::LeaseEnded { epoch } => format!("lost the lease of epoch {epoch}: pauses"),
        Report::Kills { .. } => "could not pause in time: kills".into(),
        Report::Paused { .. } => return None,
        Report::Released { epoch } => format!("released epoch {epoch}"),
        Report::Lost { in_epoch, to, .. } => match to {
            Some(to) => format!("learns that epoch {in_epoch} is {}'s: its own copy is old", name(to)),
            None => format!("learns of epoch {in_epoch}: its own copy is old"),
        },
        Report::CouncilOpen { members } => format!("lays down a council of {}", names(members)),
        Report::CouncilInForce { members } => format!("has the council of {} in force", names(members)),
        Report::CouncilRefused(refusal) => format!("changes no council: {refusal}"),
        Report::Missed { owner, by, .. } => format!("asked: {} is missed by {} too", name(owner), names(by)),
        Report::Fenced { owner, epoch } => format!("knows {} fenced in epoch {epoch}", name(owner)),
        Report::Mute => "votes no more: its store failed".into(),
    };
    Some(text)
}
