//! The admin password: argon2id hash in `DIR/web/password`.
//!
//! Invariants
//! - The password itself is never stored or logged; the file holds a PHC string, mode 0600.
//! - Set-up happens once: of two that race, one is answered `exists`.
//! - At most two hashes are computed at a time, so that a flood of log-ins costs bounded memory (19 MiB each).

use crate::errors::{ApiError, ErrorKind};
use crate::store;
use argon2::{Argon2, PasswordHash, PasswordHasher, PasswordVerifier, password_hash::SaltString};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

/// Fewest characters of a new password.
pub(crate) const MIN_CHARACTERS: usize = 8;
/// Most bytes of a password; more costs time and adds nothing.
const MAX_BYTES: usize = 256;

/// A password that nobody has to think of: 100 random bits as `abcde-fghij-…`.
pub fn generate() -> anyhow::Result<String> {
    groups::<20>(5)
}

/// `COUNT` random letters and digits that are not mistaken for each other, 5 bits each, in groups of `size`.
pub(crate) fn groups<const COUNT: usize>(size: usize) -> anyhow::Result<String> {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut random = [0; COUNT];
    getrandom::fill(&mut random).map_err(|e| anyhow::anyhow!("random numbers: {e}"))?;
    let mut out = String::new();
    for (index, byte) in random.iter().enumerate() {
        if index > 0 && index % size == 0 {
            out.push('-');
        }
        out.extend(ALPHABET.get(usize::from(byte % 32)).map(|&c| char::from(c)));
    }
    Ok(out)
}

/// Whether `password` can be one, by its length.
pub(crate) fn check_length(password: &str) -> Result<(), ApiError> {
    if password.chars().count() < MIN_CHARACTERS || password.len() > MAX_BYTES {
        let message = format!("The password needs {MIN_CHARACTERS} to {MAX_BYTES} characters.");
        return Err(ApiError::new(ErrorKind::Invalid, message));
    }
    Ok(())
}

/// The stored password of this node.
pub(crate) struct Password {
    path: PathBuf,
    state: Mutex<State>,
    hashing: Arc<Semaphore>,
    /// Key of `State::proven`, drawn at start.
    key: [u8; 32],
}

#[derive(Default)]
struct State {
    /// PHC string; `None` before set-up.
    hash: Option<String>,
    /// Keyed digest of the password that was verified last: REST clients send it with every request, and one
    /// argon2 run per request would make a status poll cost tens of milliseconds.
    proven: Option<[u8; 32]>,
}

