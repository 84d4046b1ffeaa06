//! Real guards, one a host, and what happens to a ward's processes when hosts are cut off, hang or die. Run as root with
//! ROOST_REAL=1, one at a time.

mod agents;
mod answers;
mod crowd;
mod everybody;
mod fenced;
mod handover;
mod joined;
mod states;
mod takeover;
mod tested;
mod upgraded;
mod witness;

use std::time::Duration;

use anyhow::{Result, ensure};
use roost_tests::grid::{START, eventually, lasts, wanted};
use roost_tests::guards::{GUEST, Guards, Recorder, now_ms};
use roost_ward::Standing;

/// Lease of the fast profile, and the time that pausing may take on a machine that stands still for some seconds. Together
/// they are well within the promise of 11 s.
const LEASE_MS: u64 = 4_000;
const PAUSE_MS: u64 = 3_000;
/// A dead host's ward is another's within this, by the promise of 11 s; the rest is for a loaded machine.
const TAKEN_OVER: Duration = Duration::from_secs(20);
/// The same by the recorders' own clock.
const PROMISED_MS: u64 = 17_000;
/// A ward that is given up is another's within this: sooner than by a promise that runs out.
const HANDED_OVER_MS: u64 = 8_000;
/// For wall clocks that are set wrong.
const TEN_YEARS_S: i64 = 3_652 * 86_400;

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

/// Two recorders of the ward's guest: on the first home it executes, on the second it stands still.
fn recorders(guards: &Guards) -> Result<(Recorder, Recorder)> {
    guards.found(&[1, 2], "fast", GUEST)?;
    let second = guards.recorder(2)?;
    second.await_stopped()?;
    let first = guards.recorder(1)?;
    eventually("it executes", START, || first.ticks().map(drop))?;
    Ok((first, second))
}

/// The second home's guest executes; how long after `since`, and since when.
fn taken_over(guards: &Guards, second: &Recorder, since: u64) -> Result<(u64, u64)> {
    guards.await_standing(2, Standing::Running, TAKEN_OVER)?;
    eventually("the guest executes on host 2", TAKEN_OVER, || second.ticks().map(drop))?;
    let began = second.ticks()?.0;
    let after = began - since;
    ensure!(after <= PROMISED_MS, "it took {after} ms");
    Ok((after, began))
}

/// Host 1 never paused its guests: by its own notes, however long it took the machine to let them execute.
fn never_paused(guards: &Guards) -> Result<()> {
    let told = guards.command(1, &["explain", "--ward", "7"])?;
    ensure!(!told.contains("guests are paused"), "explained as\n{told}");
    Ok(())
}

#[test]
fn real_cut_host_s_guest_stands_still_before_another_runs() {
    story(|guards| {
        let (first, second) = recorders(guards)?;
        let cut = now_ms()?;
        guards.lab.host("cut", 1)?;
        let (after, began) = taken_over(guards, &second, cut)?;
        let stopped = first.ticks()?.1;
        println!("cut: stood still after {} ms, executes on the other host after {after} ms", stopped - cut);
        ensure!(stopped < began, "host 1 executed until {stopped}, host 2 from {began} on");
        ensure!(stopped <= cut + LEASE_MS + PAUSE_MS, "it stood still {} ms after the cut", stopped - cut);
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
        let (first, second) = recorders(guards)?;
        let hung = now_ms()?;
        guards.signal(1, "STOP")?;
        let (after, began) = taken_over(guards, &second, hung)?;
        let stopped = first.ticks()?.1;
        println!("hung: ended after {} ms, executes on the other host after {after} ms", stopped - hung);
        ensure!(stopped < began, "host 1 executed until {stopped}, host 2 from {began} on");
        ensure!(guards.was_reset(1), "the watchdog did not end the host");
        Ok(())
    });
}

