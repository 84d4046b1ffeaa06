//! Backup: policies, sets (all restore points of one guest), points, replicas.

use super::{LOOK, cli, read, slow, write};
use crate::{Field, FieldKind, Http, Operation, Output};

const REF_SET: Field = Field::path("ref", "The guest whose points they are: its id, or its name when only one has it");
const POINT: Field = Field::path("point", "The restore point's id");
const POLICY: Field = Field::path("name", "The policy's name");
const FREEZE: &[&str] = &["try", "require", "never"];

/// What a policy says, beside its name. What is left out is off.
const RULES: [Field; 18] = [
    Field::body(
        "schedule",
        FieldKind::Text,
        "When: hourly, daily, mon..fri 20:30, *-*-* 02:00, *:0/15; left out: only by command",
    ),
    Field::body("time_zone", FieldKind::Text, "Zone of the schedule, such as Europe/Zurich (default UTC)"),
    Field::body("jitter_s", FieldKind::Seconds, "Spread the guests over this long"),
    Field::body("keep_last", FieldKind::Integer, "Keep this many newest points; without any rule all are kept"),
    Field::body("keep_hourly", FieldKind::Integer, "Keep one point of each of this many hours"),
    Field::body("keep_daily", FieldKind::Integer, "Keep one point of each of this many days"),
    Field::body("keep_weekly", FieldKind::Integer, "Keep one point of each of this many weeks"),
    Field::body("keep_monthly", FieldKind::Integer, "Keep one point of each of this many months"),
    Field::body("keep_yearly", FieldKind::Integer, "Keep one point of each of this many years"),
    Field::body(
        "targets",
        FieldKind::TextList,
        "Copies beside the host's own store: host:NAME, or an absolute folder on the host",
    ),
    Field::body(
        "max_age_s",
        FieldKind::Seconds,
        "Tell when the newest point is older (default: twice the schedule's gap)",
    ),
    Field::body(
        "replica_every_s",
        FieldKind::Seconds,
        "Keep a replica on another host, renewed this often (5 s to a day)",
    ),
    Field::body(
        "replica_max_lag_s",
        FieldKind::Seconds,
        "Tell when the replica is older (default: three times the above)",
    ),
    Field::body("replica_host", FieldKind::Text, "Host that keeps the replica (default: chosen by the guest's host)"),
    Field::body(
        "replica_failover",
        FieldKind::Boolean,
        "Go on with the guest on that host when its own dies; both need roost-guard (default no)",
    ),
    Field::body(
        "priority",
        FieldKind::Integer,
        "0 to 9: higher goes first where not all can at once, above all when a host died (default 0)",
    ),
    Field::body("freeze", FieldKind::Choice(FREEZE), "Freeze file systems for the moment of the point (default try)"),
    Field::body("prove_every_s", FieldKind::Seconds, "Boot the newest point in isolation this often to prove it"),
];

const fn with_name(name: Field) -> [Field; 19] {
    let mut all = [name; 19];
    let mut n = 0;
    while n < RULES.len() {
        all[n + 1] = RULES[n];
        n += 1;
    }
    all
}

const NEW_POLICY: &[Field] = &with_name(Field::body("name", FieldKind::Text, "Its name").required());
const CHANGED_POLICY: &[Field] = &with_name(POLICY);