impl Password {
    /// Reads what is stored in `web_dir`.
    pub(crate) fn open(web_dir: &Path) -> anyhow::Result<Self> {
        use anyhow::Context;
        let path = web_dir.join(::control::paths::PASSWORD);
        let hash = match store::read(&path).with_context(|| format!("{}: cannot be read", path.display()))? {
            None => None,
            Some(bytes) => {
                let text = String::from_utf8(bytes).unwrap_or_default().trim().to_owned();
                anyhow::ensure!(
                    PasswordHash::new(&text).is_ok(),
                    "{}: holds no password hash",
                    path.display()
                );
                Some(text)
            }
        };
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|e| anyhow::anyhow!("random numbers: {e}"))?;
        let state = Mutex::new(State { hash, proven: None });
        Ok(Self { path, state, hashing: Arc::new(Semaphore::new(2)), key })
    }

    /// Whether set-up has happened.
    pub(crate) fn is_set(&self) -> bool {
        self.lock().hash.is_some()
    }

    /// Set-up: stores the first password.
    pub(crate) async fn set_first(&self, password: &str) -> Result<(), ApiError> {
        if self.is_set() {
            return Err(already_set());
        }
        let hash = self.hash(password).await?;
        let mut state = self.lock();
        if state.hash.is_some() {
            return Err(already_set());
        }
        self.store(&mut state, hash)
    }

    /// Stores another password, or the first one.
    pub(crate) async fn replace(&self, password: &str) -> Result<(), ApiError> {
        let hash = self.hash(password).await?;
        self.store(&mut self.lock(), hash)
    }

    fn store(&self, state: &mut State, hash: String) -> Result<(), ApiError> {
        store::replace(&self.path, format!("{hash}\n").as_bytes())
            .map_err(|e| ApiError::internal("the password cannot be stored", &e))?;
        *state = State { hash: Some(hash), proven: None };
        Ok(())
    }

    async fn hash(&self, password: &str) -> Result<String, ApiError> {
        check_length(password)?;
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|e| ApiError::internal("random numbers", &e))?;
        let clear = password.to_owned();
        self.compute(move || {
            let salt = SaltString::encode_b64(&salt)?;
            Ok(Argon2::default().hash_password(clear.as_bytes(), &salt)?.to_string())
        })
        .await?
        .map_err(|e: argon2::password_hash::Error| ApiError::internal("password hash", &e))
    }

    /// Whether `password` is the admin's. Takes the same time for every wrong one.
    pub(crate) async fn verify(&self, password: &str) -> Result<bool, ApiError> {
        let digest = self.digest(password);
        let hash = {
            let state = self.lock();
            if state.proven.is_some_and(|proven| bool::from(proven.ct_eq(&digest))) {
                return Ok(true);
            }
            match &state.hash {
                Some(hash) => hash.clone(),
                None => return Ok(false),
            }
        };
        let clear: String = password.chars().take(MAX_BYTES).collect();
        let asked = hash.clone();
        let good = self
            .compute(move || {
                PasswordHash::new(&hash)
                    .is_ok_and(|hash| Argon2::default().verify_password(clear.as_bytes(), &hash).is_ok())
            })
            .await?;
        let mut state = self.lock();
        // It may have been replaced meanwhile: then this one is the password no more.
        let good = good && state.hash == Some(asked);
        if good {
            state.proven = Some(digest);
        }
        Ok(good)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Every change of the state is one assignment: it is whole even after a panic elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn digest(&self, password: &str) -> [u8; 32] {
        Sha256::new().chain_update(self.key).chain_update(password.as_bytes()).finalize().into()
    }

    async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let permit = self.hashing.clone().acquire_owned().await;
        let answer = tokio::task::spawn_blocking(work).await;
        drop(permit);
        answer.map_err(|e| ApiError::internal("password hash", &e))
    }
}

fn already_set() -> ApiError {
    ApiError::new(ErrorKind::Exists, "The admin password of this node is set already. Sign in with it.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn set_once_verified_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let password = Password::open(dir.path()).unwrap();
        assert!(!password.is_set());
        assert!(!password.verify("anything at all").await.unwrap());
        assert_eq!(password.set_first("short").await.unwrap_err().kind, ErrorKind::Invalid);
        password.set_first("correct horse").await.unwrap();
        assert_eq!(password.set_first("another one").await.unwrap_err().kind, ErrorKind::Exists);
        for _ in 0..2 {
            assert!(password.verify("correct horse").await.unwrap());
            assert!(!password.verify("correct hors").await.unwrap());
        }
        let again = Password::open(dir.path()).unwrap();
        assert!(again.is_set() && again.verify("correct horse").await.unwrap());
        let stored = std::fs::read_to_string(dir.path().join("password")).unwrap();
        assert!(stored.starts_with("$argon2id$") && !stored.contains("correct"));
    }

    #[tokio::test]
    async fn another_one_takes_the_place_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let password = Password::open(dir.path()).unwrap();
        password.replace("correct horse").await.unwrap();
        assert!(password.verify("correct horse").await.unwrap());
        assert_eq!(password.replace("short").await.unwrap_err().kind, ErrorKind::Invalid);
        assert!(password.verify("correct horse").await.unwrap(), "nothing was changed");
        password.replace("battery staple").await.unwrap();
        assert!(!password.verify("correct horse").await.unwrap(), "though it was proven before");
        let again = Password::open(dir.path()).unwrap();
        assert!(again.verify("battery staple").await.unwrap());
        assert!(!again.verify("correct horse").await.unwrap());
    }

    #[test]
    fn generated_passwords_differ_and_are_long_enough() {
        let (one, two) = (generate().unwrap(), generate().unwrap());
        assert!(one != two && one.len() == 23 && one.split('-').all(|g| g.len() == 5), "{one}");
    }

    #[test]
    fn a_damaged_file_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("password"), "not a hash").unwrap();
        let error = Password::open(dir.path()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("password") && error.contains("holds no password hash"), "{error}");
    }
}
