//! Which image is started: the floor, which is what the machine booted from, or a newer one in a slot.

use super::manifest::Manifest;

/// Starts of a new image that may come to nothing. One may be a power cut.
pub(super) const TRIES: u8 = 2;

/// Where an image may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    A,
    B,
}

/// What is known of an image from starts before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// Started so often, and nothing was heard of it.
    Trial(u8),
    /// It was connected to the aggregator.
    Good,
    /// Given up; why.
    Bad(String),
}

/// An image in a slot, whose manifest was believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) name: Name,
    pub(super) manifest: Manifest,
    pub(super) record: Record,
}

/// What to do at the floor's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Floor,
    /// Start this one, once its record says so.
    Start(Name, Record),
    /// Its starts came to nothing: write that down, and choose again.
    GiveUp(Name, Record),
}

impl Name {
    pub(super) const BOTH: [Self; 2] = [Self::A, Self::B];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

impl Record {
    /// One line.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Trial(starts) => format!("trial {starts}"),
            Self::Good => "good".into(),
            Self::Bad(why) => format!("bad {}", why.replace('\n', " ")),
        }
    }

    /// A record that can't be read gives no trust: it counts as one start.
    pub(super) fn parse(text: &str) -> Self {
        match text.trim_end().split_once(' ') {
            Some(("trial", starts)) => Self::Trial(starts.parse().unwrap_or(1)),
            Some(("bad", why)) => Self::Bad(why.into()),
            None if text.trim_end() == "good" => Self::Good,
            Some(_) | None => Self::Trial(1),
        }
    }
}

/// The newest that is newer than the floor and was not given up; of equal ones the first.
pub(super) fn choose(floor: u64, slots: &[Slot]) -> Choice {
    let newer = slots.iter().filter(|slot| slot.manifest.date > floor && !matches!(slot.record, Record::Bad(_)));
    let Some(newest) = newer.min_by_key(|slot| (std::cmp::Reverse(slot.manifest.date), slot.name)) else {
        return Choice::Floor;
    };
    match &newest.record {
        Record::Trial(starts) if *starts >= TRIES => {
            Choice::GiveUp(newest.name, Record::Bad(format!("{starts} starts of it came to nothing")))
        }
        Record::Trial(starts) => Choice::Start(newest.name, Record::Trial(starts + 1)),
        Record::Good | Record::Bad(_) => Choice::Start(newest.name, Record::Good),
    }
}

/// What the next start uses, where that is newer than what runs. What was given up there is passed over there too.
pub(super) fn next(running: u64, mut slots: Vec<Slot>) -> Option<Manifest> {
    loop {
        match choose(running, &slots) {
            Choice::Floor => return None,
            Choice::GiveUp(name, _) => slots.retain(|slot| slot.name != name),
            Choice::Start(name, _) => {
                return slots.into_iter().find(|slot| slot.name == name).map(|slot| slot.manifest);
            }
        }
    }
}

/// The slot that a new image is written to: never that which runs, nor the newest that is good.
pub(super) fn room(running: Option<Name>, slots: &[Slot]) -> Name {
    let worth = |name: &Name| {
        let slot = slots.iter().find(|slot| slot.name == *name);
        (running == Some(*name), slot.map(|slot| (slot.record == Record::Good, slot.manifest.date)))
    };
    Name::BOTH.into_iter().min_by_key(worth).unwrap_or(Name::A)
}

/// Whether an image of this date is newer than what runs and than all that was ever taken.
pub(super) fn is_news(date: u64, running: u64, slots: &[Slot]) -> bool {
    slots.iter().map(|slot| slot.manifest.date).chain([running]).all(|known| date > known)
}

/// Whether what runs is a new image that is not known to be good.
pub(super) fn is_on_trial(running: Option<Name>, slots: &[Slot]) -> bool {
    slots.iter().any(|slot| Some(slot.name) == running && slot.record != Record::Good)
}

/// What was given up and is newer than what runs, for people.
pub(super) fn passed_over(running: u64, slots: &[Slot]) -> Option<String> {
    let newer = slots.iter().filter(|slot| slot.manifest.date > running);
    newer.max_by_key(|slot| slot.manifest.date).and_then(|slot| match &slot.record {
        Record::Bad(why) => {
            let Manifest { version, date, .. } = &slot.manifest;
            Some(format!("image {version} of {date} is not used: {why}; this host runs an older one"))
        }
        Record::Trial(_) | Record::Good => None,
    })
}

