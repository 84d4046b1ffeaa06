//! Join tokens that must not let anybody in.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use roost_tests::grid::{self, Grid, QUIC, eventually, program, text};
use serde_json::json;

/// Life of the short token, and when it is surely over.
const TTL: Duration = Duration::from_millis(1_500);
const EXPIRED: Duration = Duration::from_secs(5);

#[test]
fn real_wrong_used_and_expired_tokens_are_refused_with_the_reason() {
    grid::story(2, |grid| {
        let used = grid.token("h1")?;
        grid.configure(1, &used)?;
        grid.start_agent(1)?;
        grid.await_host(1, "up", grid::START)?;
        refused(grid, &used, "used")?;
        refused(grid, "roost1-nonsense", "letters")?;
        let mut letters: Vec<char> = used.chars().collect();
        let last = letters.len() - 2;
        letters[last] = if letters[last] == 'a' { 'b' } else { 'a' };
        refused(grid, &letters.iter().collect::<String>(), "mistyped")?;
        let short = grid.api.post("/join-tokens", &json!({"name": "late", "ttl_s": 1}))?;
        let made = Instant::now();
        eventually("the token has expired", EXPIRED, || {
            ensure!(made.elapsed() > TTL, "not yet");
            Ok(())
        })?;
        refused(grid, short["token"].as_str().unwrap_or_default(), "expired")?;
        let hosts = grid.api.get("/hosts")?;
        ensure!(hosts["items"].as_array().is_some_and(|hosts| hosts.len() == 1), "{hosts}");
        Ok(())
    });
}

/// Host 2 does not get in with this token, is told why, and keeps nothing.
fn refused(grid: &Grid, token: &str, reason: &str) -> Result<()> {
    let address = format!("{}:{QUIC}", grid.lab.address(0));
    let agent = program("roost-agent")?;
    let tried = grid.lab.exec(2, &["timeout", "20", text(&agent)?, "join", &address, token, "--name", "h2"]);
    let why = tried.err().map(|why| format!("{why:#}")).unwrap_or_default();
    ensure!(why.contains(reason), "expected {reason:?}, got {why:?}");
    Ok(())
}