#[test]
fn real_dead_host_s_ward_runs_elsewhere_and_stays_there() {
    story(|guards| {
        let (_, second) = recorders(guards)?;
        let died = now_ms()?;
        guards.power_off(1)?;
        let (after, _) = taken_over(guards, &second, died)?;
        println!("dead: executes on the other host after {after} ms");
        let told = guards.command(2, &["explain", "--ward", "7"])?;
        for why in ["was not heard", "asks whether it may stand", "with the votes of", "a majority granted a lease"] {
            ensure!(told.contains(why), "explained as\n{told}");
        }
        guards.power_on(1)?;
        lasts(Duration::from_secs(5));
        guards.await_standing(1, Standing::Off, TAKEN_OVER)?;
        guards.await_standing(2, Standing::Running, TAKEN_OVER)?;
        // What comes up there all the same, as by a libvirt that starts guests at boot, stands still at once.
        guards.recorder(1)?.await_stopped()
    });
}

#[test]
fn real_killed_guard_comes_back_and_no_guest_notices() {
    story(|guards| {
        let (first, second) = recorders(guards)?;
        for _ in 0..3 {
            guards.signal(1, "KILL")?;
            guards.spawn(1)?;
            guards.await_standing(1, Standing::Running, TAKEN_OVER)?;
        }
        // Longer than a lease: it was renewed and not only lived on.
        lasts(Duration::from_secs(6));
        let seen = first.ticks()?.1;
        eventually("it goes on", TAKEN_OVER, || {
            ensure!(first.ticks()?.1 > seen, "it stands still");
            Ok(())
        })?;
        println!("guard killed three times: longest pause of the guest {} ms", first.ticks()?.2);
        ensure!(first.ticks()?.2 < PAUSE_MS, "it stood still for {} ms", first.ticks()?.2);
        never_paused(guards)?;
        ensure!(second.ticks().is_err(), "it executed on the other host");
        println!("guard: {} KiB resident", guards.memory_kib(1)?);
        Ok(())
    });
}

#[test]
fn real_wall_clocks_that_jump_ten_years_to_and_fro_pause_nothing_and_delay_no_takeover() {
    story(|guards| {
        guards.start_with_clocks()?;
        let (first, second) = recorders(guards)?;
        for jump in [TEN_YEARS_S, -TEN_YEARS_S, TEN_YEARS_S] {
            guards.set_clock(1, jump)?;
            guards.set_clock(2, -jump)?;
            guards.set_clock(3, jump)?;
            // Longer than a lease.
            lasts(Duration::from_secs(6));
            let noted = guards.status(1)?;
            ensure!(noted.wards.iter().any(|ward| ward.may_run), "{noted:?}");
        }
        let (_, last, gap) = first.ticks()?;
        ensure!(gap < PAUSE_MS && last + PAUSE_MS > now_ms()?, "it stood still for {gap} ms");
        never_paused(guards)?;
        ensure!(second.ticks().is_err(), "it executed on the other host");
        let died = now_ms()?;
        guards.power_off(1)?;
        let (after, _) = taken_over(guards, &second, died)?;
        println!("clocks 20 years apart: longest pause {gap} ms, taken over after {after} ms");
        // Its notes say what its clock said.
        let told = guards.command(2, &["explain", "--ward", "7"])?;
        ensure!(told.contains("with the votes of"), "{told}");
        Ok(())
    });
}

#[test]
fn real_released_ward_moves_without_the_wait() {
    story(|guards| {
        let (first, second) = recorders(guards)?;
        let asked = now_ms()?;
        guards.command(1, &["release", "7"])?;
        let (after, began) = taken_over(guards, &second, asked)?;
        println!("released: executes on the other host after {after} ms");
        ensure!(first.ticks()?.1 < began, "it executed on both");
        ensure!(after < HANDED_OVER_MS, "it took {after} ms");
        Ok(())
    });
}

#[test]
fn real_loss_of_a_third_and_a_dead_voter_pause_nothing() {
    story(|guards| {
        let (first, second) = recorders(guards)?;
        guards.power_off(3)?;
        lasts(Duration::from_secs(8));
        guards.power_on(3)?;
        guards.introduce()?;
        guards.await_standing(3, Standing::Off, TAKEN_OVER)?;
        guards.lab.loss(2, 30)?;
        lasts(Duration::from_secs(20));
        let (_, last, gap) = first.ticks()?;
        println!("dead voter, then 30 % loss: longest pause of the guest {gap} ms");
        ensure!(gap < PAUSE_MS && last + PAUSE_MS > now_ms()?, "it stood still for {gap} ms");
        never_paused(guards)?;
        ensure!(second.ticks().is_err(), "it executed on the other host");
        Ok(())
    });
}
