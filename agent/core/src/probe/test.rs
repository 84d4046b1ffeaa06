//! Doors that open and shut, and how often they are tried.

use super::*;

fn guest(number: u128) -> GuestId {
    GuestId::from_u128(number)
}

fn probe(port: u16) -> Probe {
    format!("tcp://192.0.2.7:{port}").parse().unwrap()
}

struct World {
    prober: Prober,
    now: u64,
    tried: BTreeMap<Try, Vec<u64>>,
    most: usize,
}

impl World {
    fn new(wanted: &Wanted) -> Self {
        Self::at(Pace::CALM, wanted)
    }

    fn at(pace: Pace, wanted: &Wanted) -> Self {
        let mut prober = Prober::new(pace);
        prober.want(Time(0), wanted);
        Self { prober, now: 0, tried: BTreeMap::new(), most: 0 }
    }

    /// Each try ends after so long with this answer.
    fn pass(&mut self, seconds: u64, takes_ms: u64, answer: Answer) {
        let end = self.now + seconds * 1_000;
        let mut running: Vec<(u64, Try)> = Vec::new();
        while self.now < end {
            for key in self.prober.due(Time(self.now)) {
                self.tried.entry(key.clone()).or_default().push(self.now);
                running.push((self.now + takes_ms, key));
            }
            self.most = self.most.max(running.len());
            let next = running.iter().map(|(at, _)| *at).chain(self.prober.deadline().map(|at| at.0)).min();
            self.now = next.unwrap_or(end).max(self.now);
            let (over, rest) = running.into_iter().partition(|(at, _)| *at <= self.now);
            running = rest;
            let over: Vec<(u64, Try)> = over;
            for (_, key) in over {
                self.prober.ended(Time(self.now), Stamp(self.now), &key, answer, None);
            }
        }
        for (_, key) in running {
            self.prober.ended(Time(self.now), Stamp(self.now), &key, answer, None);
        }
    }

    fn up(&self, number: u128) -> Option<bool> {
        self.prober.shown().get(&guest(number)).map(|all| all[0].up)
    }
}

fn one() -> Wanted {
    BTreeMap::from([(guest(1), vec![probe(1)])])
}

#[test]
fn a_door_is_shut_after_three_misses_in_a_row_and_open_after_one_answer() {
    let mut world = World::new(&one());
    assert_eq!(world.up(1), None);
    let key = (guest(1), probe(1));
    let mut at = 0;
    let mut tell = |world: &mut World, answer| {
        at += 1;
        world.prober.ended(Time(at), Stamp(at), &key, answer, None);
        (world.up(1), world.prober.shown().get(&guest(1)).map(|all| all[0].since.0))
    };
    assert_eq!(tell(&mut world, Answer::TimedOut), (None, None), "one miss says nothing");
    assert_eq!(tell(&mut world, Answer::Ok), (Some(true), Some(2)));
    assert_eq!(tell(&mut world, Answer::Refused), (Some(true), Some(2)));
    assert_eq!(tell(&mut world, Answer::BadReply), (Some(true), Some(2)));
    assert_eq!(tell(&mut world, Answer::Ok), (Some(true), Some(2)), "not in a row");
    for expected in [(Some(true), Some(2)), (Some(true), Some(2)), (Some(false), Some(8)), (Some(false), Some(8))] {
        assert_eq!(tell(&mut world, Answer::TimedOut), expected);
    }
    assert_eq!(tell(&mut world, Answer::Ok), (Some(true), Some(10)));
}

#[test]
fn a_door_is_tried_twice_a_minute_and_sooner_after_a_miss() {
    let mut world = World::new(&one());
    world.pass(600, 10, Answer::Ok);
    let tries = &world.tried[&(guest(1), probe(1))];
    assert!((18..=24).contains(&tries.len()), "{tries:?}");
    assert!(tries[0] < Pace::CALM.again.0);
    assert!(tries.windows(2).all(|two| (26_000..=34_010).contains(&(two[1] - two[0]))), "{tries:?}");
    let began = world.now;
    world.pass(90, 2_000, Answer::TimedOut);
    assert_eq!(world.up(1), Some(false));
    let shut = world.prober.shown()[&guest(1)][0].since.0;
    assert!(shut - began < 34_010 + 3 * 2_000 + 2 * 14_000, "within two periods and a bit: {}", shut - began);
}

#[test]
fn many_that_hang_are_tried_in_turn_and_never_too_many_at_once() {
    let wanted: Wanted = (0..512).map(|number| (guest(number), vec![probe(1)])).collect();
    let mut world = World::new(&wanted);
    world.pass(60, TIMEOUT.0, Answer::TimedOut);
    assert_eq!(world.most, AT_ONCE);
    assert_eq!(world.tried.len(), 512, "each had its turn");
    // Those that answer are spread.
    let mut world = World::new(&wanted);
    world.pass(300, 5, Answer::Ok);
    assert!(world.most < 16, "{} at once", world.most);
}

#[test]
fn what_is_not_wanted_any_more_is_forgotten_also_while_it_is_tried() {
    let mut world = World::new(&one());
    world.pass(60, 10, Answer::Ok);
    let again = world.prober.due(Time(world.now + 60_000));
    assert_eq!(again.len(), 1);
    assert_eq!(world.prober.due(Time(world.now + 60_000)), [], "it is under way");
    world.prober.want(Time(world.now), &Wanted::new());
    world.prober.ended(Time(world.now), Stamp(1), &again[0], Answer::Ok, Some(1));
    assert!(world.prober.shown().is_empty() && world.prober.deadline().is_none());
}

#[test]
fn in_haste_doors_are_tried_each_second_and_the_newest_answer_counts() {
    let mut world = World::at(Pace::HASTY, &one());
    world.pass(10, 10, Answer::Ok);
    let tries = world.tried[&(guest(1), probe(1))].len();
    assert!((9..=11).contains(&tries), "{tries}");
    assert_eq!(world.up(1), Some(true));
    world.pass(1, 10, Answer::Refused);
    assert_eq!(world.up(1), Some(false));
}
