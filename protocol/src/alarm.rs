//! Alarms by their codes: how much one matters, what it is in a few words, and what to do about it. A code that isn't
//! known here, from a newer agent, is told of all the same.

use minicbor::{Decode, Encode};

/// How much an alarm matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum Severity {
    #[n(0)]
    Info,
    #[n(1)]
    Warning,
    #[n(2)]
    Error,
    #[n(3)]
    Critical,
}

/// All of them, the least first.
pub const SEVERITIES: [Severity; 4] = [Severity::Info, Severity::Warning, Severity::Error, Severity::Critical];

impl Severity {
    /// The word of the API, of mails and of labels.
    pub const fn word(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
            Severity::Critical => "critical",
        }
    }
}

/// How much an alarm of this code matters; one that isn't known here is an error.
pub fn severity(code: &str) -> Severity {
    match code {
        "cpu-busy" | "agent-version" | "test" => Severity::Info,
        "memory-pressure" | "io-pressure" | "disk-low" | "disk-filling" | "aggregator-away" | "store-filling"
        | "clock-off" => Severity::Warning,
        "answers-without-lease"
        | "memory-low"
        | "disk-full"
        | "state-disk"
        | "hypervisor-away"
        | "ledger-damaged"
        | "host-down" => Severity::Critical,
        _ => Severity::Error,
    }
}

/// What it is, said of its guest or host.
pub fn title(code: &str) -> &str {
    match code {
        "host-down" => "is down",
        "guest-down" => "is down though it should run",
        "guest-crash-loop" => "crashes again and again",
        "guest-unreachable" => "runs and does not answer",
        "unprotected" => "would stay down if its host died",
        "takeover-no-copy" => "can't be taken over: there is no copy",
        "backup-late" => "has no backup in time",
        "backup-failed" => "could not be backed up",
        "backup-damaged" => "has a damaged backup",
        "backup-unproven" => "has a backup that did not boot",
        "replica-lag" => "has a replica that lags behind",
        "replica-broken" => "has no sound replica",
        "restore-pull" | "restore-pulling" => "waits for the data it was restored from",
        "no-memory" => "finds no memory to start with",
        "memory-pressure" | "memory-low" | "memory-short" => "is short of memory",
        "io-pressure" => "waits for its disks",
        "cpu-busy" => "has all its CPUs busy",
        "disk-low" | "disk-full" => "has a disk that is nearly full",
        "disk-filling" => "has a disk that will soon be full",
        "state-disk" => "can't write its own state",
        "ledger-damaged" => "had a damaged database",
        "image-passed-over" => "does not run its newest image",
        "store-away" => "can't reach its backup store",
        "store-filling" => "has a backup store that fills up",
        "hypervisor-away" => "has lost its hypervisor service",
        "aggregator-away" => "does not hear the aggregator",
        "guard-away" => "has a guard that doesn't answer",
        "answers-without-lease" => "answers though no host may run it",
        "watchdog-failed" => "has a watchdog that does not work",
        "fence-failed" => "could not cut another host's power",
        "grid-refused" => "is refused by the grid",
        "peer-port" => "can't be reached by other hosts",
        "peer-misbehaved" => "was sent what it must not be sent",
        "clock-off" => "has a clock that is wrong",
        "agent-version" => "has another version than the aggregator",
        other => other,
    }
}

/// What to do about it.
pub fn advice(code: &str) -> &'static str {
    match code {
        "host-down" => {
            "See whether it has power and network. Its guests that are protected are gone on with elsewhere."
        }
        "guest-down" | "guest-crash-loop" => "Look at its screen and its events, then start it, or wish it stopped.",
        "guest-unreachable" => "Look at its screen and its network; if it hangs, reset it.",
        "unprotected" => "Mend what is lacking, or give it a policy without failover.",
        "takeover-no-copy" => "Bring its own host back, or restore it from a backup.",
        "backup-late" | "backup-failed" => "See its last failure in the list of its backups, then have one made now.",
        "backup-damaged" | "backup-unproven" => "Have another backup made and proven; check the disk of the store.",
        "replica-lag" | "replica-broken" => {
            "See whether the other host is up, has room, and the network is fast enough."
        }
        "restore-pull" | "restore-pulling" => "Bring the source of the backup back, or restore the guest anew.",
        "no-memory" | "memory-pressure" | "memory-low" | "memory-short" => {
            "Stop or move a guest, give guests less, or add memory."
        }
        "io-pressure" | "cpu-busy" => "See which guest uses most, and move it or give it limits.",
        "disk-low" | "disk-full" | "disk-filling" | "state-disk" | "store-filling" => {
            "Free some space: old backups, images, logs; or add a disk."
        }
        "ledger-damaged" => "See what was set aside in the agent's folder, and check the disk.",
        "image-passed-over" => {
            "See the text, then serve a mended image with a later date; the host goes on with the older one."
        }
        "store-away" => "See whether the disk of the store is mounted and can be written.",
        "hypervisor-away" => "See why libvirt's service does not run on the host. Guests go on.",
        "aggregator-away" => "See whether the aggregator runs and the network is up. Guests go on.",
        "guard-away" => "Start roost-guard on the host again: without it nothing is taken over.",
        "answers-without-lease" => {
            "Look at its host, which could not stop it: cut its power. Then the guest is taken over by itself."
        }
        "watchdog-failed" => {
            "Look at its firmware's settings and its driver, then test it again: roost host test-watchdog."
        }
        "fence-failed" => "Test the device: roost host test-fence. Takeovers wait for the promise meanwhile.",
        "grid-refused" => {
            "See the text: join the host again with a new token, or boot it with the data disk of this grid."
        }
        "peer-port" => "Choose another port in the agent's settings, or free this one.",
        "peer-misbehaved" => "See which host it was and whether it still belongs to the grid.",
        "clock-off" => "Start a time service on the host.",
        "agent-version" => "Upgrade the older one.",
        _ => "See the alarm's text and the host's log.",
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn every_code_that_has_a_title_says_what_to_do_and_an_unknown_one_still_says_something() {
        for code in ["host-down", "guest-down", "disk-low", "backup-late", "clock-off", "unprotected"] {
            assert_ne!(title(code), code);
            assert_ne!(advice(code), advice("of-a-newer-agent"));
        }
        assert_eq!(title("of-a-newer-agent"), "of-a-newer-agent");
        assert_eq!(severity("of-a-newer-agent"), Severity::Error);
    }
}
