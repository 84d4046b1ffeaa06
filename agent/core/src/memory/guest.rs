//! What is remembered of one guest between looks: what it was asked for, what it peaked at, and whether it suffers.

use roost_protocol::memory::MemoryPolicy;
use roost_protocol::{MiB, Millis, Time};

use super::reason::Cause;
use super::sample::{GuestMemory, Told};

/// Numbers older than this tell nothing about now; the longest period asked for is 10 s.
pub(super) const FRESH: Millis = Millis::seconds(25);
/// A guest of ours whose numbers are older than this gets back what was taken.
const SILENT: Millis = Millis::seconds(60);
/// A balloon that doesn't move for so long has no driver behind it.
const DEAF: Millis = Millis::seconds(30);
/// And is left alone for so long.
const DEAF_FOR: Millis = Millis::seconds(600);
/// Least and longest time between giving to a guest and taking from it again; doubles when that taking was a mistake.
const HOLD: (Millis, Millis) = (Millis::seconds(60), Millis::seconds(960));
/// A guest in need so soon after it was squeezed was squeezed by mistake.
const REGRET: Millis = Millis::seconds(600);
/// What a guest used at most over this time and the time before it counts as what it may use again.
const PEAK_OVER: Millis = Millis::seconds(300);
/// A guest is watched for so long before it is squeezed.
const WATCH: Millis = Millis::seconds(20);
/// A guest younger than this has not yet taken what it is going to: it is squeezed only where the host is near its reserve.
pub(super) const YOUNG: Millis = Millis::seconds(120);
/// Below this part of its memory, and at least and at most these, a guest is short.
const SHORT: (u32, MiB, MiB) = (70, MiB(32), MiB(512));
/// What its programs keep of what is free to them, and what they keep when the host itself is short.
const KEEP: (u32, MiB, MiB) = (150, MiB(48), MiB(1_024));
const KEEP_URGENT: (u32, MiB, MiB) = (100, MiB(40), MiB(768));
/// Part of a guest's memory taken in one step when caches have to go for it (MOM: 50 each 10 s), and when the host is
/// near its reserve.
pub(super) const STEP: (u32, u32) = (50, 100);
/// Taken at once when it is free in the guest: nobody there has to give anything up.
const FREE_STEP: u32 = 250;
/// Without a rescue by the guest's own driver a mistake kills its programs, so it keeps more.
const KEEP_UNAIDED: u32 = 300;
/// Floors below this don't boot.
const FLOOR_LEAST: MiB = MiB(64);
/// Swapped in between two tellings: more is suffering, not chance.
const SWAPS: MiB = MiB(4);
/// Pages waited for from disk each second: more is suffering, when little is free besides.
const FAULTS: u64 = 100;
/// A guest below this use of one CPU is idle, permille.
const IDLE_CPU: u32 = 50;

/// One guest's memory of the past.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    pub(super) known_since: Time,
    /// The balloon's size as we asked for it, until the guest is whole again.
    pub(super) asked: Option<Asked>,
    pub(super) taken_at: Option<Time>,
    given: Option<(Time, MiB)>,
    hold: Millis,
    hold_until: Time,
    /// Given without need: not taken again before this, unless it is urgent.
    rest_until: Time,
    deaf_until: Time,
    peak: [MiB; 2],
    peak_at: Time,
    told: Option<(Time, Told)>,
    /// The most that its QEMU was seen to hold while it was young.
    pub(super) at_first: Option<MiB>,
    /// Statistics period as we set it, seconds.
    pub(super) period: Option<u32>,
}

/// A standing request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    from: MiB,
    pub(super) to: MiB,
    pub(super) at: Time,
    /// The balloon was seen there.
    pub(super) reached: bool,
    /// The nearest it came, and when.
    nearest: (MiB, Time),
}

/// How a guest fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fares {
    Well,
    /// It needs memory at once.
    Suffers(Vec<Cause>),
    /// No driver: it is to be asked for all it has, and left alone.
    Deaf(Cause),
    /// Nothing is known: what was taken is given back by and by.
    Unknown(Cause),
}

impl Guest {
    pub(super) fn new(now: Time, guest: &GuestMemory) -> Self {
        let current = guest.current();
        // Squeezed by somebody before us, most likely ourselves before a restart: it is owed the rest.
        let asked = (guest.ours && current < guest.full).then_some(Asked {
            from: current,
            to: current,
            at: now,
            reached: true,
            nearest: (current, now),
        });
        Self {
            known_since: now,
            asked,
            taken_at: None,
            given: None,
            hold: HOLD.0,
            hold_until: now,
            rest_until: now,
            deaf_until: now,
            peak: [MiB(0); 2],
            peak_at: now,
            told: None,
            at_first: None,
            period: None,
        }
    }