const POLICIES: &[Operation] = &[
    Operation {
        cli: cli("backup-policy", "list"),
        ..read("backup_policy.list", "List backup policies", "/backup-policies", Output::List("backup_policy"))
    },
    Operation {
        inputs: &[POLICY],
        errors: &["not_found"],
        cli: cli("backup-policy", "get"),
        ..read(
            "backup_policy.get",
            "Show one backup policy",
            "/backup-policies/{name}",
            Output::Object("backup_policy"),
        )
    },
    Operation {
        detail: "Hosts follow the policies of their guests by themselves, whether the aggregator is there or not.",
        inputs: NEW_POLICY,
        errors: &["invalid", "already_exists", "not_found", "ambiguous"],
        cli: cli("backup-policy", "create"),
        ..write(
            "backup_policy.create",
            "Make a backup policy",
            Http::Post,
            "/backup-policies",
            Output::Object("backup_policy"),
        )
    },
    Operation {
        detail: "Replaces all its rules. Guests that follow it are given the new ones as soon as their host is there.",
        inputs: CHANGED_POLICY,
        errors: &["invalid", "not_found", "ambiguous"],
        cli: cli("backup-policy", "replace"),
        ..write(
            "backup_policy.replace",
            "Replace the rules of a backup policy",
            Http::Put,
            "/backup-policies/{name}",
            Output::Object("backup_policy"),
        )
    },
    Operation {
        detail: "Refused while guests follow it.",
        inputs: &[POLICY],
        errors: &["not_found", "wrong_state"],
        cli: cli("backup-policy", "delete"),
        ..write(
            "backup_policy.delete",
            "Delete a backup policy",
            Http::Delete,
            "/backup-policies/{name}",
            Output::Nothing,
        )
    },
];

const fn of_set(name: &'static str, verb: &'static str, summary: &'static str, path: &'static str) -> Operation {
    Operation {
        inputs: &[REF_SET],
        errors: &["not_found", "ambiguous", "wrong_state"],
        cli: cli("backup-set", verb),
        ..slow(name, summary, Http::Post, path)
    }
}

const SETS: &[Operation] = &[
    Operation {
        detail: "One entry for each guest and each host that has points of it; hosts that keep points for others have them too.",
        inputs: &[
            Field::query("host", FieldKind::Text, "Only what this host keeps (id or name)"),
            Field::query("policy", FieldKind::Text, "Only guests that follow this policy"),
        ],
        errors: &["not_found", "ambiguous"],
        cli: cli("backup-set", "list"),
        ..read("backup_set.list", "List backup sets", "/backup-sets", Output::List("backup_set"))
    },
    Operation {
        inputs: &[REF_SET],
        errors: &["not_found", "ambiguous"],
        cli: cli("backup-set", "get"),
        ..read("backup_set.get", "Show the backup set of one guest", "/backup-sets/{ref}", Output::Object("backup_set"))
    },
    Operation {
        detail: "Taken when a point of the guest was last booted to prove it, whether it came up or not.",
        inputs: &[REF_SET],
        errors: LOOK,
        cli: cli("backup-set", "picture"),
        ..read(
            "backup_set.picture",
            "Show the screen of the newest proof",
            "/backup-sets/{ref}/picture",
            Output::Picture,
        )
    },
    Operation {
        inputs: &[
            REF_SET,
            Field::body("full", FieldKind::Boolean, "Read everything, also what the point before is known to have"),
            Field::body("freeze", FieldKind::Choice(FREEZE), "Freeze file systems (default try)"),
            Field::body("pin", FieldKind::Boolean, "Keep it whatever the policy says"),
            Field::body("note", FieldKind::Text, "Why it is made"),
        ],
        ..of_set("backup_set.run", "run", "Make a restore point now", "/backup-sets/{ref}/actions/run")
    },
    of_set("backup_set.verify", "verify", "Read all points and compare digests", "/backup-sets/{ref}/actions/verify"),
    of_set("backup_set.prune", "prune", "Apply the policy's keep rules now", "/backup-sets/{ref}/actions/prune"),
    Operation {
        detail: "Boots the newest point isolated from the network and waits for the guest's sign of life.",
        ..of_set("backup_set.prove", "prove", "Prove that the newest point starts", "/backup-sets/{ref}/actions/prove")
    },
    Operation {
        detail: "Without a policy the guest is backed up by command only; its points stay.",
        inputs: &[REF_SET, Field::body("policy", FieldKind::Text, "Name of the policy; left out: none")],
        ..of_set(
            "backup_set.set_policy",
            "set-policy",
            "Have a guest backed up by this policy",
            "/backup-sets/{ref}/actions/set-policy",
        )
    },
];

const fn of_point(name: &'static str, verb: &'static str, summary: &'static str, path: &'static str) -> Operation {
    Operation {
        inputs: &[REF_SET, POINT],
        errors: &["not_found", "ambiguous", "wrong_state"],
        cli: cli("backup", verb),
        ..slow(name, summary, Http::Post, path)
    }
}

