//! What is done while the aggregator is not running: making the grid's key, the first admin, a join token.

use std::io::{BufRead, Read, Write};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use roost_aggregator_core::intent::{IntentChange, JoinTokenRecord, UserRecord};
use roost_protocol::Stamp;
use roost_protocol::enrol::JoinToken;
use roost_protocol::identity::GridKey;

use crate::auth::{hash_password, random};
use crate::clock::wall;
use crate::config::Config;
use crate::files;
use crate::ledger::{Changes, Kept, Store};

/// Largest file that is taken for a key or a password.
const SECRET_FILE: u64 = 16 << 10;
/// A random password has this many letters of 32 kinds: 100 bits.
const LETTERS: usize = 20;
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// A join token is good for a week at most.
const TOKEN_MINUTES: u64 = 7 * 24 * 60;

/// The grid's key, as it lies on disk.
pub(crate) fn read_key(path: &Path) -> anyhow::Result<GridKey> {
    let text = read_secret(path).with_context(|| format!("read the grid's key {}", path.display()))?;
    GridKey::from_pem(&text).with_context(|| format!("use the grid's key {}", path.display()))
}

/// Makes what a new grid needs. A key that is there stays; an admin that is there gets a new password.
pub(crate) fn init(config: &Config, admin: &str, password: Option<String>) -> anyhow::Result<()> {
    let path = config.grid_key_path();
    let existed = path.exists();
    let key = if existed { read_key(&path)? } else { make_key(&path)? };
    let (mut store, kept) = Store::open(&config.ledger_path(), existed, wall())?;
    let given = password.is_some();
    let password = match password {
        Some(password) => password,
        None => random_password()?,
    };
    let record = UserRecord { password_hash: hash_password(&password)?, created: wall(), full_name: String::new() };
    let change = IntentChange::User { name: admin.to_owned(), record: Some(record) };
    commit(&mut store, &kept, change)?;
    write_ca(config, &key)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "grid {}", key.grid_id())?;
    writeln!(out, "key {} ({})", path.display(), if existed { "kept" } else { "made: keep a copy of it elsewhere" })?;
    writeln!(out, "admin {admin}")?;
    if !given {
        writeln!(out, "password {password}")?;
    }
    Ok(())
}

/// The admin's password, from wherever the command line says.
pub(crate) fn given_password(file: Option<&Path>, stdin: bool) -> anyhow::Result<Option<String>> {
    let text = match (file, stdin) {
        (Some(path), _) => read_secret(path).with_context(|| format!("read the password from {}", path.display()))?,
        (None, true) => {
            let mut line = String::new();
            std::io::stdin().lock().take(SECRET_FILE).read_line(&mut line).context("read the password from stdin")?;
            line
        }
        (None, false) => return Ok(None),
    };
    let password = text.lines().next().unwrap_or_default().to_owned();
    ensure!(!password.is_empty(), "the password is empty");
    Ok(Some(password))
}

/// A join token, printed once.
pub(crate) fn token(config: &Config, minutes: u64, note: String) -> anyhow::Result<()> {
    ensure!((1..=TOKEN_MINUTES).contains(&minutes), "a join token lasts 1 to {TOKEN_MINUTES} minutes");
    let key = read_key(&config.grid_key_path())?;
    let (mut store, kept) = Store::open(&config.ledger_path(), true, wall())?;
    let token = JoinToken::mint(key.fingerprint(), random()?);
    let created = wall();
    let record = JoinTokenRecord {
        secret_hash: token.secret_hash(),
        created,
        expires: Stamp(created.0.saturating_add(minutes * 60_000)),
        created_by: "command line".to_owned(),
        used_by: None,
        used: None,
        note,
        host_name: None,
    };
    commit(&mut store, &kept, IntentChange::JoinToken { id: token.id(), record: Some(record) })?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "aggregator {}", config.join_address())?;
    writeln!(out, "token {}", token.reveal())?;
    Ok(())
}

/// The CA certificate and what it is known by.
pub(crate) fn print_ca(config: &Config) -> anyhow::Result<()> {
    let key = read_key(&config.grid_key_path())?;
    let mut out = std::io::stdout().lock();
    write!(out, "{}", pem(&key.ca_certificate().0))?;
    writeln!(out, "fingerprint {}", key.fingerprint())?;
    Ok(())
}

/// `<data_dir>/ca.pem`, for clients.
pub(crate) fn write_ca(config: &Config, key: &GridKey) -> anyhow::Result<()> {
    let path = config.data_dir.join("ca.pem");
    files::write_whole(&path, pem(&key.ca_certificate().0).as_bytes(), files::PUBLIC)
        .with_context(|| format!("write the CA certificate {}", path.display()))
}

fn commit(store: &mut Store, kept: &Kept, change: IntentChange) -> anyhow::Result<()> {
    let generation = kept.intent.generation.next();
    let changes = Changes { intent: vec![change], generation, ..Changes::default() };
    Ok(store.commit(std::iter::once(&changes))?)
}

fn make_key(path: &Path) -> anyhow::Result<GridKey> {
    let key = GridKey::generate()?;
    if let Some(directory) = path.parent() {
        files::make_directory(directory).with_context(|| format!("create {}", directory.display()))?;
    }
    files::write_whole(path, key.to_pem().as_bytes(), files::SECRET)
        .with_context(|| format!("write the grid's key {}", path.display()))?;
    Ok(key)
}

fn read_secret(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(SECRET_FILE + 1).read_to_string(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read > SECRET_FILE) {
        bail!("it has more than {SECRET_FILE} bytes");
    }
    Ok(text)
}

fn random_password() -> anyhow::Result<String> {
    let bytes: [u8; LETTERS] = random()?;
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
}

/// RFC 7468.
fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod test {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn config(directory: &tempfile::TempDir) -> Config {
        Config { data_dir: directory.path().join("data"), ..Config::default() }
    }

    #[test]
    fn init_makes_a_secret_key_and_an_admin_and_keeps_the_key_later() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(&directory);
        init(&config, "admin", Some("correct horse".to_owned())).unwrap();
        let path = config.grid_key_path();
        let key = std::fs::read(&path).unwrap();
        for secret in [&path, &config.ledger_path()] {
            assert_eq!(std::fs::metadata(secret).unwrap().permissions().mode() & 0o777, 0o600, "{}", secret.display());
        }
        init(&config, "second", None).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), key);
        let (_store, kept) = Store::open(&config.ledger_path(), true, wall()).unwrap();
        assert_eq!(kept.intent.users.keys().collect::<Vec<_>>(), ["admin", "second"]);
        assert!(!kept.recovering, "nothing was lost");
        assert_eq!(kept.intent.generation.0, 2);
    }

    #[test]
    fn a_token_made_offline_is_kept_as_a_hash() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(&directory);
        init(&config, "admin", None).unwrap();
        token(&config, 60, "rack 1".to_owned()).unwrap();
        let (_store, kept) = Store::open(&config.ledger_path(), true, wall()).unwrap();
        assert_eq!(kept.intent.join_tokens.values().next().unwrap().note, "rack 1");
    }

    #[test]
    fn a_key_that_stayed_after_the_database_went_means_recovery() {
        let directory = tempfile::tempdir().unwrap();
        let config = Config { grid_key: Some(directory.path().join("grid.key")), ..config(&directory) };
        init(&config, "admin", None).unwrap();
        std::fs::remove_dir_all(&config.data_dir).unwrap();
        let (_store, kept) = Store::open(&config.ledger_path(), true, wall()).unwrap();
        assert!(kept.recovering && kept.intent.users.is_empty());
    }
}
