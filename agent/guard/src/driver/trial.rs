//! The watchdog's test as the driver carries it out: what was begun is on disk before the last pet, and every sign of life after
//! it goes there too.

use roost_protocol::Time;
use roost_protocol::failover::{TestResult, WatchdogTest};
use roost_ward::door::Reply;
use roost_ward::selftest::{self, SelfTest, TestStep};

use super::Guard;
use crate::clock;
use crate::process;
use crate::visitors::Visitor;

/// The test, and what is known of the last one.
#[derive(Debug, Default)]
pub(super) struct Trial {
    last: Option<WatchdogTest>,
    stage: Stage,
    /// So many words of it are not on disk yet.
    writes: u8,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    None,
    /// Who asked is answered once it is on disk that it begins.
    Begins(Visitor),
    Runs(SelfTest),
}

impl Trial {
    /// The watchdog is not to be petted.
    pub(super) fn holds(&self) -> bool {
        matches!(self.stage, Stage::Runs(_))
    }

    /// Its end is being written.
    pub(super) fn ends(&self) -> bool {
        self.writes > 0
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        match &self.stage {
            Stage::Runs(test) => Some(test.deadline()),
            Stage::None | Stage::Begins(_) => None,
        }
    }
}

impl Guard {
    /// The last test of this watchdog.
    pub(super) fn watchdog_test(&self) -> Option<&WatchdogTest> {
        self.trial.last.as_ref().filter(|test| test.watchdog == *self.dog.fencing())
    }

    /// What an earlier guard began: it goes on if that was in this boot.
    pub(super) fn resume_trial(&mut self, last: Option<WatchdogTest>) {
        let Some(last) = last else { return };
        let runs = matches!(last.result, TestResult::Running { .. });
        match self.keep.petted(&last).filter(|_| runs) {
            Some(petted) => {
                self.trial.stage = Stage::Runs(SelfTest::new(last.clone(), petted));
                self.trial.last = Some(last);
            }
            None if runs => self.conclude(selftest::judged(last)),
            None => self.trial.last = Some(last),
        }
    }

    /// Answers once it is on disk that it begins.
    pub(super) fn test_watchdog(&mut self, visitor: Visitor) -> Option<Reply> {
        if !matches!(self.trial.stage, Stage::None) || self.trial.ends() {
            return Some(Reply::Refused("the watchdog is being tested".to_owned()));
        }
        let guest = process::any_guest().map(|guest| guest.to_string());
        if let Some(why) = selftest::refusal(self.dog.fencing(), &self.wards, guest) {
            return Some(Reply::Refused(why));
        }
        self.trial.stage = Stage::Begins(visitor);
        self.write_test(selftest::begun(self.dog.fencing().clone(), clock::stamp()));
        None
    }

    pub(super) fn trial_written(&mut self, well: bool) {
        self.trial.writes = self.trial.writes.saturating_sub(1);
        let Stage::Begins(visitor) = self.trial.stage else { return };
        self.trial.stage = Stage::None;
        let reply = match self.arm(well) {
            Ok(()) => Reply::Done,
            Err(why) => {
                self.void(&why);
                Reply::Refused(why)
            }
        };
        self.visitors.answer(visitor, &reply);
    }

    /// Pets for the last time.
    fn arm(&mut self, written: bool) -> Result<(), String> {
        let begun = self.trial.last.clone().filter(|_| written).ok_or("that it begins can't be written")?;
        let time_out = begun.time_out;
        let pets = self.dog.pet(Time(u64::MAX), time_out).map_err(|why| crate::chain(&why));
        let petted = clock::now();
        let kept =
            |()| self.keep.keep_petted(&begun, petted).map_err(|why| format!("keep that it is under way: {why}"));
        if let Err(why) = pets.and_then(kept) {
            self.wards.armed(petted, time_out);
            return Err(why);
        }
        tracing::warn!("the watchdog is petted no more, to see whether it ends this host");
        self.trial.stage = Stage::Runs(SelfTest::new(begun, petted));
        Ok(())
    }

    /// Does what is due for the test.
    pub(super) fn try_watchdog(&mut self) {
        let now = clock::now();
        let writes = self.trial.ends();
        let Stage::Runs(test) = &mut self.trial.stage else { return };
        if now < test.deadline() {
            return;
        }
        let guest = process::any_guest().map(|guest| guest.to_string());
        match test.step(now, selftest::busy(&self.wards, guest), writes) {
            Some(TestStep::Mark(mark)) => self.trial.writes += u8::from(self.scribe.test(mark)),
            Some(TestStep::End(end)) => self.conclude(end),
            None => {}
        }
    }

    /// It says nothing about the watchdog.
    pub(super) fn end_trial(&mut self, why: &str) {
        if !matches!(self.trial.stage, Stage::None) {
            self.void(why);
        }
    }

    fn void(&mut self, why: &str) {
        if let Some(last) = self.trial.last.clone() {
            self.conclude(WatchdogTest { result: TestResult::Void(why.to_owned()), ..last });
        }
    }

    /// The test is over, and what was armed for it is petted.
    fn conclude(&mut self, test: WatchdogTest) {
        tracing::warn!(result = ?test.result, "the watchdog's test");
        if let Stage::Runs(runs) = std::mem::take(&mut self.trial.stage) {
            let now = clock::now();
            self.wards.armed(now, runs.time_out());
            let actions = self.wards.wake(now);
            self.perform(actions);
        }
        self.write_test(test);
    }

    fn write_test(&mut self, test: WatchdogTest) {
        self.trial.last = Some(test.clone());
        self.trial.writes += 1;
        if !self.scribe.test(test) {
            self.trial_written(false);
        }
    }
}