const POINTS: &[Operation] = &[
    Operation {
        detail: "Asked of the host that has them.",
        inputs: &[REF_SET, Field::query("host", FieldKind::Text, "What this host keeps of them (id or name)")],
        errors: &["not_found", "ambiguous"],
        cli: cli("backup", "list"),
        ..read("backup.list", "List restore points of a guest", "/backup-sets/{ref}/backups", Output::List("backup"))
    },
    Operation {
        inputs: &[REF_SET, POINT],
        errors: &["not_found", "ambiguous"],
        cli: cli("backup", "get"),
        ..read("backup.get", "Show one restore point", "/backup-sets/{ref}/backups/{point}", Output::Object("backup"))
    },
    Operation {
        detail: "The only whole point of a guest stays unless `even_last` says otherwise.",
        inputs: &[REF_SET, POINT, Field::query("even_last", FieldKind::Boolean, "Also when it is the only whole one")],
        errors: &["not_found", "ambiguous", "wrong_state"],
        cli: cli("backup", "delete"),
        ..slow("backup.delete", "Delete a restore point", Http::Delete, "/backup-sets/{ref}/backups/{point}")
    },
    of_point(
        "backup.pin",
        "pin",
        "Keep a point whatever the policy says",
        "/backup-sets/{ref}/backups/{point}/actions/pin",
    ),
    of_point(
        "backup.unpin",
        "unpin",
        "Let the policy decide again",
        "/backup-sets/{ref}/backups/{point}/actions/unpin",
    ),
    of_point(
        "backup.verify",
        "verify",
        "Read a point and compare digests",
        "/backup-sets/{ref}/backups/{point}/actions/verify",
    ),
    of_point("backup.prove", "prove", "Prove that a point starts", "/backup-sets/{ref}/backups/{point}/actions/prove"),
    Operation {
        detail: "With a name it becomes a new guest with new addresses; without, the guest comes back as it was, which is \
                 refused while it runs, and on another host than the one that has it. Read back and compared before it is \
                 done. A host that does not keep the point takes it from one that does.",
        inputs: &[
            REF_SET,
            POINT,
            Field::body("name", FieldKind::Text, "Name of the new guest; left out: the guest as it was"),
            Field::body("hostname", FieldKind::Text, "Host name inside the new guest (cloud-init)"),
            Field::body("windows_name", FieldKind::Text, "Computer name of a Windows guest (answer file)"),
            Field::body("domain", FieldKind::Text, "Domain a Windows guest joins"),
            Field::body("host", FieldKind::Text, "Host that gets it (default: the one that has the points)"),
            Field::body(
                "from",
                FieldKind::Text,
                "Folder on that host with copies of points, for when no host has the point any more; the set may be \
                 unknown to this grid then, given by its guest's id",
            ),
            Field::body("start", FieldKind::Boolean, "Start it when it is there"),
            Field::body("at_once", FieldKind::Boolean, "Start it at once and bring the data in behind"),
        ],
        errors: &["not_found", "ambiguous", "wrong_state", "already_exists", "invalid"],
        ..of_point("backup.restore", "restore", "Restore a point", "/backup-sets/{ref}/backups/{point}/actions/restore")
    },
];

const REPLICAS: &[Operation] = &[
    Operation {
        inputs: &[Field::query("host", FieldKind::Text, "Only replicas of this host's guests (id or name)")],
        errors: &["not_found", "ambiguous"],
        cli: cli("replica", "list"),
        ..read("replica.list", "List replicas", "/replicas", Output::List("replica"))
    },
    Operation {
        inputs: &[REF_SET],
        errors: &["not_found", "ambiguous"],
        cli: cli("replica", "get"),
        ..read("replica.get", "Show the replica of one guest", "/replicas/{ref}", Output::Object("replica"))
    },
];

pub(super) const TABLE: &[&[Operation]] = &[POLICIES, SETS, POINTS, REPLICAS];