    /// Takes in one look, and says how the guest fares.
    pub(super) fn look(&mut self, now: Time, guest: &GuestMemory) -> Fares {
        if guest.age < YOUNG {
            self.at_first = self.at_first.max(Some(guest.resident));
        }
        // Its QEMU was busy: nothing is known of this moment.
        let Some(balloon) = guest.balloon else { return Fares::Well };
        self.remember_peak(now, guest);
        self.follow_request(now, guest);
        let told = balloon.told;
        let fares = self.fares(now, guest, told);
        if let Some(told) = told {
            let at = now - told.age;
            if self.told.is_none_or(|(before, _)| at.since(before) >= Millis(500)) {
                self.told = Some((at, told));
            }
        }
        fares
    }

    fn remember_peak(&mut self, now: Time, guest: &GuestMemory) {
        if now.since(self.peak_at) >= PEAK_OVER {
            self.peak = [self.peak[1], MiB(0)];
            self.peak_at = now;
        }
        self.peak[1] = self.peak[1].max(guest.used().unwrap_or_default());
    }

    fn follow_request(&mut self, now: Time, guest: &GuestMemory) {
        let Some(asked) = &mut self.asked else { return };
        let current = guest.current();
        let distance = MiB(current.0.abs_diff(asked.to.0));
        if distance < MiB(asked.nearest.0.0.abs_diff(asked.to.0)) {
            asked.nearest = (current, now);
        }
        asked.reached |= distance <= tolerance(guest.full);
        if asked.reached && asked.to >= guest.full && current + tolerance(guest.full) >= guest.full {
            self.asked = None;
        }
    }

    fn fares(&self, now: Time, guest: &GuestMemory, told: Option<Told>) -> Fares {
        if let Some(asked) = &self.asked {
            let (asked_for, current) = (asked.to, guest.current());
            if !asked.reached && current > asked.to && now.since(asked.nearest.1) >= DEAF {
                let since = now.since(asked.at);
                return Fares::Deaf(Cause::Deaf { asked: asked_for, current, since });
            }
            let highest = if asked.reached { asked.to } else { asked.to.max(asked.from) };
            if current > highest + tolerance(guest.full) {
                return Fares::Suffers(vec![Cause::Rescued { asked: asked_for, current }]);
            }
        }
        let Some(told) = told else { return Fares::Unknown(Cause::Silent { age: None }) };
        if told.age >= SILENT {
            return Fares::Unknown(Cause::Silent { age: Some(told.age) });
        }
        let why = self.suffering(now, guest, told);
        if why.is_empty() { Fares::Well } else { Fares::Suffers(why) }
    }

    fn suffering(&self, now: Time, guest: &GuestMemory, told: Told) -> Vec<Cause> {
        let (mut why, usable) = (Vec::new(), told.usable);
        let wants = part(guest.full, SHORT);
        if usable < wants {
            why.push(Cause::Short { usable, wants });
        }
        let Some((at, before)) = self.told else { return why };
        let span = (now - told.age).since(at).0;
        let swapped = told.swapped_in - before.swapped_in;
        if swapped >= SWAPS {
            why.push(Cause::SwapsIn { mib: swapped });
        }
        let faults = told.major_faults.saturating_sub(before.major_faults).saturating_mul(1_000);
        let per_second = faults.checked_div(span).unwrap_or(0);
        if per_second >= FAULTS && usable < keeps(guest) {
            why.push(Cause::Faults { per_second });
        }
        why
    }

    /// What could be taken from it now in one step; zero while it may not be touched. `urgent`: the host itself is near its
    /// reserve, so a guest keeps only what keeps it from suffering.
    pub(super) fn can_give(&self, now: Time, guest: &GuestMemory, policy: &MemoryPolicy, urgent: bool) -> MiB {
        let Some(told) = guest.balloon.and_then(|balloon| balloon.told) else { return MiB(0) };
        if !self.may_be_squeezed(now, guest, told, urgent) {
            return MiB(0);
        }
        let free = (told.unused - keeps(guest)).min(guest.full.permille(FREE_STEP));
        let step = free.max(guest.full.permille(if urgent { STEP.1 } else { STEP.0 }));
        let most = self.most(guest, told, policy, urgent).min(step);
        if most < change_least(guest.full) { MiB(0) } else { most }
    }

    /// What could be taken from it in many steps.
    pub(super) fn can_give_in_all(&self, now: Time, guest: &GuestMemory, policy: &MemoryPolicy) -> MiB {
        match guest.balloon.and_then(|balloon| balloon.told) {
            Some(told) if self.may_be_squeezed(now, guest, told, false) => self.most(guest, told, policy, false),
            Some(_) | None => MiB(0),
        }
    }

