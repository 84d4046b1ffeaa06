//! What hosts sampled.

use super::{LOOK, REF_GUEST, REF_HOST, cli, read};
use crate::{Field, FieldKind, Operation, Output};

const KEPT: &str = "Asked of the host itself, which keeps steps of 10 s for a day, of a minute for a month and of 15 minutes \
                    for a year. Where nothing was sampled there is no line.";
const REPORT: &str = "Asked of the host itself, which keeps what it sampled for a year; the coarser, the longer ago. Of a measure \
                      that was not sampled there is no line.";
const SPAN: Field = Field::query("last", FieldKind::Seconds, "So far back (default one day)");
const LAST: Field = Field::query("last", FieldKind::Seconds, "So far back (default one hour)");
const UNTIL: Field = Field::query("until", FieldKind::Time, "To this moment (default: now, by the host's clock)");
const POINTS: Field = Field::query("points", FieldKind::Integer, "About so many lines, 1 to 2000 (default 60)");

pub(super) const TABLE: &[Operation] = &[
    Operation {
        detail: "One line a guest, of up to 2,000 guests at once: of more, name a host. Each host is asked for what it \
                 sampled; where it does not answer, or nothing was sampled, the line says so.",
        inputs: &[Field::query("host", FieldKind::Text, "Only guests of this host (id or name)"), SPAN, UNTIL],
        errors: &["not_found", "ambiguous", "invalid"],
        cli: cli("report", "guests"),
        ..read("report.guests", "Sum up what guests were like", "/reports/guests", Output::List("guest_use"))
    },
    Operation {
        detail: REPORT,
        inputs: &[REF_HOST, SPAN, UNTIL],
        errors: LOOK,
        cli: cli("host", "report"),
        ..read("host.report", "Sum up what a host was like", "/hosts/{ref}/report", Output::List("performance"))
    },
    Operation {
        detail: REPORT,
        inputs: &[REF_GUEST, SPAN, UNTIL],
        errors: LOOK,
        cli: cli("guest", "report"),
        ..read("guest.report", "Sum up what a guest was like", "/guests/{ref}/report", Output::List("performance"))
    },
    Operation {
        detail: KEPT,
        inputs: &[REF_HOST, LAST, UNTIL, POINTS],
        errors: LOOK,
        cli: cli("host", "history"),
        ..read("host.history", "Show what a host was like", "/hosts/{ref}/history", Output::List("host_moment"))
    },
    Operation {
        detail: KEPT,
        inputs: &[REF_GUEST, LAST, UNTIL, POINTS],
        errors: LOOK,
        cli: cli("guest", "history"),
        ..read("guest.history", "Show what a guest was like", "/guests/{ref}/history", Output::List("guest_moment"))
    },
];