#[cfg(test)]
mod test {
    use super::*;
    use Record::{Bad, Good, Trial};

    fn slot(name: Name, date: u64, record: Record) -> Slot {
        Slot { name, manifest: Manifest { version: "1".into(), date, files: Default::default() }, record }
    }

    fn bad() -> Record {
        Bad("why".into())
    }

    #[test]
    fn the_newest_that_was_not_given_up_is_started_and_the_floor_where_there_is_none() {
        let (a, b) = (Name::A, Name::B);
        assert_eq!(choose(10, &[]), Choice::Floor);
        assert_eq!(choose(10, &[slot(a, 10, Good), slot(b, 9, Good)]), Choice::Floor, "a newer stick goes before");
        assert_eq!(choose(10, &[slot(a, 11, Good), slot(b, 12, Good)]), Choice::Start(b, Good));
        assert_eq!(choose(10, &[slot(a, 11, Good), slot(b, 12, bad())]), Choice::Start(a, Good));
        assert_eq!(choose(10, &[slot(a, 11, bad()), slot(b, 12, bad())]), Choice::Floor);
    }

    #[test]
    fn a_new_image_is_counted_before_each_start_and_given_up_after_two() {
        let mut slots = [slot(Name::A, 11, Good), slot(Name::B, 12, Trial(0))];
        for start in 1..=TRIES {
            let Choice::Start(Name::B, record) = choose(10, &slots) else { panic!("start {start}") };
            assert_eq!(record, Trial(start));
            slots[1].record = record;
        }
        let Choice::GiveUp(Name::B, record) = choose(10, &slots) else { panic!("it is started for ever") };
        slots[1].record = record;
        assert_eq!(choose(10, &slots), Choice::Start(Name::A, Good));
        let told = passed_over(11, &slots).unwrap();
        assert!(told.contains("2 starts"), "{told}");
        assert_eq!(passed_over(12, &slots), None, "it runs after all");
    }

    #[test]
    fn the_next_start_s_image_is_told_where_it_is_newer_and_not_given_up() {
        let date = |slots: &[Slot]| next(11, slots.to_vec()).map(|manifest| manifest.date);
        let (a, b) = (Name::A, Name::B);
        assert_eq!(date(&[]), None);
        assert_eq!(date(&[slot(a, 11, Good), slot(b, 10, Good)]), None, "it runs");
        assert_eq!(date(&[slot(a, 11, Good), slot(b, 12, Trial(0))]), Some(12));
        assert_eq!(date(&[slot(a, 11, Trial(1)), slot(b, 12, bad())]), None);
        assert_eq!(date(&[slot(a, 12, Good), slot(b, 13, Trial(TRIES))]), Some(12), "the newest will be given up");
    }

    #[test]
    fn what_runs_and_the_newest_good_one_are_not_written_over() {
        let (a, b) = (Name::A, Name::B);
        assert_eq!(room(None, &[]), a);
        assert_eq!(room(Some(a), &[]), b);
        assert_eq!(room(None, &[slot(a, 11, Good)]), b, "an empty one first");
        assert_eq!(room(None, &[slot(a, 11, Good), slot(b, 12, bad())]), b);
        assert_eq!(room(None, &[slot(a, 11, Good), slot(b, 12, Trial(1))]), b);
        assert_eq!(room(None, &[slot(a, 11, Good), slot(b, 12, Good)]), a, "the older");
        assert_eq!(room(Some(a), &[slot(a, 11, Good), slot(b, 12, Good)]), b, "also where it is newer");
    }

    #[test]
    fn an_image_that_was_given_up_or_is_older_is_no_news() {
        let slots = [slot(Name::A, 11, Good), slot(Name::B, 12, bad())];
        assert!(!is_news(11, 10, &slots) && !is_news(12, 10, &slots) && is_news(13, 10, &slots));
        assert!(!is_news(13, 13, &slots));
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_a_broken_one_gives_no_trust() {
        for record in [Trial(0), Trial(2), Good, Bad("kexec: no".into())] {
            assert_eq!(Record::parse(&format!("{}\n", record.text())), record);
        }
        for broken in ["", "goo", "good good", "trial x", "\u{0}"] {
            assert_eq!(Record::parse(broken), Trial(1), "{broken:?}");
        }
        assert_eq!(Record::parse(&Bad("two\nlines".into()).text()), Bad("two lines".into()));
    }
}
