//! Set-up of a machine without settings: the only part of the interface that it has.

use super::extract::Body;
use crate::csrf;
use crate::errors::{ApiError, ErrorKind};
use crate::guard::Peer;
use crate::setup::{Refusal, Request, Shared};
use crate::text;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use control::setup::{Machine, Wanted};
use serde::{Deserialize, Serialize};

#[derive(Serialize)]
pub(super) struct SetupState {
    needed: bool,
    /// What the machine has.
    machine: Machine,
}

/// What is asked for.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewMachine {
    /// The code on the machine's screen.
    pub(crate) code: String,
    /// The administrator's password.
    pub(crate) password: String,
    /// As in [`Wanted`], all of these.
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) role: String,
    pub(crate) address: String,
    #[serde(default)]
    pub(crate) gateway: String,
    #[serde(default)]
    pub(crate) mirror_address: String,
    #[serde(default)]
    pub(crate) dns: String,
    #[serde(default)]
    pub(crate) ntp: String,
    #[serde(default)]
    pub(crate) disks: Option<Vec<String>>,
}

/// What has come of it.
#[derive(Serialize)]
pub(super) struct SetUp {
    done: bool,
    /// Where the console will be.
    url: String,
    /// SHA-256 of its certificate.
    fingerprint: String,
}

/// That set-up is to be done, and what the machine has.
pub(super) async fn state(State(setup): State<Shared>) -> Result<Json<SetupState>, ApiError> {
    Ok(Json(SetupState { needed: true, machine: setup.machine()? }))
}

/// Makes the machine a node.
pub(super) async fn set_up(
    State(setup): State<Shared>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Body(new): Body<NewMachine>,
) -> Result<Json<SetUp>, ApiError> {
    csrf::refuse_foreign(&headers)?;
    let NewMachine { code, password, name, role, address, gateway, mirror_address, dns, ntp, disks } = new;
    let wanted = Wanted { name, role, address, gateway, mirror_address, dns, ntp, disks };
    let request = Request { code, password, wanted };
    let settings = setup.set_up(peer.address()?, &request).await.map_err(as_error)?;
    let answer =
        SetUp { done: true, url: text::console_url(&settings), fingerprint: setup.fingerprint.clone() };
    setup.farewell();
    Ok(Json(answer))
}

fn as_error(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::Code(error) | Refusal::Other(error) => error,
        Refusal::Fields(faults) => {
            let lines: Vec<String> =
                faults.iter().map(|fault| format!("{}: {}", fault.setting, fault.reason)).collect();
            ApiError::new(ErrorKind::Invalid, lines.join("; "))
        }
    }
}

/// Everything else is for a node.
pub(super) async fn not_yet(uri: axum::http::Uri) -> ApiError {
    let text =
        format!("There is no {} yet: this machine has no settings. POST them to /api/v1/setup.", uri.path());
    ApiError::new(ErrorKind::SetupNeeded, text)
}
