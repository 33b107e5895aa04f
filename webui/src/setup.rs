//! The set-up console: all that the network sees of a machine that has no settings yet. It asks who the machine is to
//! be and writes that down; then it ends, and PID 1 goes on with the settings.
//!
//! Invariants
//! - Nobody sets the machine up without the code on its screen, which is new at each start of this process; wrong codes
//!   make their address wait ([`crate::limiter`]).
//! - Page, REST and the command line set up through one function, [`Setup::set_up`].
//! - The settings are written last, and once: a machine that has them has its password, too.
//! - The certificate is the one that the node keeps: the fingerprint on the screen stays right.

use crate::certificate::{self, Certificate};
use crate::errors::{ApiError, ErrorKind};
use crate::limiter::Limiter;
use crate::password::{self, Password};
use crate::{rest, server, store, views};
use anyhow::{Context, Result};
use axum::Router;
use control::paths;
use control::settings::{Settings, SettingsError};
use control::setup::{Door, Machine, Wanted};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;
use tokio::sync::{Mutex, Notify};

/// What the certificate calls the machine that has no name yet.
const NAMELESS: &str = "futago";
/// Characters of the code, 5 bits each, and how they are grouped.
const CODE_CHARACTERS: usize = 8;
const CODE_GROUP: usize = 4;
/// How long the last page stays, with what belongs to it, before PID 1 gets on.
const FAREWELL: Duration = Duration::from_secs(2);

/// Handed to every handler.
pub(crate) type Shared = Arc<Setup>;

/// One set-up console.
pub(crate) struct Setup {
    dir: PathBuf,
    code: String,
    /// SHA-256 of the console's certificate.
    pub(crate) fingerprint: String,
    password: Password,
    limiter: Limiter,
    /// Held while somebody sets the machine up; true from then on.
    is_done: Mutex<bool>,
    done: Notify,
}

/// What somebody asks for.
pub(crate) struct Request {
    /// The code on the screen.
    pub(crate) code: String,
    /// Who the machine is to be.
    pub(crate) wanted: Wanted,
    /// The administrator's password.
    pub(crate) password: String,
}

/// Why the machine was not set up.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The code is wrong, or it is too early to try another one.
    Code(ApiError),
    /// Fields that can't be used: those of [`Wanted`], `password`.
    Fields(Vec<SettingsError>),
    /// Anything else.
    Other(ApiError),
}

/// Serves the set-up console of `dir` on `port` of the address that the machine has been lent, until it is set up.
pub(crate) async fn serve(dir: &Path, port: u16) -> Result<()> {
    let machine = read_machine(dir)?;
    let address = SocketAddr::new(machine.address, port);
    let listener = server::listen_tcp(address).await?;
    let (setup, certificate) = Setup::start(dir, machine.address)?;
    let door = Door { code: setup.code.clone(), fingerprint: setup.fingerprint.clone() };
    let path = dir.join(paths::SETUP_DOOR);
    store::replace(&path, &serde_json::to_vec(&door)?)
        .with_context(|| format!("{}: cannot be written", path.display()))?;
    tracing::info!(url = %format!("https://{address}"), fingerprint = setup.fingerprint, "set-up console");
    tokio::select! {
        () = server::serve_tls(listener, certificate.tls, router(setup.clone())) => anyhow::bail!("set-up console: its server ended"),
        () = setup.done.notified() => {}
    }
    Ok(())
}

fn router(setup: Shared) -> Router {
    let router = views::setup_router().merge(rest::setup_router()).with_state(setup);
    router.layer(axum::middleware::from_fn(crate::headers::protect))
}

fn read_machine(dir: &Path) -> Result<Machine> {
    let path = dir.join(paths::SETUP_MACHINE);
    let bytes = std::fs::read(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| path.display().to_string())
}

/// What counts in a code that somebody has typed.
fn characters(code: &str) -> String {
    code.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

impl Setup {
    fn start(dir: &Path, address: IpAddr) -> Result<(Shared, Certificate)> {
        let web_dir = dir.join(paths::WEB_DIR);
        store::private_dir(&web_dir).with_context(|| format!("{}: cannot be made", web_dir.display()))?;
        let certificate = certificate::load_or_make(&web_dir, NAMELESS, address)?;
        let setup = Self {
            dir: dir.to_owned(),
            code: password::groups::<CODE_CHARACTERS>(CODE_GROUP)?,
            fingerprint: certificate.fingerprint.clone(),
            password: Password::open(&web_dir)?,
            limiter: Limiter::default(),
            is_done: Mutex::new(false),
            done: Notify::new(),
        };
        Ok((Arc::new(setup), certificate))
    }

    /// What PID 1 knows of the machine by now: disks come and go.
    pub(crate) fn machine(&self) -> Result<Machine, ApiError> {
        read_machine(&self.dir)
            .map_err(|e| ApiError::internal("What this machine has is not known", &format!("{e:#}")))
    }

    /// Makes the machine what is asked for: the one way for the page, REST and the command line.
    pub(crate) async fn set_up(&self, peer: IpAddr, request: &Request) -> Result<Settings, Refusal> {
        self.check_code(peer, &request.code).map_err(Refusal::Code)?;
        let machine = self.machine().map_err(Refusal::Other)?;
        let settings = machine.settings(&request.wanted);
        let mut faults = settings.as_ref().err().cloned().unwrap_or_default();
        if let Err(error) = password::check_length(&request.password) {
            faults.push(SettingsError { setting: "password", reason: error.message });
        }
        let settings = match settings {
            Ok(settings) if faults.is_empty() => settings,
            Ok(_) | Err(_) => return Err(Refusal::Fields(faults)),
        };
        self.store(&settings, &request.password).await.map_err(Refusal::Other)?;
        tracing::info!(name = settings.name, address = %settings.address, "set up");
        Ok(settings)
    }

    fn check_code(&self, peer: IpAddr, code: &str) -> Result<(), ApiError> {
        self.limiter.attempt(peer, Instant::now()).map_err(|wait| ApiError::wait("setup codes", wait))?;
        if bool::from(characters(code).as_bytes().ct_eq(characters(&self.code).as_bytes())) {
            self.limiter.forgive(peer);
            return Ok(());
        }
        tracing::warn!(%peer, "wrong setup code");
        Err(ApiError::new(ErrorKind::Forbidden, "Wrong setup code. It stands on the machine's screen."))
    }

    async fn store(&self, settings: &Settings, password: &str) -> Result<(), ApiError> {
        let path = self.dir.join(paths::SETTINGS);
        let mut is_done = self.is_done.lock().await;
        if *is_done || path.exists() {
            return Err(ApiError::new(ErrorKind::Exists, "This machine is set up already."));
        }
        let json = serde_json::to_vec_pretty(settings)
            .map_err(|e| ApiError::internal("the settings cannot be written", &e))?;
        self.password.replace(password).await?;
        store::replace(&path, &json)
            .map_err(|e| ApiError::internal(&format!("{}: cannot be written", path.display()), &e))?;
        *is_done = true;
        Ok(())
    }

    /// Lets PID 1 go on, once the answer that is under way has arrived.
    pub(crate) fn farewell(self: Arc<Self>) {
        tokio::spawn(async move {
            tokio::time::sleep(FAREWELL).await;
            self.done.notify_one();
        });
    }
}

#[cfg(test)]
#[path = "setup_tests.rs"]
mod tests;
