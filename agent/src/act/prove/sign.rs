//! What a guest says on its console: whether it has started, or has given up.

use std::time::Duration;

/// Only so much of the end is looked at.
pub(super) const TAIL: usize = 64 << 10;
/// A guest without firmware is alive when it goes on talking for so long; longer, if an agent may still answer.
pub(super) const GOES_ON: Duration = Duration::from_secs(10);
pub(super) const GOES_ON_BESIDE_AGENT: Duration = Duration::from_secs(40);
/// What asks for a user: everything before that has started.
const ALIVE: [&str; 2] = ["login:", "password:"];
/// What firmware, boot loaders and kernels say last.
const DEAD: [&str; 10] = [
    "kernel panic",
    "no bootable device",
    "boot failed",
    "no bootable option",
    "grub rescue>",
    "operating system not found",
    "you are in emergency mode",
    "give root password for maintenance",
    "(initramfs)",
    "dracut:/#",
];

/// What the console tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    Alive(&'static str),
    Dead(&'static str),
    Nothing,
}

/// Listens to one console.
#[derive(Debug, Default)]
pub(super) struct Console {
    length: u64,
    /// When it first said something.
    first: Option<Duration>,
}

impl Console {
    /// `length`: bytes said so far; `tail`: the end of them; `talk`: how long a guest without firmware must go on
    /// talking; none: firmware talks too, so it says nothing.
    pub(super) fn hear(&mut self, since_start: Duration, length: u64, tail: &str, talk: Option<Duration>) -> Sign {
        let tail = tail.to_lowercase();
        if let Some(word) = DEAD.iter().find(|word| tail.contains(**word)) {
            return Sign::Dead(word);
        }
        if ALIVE.iter().any(|word| tail.contains(word)) {
            return Sign::Alive("console: it asks for a log-in");
        }
        let grown = length > std::mem::replace(&mut self.length, length);
        let first = *self.first.get_or_insert(if grown { since_start } else { return Sign::Nothing });
        let long = talk.is_some_and(|talk| since_start.saturating_sub(first) >= talk);
        if grown && long { Sign::Alive("console: it goes on talking") } else { Sign::Nothing }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn heard(said: &[(u64, &str)], direct: bool) -> Vec<Sign> {
        let mut console = Console::default();
        let mut all = String::new();
        let mut hear = |(at, more): &(u64, &str)| {
            all.push_str(more);
            console.hear(Duration::from_secs(*at), u64::try_from(all.len()).unwrap(), &all, direct.then_some(GOES_ON))
        };
        said.iter().map(&mut hear).collect()
    }

    #[test]
    fn a_log_in_is_life_and_firmware_alone_is_not() {
        let nothing = Sign::Nothing;
        let firmware = heard(&[(1, "BdsDxe: loading"), (8, "."), (20, "."), (40, ".")], false);
        assert_eq!(firmware, vec![nothing.clone(); 4]);
        assert!(matches!(heard(&[(1, "web login: ")], false)[0], Sign::Alive(_)));
    }

    #[test]
    fn what_boot_loaders_and_kernels_say_last_is_death_whatever_came_before() {
        for words in ["No bootable device.", "end Kernel panic - not syncing: VFS", "grub rescue> "] {
            assert!(matches!(heard(&[(1, "login: "), (2, words)], true)[1], Sign::Dead(_)), "{words}");
        }
    }

    #[test]
    fn a_guest_without_firmware_lives_when_it_goes_on_talking() {
        let talk = [(1, "up"), (5, "HB"), (10, "HB"), (12, "HB")];
        assert!(matches!(heard(&talk, true)[3], Sign::Alive(_)) && heard(&talk, true)[2] == Sign::Nothing);
        assert_eq!(heard(&talk, false)[3], Sign::Nothing);
        assert_eq!(heard(&[(1, "up"), (30, "")], true)[1], Sign::Nothing);
    }
}
