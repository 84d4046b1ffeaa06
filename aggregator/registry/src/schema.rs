//! Shapes of what comes back (and of the larger inputs), with the columns tables show.

mod backup;
mod failover;
mod history;
mod memory;
mod notify;

pub(crate) use notify::{NOTIFIER_KINDS, NOTIFIER_SECURITY, NOTIFIER_TRANSPORTS, SEVERITIES};

use crate::FieldKind;
use crate::FieldKind::{
    Anything, Boolean, Choice, Integer, List, Number, Object, Seconds, Secret, Text, TextList, Time,
};

/// One shape.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    pub name: &'static str,
    pub help: &'static str,
    pub properties: &'static [Property],
}

/// One member of a shape.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    pub name: &'static str,
    pub kind: FieldKind,
    /// False: may be absent or null.
    pub always: bool,
    pub show: Show,
    /// True: changes all the time by itself. If-Match looks past it.
    pub restless: bool,
    pub help: &'static str,
}

/// In which tables a property is a column by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Show {
    /// Never, unless asked for.
    No,
    Wide,
    Table,
}

impl Schema {
    /// The property of this name.
    pub fn property(&self, name: &str) -> Option<&'static Property> {
        self.properties.iter().find(|property| property.name == name)
    }

    /// Columns of a table: those shown at least in this one.
    pub fn columns(&self, least: Show) -> impl Iterator<Item = &'static Property> + use<> {
        self.properties.iter().filter(move |property| property.show >= least)
    }
}

/// All shapes.
pub fn schemas() -> &'static [Schema] {
    SCHEMAS
}

/// The shape of this name.
pub fn schema(name: &str) -> Option<&'static Schema> {
    SCHEMAS.iter().find(|schema| schema.name == name)
}

const fn shown(name: &'static str, kind: FieldKind, help: &'static str) -> Property {
    Property { name, kind, always: true, show: Show::Table, restless: false, help }
}

const fn wide(name: &'static str, kind: FieldKind, help: &'static str) -> Property {
    Property { name, kind, always: true, show: Show::Wide, restless: false, help }
}

const fn hidden(name: &'static str, kind: FieldKind, help: &'static str) -> Property {
    Property { name, kind, always: true, show: Show::No, restless: false, help }
}

const fn restless(property: Property) -> Property {
    Property { restless: true, ..property }
}

const fn maybe(property: Property) -> Property {
    Property { always: false, ..property }
}

const ID: Property = wide("id", Text, "UUID");
const NAME: Property = shown("name", Text, "Name");

