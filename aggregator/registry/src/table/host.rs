//! Hosts.

use super::{REF_HOST, cli, read, write};
use crate::{Field, FieldKind, Http, Operation, Output};

const FENCE_AGENT: Field =
    Field::body("agent", FieldKind::Text, "The fence agent: fence_ipmilan, fence_redfish, fence_apc_snmp, ...")
        .required();
const FENCE_ADDRESS: Field = Field::body("address", FieldKind::Text, "The device's name or address");
const FENCE_USER: Field = Field::body("user", FieldKind::Text, "The account there");
const FENCE_SECRET: Field =
    Field::body("secret", FieldKind::Secret, "The account's password. Never shown again; empty: none");
const FENCE_PLUG: Field = Field::body("plug", FieldKind::Text, "The host's outlet or name there");
const FENCE_OPTIONS: Field =
    Field::body("options", FieldKind::TextList, "Other parameters of the agent, NAME=VALUE: lanplus=1");
const FENCE_TEST: &[&str] = &[
    "not_found",
    "ambiguous",
    "wrong_state",
    "invalid",
    "unsupported",
    "target_away",
    "host_unreachable",
    "timed_out",
    "busy",
    "changed",
];

const ENDS_HOST: &[&str] = &[
    "not_found",
    "ambiguous",
    "wrong_state",
    "unsupported",
    "target_away",
    "host_unreachable",
    "timed_out",
    "busy",
    "changed",
];

const FETCH_IMAGE: &[&str] =
    &["not_found", "ambiguous", "wrong_state", "unsupported", "target_away", "host_unreachable", "timed_out", "busy"];

const SET_MEMORY: &[&str] =
    &["not_found", "ambiguous", "invalid", "unsupported", "host_unreachable", "timed_out", "busy"];

