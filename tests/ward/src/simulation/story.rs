//! Stories: a text that says what goes wrong when, and the transcript of what follows.

use roost_ward::{Policy, Profile, Rules};

use super::fault::Step;
use super::world::{Grid, Happening, World};

/// Stories have one seed: nothing in them is left to chance but retries.
const SEED: u64 = 1;

/// Acts the story's indented lines out and gives the transcript.
///
/// # Errors
/// The line that can't be read.
pub fn tell(story: &str) -> Result<String, String> {
    let mut lines = story.lines().filter(|line| line.starts_with("    ")).map(str::trim);
    let first = lines.next().ok_or("no line says which grid")?;
    let grid = grid(first).ok_or_else(|| format!("which grid? {first}"))?;
    let mut world = World::new(SEED, grid);
    let mut end = 0;
    for line in lines {
        let (at, what) = moment(line).ok_or_else(|| format!("when? {line}"))?;
        if what == "end" {
            end = at;
            continue;
        }
        for step in steps(&world, what).ok_or_else(|| format!("what? {line}"))? {
            world.after(at, Happening::Step(step));
        }
    }
    world.run_until(end);
    Ok(transcript(&world))
}

/// `2 hosts, 3 voters, strict, normal`
fn grid(line: &str) -> Option<Grid> {
    let mut words = line.split(", ");
    let hosts = words.next()?.split(' ').next()?.parse().ok()?;
    let voters = words.next()?.split(' ').next()?.parse().ok()?;
    let policy = match words.next()? {
        "strict" => Policy::Strict,
        "eager" => Policy::Eager,
        "stay" => Policy::Stay,
        _ => return None,
    };
    let profile = match words.next()? {
        "fast" => Profile::Fast,
        "normal" => Profile::Normal,
        "calm" => Profile::Calm,
        _ => return None,
    };
    Some(Grid { hosts, voters, policy, profile, rules: Rules::default(), exact: true })
}

/// `12.5 s what`
fn moment(line: &str) -> Option<(u64, &str)> {
    let (number, what) = line.split_once(" s ")?;
    let (seconds, tenths) = number.split_once('.').unwrap_or((number, "0"));
    Some((seconds.parse::<u64>().ok()? * 1_000 + tenths.parse::<u64>().ok()? * 100, what.trim()))
}

/// `host 1 loses power`, `all lose power`, `host 1 is cut to host 2`
fn steps(world: &World, what: &str) -> Option<Vec<Step>> {
    let all = 0..world.machines.len();
    if let Some(rest) = what.strip_prefix("all ") {
        return all.map(|machine| step(world, machine, rest)).collect();
    }
    let machine = all.clone().rev().find(|machine| what.starts_with(&world.name(*machine)))?;
    let rest = what[world.name(machine).len()..].trim();
    step(world, machine, rest).map(|step| vec![step])
}

fn step(world: &World, machine: usize, what: &str) -> Option<Step> {
    let other = |prefix: &str| {
        let name = what.strip_prefix(prefix)?;
        (0..world.machines.len()).find(|machine| world.name(*machine) == name)
    };
    match what {
        "loses power" | "lose power" => Some(Step::LosesPower(machine)),
        "boots" | "boot" => Some(Step::Boots(machine)),
        "is isolated" | "are isolated" => Some(Step::Isolated(machine)),
        "is joined" | "are joined" => Some(Step::Joined(machine)),
        "is stopped" => Some(Step::Stopped(machine)),
        "goes on" => Some(Step::GoesOn(machine)),
        "restarts its guard" => Some(Step::GuardRestarts(machine)),
        "can't pause" => Some(Step::PauseSticks(machine)),
        "can't kill" => Some(Step::KillSticks(machine)),
        "releases" => Some(Step::Releases(machine)),
        "has a slow clock" => Some(Step::ClockRate(machine, -5_000)),
        "has a fast clock" => Some(Step::ClockRate(machine, 5_000)),
        "loses its store" => Some(Step::LosesStore(machine)),
        _ => {
            let cut = other("is cut to ").map(|to| Step::Cut(machine, to));
            cut.or_else(|| other("is healed to ").map(|to| Step::Heals(machine, to)))
        }
    }
}

pub(crate) fn transcript(world: &World) -> String {
    let lines = world.transcript.iter().flatten();
    let text: String =
        lines.map(|(at, text)| format!("{:>4}.{:02} s  {text}\n", at / 1_000, at % 1_000 / 10)).collect();
    let running: Vec<String> = world.truth.running().iter().map(|machine| world.name(*machine)).collect();
    let end = if running.is_empty() { "nowhere".into() } else { running.join(" AND ") };
    format!("{text}at the end the guest runs on: {end}\n")
}
