//! Rules whose loss shows only after many steps, shown by the very steps; and what the others' tests leave open.

use std::collections::BTreeSet;

use roost_protocol::{HostId, Millis, Time};
use roost_ward::{
    Action, Ballot, Change, Council, Event, MemberId, Message, Order, Policy, Profile, Replica, Rule, Rules, Standing,
    Start, Ward,
};

fn member(number: usize) -> MemberId {
    MemberId::first(HostId::from_u128(u128::try_from(number).unwrap_or(0)))
}

fn members(numbers: &[usize]) -> Vec<MemberId> {
    numbers.iter().copied().map(member).collect()
}

/// Machines 1 to 5 around a table; who hears whom is said for each second.
struct Table {
    now: Time,
    /// Machine n stands at n − 1.
    wards: Vec<Ward>,
    sent: Vec<(usize, MemberId, Message)>,
    executes: BTreeSet<usize>,
    /// Pauses are confirmed at once.
    obedient: bool,
    last_order: Order,
    doubled: bool,
}

impl Table {
    /// 1 and 2 are homes, they and 3 vote; 4 and 5 know nothing yet.
    fn new(rules: Rules) -> Self {
        let council = Council::new(members(&[1, 2, 3]), members(&[1, 2]), Policy::Strict, Profile::Normal);
        let first = Ballot::first(council.expect("a sound council"));
        let now = Time(1_000_000);
        let start = |number: usize| {
            let ballot = if number <= 3 { first.clone() } else { Ballot::blank() };
            let (kept, replica, booted) = (None, Replica::Stateless, Time(0));
            Ward::new(now, Start { me: member(number), ballot, kept, replica, booted, seed: 7, rules })
        };
        let (sent, executes) = (Vec::new(), BTreeSet::new());
        let wards = (1..=5).map(start).collect();
        Self { now, wards, sent, executes, obedient: true, last_order: Order::default(), doubled: false }
    }

    fn tell(&mut self, number: usize, event: Event) {
        for action in self.wards[number - 1].on(self.now, event) {
            match action {
                Action::Send { to, message } => self.sent.push((number, to, message)),
                Action::Run { order, .. } => {
                    self.last_order = order;
                    self.executes.insert(number);
                }
                Action::Pause { order } | Action::Kill { order } => self.stop(number, order),
                Action::Persist(_) | Action::Keep(_) | Action::Tell(_) => {}
            }
        }
        self.doubled |= self.executes.len() > 1;
    }

    fn stop(&mut self, number: usize, order: Order) {
        self.last_order = order;
        if self.obedient {
            self.executes.remove(&number);
            self.tell(number, Event::Stopped { order });
        }
    }

    /// Lets time go on; only these pairs hear each other.
    fn go(&mut self, span: Millis, links: &[(usize, usize)]) {
        let end = self.now + span;
        while self.now < end {
            for number in 1..=self.wards.len() {
                if self.wards[number - 1].deadline().is_some_and(|deadline| deadline <= self.now) {
                    self.tell(number, Event::Wake);
                }
            }
            for (from, to, message) in std::mem::take(&mut self.sent) {
                let target = (1..=self.wards.len()).find(|number| member(*number) == to);
                let Some(target) = target else { continue };
                if links.contains(&(from, target)) || links.contains(&(target, from)) {
                    self.tell(target, Event::Heard { from: member(from), message });
                }
            }
            self.now = self.now + Millis(20);
        }
    }

    /// Lets time go on until 1 is so.
    fn wait_for(&mut self, standing: Standing, links: &[(usize, usize)]) {
        for _ in 0..1_000 {
            if self.wards[0].standing() == standing {
                return;
            }
            self.go(Millis(20), links);
        }
        panic!("never {standing:?}");
    }

    fn change(&mut self, owner: usize, to: &[usize]) {
        let (policy, profile) = (Policy::Strict, Profile::Normal);
        self.tell(owner, Event::Change(Change { members: members(to), homes: members(&[1, 2]), policy, profile }));
    }
}

/// 1 lays a council down that only 4 hears of, and is cut off. 2 takes over, lays another down that nobody hears of, and
/// is cut off. 1 is elected by 3 and 4, then hears only 4. 2 hears 3 and 5.
fn two_half_done_changes(rules: Rules) -> Table {
    let mut table = Table::new(rules);
    table.go(Millis(2_000), &[(1, 2), (1, 3), (2, 3)]);
    assert_eq!(table.executes, [1].into());
    table.change(1, &[1, 2, 4]);
    table.go(Millis(40_000), &[(1, 4), (2, 3)]);
    assert_eq!(table.executes, [2].into(), "2 and 3 are more than half of the council in force");
    table.change(2, &[1, 2, 5]);
    table.sent.clear();
    table.go(Millis(60_000), &[(1, 3), (1, 4)]);
    assert_eq!(table.executes, [1].into());
    table.go(Millis(60_000), &[(1, 4), (2, 3), (2, 5)]);
    table
}

