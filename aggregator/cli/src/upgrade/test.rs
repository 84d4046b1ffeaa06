//! What is done next about a host that is upgraded, and when it is not.

use super::decide::*;

const OLD: &str = "2026-11-01T00:00:00Z";
const NEW: &str = "2026-11-02T00:00:00Z";

fn image(made: &str) -> Option<Image> {
    Some(Image { version: "1".into(), made: made.into() })
}

fn host(name: &str) -> Host {
    let (state, boot) = ("up".into(), format!("{name}-boot-1"));
    Host { id: format!("id-{name}"), name: name.into(), state, boot, image: image(OLD), ..Host::default() }
}

fn guest(name: &str, host: &str, up: bool, protected: Option<bool>) -> Guest {
    Guest { id: name.into(), name: name.into(), host: host.into(), up, protected, why: String::new() }
}

/// Three hosts, and a guest on the first that another would go on with.
fn grid() -> Grid {
    Grid { hosts: ["h1", "h2", "h3"].map(host).to_vec(), guests: vec![guest("desk", "h1", true, Some(true))] }
}

fn maintained(mut grid: Grid, host: usize, word: &str) -> Grid {
    grid.hosts[host].maintenance = Some(word.into());
    grid
}

/// Its guest runs on the second.
fn moved(mut grid: Grid) -> Grid {
    grid.guests = vec![guest("desk", "h1", false, Some(true)), guest("desk", "h2", true, Some(true))];
    grid
}

fn found() -> Run {
    Run::Looked(image(NEW))
}

fn restarting() -> Run {
    Run::Restarting { boot: "h1-boot-1".into(), wanted: image(NEW) }
}

fn asked(grid: &Grid, run: &Run) -> Step {
    next(grid, "h1", run, &Wish::default())
}

#[track_caller]
fn stops(step: Step, why: &str) {
    let Step::Stop(told, hint) = step else { panic!("it goes on: {step:?}") };
    assert!(told.contains(why) && !hint.is_empty(), "{told}; {hint}");
}

#[track_caller]
fn waits(step: Step, until: Until, what: &str) {
    let Step::Wait(found, told) = step else { panic!("it does not wait: {step:?}") };
    assert!(found == until && told.contains(what), "{found:?} {told}");
}

#[test]
fn a_host_is_searched_drained_restarted_resumed_and_waited_for() {
    let mut grid = grid();
    assert_eq!(asked(&grid, &Run::Begun), Step::Look);
    assert_eq!(asked(&grid, &found()), Step::Drain);
    grid = maintained(grid, 0, "draining");
    waits(asked(&grid, &found()), Until::Empty, "desk");
    grid = moved(maintained(grid, 0, "drained"));
    let restart = Step::Restart { boot: "h1-boot-1".into(), wanted: image(NEW) };
    assert_eq!(asked(&grid, &found()), restart);
    waits(asked(&grid, &restarting()), Until::Going, "about to");
    grid.hosts[0].state = "suspect".into();
    waits(asked(&grid, &restarting()), Until::Back, "restarts");
    grid.hosts[0].boot = "h1-boot-2".into();
    grid.hosts[0].state = "down".into();
    waits(asked(&grid, &restarting()), Until::Back, "restarts");
    grid.hosts[0].state = "up".into();
    grid.hosts[0].image = image(NEW);
    assert_eq!(asked(&grid, &restarting()), Step::Resume);
    grid.hosts[0].maintenance = None;
    for guest in &mut grid.guests {
        guest.protected = Some(false);
    }
    waits(asked(&grid, &restarting()), Until::Protected, "desk");
    for guest in &mut grid.guests {
        guest.protected = Some(true);
    }
    assert!(matches!(asked(&grid, &restarting()), Step::Done(how) if how.contains("runs image 1")));
}

