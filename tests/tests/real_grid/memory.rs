//! Memory density on real guests: equal pages merge, idle guests give memory back when their host is short of it and get
//! it again soon after, and nothing stays squeezed when the agent dies. How much the host has is told by a file of the
//! test's own over `/proc/meminfo`, so that the machine and its other tests are short of nothing.

mod policy;

use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, START, eventually, lasts, text, tiny};
use roost_tests::page_sharing::PageSharing;
use serde_json::{Value, json};

use super::at_once::{LONG, alarm, inside, serial, tail};

/// What is given back is back within this.
const GIVEN_BACK: Duration = Duration::from_secs(30);
/// A guest is left alone for its first 120 s unless its host is near the reserve, and boots slowly before that.
const SETTLED: Duration = Duration::from_secs(300);
/// MiB of the made-up host, and what of it is available when it has enough, is short, and is very short.
const HOST: u64 = 2_048;
const ENOUGH: u64 = 1_500;
const SHORT: u64 = 300;
const VERY_SHORT: u64 = 200;
/// MiB of a guest, and what a squeezed one has less.
const GUEST: u64 = 256;
const SQUEEZED: u64 = 50;
/// Free to the programs of a guest at ease, MiB: more than what it gets memory back for.
const EASE: u64 = 40;
/// MiB that a guest takes at once: 60 % of its own, and more than a squeezed one has free.
const SUDDEN: u64 = GUEST * 6 / 10;
/// An agent that says nothing for so long is taken for dead.
const SILENT: Duration = Duration::from_secs(30);

#[test]
fn real_squeezed_guests_get_their_memory_back_after_the_pressure_and_after_the_agents_death() {
    grid::story(1, |grid| {
        let names = ["one", "two", "three"];
        available(grid, ENOUGH)?;
        join(grid, &["tune_memory = true", "memory = { sharing = 'never', reserve_least_mib = 64 }"])?;
        let folders = names.map(|name| linux(grid, name, GUEST));
        let folders = folders.into_iter().collect::<Result<Vec<_>>>()?;

        available(grid, SHORT)?;
        eventually("all give memory back", SETTLED, || squeezed(grid, &names))?;
        eventually("the host tells what its balloons save", START, || {
            let memory = grid.api.get("/hosts/h1/memory")?;
            ensure!(memory["rung"] == "squeeze" && memory["saved_by_balloons_mib"].as_u64() > Some(0), "{memory}");
            Ok(())
        })?;
        let why = grid.roost(&["explain", "host", "h1", "memory", "-o", "json"])?;
        ensure!(why.contains("takes memory: 256 MiB to") && why.contains("the level to squeeze at is"), "{why}");
        sudden(grid, &names, &folders)?;
        available(grid, ENOUGH)?;
        eventually("all have it again", GIVEN_BACK, || whole(grid, &names))?;

        // An agent that hangs.
        anew(grid)?;
        available(grid, VERY_SHORT)?;
        eventually("all give memory back to the next agent", SETTLED, || squeezed(grid, &names))?;
        grid.signal(1, "STOP")?;
        available(grid, ENOUGH)?;
        eventually("all have it again, and the agent hangs", SILENT + GIVEN_BACK, || whole(grid, &names))?;
        grid.signal(1, "CONT")?;
        looked(grid, ENOUGH)?;
        whole(grid, &names)?;

        anew(grid)?;
        available(grid, VERY_SHORT)?;
        eventually("all give memory back again", SETTLED, || squeezed(grid, &names))?;
        grid.kill(1)?;
        available(grid, ENOUGH)?;
        eventually("all have it again, and no agent", GIVEN_BACK, || whole(grid, &names))?;
        eventually("who gave it back has ended", START, || {
            ensure!(keepers(grid)? == 0, "it is still there");
            Ok(())
        })?;

        // Both are killed: the next agent finds guests squeezed.
        grid.start_agent(1)?;
        available(grid, VERY_SHORT)?;
        eventually("all give memory back to the next agent", SETTLED, || squeezed(grid, &names))?;
        grid.signal(1, "STOP")?;
        grid.lab.exec(1, &["sh", "-c", "kill -9 $(cat /var/lib/roost/memory-keeper)"])?;
        grid.kill(1)?;
        eventually("the killed keeper is gone", START, || {
            ensure!(keepers(grid)? == 0, "a keeper is left");
            Ok(())
        })?;
        squeezed(grid, &names).context("nobody is there to give it back")?;
        available(grid, ENOUGH)?;
        grid.start_agent(1)?;
        eventually("the next agent gives it back", GIVEN_BACK, || whole(grid, &names))?;
        folders.iter().try_for_each(|folder| unharmed(grid, folder))
    });
}

