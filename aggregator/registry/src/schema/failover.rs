//! Shapes of failover: links of a cause chain, takeovers.

use super::{Property, hidden, maybe, restless, shown, wide};
use crate::FieldKind::{Boolean, Choice, Integer, Text, TextList, Time};

pub(super) const CAUSE: &[Property] = &[
    maybe(shown(
        "time",
        Time,
        "When, by the clock of the host that noted it; absent: what is not known, and how it is now",
    )),
    shown("host_name", Text, "The host that noted it"),
    hidden("host", Text, "Its id"),
    shown(
        "kind",
        Text,
        "suspect, heard, vote, denial, candidacy, refusal, won, raised, runs, lease-ended, stopped, released, lost, council, \
         fault, override, source, started, not-started, hand-over, waits, fence; remembers, unknown: what is not known; stands: \
         how it is now",
    ),
    maybe(wide("epoch", Integer, "The term of ownership it is about")),
    shown("text", Text, "What happened"),
];

pub(super) const FAILOVER: &[Property] = &[
    maybe(hidden("guest", Text, "Id of the guest; absent: no host reports it now")),
    shown("name", Text, "The guest, or else its ward"),
    shown("from", Text, "The host that had it"),
    shown("to", Text, "The host that took it over"),
    wide("epoch", Integer, "The term of ownership that was won"),
    maybe(shown("last_heard", Time, "The last sign of the host before; absent: it gave the guest up")),
    maybe(wide("detected", Time, "It was missed")),
    maybe(wide("asked", Time, "The new host asked for votes")),
    shown("won", Time, "It had the votes"),
    shown("votes", TextList, "Whose"),
    maybe(wide("leased", Time, "It could run guests")),
    maybe(wide("chosen", Time, "What to start from was chosen")),
    maybe(wide("source", Text, "What that was")),
    maybe(wide("copy_age_s", Integer, "How old the copy was then, seconds")),
    maybe(shown("started", Time, "The guest's processors ran")),
    maybe(wide("trouble", Text, "Why it doesn't run")),
];

pub(super) const LOSS: &[Property] = &[
    hidden("guest", Text, "Its id"),
    shown("name", Text, "The guest"),
    shown("memory_mib", Integer, "Memory, MiB"),
    shown("off", Boolean, "It is off, and stays off wherever it is"),
    maybe(shown("goes_on_at", Text, "The host that would go on with it")),
    maybe(restless(shown("copy_age_s", Integer, "How old its copy there is, seconds"))),
    maybe(shown("stays_down_because", Text, "Why nobody would")),
];

pub(super) const HOST_LOSS: &[Property] = &[
    hidden("host", Text, "Its id"),
    shown("name", Text, "The host"),
    shown("guests", Integer, "Guests that are to run there"),
    shown("go_on", Integer, "Of these, so many would run elsewhere"),
    shown("stay_down", Integer, "… and so many would not"),
    maybe(shown("first", Text, "One of these, and why")),
];

pub(super) const WATCHDOG_TEST: &[Property] = &[
    shown(
        "result",
        Choice(&["untested", "running", "passed", "failed", "void"]),
        "What the last test of it showed; void: nothing",
    ),
    maybe(shown("tested", Time, "When that began, by the host's clock")),
    maybe(shown("text", Text, "The same in a sentence")),
];

pub(super) const FENCE: &[Property] = &[
    shown("agent", Text, "The fence agent"),
    maybe(shown("address", Text, "The device's name or address")),
    maybe(shown("user", Text, "The account there")),
    shown("secret_set", Boolean, "A password is known"),
    maybe(shown("plug", Text, "The host's outlet or name there")),
    shown("options", TextList, "Other parameters"),
    maybe(shown("tested", Time, "It said last that the host is on; absent: it is not used before it was tested")),
];
