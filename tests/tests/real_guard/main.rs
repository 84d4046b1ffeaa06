//! Real guards, one a host, and what happens to a ward's processes when hosts are cut off, hang or die. Run as root with
//! ROOST_REAL=1, one at a time.

use std::time::Duration;

use anyhow::{Result, ensure};
use roost_tests::grid::{eventually, lasts, wanted};
use roost_tests::guards::{Guards, now_ms};
use roost_ward::door::Kind;
use roost_ward::{Profile, Standing};

/// Lease of the fast profile, and the time that pausing may take on a loaded machine.
const LEASE_MS: u64 = 4_000;
const PAUSE_MS: u64 = 1_000;
/// A dead host's ward is another's within this, by the promise of 11 s; the rest is for a loaded machine.
const TAKEN_OVER: Duration = Duration::from_secs(20);
/// The same on an idle machine: the figure that is promised.
const PROMISED_MS: u64 = 14_000;

fn story(tell: impl FnOnce(&mut Guards) -> Result<()>) {
    if !wanted() {
        return;
    }
    let mut guards = Guards::start(3).unwrap_or_else(|why| panic!("start guards: {why:#}"));
    if let Err(why) = tell(&mut guards) {
        guards.print_logs();
        panic!("{why:#}");
    }
}

/// The second host owns the ward and its recorder began; how long after `since`.
fn taken_over(guards: &Guards, since: u64, first_stopped: impl FnOnce(u64) -> Result<()>) -> Result<u64> {
    guards.await_standing(2, Standing::Running, TAKEN_OVER)?;
    let began = guards.record(2)?.ticks()?.0;
    first_stopped(began)?;
    Ok(began - since)
}

#[test]
fn real_cut_host_s_guest_stands_still_before_another_runs() {
    story(|guards| {
        guards.found(&[1, 2], Profile::Fast)?;
        let first = guards.record(1)?;
        let cut = now_ms()?;
        guards.lab.host("cut", 1)?;
        let after = taken_over(guards, cut, |began| {
            let stopped = first.ticks()?.1;
            ensure!(stopped < began, "host 1 executed until {stopped}, host 2 from {began} on");
            ensure!(stopped <= cut + LEASE_MS + PAUSE_MS, "it stood still {} ms after the cut", stopped - cut);
            println!("cut: stood still after {} ms", stopped - cut);
            Ok(())
        })?;
        println!("cut: executes on the other host after {after} ms");
        ensure!(after <= PROMISED_MS, "it took {after} ms");
        let stopped = first.ticks()?.1;
        guards.lab.host("heal", 1)?;
        guards.await_standing(1, Standing::Off, TAKEN_OVER)?;
        ensure!((first.state()?.as_str(), first.ticks()?.1) == ("T", stopped), "the returned host's guest runs again");
        ensure!(!guards.was_reset(1), "a host that could pause its guests was reset");
        Ok(())
    });
}

#[test]
fn real_hanging_guard_s_host_is_ended_by_its_watchdog() {
    story(|guards| {
        guards.found(&[1, 2], Profile::Fast)?;
        let first = guards.record(1)?;
        let hung = now_ms()?;
        guards.signal(1, "STOP")?;
        let after = taken_over(guards, hung, |began| {
            let stopped = first.ticks()?.1;
            ensure!(stopped < began, "host 1 executed until {stopped}, host 2 from {began} on");
            Ok(())
        })?;
        println!("hung: executes on the other host after {after} ms");
        ensure!(guards.was_reset(1), "the watchdog did not end the host");
        ensure!(after <= PROMISED_MS, "it took {after} ms");
        Ok(())
    });
}

#[test]
fn real_dead_host_s_ward_runs_elsewhere_and_stays_there() {
    story(|guards| {
        guards.found(&[1, 2], Profile::Fast)?;
        drop(guards.record(1)?);
        let died = now_ms()?;
        guards.power_off(1)?;
        let after = taken_over(guards, died, |_| Ok(()))?;
        println!("dead: executes on the other host after {after} ms");
        let told: Vec<Kind> = guards.notes(2)?.into_iter().map(|note| note.kind).collect();
        let chain = [Kind::Suspect, Kind::Candidacy, Kind::Won, Kind::Runs];
        ensure!(told.ends_with(&chain), "the cause chain is {told:?}");
        ensure!(after <= PROMISED_MS, "it took {after} ms");
        guards.power_on(1)?;
        lasts(Duration::from_secs(5));
        guards.await_standing(1, Standing::Off, TAKEN_OVER)?;
        guards.await_standing(2, Standing::Running, TAKEN_OVER)
    });
}

#[test]
fn real_killed_guard_comes_back_and_no_guest_notices() {
    story(|guards| {
        guards.found(&[1, 2], Profile::Fast)?;
        let first = guards.record(1)?;
        for _ in 0..3 {
            guards.signal(1, "KILL")?;
            guards.spawn(1)?;
            guards.await_standing(1, Standing::Running, TAKEN_OVER)?;
        }
        // Longer than a lease: it was renewed and not only lived on.
        lasts(Duration::from_secs(6));
        let (before, seen) = (now_ms()?, first.ticks()?.1);
        ensure!(seen + PAUSE_MS > before, "it stands still");
        eventually("it goes on", TAKEN_OVER, || {
            ensure!(first.ticks()?.1 > seen, "it stands still");
            Ok(())
        })?;
        println!("guard killed three times: longest pause of the guest {} ms", first.ticks()?.2);
        ensure!(first.ticks()?.2 < PAUSE_MS, "it stood still for {} ms", first.ticks()?.2);
        println!("guard: {} KiB resident", guards.memory_kib(1)?);
        Ok(())
    });
}