static SCHEMAS: &[Schema] = &[
    Schema { name: "host", help: "A machine of the grid", properties: HOST },
    Schema { name: "guest", help: "A virtual machine", properties: GUEST },
    Schema { name: "access", help: "A door of a guest that its host tries", properties: ACCESS },
    Schema { name: "disk", help: "A disk of a guest", properties: DISK },
    Schema {
        name: "pressure",
        help: "Share of the last 10 s in which something waited (PSI some avg10), percent",
        properties: PRESSURE,
    },
    Schema { name: "image", help: "A host image that runs", properties: IMAGE },
    Schema { name: "newer_image", help: "How the search for a newer host image stands", properties: NEWER_IMAGE },
    Schema { name: "next_image", help: "A newer one that the next start uses", properties: NEXT_IMAGE },
    Schema { name: "alarm", help: "A condition that is raised until it clears", properties: ALARM },
    Schema { name: "operation", help: "Slow work that goes on after the answer", properties: OPERATION },
    Schema { name: "progress", help: "How far an operation is", properties: PROGRESS },
    Schema { name: "resource", help: "What something is about", properties: RESOURCE },
    Schema { name: "event", help: "Something that happened", properties: EVENT },
    Schema { name: "grid", help: "The grid as a whole", properties: GRID },
    Schema { name: "join_token", help: "Lets one host join", properties: JOIN_TOKEN },
    Schema { name: "user", help: "Somebody who may log in", properties: USER },
    Schema { name: "session", help: "A log-in", properties: SESSION },
    Schema { name: "api_token", help: "Lets a program in", properties: API_TOKEN },
    Schema { name: "backup_policy", help: "When guests are backed up and what is kept", properties: backup::POLICY },
    Schema { name: "backup_set", help: "All restore points of one guest on one host", properties: backup::SET },
    Schema { name: "backup", help: "One restorable state of a guest", properties: backup::POINT },
    Schema {
        name: "replica",
        help: "A copy of a guest on another host, renewed all the time",
        properties: backup::REPLICA,
    },
    Schema { name: "store", help: "Where a host keeps points", properties: backup::STORE },
    Schema { name: "cause", help: "One link of a guest's cause chain", properties: failover::CAUSE },
    Schema { name: "fence", help: "What cuts a host's power", properties: failover::FENCE },
    Schema { name: "watchdog_test", help: "Whether a host's watchdog ends it", properties: failover::WATCHDOG_TEST },
    Schema { name: "failover", help: "A guest that another host took over", properties: failover::FAILOVER },
    Schema { name: "loss", help: "What would become of a guest if its host died", properties: failover::LOSS },
    Schema { name: "host_moment", help: "A host on average over one step", properties: history::HOST_MOMENT },
    Schema { name: "performance", help: "One measure over a span of time", properties: history::PERFORMANCE },
    Schema { name: "guest_use", help: "A guest over a span of time", properties: history::GUEST_USE },
    Schema { name: "guest_moment", help: "A guest on average over one step", properties: history::GUEST_MOMENT },
    Schema { name: "host_loss", help: "What a host's death would cost", properties: failover::HOST_LOSS },
    Schema { name: "host_memory", help: "How a host's memory is shared out", properties: memory::HOST },
    Schema { name: "guest_memory", help: "A running guest's part of it", properties: memory::GUEST },
    Schema { name: "more_guests", help: "Room for guests of one size", properties: memory::MORE },
    Schema { name: "guest_room", help: "Room for more guests like one", properties: memory::GUEST_ROOM },
    Schema { name: "host_room", help: "A host's part of it", properties: memory::HOST_ROOM },
    Schema { name: "memory_policy", help: "How dense a host is packed", properties: memory::POLICY },
    Schema { name: "memory_act", help: "Something a host did about its memory", properties: memory::ACT },
    Schema { name: "memory_wish", help: "What a guest is owed of its host's memory", properties: memory::WISH },
    Schema { name: "grid_alarm", help: "Something wrong somewhere in the grid", properties: notify::ALARM },
    Schema { name: "silence", help: "Nobody is told of some alarms for a while", properties: notify::SILENCE },
    Schema { name: "notifier", help: "A way to tell people and programs of alarms", properties: notify::NOTIFIER },
    Schema { name: "disk_spec", help: "Where a new guest's disk comes from", properties: DISK_SPEC },
    Schema { name: "nic_spec", help: "A new guest's network interface", properties: NIC_SPEC },
    Schema { name: "boot", help: "What a new guest boots from", properties: BOOT },
    Schema { name: "problem", help: "An error (RFC 9457)", properties: PROBLEM },
    Schema { name: "fault", help: "One wrong input", properties: FAULT },
];

