//! The machine below the node.

use super::extract::{Body, DONE, DoneAnswer};
use crate::app::Shared;
use crate::errors::{ApiError, ErrorKind};
use crate::machine;
use axum::Json;
use axum::extract::State;
use control::network::Network;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Duration;

/// The answer to a request has this long to leave before the machine goes down.
const BEFORE_RESTART: Duration = Duration::from_secs(1);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    /// With its prefix length.
    address: String,
    gateway: Option<IpAddr>,
}

/// Where the machine is, or from its next start on will be.
pub(super) async fn network(State(app): State<Shared>) -> Result<Json<Place>, ApiError> {
    let network = machine::settings(&app.dir)?.network();
    Ok(Json(Place { address: network.to_string(), gateway: network.gateway }))
}

/// Puts the machine elsewhere, and restarts it.
pub(super) async fn set_network(State(app): State<Shared>, Body(place): Body<Place>) -> DoneAnswer {
    let gateway = place.gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
    let network = Network::typed(&place.address, &gateway)
        .map_err(|e| ApiError::new(ErrorKind::Invalid, format!("{e}.")))?;
    machine::set_network(&app.dir, network)?;
    tokio::spawn(async move {
        tokio::time::sleep(BEFORE_RESTART).await;
        if let Err(error) = machine::restart(&app.dir) {
            tracing::error!(%error, "restart");
        }
    });
    Ok(DONE)
}
