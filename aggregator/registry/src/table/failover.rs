//! Failover: what happened, and why.

use super::{REF_GUEST, cli, read};
use crate::{Field, FieldKind, Operation, Output};

pub(super) const TABLE: &[Operation] = &[
    Operation {
        detail: "One line a host, in order of name; each as if it alone died. `roost host if-lost NAME` has the guests.",
        cli: cli("failover", "plan"),
        ..read("failover.plan", "Show what each host's death would cost", "/failovers/plan", Output::List("host_loss"))
    },
    Operation {
        detail: "Put together from what its voters and homes noted, each by its own clock. What no host remembers any more, \
                 and who can't be asked, is said too. Its last link says whether another host would go on with the guest now.",
        inputs: &[REF_GUEST],
        errors: &["not_found", "ambiguous"],
        cli: cli("guest", "explain"),
        ..read("guest.explain", "Tell why a guest is where it is", "/guests/{ref}/explain", Output::List("cause"))
    },
    Operation {
        detail: "Each with its moments, by the clock of the host that took over.",
        inputs: &[Field::query("guest", FieldKind::Text, "Only of this guest (id or name)")],
        errors: &["not_found", "ambiguous"],
        cli: cli("failover", "list"),
        ..read("failover.list", "List takeovers that hosts remember", "/failovers", Output::List("failover"))
    },
];
