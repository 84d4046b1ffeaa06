//! Waiting for what other processes do: the one place where real tests look again and again.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Between two looks. Nobody tells us when another process is done, so we look; ten times finer than the promises.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Looks until `look` succeeds and gives its result; after `limit` fails with its last words.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(why) if began.elapsed() > limit => {
                return Err(why).with_context(|| format!("not within {limit:?}: {what}"));
            }
            Err(_) => sleep(LOOK_EVERY),
        }
    }
}

/// The same where only success matters.
pub fn eventually(what: &str, limit: Duration, look: impl FnMut() -> Result<()>) -> Result<()> {
    until(what, limit, look)
}

/// Lets a fault last. Its length is the fault itself, never a wait for something to have happened.
pub fn lasts(fault: Duration) {
    sleep(fault);
}
