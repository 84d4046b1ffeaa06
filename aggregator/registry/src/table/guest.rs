//! Guests.

use super::{LOOK, REF_GUEST, cli, read, slow, write};
use crate::{Field, FieldKind, Http, Operation, Output};

const LIST: Operation = Operation {
    inputs: &[
        Field::query("name", FieldKind::Text, "Only guests whose name contains this"),
        Field::query("host", FieldKind::Text, "Only guests of this host (id or name)"),
        Field::query("state", FieldKind::Choice(STATES), "Only guests in this state"),
        Field::query("managed", FieldKind::Boolean, "Only guests the hosts look after, or only the others"),
    ],
    cli: cli("guest", "list"),
    ..read("guest.list", "List guests", "/guests", Output::List("guest"))
};

const STATES: &[&str] = &["unknown", "running", "paused", "shutting_down", "off", "crashed", "suspended"];

const CREATE: Operation = Operation {
    detail: "Paths of images and kernels are relative to the host's image folder. The host looks after the guest from then on.",
    inputs: &[
        Field::body("name", FieldKind::Text, "Its name, unique on its host").required(),
        Field::body("memory_mib", FieldKind::Integer, "Memory in MiB").required(),
        Field::body("host", FieldKind::Text, "Host (id or name); left out: one is chosen"),
        Field::body("vcpus", FieldKind::Integer, "Virtual CPUs (default 1)"),
        Field::body("disks", FieldKind::List("disk_spec"), "Its disks, in order"),
        Field::body("nics", FieldKind::List("nic_spec"), "Its network interfaces, in order"),
        Field::body("boot", FieldKind::Object("boot"), "What it boots from (default: its first disk)"),
        Field::body("memory_wish", FieldKind::Object("memory_wish"), "What it is owed of its host's memory"),
        Field::body("start", FieldKind::Boolean, "Start it at once"),
    ],
    errors: &["invalid", "already_exists", "not_found", "ambiguous", "unplaceable"],
    cli: cli("guest", "create"),
    ..slow("guest.create", "Create a guest", Http::Post, "/guests")
};

const IMPORT: Operation = Operation {
    detail: "Only elements and attributes of the allow-list are taken; anything else is refused by name.",
    inputs: &[
        Field::body("host", FieldKind::Text, "Host (id or name)").required(),
        Field::body("xml", FieldKind::Document, "libvirt domain XML").required(),
    ],
    errors: &["invalid", "already_exists", "not_found", "ambiguous"],
    cli: cli("guest", "import"),
    ..slow("guest.import", "Create a guest from libvirt domain XML", Http::Post, "/guests/import")
};

const DELETE: Operation = Operation {
    detail: "Refused while it runs.",
    inputs: &[REF_GUEST, Field::query("keep_disks", FieldKind::Boolean, "Leave its disks where they are")],
    errors: &["not_found", "ambiguous"],
    cli: cli("guest", "delete"),
    ..slow("guest.delete", "Delete a guest and its disks", Http::Delete, "/guests/{ref}")
};

const fn action(name: &'static str, verb: &'static str, summary: &'static str, path: &'static str) -> Operation {
    Operation {
        inputs: &[REF_GUEST],
        errors: &["not_found", "ambiguous"],
        cli: cli("guest", verb),
        ..slow(name, summary, Http::Post, path)
    }
}

pub(super) const TABLE: &[Operation] = &[
    LIST,
    Operation {
        inputs: &[REF_GUEST],
        errors: &["not_found", "ambiguous"],
        cli: cli("guest", "get"),
        ..read("guest.get", "Show one guest", "/guests/{ref}", Output::Object("guest"))
    },
    Operation {
        detail: "Its first screen as it is now; a guest with a console only has none.",
        inputs: &[REF_GUEST],
        errors: LOOK,
        cli: cli("guest", "screen"),
        ..read("guest.screen", "Show what a guest has on its screen", "/guests/{ref}/screen", Output::Picture)
    },
    Operation {
        detail: "What would fit now, with merging and balloons as they are: each host counts for itself, by what guests of \
                 this size take there, and is asked at the moment. Processors and disks are not counted, nor that it takes \
                 more where its trust group is not the host's.",
        inputs: &[REF_GUEST],
        errors: &["not_found", "ambiguous"],
        cli: cli("guest", "room"),
        ..read(
            "guest.room",
            "Tell how many more guests like this one there is memory for",
            "/guests/{ref}/room",
            Output::Object("guest_room"),
        )
    },
    CREATE,
    IMPORT,
    action("guest.start", "start", "Start a guest", "/guests/{ref}/actions/start"),
    Operation {
        inputs: &[
            REF_GUEST,
            Field::body("force_after_s", FieldKind::Seconds, "Switch it off if it still runs after this long"),
        ],
        ..action("guest.shutdown", "shutdown", "Ask a guest to shut down", "/guests/{ref}/actions/shutdown")
    },
    action("guest.stop", "stop", "Switch a guest off at once", "/guests/{ref}/actions/stop"),
    action("guest.pause", "pause", "Pause a guest", "/guests/{ref}/actions/pause"),
    action("guest.resume", "resume", "Let a paused guest go on", "/guests/{ref}/actions/resume"),
    action("guest.reset", "reset", "Reset a guest, as by its button", "/guests/{ref}/actions/reset"),
    Operation {
        detail: "It is brought up to date there while it runs, then shut down, and started there from all that it wrote. \
                 Whatever goes wrong before it is given up, it goes on where it was.",
        inputs: &[
            REF_GUEST,
            Field::body(
                "shutdown_s",
                FieldKind::Seconds,
                "Switch it off if it still runs after this long (default 60)",
            ),
        ],
        errors: &["not_found", "ambiguous"],
        ..action(
            "guest.hand_over",
            "hand-over",
            "Move a protected guest to the host with its replica",
            "/guests/{ref}/actions/hand-over",
        )
    },
    DELETE,
    Operation {
        detail: "The host then keeps it as wished by itself: starts it at boot and again after a crash.",
        inputs: &[
            REF_GUEST,
            Field::body("power", FieldKind::Choice(&["running", "stopped"]), "What should be").required(),
        ],
        ..action("guest.manage", "manage", "Have the host look after a guest", "/guests/{ref}/actions/manage")
    },
    action("guest.release", "release", "Leave a guest to itself again", "/guests/{ref}/actions/release"),
    Operation {
        detail: "Its host tries each twice a minute while the guest runs: `rdp://192.0.2.7`, `vnc://192.0.2.7:5901`, \
                 `spice://`, `ssh://`, `http://192.0.2.7/health`, or `tcp://192.0.2.7:8080` where it is enough that it \
                 takes the connection. `ping://192.0.2.7`: it answers an echo request; `arp://192.0.2.7`: it answers on the \
                 same network, whatever its firewall drops. `roost guest get` shows how it went; an alarm tells of three \
                 misses in a row. None: it is not tried any more.",
        inputs: &[
            REF_GUEST,
            Field::body("probes", FieldKind::TextList, "Where, with IP addresses; at most 4").required(),
        ],
        errors: &["not_found", "ambiguous", "invalid"],
        cli: cli("guest", "probe"),
        ..write(
            "guest.probe",
            "Have a guest's host try whether it answers",
            Http::Post,
            "/guests/{ref}/actions/probe",
            Output::Object("guest"),
        )
    },
];
