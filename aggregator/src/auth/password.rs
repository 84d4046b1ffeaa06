//! Passwords: argon2id with OWASP's parameters, two at a time, and as slow for users who don't exist.

use std::sync::{Arc, LazyLock};

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

/// OWASP password storage cheat sheet: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1_024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// At most this many at a time: each takes 19 MiB and a core.
const AT_ONCE: usize = 2;
/// Bytes of salt (RFC 9106, 3.1).
const SALT: usize = 16;
/// Longer ones are refused before they are hashed.
pub(super) const LONGEST: usize = 1_024;

/// Hashing failed: no randomness or memory, or the stored hash is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("hash a password")]
pub(crate) struct NoHash;

/// What unknown users' passwords are compared with.
static DUMMY: LazyLock<Result<String, NoHash>> = LazyLock::new(|| hash_password("nobody has this password"));

/// Hashes in worker threads, a few at a time.
#[derive(Debug)]
pub(crate) struct Hasher {
    turns: Arc<Semaphore>,
}

impl Hasher {
    pub(super) fn new() -> Self {
        Self { turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// The PHC string to keep.
    pub(super) async fn hash(&self, password: String) -> Result<String, NoHash> {
        self.work(move || hash_password(&password)).await
    }

    /// Whether this is the password; a wrong one, an empty one and no stored one all answer false. All but the empty and
    /// the overlong take the same time.
    pub(super) async fn verify(&self, stored: Option<String>, password: String) -> Result<bool, NoHash> {
        if password.is_empty() || password.len() > LONGEST {
            return Ok(false);
        }
        self.work(move || {
            let known = stored.is_some();
            let stored = stored.map_or_else(|| DUMMY.clone(), Ok)?;
            Ok(verify(&stored, &password)? && known)
        })
        .await
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, NoHash> + Send + 'static,
    ) -> Result<T, NoHash> {
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| NoHash)?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        done.await.map_err(|_| NoHash)?
    }
}

/// The PHC string of a password; takes about 20 ms and blocks.
///
/// # Errors
/// No randomness.
pub(crate) fn hash_password(password: &str) -> Result<String, NoHash> {
    let salt = SaltString::encode_b64(&super::random::<SALT>().map_err(|_| NoHash)?).map_err(|_| NoHash)?;
    let hash = argon2()?.hash_password(password.as_bytes(), &salt).map_err(|_| NoHash)?;
    Ok(hash.to_string())
}

fn verify(stored: &str, password: &str) -> Result<bool, NoHash> {
    let stored = PasswordHash::new(stored).map_err(|_| NoHash)?;
    Ok(argon2()?.verify_password(password.as_bytes(), &stored).is_ok())
}

fn argon2() -> Result<Argon2<'static>, NoHash> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|_| NoHash)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

#[cfg(test)]
mod test {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_of_a_known_user_opens() {
        let hasher = Hasher::new();
        let stored = hasher.hash("correct horse".to_owned()).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        for (known, password, opens) in [
            (true, "correct horse", true),
            (true, "Correct horse", false),
            (true, "", false),
            (false, "nobody has this password", false),
            (false, "", false),
        ] {
            let stored = known.then(|| stored.clone());
            assert_eq!(hasher.verify(stored, password.to_owned()).await, Ok(opens), "{known} {password}");
        }
        assert_eq!(hasher.verify(Some(stored), "x".repeat(LONGEST + 1)).await, Ok(false));
    }
}