const HOST: &[Property] = &[
    ID,
    NAME,
    shown("state", Choice(&["up", "suspect", "down", "never"]), "Whether it is heard of"),
    maybe(shown("since", Time, "In this state since")),
    restless(maybe(wide("last_seen", Time, "Last heard of"))),
    maybe(wide("agent_version", Text, "Version of its agent")),
    maybe(shown(
        "virtualization",
        Choice(&["hardware", "software", "unknown"]),
        "What its guests run on, found by trying",
    )),
    maybe(hidden("virtualization_reason", Text, "Why not on hardware")),
    maybe(wide("hypervisor", Text, "libvirt and QEMU versions")),
    maybe(wide("kernel", Text, "Kernel release")),
    maybe(wide("system", Text, "Its operating system")),
    maybe(hidden("image", Object("image"), "The image of ours that it was started from")),
    maybe(hidden("boot_id", Text, "Another one after each start of it")),
    maybe(shown("cpus", Integer, "Logical CPUs")),
    maybe(shown("memory_mib", Integer, "Memory, MiB")),
    restless(maybe(shown("memory_available_mib", Integer, "Memory to be had, MiB"))),
    restless(maybe(shown("cpu_percent", Number, "CPU in use, percent of all CPUs"))),
    maybe(wide("addresses", TextList, "IP addresses")),
    shown("guests", Integer, "Guests"),
    shown("guests_running", Integer, "Running guests"),
    maybe(wide("zone", Text, "What falls together with it, such as its rack")),
    maybe(shown("maintenance", Choice(&["on", "draining", "drained"]), "It gets no new guests, replicas or takeovers")),
    maybe(wide(
        "watchdog",
        Choice(&["hardware", "software", "parent", "none"]),
        "What ends it when it hangs; hosts without one protect no guests",
    )),
    maybe(hidden("watchdog_detail", Text, "The watchdog's name, or why there is none")),
    maybe(hidden("watchdog_test", Object("watchdog_test"), "Whether it does")),
    maybe(hidden("fence", Object("fence"), "What cuts its power when it is missed")),
    wide("stale", Boolean, "What is shown may be old: host or hypervisor service not heard"),
    hidden("alarms", List("alarm"), "Raised conditions"),
    restless(maybe(hidden("store", Object("store"), "Where it keeps restore points"))),
    restless(maybe(wide("clock_offset_s", Number, "Its clock minus ours, seconds"))),
    restless(maybe(hidden("pressure", Object("pressure"), "Pressure stall information"))),
];

const IMAGE: &[Property] = &[
    shown("version", Text, "What whoever signed it calls it"),
    shown("made", Time, "Hosts take what was made later"),
    maybe(shown("slot", Choice(&["a", "b"]), "On its data disk; absent: its stick, or the network")),
    maybe(shown("next", Object("next_image"), "What its next start uses, where that is a newer one")),
    maybe(shown("secure_boot", Boolean, "Its firmware starts only what is signed by a key that it knows")),
];

const NEWER_IMAGE: &[Property] = &[
    shown("state", Choice(&["looking", "waits", "none"]), "It goes on; one waits for the next start; the newest runs"),
    maybe(shown("image", Object("next_image"), "What waits")),
];

const NEXT_IMAGE: &[Property] =
    &[shown("version", Text, "What whoever signed it calls it"), shown("made", Time, "It was made then")];

const GUEST: &[Property] = &[
    ID,
    NAME,
    hidden("host", Text, "Id of its host"),
    shown("host_name", Text, "Its host"),
    shown(
        "state",
        Choice(&["unknown", "running", "paused", "shutting_down", "off", "crashed", "suspended"]),
        "What it does",
    ),
    maybe(wide("reason", Text, "Why it is in that state")),
    shown("managed", Boolean, "The host looks after it"),
    maybe(wide("desired", Choice(&["running", "stopped"]), "What should be, where managed")),
    shown("vcpus", Integer, "Virtual CPUs"),
    shown("memory_mib", Integer, "Memory, MiB"),
    maybe(shown("since", Time, "In this state since")),
    wide("restarts", Integer, "Restarts after crashes since it was last asked to start"),
    restless(maybe(shown("cpu_percent", Number, "CPU in use, percent of one CPU"))),
    restless(maybe(wide("resident_mib", Integer, "Memory its process holds, MiB"))),
    wide("stale", Boolean, "What is shown may be old"),
    maybe(wide("protected", Boolean, "Another host would go on with it; absent: that is not wished")),
    maybe(wide("protected_by", Text, "The host that would")),
    restless(maybe(wide("unprotected_because", Text, "Why none would"))),
    restless(maybe(wide(
        "restored_percent",
        Integer,
        "Started from a restore point: how much of its data is here; absent: all",
    ))),
    maybe(wide("restored_from", Text, "The point, which it needs until all is here")),
    restless(maybe(wide("restore_trouble", Text, "Why the rest doesn't come; the guest stops where it reads of it"))),
    hidden("disks", List("disk"), "Its disks"),
    maybe(hidden("probes", TextList, "Where its host tries whether it answers")),
    restless(hidden("access", List("access"), "How that went")),
];

