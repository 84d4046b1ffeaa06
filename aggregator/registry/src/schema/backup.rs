//! Shapes of backup: policies, sets, restore points, replicas.

use super::{Property, hidden, maybe, restless, shown, wide};
use crate::FieldKind::{Boolean, Choice, Integer, Text, TextList, Time};

const ID: Property = shown("id", Text, "UUID");
const GUEST_ID: Property = wide("id", Text, "The guest's UUID");
const GUEST: Property = shown("name", Text, "The guest's name");

pub(super) const POLICY: &[Property] = &[
    shown("name", Text, "Name"),
    maybe(shown("schedule", Text, "When; absent: only by command")),
    maybe(shown("time_zone", Text, "Zone of the schedule; absent: UTC")),
    wide("jitter_s", Integer, "Guests are spread over so many seconds"),
    wide("keep_last", Integer, "Newest points kept"),
    wide("keep_hourly", Integer, "Hours of which a point is kept"),
    shown("keep_daily", Integer, "Days of which a point is kept"),
    shown("keep_weekly", Integer, "Weeks of which a point is kept"),
    wide("keep_monthly", Integer, "Months of which a point is kept"),
    wide("keep_yearly", Integer, "Years of which a point is kept"),
    wide("targets", TextList, "Copies beside the host's own store"),
    maybe(wide("max_age_s", Integer, "Told when the newest point is older")),
    maybe(shown("replica_every_s", Integer, "Time between two renewals of the replica; absent: none is kept")),
    maybe(wide("replica_max_lag_s", Integer, "Told when the replica is older")),
    maybe(wide("replica_host", Text, "Id of the host that keeps the replica; absent: chosen")),
    wide("replica_failover", Boolean, "The host that keeps the replica goes on with the guest when its own dies"),
    wide("priority", Integer, "Higher goes first where not all can at once"),
    wide("freeze", Choice(&["try", "require", "never"]), "Whether file systems are frozen"),
    maybe(wide("prove_every_s", Integer, "How often the newest point is booted to prove it")),
    wide("generation", Integer, "Rises with every change"),
    shown("guests", Integer, "Guests that follow it"),
];

pub(super) const SET: &[Property] = &[
    GUEST_ID,
    GUEST,
    shown("host_name", Text, "Host that keeps the points"),
    hidden("host", Text, "Id of that host"),
    wide("own", Boolean, "The points are of that host's own guest"),
    shown("points", Integer, "Restore points"),
    shown("stored_mib", Integer, "What they added to the store, MiB"),
    maybe(shown("newest", Time, "Moment that the newest whole point shows")),
    maybe(wide("newest_point", Text, "Its id")),
    maybe(wide("oldest", Time, "Moment that the oldest point shows")),
    maybe(shown("proven", Time, "Last proven restore")),
    maybe(hidden("proven_point", Text, "The point that was proven")),
    shown("damaged", Integer, "Points that verification found damaged"),
    maybe(wide("failure", Text, "Why the last backup failed; absent since one succeeded")),
    maybe(hidden("failed", Time, "When it failed")),
    maybe(wide("next", Time, "When the next one begins")),
    restless(wide("running", Boolean, "One is being made")),
    maybe(shown("policy", Text, "The policy that is followed")),
];

pub(super) const POINT: &[Property] = &[
    ID,
    shown("time", Time, "The moment it shows"),
    wide("finished", Time, "When it was whole"),
    shown("why", Choice(&["schedule", "command", "replica", "branch"]), "What it was made for"),
    shown("consistency", Choice(&["crash", "filesystem", "stopped"]), "What the guest finds when it boots from it"),
    wide("meant", Choice(&["run", "pause", "stay_off"]), "What the guest was meant to do, and does after a failover"),
    shown("size_mib", Integer, "Sizes of its disks, MiB"),
    wide("read_mib", Integer, "What was read, MiB"),
    shown("stored_mib", Integer, "What the store grew by, MiB"),
    shown("pinned", Boolean, "Kept whatever the policy says"),
    shown("proof", Choice(&["untried", "proven", "failed"]), "Whether it was booted"),
    maybe(wide("proof_time", Time, "When")),
    maybe(wide("proof_text", Text, "The sign of life, or why it failed")),
    wide("copies", TextList, "Where copies are"),
    maybe(shown("damaged", Text, "What verification found")),
    maybe(wide("note", Text, "Label, or what was unusual")),
    maybe(wide("parent", Text, "The point it was compared with")),
    hidden("guest", Text, "Id of the guest"),
    wide("guest_name", Text, "The guest's name then"),
    hidden("origin", Text, "Id of the host that made it"),
];

pub(super) const REPLICA: &[Property] = &[
    GUEST_ID,
    GUEST,
    shown("host_name", Text, "Host the guest is on"),
    maybe(shown("replica_host_name", Text, "Host that keeps the replica")),
    maybe(hidden("replica_host", Text, "Its id")),
    shown("state", Choice(&["seeding", "following", "behind", "broken", "held"]), "How it stands"),
    maybe(wide("why", Text, "Why it is broken")),
    restless(maybe(shown("lag_s", Integer, "How old the copy is, seconds"))),
    maybe(wide("point", Text, "The restore point that the copy is")),
    maybe(wide("shows", Time, "The moment the copy shows")),
    wide("every_s", Integer, "Time between two renewals"),
    wide("max_lag_s", Integer, "Told when it is older"),
];

pub(super) const STORE: &[Property] = &[
    shown("total_mib", Integer, "Of the file system that it lies on, MiB"),
    restless(shown("free_mib", Integer, "Free there, MiB")),
    restless(shown("used_mib", Integer, "What the store takes, MiB")),
    restless(maybe(shown("days_to_full", Integer, "At the pace of the last days"))),
    shown("held", Boolean, "Backups wait: the disk is filling"),
    shown("points", Integer, "Restore points in it"),
];
