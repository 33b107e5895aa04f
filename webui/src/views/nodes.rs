//! Nodes: members, the cluster's creation, pairing.

use super::confirm::Confirm;
use super::error::PageError;
use super::form::Signed;
use super::panels::{self, Panels};
use super::shell::{Shell, Tab};
use super::{Page, Viewer, back, back_or_again, html, words};
use crate::app::Shared;
use crate::errors::{ApiError, ErrorKind};
use crate::sessions::Typed;
use crate::text::{self, segment};
use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use control::api::{Answer, Command, Status, redundancy};
use control::settings::Role;
use serde::Deserialize;
use std::net::SocketAddr;

#[derive(Template)]
#[template(path = "nodes.html")]
struct NodesPage {
    shell: Shell,
    panels: Panels,
    in_cluster: bool,
    /// Nothing can be decided without.
    quorum: bool,
    /// The other members: name, and where to remove it.
    others: Vec<(String, String)>,
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
        quorum: status.and_then(|s| s.cluster.as_ref()).is_some_and(|c| c.quorum),
        others: status.map(others).unwrap_or_default(),
        known: status.is_some(),
        offer,
        fingerprint: app.fingerprint.clone(),
        cluster_address: app.settings.cluster_address().to_string(),
    })
}

fn others(status: &Status) -> Vec<(String, String)> {
    let members = status.cluster.as_ref().map_or(&[][..], |cluster| &cluster.members);
    let others = words::in_order(members).into_iter().filter(|member| member.name != status.node);
    others.map(|member| (member.name.clone(), format!("/nodes/{}/remove", segment(&member.name)))).collect()
}

/// The page.
pub(super) async fn page(State(app): State<Shared>, Extension(viewer): Extension<Viewer>) -> Page {
    show(&app, &viewer, None)
}

fn address(text: &str, default_port: u16) -> Result<SocketAddr, ApiError> {
    text::parse_address(text, default_port).map_err(|reason| ApiError::new(ErrorKind::Invalid, reason + "."))
}

/// The forms of the page have one field each that is no secret.
fn on_page(field: (&'static str, String)) -> Typed {
    Typed { page: "/nodes".to_owned(), form: "node".to_owned(), fields: vec![field] }
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
    let typed = on_page(("portal", new.portal));
    let done = "The cluster is created. Add the other nodes now.".to_owned();
    back_or_again(&app, &viewer, "/nodes", outcome, done, typed)
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
    let done = format!("The node at {} is in the cluster.", join.address.trim());
    back_or_again(&app, &viewer, "/nodes", outcome, done, on_page(("address", join.address)))
}

/// Asks before a node is removed.
pub(super) async fn ask_remove(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Path(name): Path<String>,
) -> Page {
    let seen = app.seen();
    let members = seen.status.as_ref().and_then(|s| s.cluster.as_ref()).map_or(&[][..], |c| &c.members);
    let Some(member) = members.iter().find(|member| member.name == name) else {
        return Err(PageError::new(ErrorKind::NotFound, format!("There is no node {name} in the cluster.")));
    };
    let left = || members.iter().filter(|member| member.name != name);
    let data = left().filter(|member| member.role == Role::Data).count();
    let mut text = vec![format!(
        "For a node that is lost for good, or is to be replaced. Node {name} is not trusted any more; to come back it has \
             to be reset and paired as a new node."
    )];
    if member.role == Role::Data {
        text.push(
            "Its copies of volumes are given up. A new data node gets copies of its own as soon as it is paired."
                .to_owned(),
        );
    }
    text.extend(redundancy(data, left().count()).map(|lack| format!("Afterwards: {lack}")));
    html(&Confirm {
        shell: Shell::new(&app, &viewer, Tab::Nodes, &format!("Remove node {name} from the cluster?")),
        text,
        action: format!("/nodes/{}/remove", segment(&name)),
        fields: Vec::new(),
        typed: Some(name.clone()),
        button: format!("Remove {name}"),
        danger: true,
        cancel: "/nodes".to_owned(),
    })
}

#[derive(Deserialize)]
pub(super) struct Removal {
    confirm: String,
}

/// Does it.
pub(super) async fn remove(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Path(name): Path<String>,
    Signed(form): Signed<Removal>,
) -> Response {
    let outcome = if form.confirm.trim() == name {
        app.command(&Command::RemoveMember { name: name.clone() }).await
    } else {
        let text = format!("The name typed is not {name}; nothing was removed.");
        Err(ApiError::new(ErrorKind::Invalid, text))
    };
    back(&app, &viewer, "/nodes", outcome, format!("Node {name} is no member any more."))
}
