//! Shapes of what was sampled.

use super::{ID, NAME, Property, hidden, maybe, shown, wide};
use crate::FieldKind::{Integer, Number, Text, Time};

pub(super) const HOST_MOMENT: &[Property] = &[
    shown("time", Time, "When it began, by the host's clock"),
    hidden("step_s", Integer, "How long it is, seconds"),
    shown("cpu_percent", Number, "CPU in use, percent of all CPUs"),
    shown("cpu_peak_percent", Number, "The highest sample"),
    shown("memory_available_mib", Integer, "Memory that could be given out, MiB"),
    wide("swap_used_mib", Integer, "Swap in use, MiB"),
    shown("load", Number, "Load of a minute"),
    wide("pressure_cpu_percent", Number, "Time in which something waited for CPU"),
    wide("pressure_memory_percent", Number, "… for memory"),
    wide("pressure_io_percent", Number, "… for disks"),
    shown("receive_bps", Integer, "Received, bytes a second"),
    shown("transmit_bps", Integer, "Sent, bytes a second"),
    shown("disk_free_mib", Integer, "Free where the agent keeps its state, MiB"),
    maybe(wide("saved_by_sharing_mib", Integer, "Memory saved by merging equal pages, MiB")),
];

pub(super) const GUEST_MOMENT: &[Property] = &[
    shown("time", Time, "When it began, by its host's clock"),
    hidden("step_s", Integer, "How long it is, seconds"),
    shown("cpu_percent", Number, "CPU in use, percent of one CPU"),
    shown("cpu_peak_percent", Number, "The highest sample"),
    shown("resident_mib", Integer, "Memory its process holds, MiB"),
    maybe(wide("balloon_mib", Integer, "Memory its balloon leaves it, MiB")),
    maybe(shown("available_mib", Integer, "Memory it says it has free, MiB")),
    shown("read_bps", Integer, "Read from its disks, bytes a second"),
    shown("write_bps", Integer, "Written to them, bytes a second"),
    shown("receive_bps", Integer, "Received, bytes a second; by its taps on the host, 0 where it has none"),
    shown("transmit_bps", Integer, "Sent, bytes a second"),
    maybe(shown("availability_percent", Number, "Doors that answered when tried last, percent of those tried")),
    maybe(shown("access_rtt_ms", Integer, "How long the slowest of them took to answer, milliseconds")),
];

pub(super) const GUEST_USE: &[Property] = &[
    ID,
    NAME,
    shown("host_name", Text, "Its host, which was asked"),
    maybe(shown("cpu_mean_percent", Number, "CPU in use on average, percent of one CPU")),
    maybe(shown("cpu_p95_percent", Number, "What 95 of 100 steps did not exceed")),
    maybe(wide("cpu_max_percent", Number, "The highest sample")),
    maybe(shown("resident_mean_mib", Number, "Memory its process held on average, MiB")),
    maybe(wide("resident_max_mib", Number, "The highest step")),
    maybe(wide("available_min_mib", Number, "The least memory it said it had free, MiB")),
    maybe(shown("read_mean_bps", Number, "Read from its disks on average, bytes a second")),
    maybe(shown("write_mean_bps", Number, "Written to them")),
    maybe(shown("receive_mean_bps", Number, "Received on average, bytes a second")),
    maybe(shown("transmit_mean_bps", Number, "Sent on average")),
    maybe(shown("availability_mean_percent", Number, "Doors that answered while it ran, percent of those tried")),
    maybe(wide("availability_min_percent", Number, "The worst step")),
    maybe(wide("access_rtt_p95_ms", Number, "The slowest door: what 95 of 100 steps did not exceed, milliseconds")),
    maybe(wide("from", Time, "When the first step that was sampled began, by its host's clock")),
    maybe(wide("last", Time, "When the last of them began")),
    maybe(wide("step_s", Integer, "How long a step is, seconds")),
    maybe(shown("missing", Text, "Why there are no figures")),
];

pub(super) const PERFORMANCE: &[Property] = &[
    shown("measure", Text, "What was measured: named as in the history, with its unit"),
    shown("mean", Number, "On average"),
    shown("min", Number, "The lowest step"),
    shown("p95", Number, "What 95 of 100 steps did not exceed"),
    shown("max", Number, "The highest step; of CPU the highest sample"),
    wide("steps", Integer, "Steps that were sampled"),
    wide("step_s", Integer, "How long a step is, seconds"),
    wide("from", Time, "When the first of them began, by the host's clock"),
    wide("last", Time, "When the last of them began"),
];
