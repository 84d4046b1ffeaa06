//! Shapes of memory: how a host shares it out, what it did about it, what a guest is owed.

use super::{Property, hidden, maybe, restless, shown, wide};
use crate::FieldKind::{Boolean, Choice, Integer, List, Number, Object, Text, TextList, Time};

pub(super) const HOST: &[Property] = &[
    shown("name", Text, "The host"),
    hidden("host", Text, "Its id"),
    restless(shown(
        "rung",
        Choice(&["free", "share", "squeeze", "refuse", "alarm"]),
        "What is done, each with those before it: nothing; equal pages are merged; idle guests give memory back; no guest \
         is started; guests have to go elsewhere",
    )),
    restless(shown("total_mib", Integer, "Memory, MiB")),
    restless(shown("available_mib", Integer, "To be had, MiB")),
    restless(wide("reserve_mib", Integer, "What guests never get, MiB")),
    restless(shown("committed_mib", Integer, "What running guests were promised, MiB")),
    restless(wide("overcommit_percent", Number, "The same, percent of all")),
    restless(shown("saved_by_sharing_mib", Integer, "Needed more without merged pages, MiB")),
    restless(shown("saved_by_balloons_mib", Integer, "Taken from idle guests, MiB")),
    maybe(restless(wide("sharing_cpu_percent", Number, "CPU that merging uses, percent of one CPU"))),
    restless(shown("fits_mib", Integer, "The largest guest that could be started now, MiB")),
    restless(shown("more", List("more_guests"), "How many more guests could be started, by their size")),
    maybe(shown("policy_from", Choice(&["file", "grid"]), "Whose policy it follows: its settings', or an admin's")),
    maybe(wide("policy", Object("memory_policy"), "That policy; an older agent doesn't tell")),
    restless(hidden("guests", List("guest_memory"), "Its running guests")),
];

/// As in a host's settings; `roost host set-memory` says what each means.
pub(super) const POLICY: &[Property] = &[
    shown("sharing", Choice(&["auto", "always", "never"]), "When equal pages are merged"),
    shown("balloons", Boolean, "Memory is taken back from guests that don't use it"),
    shown("reserve_permille", Integer, "What guests never get, permille of the host's memory"),
    shown("reserve_least_mib", Integer, "The least of that, MiB"),
    shown("squeeze_below_permille", Integer, "Guests are squeezed when less is available"),
    shown("share_below_permille", Integer, "Pages are merged when less is available"),
    shown("overcommit_permille", Integer, "Most that guests are promised; 1000: no overcommit"),
    shown("floor_permille", Integer, "No guest is squeezed below this part of its own memory"),
    shown("start_permille", Integer, "Part of its memory that a new guest is expected to use"),
    shown("ksm_cpu_permille", Integer, "Most CPU that merging may use, permille of one CPU"),
    shown("ksm_pay_mib", Integer, "What a second of CPU must gain by merging, MiB"),
    maybe(shown("trust", Text, "Only pages of guests of this trust group are merged; absent: of guests of none")),
];

pub(super) const MORE: &[Property] = &[
    shown("memory_mib", Integer, "Memory of each, MiB"),
    shown(
        "more",
        Integer,
        "So many, one after the other; where such guests run, by what these take, else by what one is expected to",
    ),
];

pub(super) const GUEST_ROOM: &[Property] = &[
    shown("name", Text, "The guest"),
    shown("memory_mib", Integer, "Its memory, MiB"),
    restless(shown("more", Integer, "So many more like it could be started, on all hosts together")),
    restless(shown("hosts", List("host_room"), "Each host's part, the one with the most room first")),
];

pub(super) const HOST_ROOM: &[Property] = &[
    shown("name", Text, "The host"),
    maybe(restless(shown("more", Integer, "So many, one after the other, by what such guests take where some run"))),
    restless(shown("at_least", Boolean, "It counted for larger ones, so there may be more")),
    maybe(restless(wide("saved_mib", Integer, "What merging and balloons save there now, MiB"))),
    maybe(shown("why", Text, "Why nobody knows, or none is started there")),
];

pub(super) const GUEST: &[Property] = &[
    hidden("guest", Text, "Its id"),
    shown("name", Text, "The guest"),
    shown("memory_mib", Integer, "What it has when nobody squeezes it, MiB"),
    maybe(restless(shown("current_mib", Integer, "What its balloon leaves it, MiB"))),
    restless(shown("resident_mib", Integer, "Of its process, merged pages too, MiB")),
    maybe(restless(shown("usable_mib", Integer, "Free to its programs, as it says itself, MiB"))),
    maybe(restless(shown("shared_mib", Integer, "Merged with equal pages, MiB"))),
    maybe(shown("mergeable", Boolean, "As it runs now, its pages may be merged; an older agent doesn't tell")),
    maybe(wide("trust", Text, "Its trust group")),
];

pub(super) const ACT: &[Property] = &[
    shown("time", Time, "When, by the host's clock"),
    maybe(shown("guest_name", Text, "To whom; absent: the host")),
    maybe(hidden("guest", Text, "Its id")),
    shown("what", Text, "What was done"),
    shown("why", TextList, "The causes, from the first to the last"),
];

pub(super) const WISH: &[Property] = &[
    maybe(shown("weight", Integer, "Of two guests alike, one with twice the weight gives half as much (default 100)")),
    maybe(shown("floor_mib", Integer, "It is never squeezed below this, MiB")),
    maybe(shown("squeeze", Boolean, "It may give memory back when its host is short (default true)")),
    maybe(shown("share", Boolean, "Its pages may be merged with equal ones of other guests (default true)")),
    maybe(shown(
        "trust",
        Text,
        "Its trust group: its pages are merged only on hosts of this group, with those of its group",
    )),
];