    fn most(&self, guest: &GuestMemory, told: Told, policy: &MemoryPolicy, urgent: bool) -> MiB {
        let current = guest.current();
        let above_floor = current - floor(guest, policy);
        if urgent {
            return (told.usable - part(guest.full, KEEP_URGENT)).min(above_floor);
        }
        let keeps = keeps(guest);
        let by_peak = current - (self.peak() + MiB(keeps.0 / 2));
        (told.usable - keeps).min(by_peak).min(above_floor)
    }

    fn may_be_squeezed(&self, now: Time, guest: &GuestMemory, told: Told, urgent: bool) -> bool {
        let rested = now.since(self.known_since) >= WATCH && now >= self.rest_until;
        let settled = self.asked.is_none_or(|asked| asked.reached && told.age < now.since(asked.at));
        guest.may_give()
            && told.age <= FRESH
            && (guest.age >= YOUNG && rested || urgent)
            && now >= self.hold_until
            && now >= self.deaf_until
            && settled
    }

    pub(super) fn peak(&self) -> MiB {
        self.peak[0].max(self.peak[1])
    }

    /// Still to come from a request to give.
    pub(super) fn under_way(&self, guest: &GuestMemory) -> MiB {
        self.asked.filter(|asked| !asked.reached).map_or(MiB(0), |asked| guest.current() - asked.to)
    }

    /// What it is owed: what it has in full less what it was left.
    pub(super) fn owed(&self, guest: &GuestMemory) -> MiB {
        self.asked.map_or(MiB(0), |asked| guest.full - asked.to)
    }

    /// Given lately and perhaps not used yet.
    pub(super) fn outstanding(&self, now: Time, guest: &GuestMemory) -> MiB {
        match self.given {
            Some((at, mib)) if now.since(at) < HOLD.0 => mib.min(guest.current().max(guest.resident) - guest.resident),
            Some(_) | None => MiB(0),
        }
    }

    pub(super) fn take(&mut self, now: Time, current: MiB, to: MiB) {
        self.asked = Some(Asked { from: current, to, at: now, reached: false, nearest: (current, now) });
        self.taken_at = Some(now);
    }

    /// `in_need`: it suffered; then taking again waits, the longer the oftener.
    pub(super) fn give(&mut self, now: Time, current: MiB, to: MiB, in_need: bool) {
        self.asked = Some(Asked { from: current, to, at: now, reached: to <= current, nearest: (current, now) });
        let before = self.given.filter(|(at, _)| now.since(*at) < HOLD.0).map_or(MiB(0), |(_, mib)| mib);
        self.given = Some((now, before + (to - current)));
        if in_need && now >= self.hold_until {
            let regret = self.taken_at.is_some_and(|at| now.since(at) < REGRET);
            let hold = if regret { self.hold.0.saturating_mul(2) } else { self.hold.0 / 2 };
            self.hold = Millis(hold.clamp(HOLD.0.0, HOLD.1.0));
        }
        if in_need {
            self.hold_until = now + self.hold;
        } else {
            self.rest_until = now + HOLD.0;
        }
    }

    /// It got memory so lately that it has not told of it yet.
    pub(super) fn given_lately(&self, now: Time, told: Option<Told>) -> bool {
        self.given.is_some_and(|(at, _)| told.is_some_and(|told| told.age >= now.since(at)))
    }

    pub(super) fn deaf(&mut self, now: Time) {
        self.asked = None;
        self.deaf_until = now + DEAF_FOR;
    }
}

/// What its programs keep of what is free to them.
pub(super) fn keeps(guest: &GuestMemory) -> MiB {
    let permille = if guest.rescue { KEEP.0 } else { KEEP_UNAIDED };
    part(guest.full, (permille, KEEP.1, KEEP.2))
}

/// It is never squeezed below this.
pub fn floor(guest: &GuestMemory, policy: &MemoryPolicy) -> MiB {
    floor_of(guest.full, guest.wish.floor_mib, policy)
}

/// The floor of a guest of this size.
pub fn floor_of(full: MiB, wished: Option<MiB>, policy: &MemoryPolicy) -> MiB {
    wished.unwrap_or(full.permille(policy.floor_permille)).max(FLOOR_LEAST).min(full)
}

/// Smaller changes are not worth asking for.
pub(super) fn change_least(full: MiB) -> MiB {
    full.permille(10).max(MiB(4))
}

/// Idle guests give three times as readily.
pub(super) fn readiness(guest: &GuestMemory) -> u64 {
    if guest.cpu_permille < IDLE_CPU { 3 } else { 1 }
}

/// A balloon this near to what was asked is there.
fn tolerance(full: MiB) -> MiB {
    full.permille(10).max(MiB(2))
}

/// A part of its memory within bounds, and never more than a third of it.
fn part(full: MiB, (permille, least, most): (u32, MiB, MiB)) -> MiB {
    full.permille(permille).clamp(least, most).min(MiB(full.0 / 3))
}