/// Each guest takes most of what is its own at once, again after it was squeezed again: `ROOST_SUDDEN` times.
fn sudden(grid: &mut Grid, names: &[&str], folders: &[String]) -> Result<()> {
    let rounds: u32 = std::env::var("ROOST_SUDDEN").map_or(Ok(1), |told| told.parse()).context("ROOST_SUDDEN")?;
    for round in 0..rounds {
        if round > 0 {
            // One that regrets waits for up to 16 minutes; the next agent doesn't know, unless it sees numbers of before.
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
            names.iter().try_for_each(|name| at_ease(grid, name, now))?;
            anew(grid)?;
            eventually("all give memory back anew", SETTLED, || squeezed(grid, names))?;
        }
        let take = format!("dd if=/dev/zero of=/dev/null bs={SUDDEN}M count=1 && echo took-{round}. > /dev/ttyS0");
        names.iter().try_for_each(|name| inside(grid, 1, name, &take))?;
        for folder in folders {
            eventually("a guest had all that it took", LONG, || {
                let said = serial(grid, 1, folder)?;
                ensure!(said.contains(&format!("took-{round}.")), "{}", tail(&said));
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// The guest tells numbers of after this second, and has memory to spare.
fn at_ease(grid: &Grid, name: &str, since: u64) -> Result<()> {
    eventually("the guest tells that it is at ease", LONG, || {
        let told = grid.virsh(1, &["dommemstat", name])?;
        let number = |key: &str| -> Result<u64> {
            let line =
                told.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("{key} of {told}"))?;
            Ok(line.trim().parse()?)
        };
        ensure!(number("last_update")? > since && number("usable")? >> 10 >= EASE, "{told}");
        Ok(())
    })
}

/// The next agent, after the last one's sudden end.
fn anew(grid: &mut Grid) -> Result<()> {
    grid.kill(1)?;
    grid.start_agent(1)?;
    grid.await_host(1, "up", START)
}

/// MiB available of the made-up host so that few guests fit, and more than that are.
const FEW: u64 = 800;
const MANY: usize = 30;
/// The agent answers within this while guests start, most of the time, and hardly ever later than that.
const PROMPT: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_millis(500);
/// From an answer to the next question: who asks without a pause takes the processors from the guests.
const BETWEEN: Duration = Duration::from_millis(20);

#[test]
fn real_guest_that_does_not_fit_is_refused_with_what_would_and_one_that_should_run_waits_for_memory() {
    grid::story(1, |grid| {
        available(grid, FEW)?;
        // A guest that is started again before the next look takes the place that it had.
        let dense = "memory = { sharing = 'never', reserve_least_mib = 64 }";
        join(grid, &["restart_first_ms = 6000", "tune_memory = true", dense])?;
        let mut names = vec!["small-0".to_owned()];
        let first = small(grid, &names[0], 64)?;
        ensure!(first["state"] == "succeeded", "{first}");
        eventually("the agent has looked at it", START, || {
            let memory = grid.api.get("/hosts/h1/memory")?;
            ensure!(memory["guests"].as_array().is_some_and(|guests| guests.len() == 1), "{memory}");
            ensure!(more(&memory, 64)? > 1 && more(&memory, 4_096)? == 0, "{memory}");
            Ok(())
        })?;
        let huge = small(grid, "huge", 3 * HOST)?;
        let text = refusal(&huge)?;
        ensure!(text.contains("does not fit") && text.contains("would fit"), "{text}");
        ensure!(grid.api.call(Method::GET, "/guests/huge", None)?.status == 404, "something of it was made");

        let (refused, answers) = while_asked(grid, || {
            loop {
                ensure!(names.len() < MANY, "nothing is refused");
                let name = format!("small-{}", names.len());
                let ended = small(grid, &name, 64)?;
                if ended["state"] != "succeeded" {
                    return Ok(ended);
                }
                names.push(name);
            }
        })?;
        ensure!(refusal(&refused)?.contains("a guest of 64 MiB does not fit"), "{refused}");
        prompt(answers)?;

        // What should run and dies while there is no memory waits for it.
        let first = names.first().context("one runs")?;
        available(grid, VERY_SHORT / 4)?;
        looked(grid, VERY_SHORT / 4)?;
        grid.lab.exec(1, &["kill", "-9", &grid.qemu(1, first)?.to_string()])?;
        eventually("people are told that it waits", LONG, || {
            let told = alarm(grid, 1, "no-memory")?.context("no alarm")?;
            ensure!(told.contains("it should run and is off"), "{told}");
            Ok(())
        })?;
        ensure!(grid.api.get(&format!("/guests/{first}"))?["state"] != "running", "it runs");
        available(grid, ENOUGH)?;
        grid.await_guest(first, "running", LONG)?;
        eventually("nobody waits any more", LONG, || {
            ensure!(alarm(grid, 1, "no-memory")?.is_none(), "the alarm stays");
            Ok(())
        })
    });
}

/// How many more guests of this size the host has room for, as it says.
fn more(memory: &Value, mib: u64) -> Result<u64> {
    let sizes = memory["more"].as_array().context("sizes")?;
    let of = sizes.iter().find(|of| of["memory_mib"] == mib).with_context(|| format!("{mib} MiB in {memory}"))?;
    of["more"].as_u64().context("how many")
}

/// Does something, and asks the agent all the while; how long each answer took.
fn while_asked<T>(grid: &Grid, story: impl FnOnce() -> Result<T>) -> Result<(T, Vec<Duration>)> {
    let (over, api) = (AtomicBool::new(false), grid.api.clone());
    thread::scope(|scope| {
        let asks = scope.spawn(|| {
            let mut answers = Vec::new();
            while !over.load(Relaxed) {
                let asked = Instant::now();
                api.get("/hosts/h1/memory")?;
                answers.push(asked.elapsed());
                lasts(BETWEEN);
            }
            Ok::<_, anyhow::Error>(answers)
        });
        let told = story();
        over.store(true, Relaxed);
        let answers = asks.join().map_err(|_| anyhow!("who asks panicked"))??;
        Ok((told?, answers))
    })
}

/// The agent answers while it starts guests. What takes turns with QEMU, libvirt and everybody else on few processors is
/// late at times; an agent that waits for its work would be late for as long as that takes, most of the time.
fn prompt(mut answers: Vec<Duration>) -> Result<()> {
    answers.sort_unstable();
    let most = answers.last().context("no answer")?;
    let part = |percent: usize| answers.get(answers.len() * percent / 100).context("no answer");
    let (p75, p95) = (part(75)?, part(95)?);
    let told = format!("of {} answers 75 % within {p75:?}, 95 % within {p95:?}, all within {most:?}", answers.len());
    eprintln!("{told}");
    ensure!(*p75 <= PROMPT && *p95 <= LATE, "{told}");
    Ok(())
}

/// Guests with the same content, one more that is not to be merged, and MiB of that content.
const EQUAL: usize = 10;
const SAME: u64 = 32;

#[test]
fn real_equal_guests_share_their_pages_and_one_that_does_not_want_to_shares_nothing() {
    if !grid::wanted() {
        return;
    }
    // Given back after the hosts are gone, however this ends.
    let machine = PageSharing::take().expect("the machine's page sharing");
    grid::story(1, |grid| {
        join(grid, &[])?;
        let same = format!("roost.same={SAME}");
        let names: Vec<String> = (0..EQUAL).map(|number| format!("equal-{number}")).collect();
        let wish = json!({"share": false});
        let asked: Vec<_> = names.iter().map(|name| ask_linux(grid, name, 112, &same, &json!(null))).collect();
        let alone = ask_linux(grid, "alone", 112, &same, &wish)?;
        let folders = asked.into_iter().collect::<Result<Vec<_>>>()?;
        for folder in folders.iter().chain([&alone]) {
            booted(grid, folder, "ROOST-SAME")?;
        }
        let before = fair_kib(grid, &names)?;
        ensure!(merged(grid, &names[0])? == 0, "somebody merges already");

        grid.kill(1)?;
        grid.set(1, "memory = { sharing = 'always', balloons = false }")?;
        grid.set(1, "tune_memory = true")?;
        grid.start_agent(1)?;
        let duplicates = (EQUAL as u64 - 1) * SAME * 1_024;
        eventually("30 % of what is there twice is free again", LONG, || {
            let now = fair_kib(grid, &names)?;
            ensure!(before.saturating_sub(now) >= duplicates * 3 / 10, "{before} KiB before, {now} now");
            names.iter().try_for_each(|name| {
                ensure!(merged(grid, name)? > 0, "{name} shares nothing");
                Ok(())
            })
        })?;
        told(grid)?;
        ensure!(merged(grid, "alone")? == 0, "who does not want to share does");

        grid.signal(1, "TERM")?;
        eventually("page sharing is set as before", GIVEN_BACK, || machine.as_before())?;
        folders.iter().try_for_each(|folder| unharmed(grid, folder))
    });
}

/// What merging saves is shown by the host, and why it was begun.
fn told(grid: &Grid) -> Result<()> {
    eventually("the host tells what merging saves", START, || {
        let memory = grid.api.get("/hosts/h1/memory")?;
        let guests = memory["guests"].as_array().context("guests")?;
        let share = |guest: &&Value| guest["shared_mib"].as_u64() > Some(0);
        ensure!(memory["saved_by_sharing_mib"].as_u64() > Some(0) && memory["rung"] == "share", "{memory}");
        ensure!(guests.iter().filter(share).count() == EQUAL && guests.len() == EQUAL + 1, "{memory}");
        Ok(())
    })?;
    eventually("its history tells so too", START, || {
        let history = grid.api.get("/hosts/h1/history?last=300")?;
        let saved = |moment: &Value| moment["saved_by_sharing_mib"].as_u64() > Some(0);
        ensure!(history["items"].as_array().is_some_and(|all| all.iter().any(saved)), "{history}");
        Ok(())
    })?;
    let why = grid.roost(&["explain", "host", "h1", "memory", "-o", "json"])?;
    ensure!(why.contains("sets page sharing: run 1") && why.contains("not looked through yet"), "{why}");
    Ok(())
}

/// Pages of a guest that are merged.
fn merged(grid: &Grid, name: &str) -> Result<u64> {
    number(&grid.lab.exec(1, &["cat", &format!("/proc/{}/ksm_stat", grid.qemu(1, name)?)])?, "ksm_merging_pages")
}

/// The guests' fair parts of memory, together: what would be free without them.
fn fair_kib(grid: &Grid, names: &[String]) -> Result<u64> {
    let one = |name: &String| {
        let told = grid.lab.exec(1, &["cat", &format!("/proc/{}/smaps_rollup", grid.qemu(1, name)?)])?;
        number(&told, "Pss:")
    };
    names.iter().map(one).sum()
}

/// The number behind a name.
fn number(told: &str, name: &str) -> Result<u64> {
    let found = told.lines().find_map(|line| line.strip_prefix(name));
    let number = found.and_then(|rest| rest.split_whitespace().next()).with_context(|| format!("{name} in {told}"))?;
    Ok(number.parse()?)
}

/// Sets what the host has; the file stays the same, so this takes effect at once.
fn available(grid: &Grid, mib: u64) -> Result<()> {
    let (file, kib) = (grid.folder.join("meminfo"), 1_024);
    let first = !file.exists();
    fs::write(&file, format!("MemTotal: {} kB\nMemAvailable: {} kB\n", HOST * kib, mib * kib))?;
    if first {
        grid.lab.exec(1, &["mount", "--bind", text(&file)?, "/proc/meminfo"])?;
    }
    Ok(())
}

/// Has the host join with these settings.
fn join(grid: &mut Grid, settings: &[&str]) -> Result<()> {
    grid.configure(1, &grid.token("h1")?)?;
    settings.iter().try_for_each(|line| grid.set(1, line))?;
    grid.give_images(1)?;
    grid.start_agent(1)?;
    grid.await_host(1, "up", START)
}

/// A Linux guest that has booted; gives its folder.
fn linux(grid: &Grid, name: &str, memory_mib: u64) -> Result<String> {
    let folder = ask_linux(grid, name, memory_mib, "", &json!(null))?;
    booted(grid, &folder, "ROOST-HB")?;
    Ok(folder)
}

fn ask_linux(grid: &Grid, name: &str, memory_mib: u64, more: &str, wish: &Value) -> Result<String> {
    let mut guest = tiny(name, "h1", true);
    guest["memory_mib"] = json!(memory_mib);
    let cmdline = format!("console=ttyS0 roost.hb=1 roost.quiet=1 {more}");
    guest["boot"] = json!({"from": "kernel", "kernel": "vmlinuz", "initrd": "initrd.cpio", "cmdline": cmdline});
    if !wish.is_null() {
        guest["memory_wish"] = wish.clone();
    }
    grid.api.done(Method::POST, "/guests", &guest)?;
    let made = grid.api.get(&format!("/guests/{name}"))?;
    Ok(format!("/var/lib/roost/guests/{}", made["id"].as_str().context("its id")?))
}

fn booted(grid: &Grid, folder: &str, word: &str) -> Result<()> {
    eventually("it has booted", SETTLED, || {
        let said = serial(grid, 1, folder)?;
        ensure!(said.contains(word), "{}", tail(&said));
        Ok(())
    })
}

/// What its balloon leaves a guest, MiB.
fn size(grid: &Grid, name: &str) -> Result<u64> {
    let told = grid.virsh(1, &["dommemstat", name])?;
    let kib = told.lines().find_map(|line| line.strip_prefix("actual ")).context("its size")?;
    Ok(kib.trim().parse::<u64>()? / 1_024)
}

fn squeezed(grid: &Grid, names: &[&str]) -> Result<()> {
    names.iter().try_for_each(|name| {
        let size = size(grid, name)?;
        ensure!(size <= GUEST - SQUEEZED, "{name} has {size} MiB");
        Ok(())
    })
}

fn whole(grid: &Grid, names: &[&str]) -> Result<()> {
    names.iter().try_for_each(|name| {
        let size = size(grid, name)?;
        ensure!(size == GUEST, "{name} has {size} MiB");
        Ok(())
    })
}

/// Processes that stand in for a dead agent.
fn keepers(grid: &Grid) -> Result<usize> {
    Ok(grid.lab.exec(1, &["sh", "-c", "pgrep -f keep-memor[y] || true"])?.lines().count())
}

/// It never ran out of memory, and goes on.
fn unharmed(grid: &Grid, folder: &str) -> Result<()> {
    let said = serial(grid, 1, folder)?;
    for word in ["Out of memory", "oom-kill", "page allocation failure", "Kernel panic"] {
        ensure!(!said.contains(word), "{word}: {}", tail(&said));
    }
    super::at_once::ticks_on(grid, 1, folder)
}

/// Makes the 9 KB guest with so much memory and starts it; how that ended.
fn small(grid: &Grid, name: &str, memory_mib: u64) -> Result<Value> {
    begun(grid, &tiny(name, "h1", true), memory_mib)
}

fn begun(grid: &Grid, guest: &Value, memory_mib: u64) -> Result<Value> {
    let mut guest = guest.clone();
    guest["memory_mib"] = json!(memory_mib);
    let asked = grid.api.ok(Method::POST, "/guests", Some(&guest))?;
    grid.api.ended(&asked, LONG)
}

/// The text of a refusal; the host refuses with the word that is a 409.
fn refusal(ended: &Value) -> Result<String> {
    ensure!(ended["state"] == "failed" && ended["error"]["code"] == "wrong_state", "{ended}");
    ensure!(ended["error"]["status"] == 409, "{ended}");
    Ok(ended["error"]["detail"].as_str().context("why")?.to_owned())
}

/// Waits until the agent has seen what the host has.
fn looked(grid: &Grid, mib: u64) -> Result<()> {
    eventually("the agent has looked", START, || {
        let memory = grid.api.get("/hosts/h1/memory")?;
        ensure!(memory["available_mib"] == mib, "{memory}");
        Ok(())
    })
}
