//! The watchdog's test of itself: the guard pets it no more while nothing executes on the host, and the host must be ended
//! for that. As it can't tell afterwards, it writes down all the time that it still executes; the next boot reads that.

use roost_protocol::failover::{Fencing, TestResult, WatchdogTest};
use roost_protocol::{Millis, Stamp, Time};

use crate::ward::Standing;
use crate::wards::Wards;

/// Tested is the time-out of the normal timers …
const TIME_OUT: Millis = Millis(10_000);
/// … and that a reset takes no longer than this.
const RESET: Millis = Millis(1_000);
/// A sign of life is written this often.
const MARK: Millis = Millis(250);
/// A watchdog that did not fire so long after its time never does.
const GIVE_UP: Millis = Millis(10_000);

/// A test under way.
#[derive(Clone, Debug)]
pub struct SelfTest {
    record: WatchdogTest,
    petted: Time,
    next_mark: Time,
}

/// What is to be done for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TestStep {
    /// Write this down; the watchdog is not petted.
    Mark(WatchdogTest),
    /// Write this down, and pet the watchdog from now on: the test is over.
    End(WatchdogTest),
}

/// A test that begins, to be written down before the watchdog is petted for the last time.
pub fn begun(watchdog: Fencing, at: Stamp) -> WatchdogTest {
    WatchdogTest { watchdog, at, time_out: TIME_OUT, result: TestResult::Running { lived: Millis(0) } }
}

/// Why no test may begin; `guest`: one that executes here, or stands still.
pub fn refusal(fencing: &Fencing, wards: &Wards, guest: Option<String>) -> Option<String> {
    if let Fencing::None(why) = fencing {
        return Some(format!("this host has no watchdog: {why}"));
    }
    busy(wards, guest).map(|why| format!("{why}, and the test ends the host: hand its guests over, or switch them off"))
}

/// Why the host must not be ended now.
pub fn busy(wards: &Wards, guest: Option<String>) -> Option<String> {
    let owned = wards.iter().find(|(_, ward)| ward.standing() != Standing::Off || ward.pet_until().is_some());
    let owned = owned.map(|(ward, _)| format!("{ward} is, or may become, this host's"));
    guest.map(|guest| format!("guest {guest} is up on this host")).or(owned)
}

/// What a test that an earlier boot began has shown.
pub fn judged(test: WatchdogTest) -> WatchdogTest {
    let TestResult::Running { lived } = test.result else { return test };
    let result = if lived.0 > test.time_out.0 + RESET.0 {
        TestResult::Late { lived }
    } else if lived >= Millis(test.time_out.0 / 2) {
        TestResult::Passed { lived }
    } else {
        let why = format!("the host was ended {} ms after the last pet, too soon for its watchdog", lived.0);
        TestResult::Void(why)
    };
    WatchdogTest { result, ..test }
}

impl SelfTest {
    /// The watchdog was petted for the last time.
    pub fn new(record: WatchdogTest, petted: Time) -> Self {
        Self { record, petted, next_mark: petted + MARK }
    }

    /// What is due. `busy`: something came up that must not be ended; `writes`: the last mark is not written yet.
    pub fn step(&mut self, now: Time, busy: Option<String>, writes: bool) -> Option<TestStep> {
        let lived = now.since(self.petted);
        if let Some(why) = busy {
            return Some(TestStep::End(self.with(TestResult::Void(why))));
        }
        if lived.0 >= self.record.time_out.0 + GIVE_UP.0 {
            return Some(TestStep::End(self.with(TestResult::Silent { lived })));
        }
        if now < self.next_mark {
            return None;
        }
        self.next_mark = now + MARK;
        if writes {
            return None;
        }
        Some(TestStep::Mark(self.with(TestResult::Running { lived })))
    }

    /// When something is due at the latest.
    pub fn deadline(&self) -> Time {
        self.next_mark
    }

    /// The watchdog is to fire so long after its last pet.
    pub fn time_out(&self) -> Millis {
        self.record.time_out
    }

    fn with(&self, result: TestResult) -> WatchdogTest {
        WatchdogTest { result, ..self.record.clone() }
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::rules::Rules;

    const PETTED: Time = Time(70_000);

    fn record() -> WatchdogTest {
        begun(Fencing::Hardware("iTCO_wdt".into()), Stamp(5))
    }

    /// What the next boot says of a host that was ended so long after the last pet.
    fn ended_after(ms: u64) -> TestResult {
        let (mut test, mut written) = (SelfTest::new(record(), PETTED), record());
        for now in 0..ms {
            match test.step(PETTED + Millis(now), None, false) {
                Some(TestStep::Mark(mark)) => written = mark,
                Some(TestStep::End(end)) => return end.result,
                None => {}
            }
        }
        judged(written).result
    }

    #[test]
    fn a_watchdog_passes_only_if_it_ends_the_host_in_the_time_that_leases_count_on() {
        assert!(matches!(ended_after(10_100), TestResult::Passed { lived: Millis(10_000) }));
        assert!(matches!(ended_after(11_200), TestResult::Passed { .. }));
        assert!(matches!(ended_after(11_500), TestResult::Late { lived: Millis(11_250) }));
        assert!(matches!(ended_after(19_900), TestResult::Late { .. }));
        assert!(matches!(ended_after(60_000), TestResult::Silent { lived: Millis(20_000) }));
        assert!(matches!(ended_after(4_000), TestResult::Void(_)), "somebody pulled the plug");
        assert!(matches!(ended_after(0), TestResult::Void(_)), "nothing was written");
    }

    #[test]
    fn tested_is_what_the_normal_timers_count_on() {
        let fence = crate::timers::NORMAL.fence.unwrap();
        assert_eq!((fence.watchdog, fence.reset), (TIME_OUT, RESET));
    }

    #[test]
    fn what_was_judged_once_stays_so() {
        for result in [TestResult::Passed { lived: Millis(1) }, TestResult::Silent { lived: Millis(1) }] {
            let test = WatchdogTest { result, ..record() };
            assert_eq!(judged(test.clone()), test);
        }
    }

    #[test]
    fn a_guest_that_comes_up_ends_the_test_and_says_so() {
        let mut test = SelfTest::new(record(), PETTED);
        let end = test.step(PETTED + Millis(9_000), Some("guest x is up".into()), false);
        let Some(TestStep::End(WatchdogTest { result: TestResult::Void(why), .. })) = end else { panic!("{end:?}") };
        assert_eq!(why, "guest x is up");
    }

    #[test]
    fn a_disk_that_hangs_gets_no_second_mark() {
        let mut test = SelfTest::new(record(), PETTED);
        assert_eq!(test.step(PETTED + MARK, None, true), None);
        assert!(test.deadline() > PETTED + MARK, "it wakes for nothing");
        assert!(matches!(test.step(test.deadline(), None, false), Some(TestStep::Mark(_))));
    }

    #[test]
    fn a_host_with_guests_or_without_watchdog_is_not_tested() {
        let wards = Wards::new(Rules::ALL);
        let sound = Fencing::Soft("softdog".into());
        assert_eq!(refusal(&sound, &wards, None), None);
        assert!(refusal(&sound, &wards, Some("x".into())).is_some_and(|why| why.contains("guest x is up")));
        assert!(refusal(&Fencing::None("gone".into()), &wards, None).is_some_and(|why| why.contains("gone")));
    }
}