pub(super) const TABLE: &[Operation] = &[
    Operation {
        inputs: &[
            Field::query("name", FieldKind::Text, "Only hosts whose name contains this"),
            Field::query("state", FieldKind::Choice(&["up", "suspect", "down", "never"]), "Only hosts in this state"),
        ],
        cli: cli("host", "list"),
        ..read("host.list", "List hosts", "/hosts", Output::List("host"))
    },
    Operation {
        inputs: &[REF_HOST],
        errors: &["not_found", "ambiguous"],
        cli: cli("host", "get"),
        ..read("host.get", "Show one host", "/hosts/{ref}", Output::Object("host"))
    },
    Operation {
        detail: "Its guests, one after the other, as far as the memory of those that have their copies goes; those that \
                 are off stay off there.",
        inputs: &[REF_HOST],
        errors: &["not_found", "ambiguous"],
        cli: cli("host", "if-lost"),
        ..read(
            "host.if_lost",
            "Show who would go on with a host's guests if it died now",
            "/hosts/{ref}/if-lost",
            Output::List("loss"),
        )
    },
    Operation {
        detail: "As its agent saw it within the last seconds: what is there, what was promised, what merging and balloons \
                 save, and the largest guest that could be started.",
        inputs: &[REF_HOST],
        errors: &["not_found", "ambiguous"],
        cli: cli("host", "memory"),
        ..read(
            "host.memory",
            "Show how a host's memory is shared out",
            "/hosts/{ref}/memory",
            Output::Object("host_memory"),
        )
    },
    Operation {
        detail: "The last 64 things that its agent did, newest first, each with its chain of causes and their numbers.",
        inputs: &[REF_HOST],
        errors: &["not_found", "ambiguous"],
        cli: cli("host", "explain-memory"),
        ..read(
            "host.explain_memory",
            "Tell what a host did about its memory, and why",
            "/hosts/{ref}/memory/acts",
            Output::List("memory_act"),
        )
    },
    Operation {
        detail: "What is not given stays as it is. The host follows it at once, instead of the table `memory` in its \
                 settings, and keeps it until `roost host clear-memory`. `roost host memory` shows what it follows.",
        inputs: &[
            REF_HOST,
            Field::body("sharing", FieldKind::Choice(&["auto", "always", "never"]), "When equal pages are merged"),
            Field::body("balloons", FieldKind::Boolean, "Take memory back from guests that don't use it"),
            Field::body("reserve_permille", FieldKind::Integer, "What guests never get, permille of the host's memory"),
            Field::body("reserve_least_mib", FieldKind::Integer, "The least of that, MiB"),
            Field::body("squeeze_below_permille", FieldKind::Integer, "Guests are squeezed when less is available"),
            Field::body("share_below_permille", FieldKind::Integer, "Pages are merged when less is available"),
            Field::body(
                "overcommit_permille",
                FieldKind::Integer,
                "Most that guests are promised; 1000: no overcommit",
            ),
            Field::body("floor_permille", FieldKind::Integer, "No guest is squeezed below this part of its own memory"),
            Field::body("start_permille", FieldKind::Integer, "Part of its memory that a new guest is expected to use"),
            Field::body("ksm_cpu_permille", FieldKind::Integer, "Most CPU that merging may use, permille of one CPU"),
            Field::body("ksm_pay_mib", FieldKind::Integer, "What a second of CPU must gain by merging, MiB"),
            Field::body("trust", FieldKind::Text, "Merge only pages of guests of this trust group; empty: of none"),
        ],
        errors: SET_MEMORY,
        cli: cli("host", "set-memory"),
        ..write(
            "host.set_memory",
            "Say how dense a host is packed",
            Http::Post,
            "/hosts/{ref}/actions/set-memory",
            Output::Object("memory_policy"),
        )
    },
    Operation {
        inputs: &[REF_HOST],
        errors: &["not_found", "ambiguous"],
        cli: cli("host", "clear-memory"),
        ..write(
            "host.clear_memory",
            "Have a host follow the memory policy of its settings again",
            Http::Delete,
            "/hosts/{ref}/memory/policy",
            Output::Nothing,
        )
    },
    Operation {
        detail: "It gets no new guests and replicas, and takes over nothing; its own guests stay and go on.",
        inputs: &[REF_HOST],
        errors: &["not_found", "ambiguous"],
        cli: cli("host", "maintenance"),
        ..write(
            "host.maintenance",
            "Keep new guests, replicas and takeovers off a host",
            Http::Post,
            "/hosts/{ref}/actions/maintenance",
            Output::Object("host"),
        )
    },
    Operation {
        detail: "Maintenance, and its protected guests are handed over, two at a time; `roost host get` shows how far it \
                 is, `roost host if-lost` what stays and why. It is kept empty until `roost host resume`.",
        inputs: &[REF_HOST],
        errors: &["not_found", "ambiguous"],
        cli: cli("host", "drain"),
        ..write(
            "host.drain",
            "Hand a host's protected guests over to other hosts",
            Http::Post,
            "/hosts/{ref}/actions/drain",
            Output::Object("host"),
        )
    },
    Operation {
        detail: "Guests that were handed over stay where they are.",
        inputs: &[REF_HOST],
        errors: &["not_found", "ambiguous"],
        cli: cli("host", "resume"),
        ..write(
            "host.resume",
            "End a host's maintenance",
            Http::Post,
            "/hosts/{ref}/actions/resume",
            Output::Object("host"),
        )
    },
    Operation {
        detail: "A rack, a power feed, a room: what fails at once. New replicas go to other zones where there is room, and \
                 the hosts that vote on a guest are chosen from as many as there are; what stands stays where it is.",
        inputs: &[
            REF_HOST,
            Field::body("zone", FieldKind::Text, "Its zone, such as rack-3; empty: not known").required(),
        ],
        errors: &["not_found", "ambiguous"],
        cli: cli("host", "set-zone"),
        ..write(
            "host.set_zone",
            "Tell what falls together with a host",
            Http::Post,
            "/hosts/{ref}/actions/set-zone",
            Output::Object("host"),
        )
    },
    Operation {
        detail: "Optional. Who may take over its guests cuts its power by one of the distribution's fence-agents when most \
                 of a council miss it, and need not wait for its lease's end; then it gets power again. Used once `roost \
                 host test-fence` worked; its secret stays where none is given for the same device.",
        inputs: &[REF_HOST, FENCE_AGENT, FENCE_ADDRESS, FENCE_USER, FENCE_SECRET, FENCE_PLUG, FENCE_OPTIONS],
        errors: &["not_found", "ambiguous", "invalid"],
        cli: cli("host", "set-fence"),
        ..write(
            "host.set_fence",
            "Say what cuts a host's power when it is missed",
            Http::Put,
            "/hosts/{ref}/fence",
            Output::Object("host"),
        )
    },
    Operation {
        detail: "Asks the device from the hosts that would use it; it must say that the host is on, which must be up.",
        inputs: &[REF_HOST],
        errors: FENCE_TEST,
        cli: cli("host", "test-fence"),
        ..write(
            "host.test_fence",
            "Test a host's fence device: nothing is switched",
            Http::Post,
            "/hosts/{ref}/actions/test-fence",
            Output::Object("host"),
        )
    },
    Operation {
        inputs: &[REF_HOST],
        errors: &["not_found", "ambiguous"],
        cli: cli("host", "clear-fence"),
        ..write("host.clear_fence", "Forget a host's fence device", Http::Delete, "/hosts/{ref}/fence", Output::Nothing)
    },
    Operation {
        detail: "The host is ended: its guard pets the watchdog no more, and the host must come back. Nothing may be up there, \
                 and it must be in maintenance. `roost host get` shows what came of it once the host is back; a watchdog \
                 that does not fire within 20 s has failed, and the host is left as it was.",
        inputs: &[REF_HOST],
        errors: ENDS_HOST,
        cli: cli("host", "test-watchdog"),
        ..write(
            "host.test_watchdog",
            "Test whether a host's watchdog ends it: the host restarts",
            Http::Post,
            "/hosts/{ref}/actions/test-watchdog",
            Output::Object("host"),
        )
    },
    Operation {
        detail: "It looks at its aggregator, or where its answer `update=` says, as it does each hour, and takes what is \
                 newer and signed; the next start uses that. An answer that it still looks is given after 12 s: ask \
                 again, which begins no second search.",
        inputs: &[REF_HOST],
        errors: FETCH_IMAGE,
        cli: cli("host", "fetch-image"),
        ..write(
            "host.fetch_image",
            "Have a host look for a newer host image now",
            Http::Post,
            "/hosts/{ref}/actions/fetch-image",
            Output::Object("newer_image"),
        )
    },
    Operation {
        detail: "By `reboot_command` in its agent.toml. Nothing may be up there, and it must be in maintenance; its agent looks \
                 again for processes of guests. `boot_id` is another one once it is back. `roost host upgrade` does this \
                 with all that belongs to it.",
        inputs: &[REF_HOST],
        errors: ENDS_HOST,
        cli: cli("host", "reboot"),
        ..write(
            "host.reboot",
            "Restart a host that is in maintenance and runs no guest",
            Http::Post,
            "/hosts/{ref}/actions/reboot",
            Output::Object("host"),
        )
    },
    Operation {
        detail: "Its key is refused from then on; its guests go on running. To bring the machine back, join it anew.",
        inputs: &[REF_HOST],
        errors: &["not_found", "ambiguous"],
        cli: cli("host", "remove"),
        ..write("host.remove", "Remove a host from the grid", Http::Delete, "/hosts/{ref}", Output::Nothing)
    },
];