#[test]
fn an_older_half_done_change_never_wins_over_a_newer_council() {
    let table = two_half_done_changes(Rules::ALL);
    assert!(!table.doubled);
    let without = two_half_done_changes(Rules::ALL.without(Rule::RestampCouncil));
    assert!(without.doubled, "the rule is needed");
}

/// A pause that is confirmed late, after the guests ran again and were to pause again.
fn late_confirmation(rules: Rules) -> Standing {
    let mut table = Table::new(rules);
    let all = [(1, 2), (1, 3), (2, 3)];
    table.go(Millis(2_000), &all);
    table.obedient = false;
    table.wait_for(Standing::Stopping, &[]);
    let first = table.last_order;
    table.wait_for(Standing::Running, &all);
    table.wait_for(Standing::Stopping, &[]);
    table.tell(1, Event::Stopped { order: first });
    table.wards[0].standing()
}

#[test]
fn an_answer_to_an_older_command_says_nothing_about_now() {
    assert_eq!(late_confirmation(Rules::ALL), Standing::Stopping);
    assert_eq!(late_confirmation(Rules::ALL.without(Rule::OrdersAreCounted)), Standing::Held);
}

#[test]
fn a_store_that_fails_grants_nothing_and_keeps_the_leases_of_others() {
    let mut table = Table::new(Rules::ALL);
    let all = [(1, 2), (1, 3), (2, 3)];
    table.go(Millis(2_000), &all);
    table.tell(1, Event::StoreFailed);
    table.go(Millis(60_000), &all);
    assert_eq!(table.executes, [1].into(), "2 and 3 grant");
    table.go(Millis(60_000), &[(1, 2)]);
    assert_eq!(table.executes, [].into(), "2 alone is not enough, and its own store is mute");
}

#[test]
fn a_copy_that_is_too_old_is_started_only_by_an_admin() {
    let mut table = Table::new(Rules::ALL);
    table.go(Millis(2_000), &[(1, 2), (1, 3), (2, 3)]);
    let old = Replica::Until { point: Time(0), max_rpo: Millis(60_000) };
    table.tell(2, Event::Replica(old));
    table.go(Millis(120_000), &[(2, 3)]);
    assert_eq!(table.executes, [].into());
    table.tell(2, Event::Nominate { force: true });
    table.go(Millis(2_000), &[(2, 3)]);
    assert_eq!(table.executes, [2].into());
}

#[test]
fn an_admin_can_t_waive_the_votes() {
    let mut table = Table::new(Rules::ALL);
    table.go(Millis(2_000), &[(1, 2), (1, 3), (2, 3)]);
    table.tell(2, Event::Nominate { force: true });
    table.go(Millis(60_000), &[(1, 3)]);
    assert_eq!(table.executes, [1].into(), "1 has the majority");
}

#[test]
fn a_released_ward_is_not_taken_back_by_a_host_in_maintenance() {
    let mut table = Table::new(Rules::ALL);
    let all = [(1, 2), (1, 3), (2, 3)];
    table.go(Millis(2_000), &all);
    table.tell(1, Event::Bars(roost_ward::Bars { maintenance: true, ..Default::default() }));
    table.tell(1, Event::Release);
    table.go(Millis(2_000), &all);
    assert_eq!(table.executes, [2].into());
}

#[test]
fn a_power_fence_makes_the_wait_needless() {
    let mut table = Table::new(Rules::ALL);
    table.go(Millis(2_000), &[(1, 2), (1, 3), (2, 3)]);
    let (owner, epoch) = table.wards[1].recorded();
    table.executes.remove(&1);
    table.tell(2, Event::Fenced { owner: owner.expect("there is an owner"), epoch });
    table.go(Millis(1_000), &[(2, 3)]);
    assert_eq!(table.executes, [2].into());
}

#[test]
fn the_aggregator_s_role_moves_within_ten_seconds() {
    let council = Council::new(members(&[1, 2, 3]), members(&[1, 2]), Policy::Strict, Profile::NormalRole);
    let first = Ballot::first(council.expect("a sound council"));
    let mut table = Table::new(Rules::ALL);
    for number in 1..=3 {
        let (kept, replica, booted) = (None, Replica::Stateless, Time(0));
        let start =
            Start { me: member(number), ballot: first.clone(), kept, replica, booted, seed: 7, rules: Rules::ALL };
        table.wards[number - 1] = Ward::new(table.now, start);
    }
    table.go(Millis(2_000), &[(1, 2), (1, 3), (2, 3)]);
    assert_eq!(table.executes, [1].into());
    table.go(Millis(10_000), &[(2, 3)]);
    assert_eq!(table.executes, [2].into());
    assert!(!table.doubled);
}