#[test]
fn nothing_is_begun_while_the_grid_can_t_do_without_the_host() {
    let mut away = grid();
    away.hosts[1].state = "down".into();
    stops(asked(&away, &found()), "h2 is down");
    for (which, name) in ["h1", "h2"].into_iter().enumerate() {
        let mut missed = grid();
        missed.hosts[which].state = "suspect".into();
        waits(asked(&missed, &found()), Until::Heard, name);
    }
    stops(asked(&maintained(grid(), 2, "on"), &found()), "h3 is in maintenance");
    stops(asked(&maintained(grid(), 2, "drained"), &found()), "h3 is in maintenance");
    stops(asked(&maintained(grid(), 0, "on"), &found()), "somebody else");
    let mut bare = grid();
    bare.guests.push(guest("other", "h3", true, Some(false)));
    waits(asked(&bare, &found()), Until::Calm, "other");
    let force = Wish { force: true, ..Wish::default() };
    for all_the_same in [&away, &bare] {
        assert_eq!(next(all_the_same, "h1", &found(), &force), Step::Drain);
    }
    // Two hosts at once are never asked to go, though each alone could: the other counts until it takes part again.
    assert_eq!(
        next(&maintained(grid(), 0, "draining"), "h2", &found(), &Wish::default()),
        Step::Stop(
            "h1 is in maintenance (draining)".into(),
            "roost host resume h1, then again; --force begins all the same".into(),
        )
    );
}

#[test]
fn a_guest_that_can_t_be_handed_over_is_named_and_nothing_is_done_to_it() {
    let mut grid = grid();
    grid.guests.push(guest("pet", "h1", true, None));
    for grid in [grid.clone(), maintained(grid.clone(), 0, "draining")] {
        stops(asked(&grid, &found()), "pet can't be handed over");
        let force = Wish { force: true, ..Wish::default() };
        stops(next(&grid, "h1", &found(), &force), "pet can't be handed over");
    }
    grid.guests.last_mut().unwrap().up = false;
    assert_eq!(asked(&grid, &found()), Step::Drain, "one that is off is in nobody's way");
}

#[test]
fn a_host_that_came_back_with_the_image_before_ends_it_and_says_why() {
    let mut grid = moved(maintained(grid(), 0, "drained"));
    grid.hosts[0].boot = "h1-boot-2".into();
    stops(asked(&grid, &restarting()), "came back with the image before");
    grid.hosts[0].passed_over = Some("image 1 is not used: 2 starts".into());
    stops(asked(&grid, &restarting()), "2 starts");
    stops(asked(&grid, &Run::Looked(None)), "2 starts");
}

#[test]
fn a_run_that_was_interrupted_is_gone_on_with_from_what_the_grid_shows() {
    let drained = moved(maintained(grid(), 0, "drained"));
    assert!(matches!(asked(&drained, &found()), Step::Restart { .. }), "interrupted before the restart");
    assert_eq!(asked(&drained, &Run::Looked(None)), Step::Resume, "after it");
    let names = || ["h1", "h2", "h3"].map(str::to_owned).to_vec();
    assert_eq!(order(&maintained(grid(), 2, "drained"), names()), ["h3", "h1", "h2"], "that host first");
    assert_eq!(order(&maintained(grid(), 2, "on"), names()), names(), "somebody else's maintenance");
}

#[test]
fn a_host_without_a_newer_image_is_left_as_it_is() {
    let mut grid = maintained(grid(), 0, "on");
    assert!(matches!(asked(&grid, &Run::Looked(None)), Step::Done(how) if how.contains("newest")));
    grid.hosts[0].image = None;
    assert!(matches!(asked(&grid, &Run::Begun), Step::Done(how) if how.contains("left alone")));
    let named = Wish { named: true, ..Wish::default() };
    stops(next(&grid, "h1", &Run::Begun, &named), "not started from a host image");
    grid.hosts[0].maintenance = None;
    let restart = Wish { restart_only: true, ..Wish::default() };
    assert_eq!(next(&grid, "h1", &Run::Begun, &restart), Step::Drain);
    stops(next(&grid, "h9", &Run::Begun, &restart), "not in the grid");
}