const ACCESS: &[Property] = &[
    shown("probe", Text, "What is spoken, and where"),
    shown("up", Boolean, "It answers; three misses in a row count as no"),
    shown("answer", Choice(&["ok", "refused", "timed_out", "bad_reply"]), "What came of the last try"),
    maybe(shown("rtt_ms", Integer, "How long its answer took, milliseconds")),
    shown("since", Time, "Up or not since"),
];

const DISK: &[Property] = &[
    shown("target", Text, "Device name in the guest, such as vda"),
    shown("path", Text, "Where it lies on the host"),
    shown("format", Text, "raw or qcow2"),
];

const PRESSURE: &[Property] = &[
    shown("cpu_percent", Number, "Waiting for CPU"),
    shown("memory_percent", Number, "Waiting for memory"),
    shown("io_percent", Number, "Waiting for disks"),
];

const ALARM: &[Property] = &[
    shown("code", Text, "Stable word"),
    maybe(shown("guest", Text, "Id of the guest it is about")),
    shown("since", Time, "Raised at"),
    shown("text", Text, "What it is and what to do"),
];

const OPERATION: &[Property] = &[
    shown("id", Text, "UUID"),
    shown("kind", Text, "Name of what was asked, such as guest.start"),
    shown("state", Choice(&["queued", "running", "succeeded", "failed", "cancelled"]), "How it stands"),
    restless(maybe(hidden("progress", Object("progress"), "How far it is"))),
    hidden("resources", List("resource"), "What it is about"),
    maybe(hidden("parent", Text, "Operation it is a part of")),
    hidden("children", TextList, "Operations that are parts of it"),
    maybe(shown("created_by", Text, "Who asked")),
    shown("created", Time, "Asked at"),
    maybe(wide("started", Time, "Begun at")),
    maybe(wide("ended", Time, "Ended at")),
    maybe(hidden("result", Anything, "What came of it")),
    maybe(hidden("error", Object("problem"), "Why it failed")),
    hidden("log", TextList, "What was done, for people"),
];

const PROGRESS: &[Property] = &[
    shown("percent", Integer, "0 to 100"),
    maybe(shown("step", Text, "What is being done")),
    maybe(hidden("done", Integer, "Units done")),
    maybe(hidden("total", Integer, "Units in all")),
    maybe(hidden("unit", Text, "What is counted")),
    maybe(hidden("eta_s", Integer, "Seconds left, guessed")),
];

const RESOURCE: &[Property] =
    &[shown("kind", Text, "host, guest, ..."), shown("id", Text, "Its id"), maybe(shown("name", Text, "Its name"))];

const EVENT: &[Property] = &[
    shown("seq", Integer, "Sequence number; never used twice in one epoch"),
    shown("time", Time, "When it was learned"),
    shown("kind", Text, "What happened, such as guest.started"),
    shown("severity", Choice(&["info", "warning", "error"]), "How grave"),
    shown("text", Text, "In words"),
    maybe(wide("user", Text, "Who did it")),
    maybe(wide("operation", Text, "Id of the operation")),
    hidden("resources", List("resource"), "What it is about"),
];

const GRID: &[Property] = &[
    shown("id", Text, "UUID, made from the grid's key"),
    shown("version", Text, "Version of the aggregator"),
    shown("epoch", Integer, "Rises with every start of the aggregator"),
    shown("generation", Integer, "Generation of the grid document"),
    shown("generation_kept_by", Integer, "Hosts that keep that very document and could give it back"),
    shown("digest", Text, "Digest of all guests, equal wherever the same is known"),
    shown("fingerprint", Text, "SHA-256 of the grid's public key (SPKI), 64 hexadecimal digits"),
    shown("hosts", Integer, "Hosts"),
    shown("hosts_up", Integer, "Hosts heard of"),
    shown("guests", Integer, "Guests"),
    shown("guests_running", Integer, "Running guests"),
    maybe(shown("since", Time, "Aggregator started at")),
];

