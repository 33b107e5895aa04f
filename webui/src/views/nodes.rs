//! Nodes: members, the cluster's creation, pairing.

use super::form::Signed;
use super::panels::{self, Panels};
use super::shell::{Shell, Tab};
use super::{Page, Viewer, back, html};
use crate::app::Shared;
use crate::errors::{ApiError, ErrorKind};
use crate::text;
use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use control::api::{Answer, Command};
use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};

#[derive(Template)]
#[template(path = "nodes.html")]
struct NodesPage {
    shell: Shell,
    panels: Panels,
    in_cluster: bool,
    known: bool,
    offer: Option<Offer>,
    fingerprint: String,
    cluster_address: String,
}

struct Offer {
    code: String,
    valid: String,
}

fn show(app: &Shared, viewer: &Viewer, offer: Option<Offer>) -> Page {
    let seen = app.seen();
    let status = seen.status.as_ref();
    html(&NodesPage {
        shell: Shell::new(app, viewer, Tab::Nodes, "Nodes"),
        panels: panels::render(&seen)?,
        in_cluster: status.is_some_and(|s| s.cluster.is_some()),
        known: status.is_some(),
        offer,
        fingerprint: app.fingerprint.clone(),
        cluster_address: app.settings.cluster_address().to_string(),
    })
}

/// The page.
pub(super) async fn page(State(app): State<Shared>, Extension(viewer): Extension<Viewer>) -> Page {
    show(&app, &viewer, None)
}

/// `10.0.0.5` or `10.0.0.5:7780`, `fe80::1` or `[fe80::1]:7780`.
fn address(text: &str, default_port: u16) -> Result<SocketAddr, ApiError> {
    let text = text.trim();
    let whole = text.parse().ok();
    whole.or_else(|| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, default_port))).ok_or_else(
        || {
            ApiError::new(
                ErrorKind::Invalid,
                format!("{text:?} is no address; examples: 10.0.0.5, 10.0.0.5:{default_port}"),
            )
        },
    )
}

#[derive(Deserialize)]
pub(super) struct NewCluster {
    portal: String,
}

/// Makes this node the first of a new cluster.
pub(super) async fn create_cluster(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Signed(new): Signed<NewCluster>,
) -> Response {
    let outcome = match address(&new.portal, 3260) {
        Ok(portal) => app.command(&Command::CreateCluster { portal }).await,
        Err(error) => Err(error),
    };
    back(&app, &viewer, "/nodes", outcome, "The cluster is created. Add the other nodes now.".to_owned())
}

#[derive(Deserialize)]
pub(super) struct Nothing {}

/// Shows a pairing code.
pub(super) async fn offer(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Signed(Nothing {}): Signed<Nothing>,
) -> Page {
    match app.command(&Command::OfferPairing).await {
        Ok(Answer::PairingCode { code, valid_s }) => {
            show(&app, &viewer, Some(Offer { code, valid: text::duration(valid_s) }))
        }
        Ok(Answer::Done | Answer::Failed { .. }) => {
            Err(ApiError::internal("pairing", &"the cluster manager gave no code").into())
        }
        Err(error) => Ok(back(&app, &viewer, "/nodes", Err::<(), _>(error), String::new())),
    }
}

#[derive(Deserialize)]
pub(super) struct Join {
    address: String,
    code: String,
}

/// Adds the node that shows the code.
pub(super) async fn pair(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Signed(join): Signed<Join>,
) -> Response {
    let outcome = match address(&join.address, app.settings.ports.cluster) {
        Ok(address) => app.command(&Command::Pair { address, code: join.code.trim().to_owned() }).await,
        Err(error) => Err(error),
    };
    back(&app, &viewer, "/nodes", outcome, format!("The node at {} is in the cluster.", join.address.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_may_be_left_out() {
        for (text, expected) in
            [("10.0.0.5", "10.0.0.5:7780"), (" 10.0.0.5:9 ", "10.0.0.5:9"), ("::1", "[::1]:7780")]
        {
            assert_eq!(address(text, 7780).unwrap().to_string(), expected);
        }
        assert!(address("esx1", 7780).is_err());
    }
}
