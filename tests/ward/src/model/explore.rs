//! Breadth-first search through all states, with the shortest way to what breaks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use super::setting::Setting;
use super::state::{Act, Broken, State};

/// What a run found.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub name: &'static str,
    /// What broke, and the shortest way to it.
    pub broken: Option<(Broken, Vec<Act>)>,
    /// All states within the bounds were seen.
    pub exhausted: bool,
    pub states: usize,
    pub steps: usize,
    /// Actions from the start to the farthest state.
    pub depth: usize,
    /// States from which healing was tried.
    pub healed: usize,
    /// What was seen to be possible, and how often.
    pub reached: BTreeMap<&'static str, usize>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match (&self.broken, self.exhausted) {
            (Some((what, _)), _) => format!("BROKEN: {what}"),
            (None, true) => "holds".into(),
            (None, false) => "holds as far as looked".into(),
        };
        let Self { name, states, steps, depth, healed, .. } = self;
        write!(f, "{name}: {verdict}; {states} states, {steps} steps, depth {depth}, {healed} healed")?;
        if let Some((_, way)) = &self.broken {
            write!(f, "\n  {} actions: {way:?}", way.len())?;
        }
        for (what, count) in &self.reached {
            write!(f, "\n  {what}: {count}")?;
        }
        Ok(())
    }
}

/// Digests are mixed already.
#[derive(Default)]
struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, digest: u64) {
        self.0 = digest;
    }
}

type Seen = HashSet<u64, BuildHasherDefault<Plain>>;
type Parents = HashMap<u64, (u64, u16), BuildHasherDefault<Plain>>;

struct Search<'a> {
    setting: &'a Setting,
    seen: Seen,
    /// Kept only where something is expected to break.
    parents: Option<Parents>,
    outcome: Outcome,
}

/// Looks at all states within the bounds; `trace`: remembers the way, for more memory.
pub fn explore(setting: &Setting, trace: bool) -> Outcome {
    let outcome = Outcome {
        name: setting.name,
        broken: None,
        exhausted: false,
        states: 0,
        steps: 0,
        depth: 0,
        healed: 0,
        reached: BTreeMap::new(),
    };
    let mut search = Search { setting, seen: Seen::default(), parents: trace.then(Parents::default), outcome };
    match State::first(setting) {
        Ok(first) => search.run(first),
        Err(broken) => search.outcome.broken = Some((broken, Vec::new())),
    }
    search.outcome
}

impl Search<'_> {
    fn run(&mut self, first: State) {
        let start = first.fingerprint();
        self.seen.insert(start);
        let mut level = vec![first];
        while !level.is_empty() {
            let mut next = Vec::new();
            for state in level {
                if self.look(&state, start) {
                    return;
                }
                if let Some((broken, last)) = self.expand(&state, &mut next) {
                    let way = self.way(start, state.fingerprint(), last);
                    self.outcome.broken = Some((broken, way));
                    return;
                }
                if self.seen.len() >= self.setting.most_states {
                    return;
                }
            }
            self.outcome.depth += 1;
            level = next;
        }
        self.outcome.exhausted = true;
    }

    /// Notes what the state shows. True if it doesn't heal.
    fn look(&mut self, state: &State, start: u64) -> bool {
        self.outcome.states += 1;
        for what in witnesses(state) {
            *self.outcome.reached.entry(what).or_default() += 1;
        }
        let digest = state.fingerprint();
        let every = self.setting.heal_every;
        if every == 0 || !digest.is_multiple_of(every) {
            return false;
        }
        self.outcome.healed += 1;
        if let Err(broken) = state.heals(self.setting) {
            let mut way = self.way(start, digest, Act::Tick);
            way.pop();
            self.outcome.broken = Some((broken, way));
        }
        self.outcome.broken.is_some()
    }

    fn expand(&mut self, state: &State, next: &mut Vec<State>) -> Option<(Broken, Act)> {
        let mut acts = Vec::new();
        state.acts(self.setting, &mut acts);
        let parent = if self.parents.is_some() { state.fingerprint() } else { 0 };
        for (number, act) in acts.iter().enumerate() {
            self.outcome.steps += 1;
            let after = match state.after(self.setting, *act) {
                Ok(after) => after,
                Err(broken) => return Some((broken, *act)),
            };
            if !after.is_within(self.setting) {
                continue;
            }
            let digest = after.fingerprint();
            if self.seen.insert(digest) {
                if let Some(parents) = &mut self.parents {
                    parents.insert(digest, (parent, u16::try_from(number).unwrap_or(u16::MAX)));
                }
                next.push(after);
            }
        }
        None
    }

    /// The actions from the start to a state, and one more.
    fn way(&self, start: u64, mut digest: u64, last: Act) -> Vec<Act> {
        let Some(parents) = &self.parents else { return vec![last] };
        let mut numbers = Vec::new();
        while digest != start {
            let Some((parent, number)) = parents.get(&digest) else { break };
            numbers.push(usize::from(*number));
            digest = *parent;
        }
        let mut way = Vec::new();
        let Ok(mut state) = State::first(self.setting) else { return way };
        for number in numbers.into_iter().rev() {
            let mut acts = Vec::new();
            state.acts(self.setting, &mut acts);
            way.push(acts[number]);
            match state.after(self.setting, acts[number]) {
                Ok(after) => state = after,
                Err(_) => break,
            }
        }
        way.push(last);
        way
    }
}

/// What must be possible, lest a protocol that does nothing be called safe.
fn witnesses(state: &State) -> Vec<&'static str> {
    let mut seen = Vec::new();
    let (first, others) = state.hosts.split_at(1);
    let aggregator_up = state.hosts.last().is_some_and(|host| host.is_up());
    let took_over = others.iter().any(|host| host.executes);
    if took_over {
        seen.push("another host took over");
    }
    if took_over && !aggregator_up {
        seen.push("… while the last voter was down");
    }
    if first[0].executes && !aggregator_up {
        seen.push("the first host runs while the last voter is down");
    }
    if first[0].executes && first[0].disk.won.0 > 1 {
        seen.push("the first host came back or raised its epoch");
    }
    seen
}