const JOIN_TOKEN: &[Property] = &[
    shown("id", Text, "Id"),
    maybe(shown("name", Text, "Name the host gets")),
    maybe(wide("note", Text, "What it is for")),
    maybe(wide("token", Secret, "The token; only in the answer to create")),
    shown("state", Choice(TOKEN_STATES), "Whether it still lets a host in"),
    maybe(wide("created_by", Text, "Who made it")),
    shown("created", Time, "Made at"),
    shown("expires", Time, "Good until"),
    maybe(shown("used", Time, "Used at")),
    maybe(hidden("used_by", Text, "Id of the host that used it")),
    maybe(shown("used_by_name", Text, "The host that used it")),
];

/// States of a join token.
pub(crate) const TOKEN_STATES: &[&str] = &["unused", "used", "expired"];

const USER: &[Property] = &[
    NAME,
    shown("created", Time, "Added at"),
    restless(maybe(shown("last_login", Time, "Last log-in; absent: never"))),
];

const SESSION: &[Property] = &[
    shown("id", Text, "Id"),
    shown("user", Text, "Whose"),
    maybe(wide("token", Secret, "The token; only in the answer to the log-in")),
    maybe(shown("address", Text, "Where from")),
    shown("created", Time, "Logged in at"),
    restless(shown("expires", Time, "Good until")),
    restless(maybe(wide("last_used", Time, "Last used"))),
];

const API_TOKEN: &[Property] = &[
    shown("id", Text, "Id"),
    NAME,
    shown("user", Text, "Whose rights it has"),
    maybe(wide("token", Secret, "The token; only in the answer to create")),
    shown("created", Time, "Made at"),
    maybe(shown("expires", Time, "Good until")),
    restless(maybe(shown("last_used", Time, "Last used, to the minute; absent: never"))),
];

const DISK_SPEC: &[Property] = &[
    shown("from", Choice(&["blank", "image"]), "An empty disk, or a copy of an image"),
    maybe(shown("size_mib", Integer, "Size of a blank disk, MiB")),
    maybe(shown("path", Text, "Image, relative to the host's image folder")),
    maybe(shown("format", Choice(&["raw", "qcow2"]), "Format of the image; never guessed")),
];

const NIC_SPEC: &[Property] = &[maybe(shown("bridge", Text, "A bridge of the host; left out: the user-mode network"))];

const BOOT: &[Property] = &[
    shown("from", Choice(&["disk", "kernel"]), "Its first disk, or a kernel"),
    maybe(shown("kernel", Text, "Kernel, relative to the host's image folder")),
    maybe(shown("initrd", Text, "Initial RAM disk, relative to the host's image folder")),
    maybe(shown("cmdline", Text, "Kernel command line")),
];

const PROBLEM: &[Property] = &[
    shown("type", Text, "Page about the code"),
    shown("title", Text, "The code in a sentence"),
    shown("status", Integer, "HTTP status"),
    maybe(shown("detail", Text, "What was tried and why it failed")),
    maybe(shown("try", Text, "What to do")),
    shown("code", Text, "Stable word"),
    maybe(hidden("errors", List("fault"), "Wrong inputs, one by one")),
    maybe(shown("request_id", Text, "To find the request in the log")),
    maybe(hidden("retry_after_s", Seconds, "Try again after this long")),
    maybe(hidden("operation", Text, "Id of the operation it is about")),
];

const FAULT: &[Property] = &[
    shown("pointer", Text, "JSON pointer to the input"),
    shown("code", Text, "Stable word"),
    shown("detail", Text, "What is wrong with it"),
];
