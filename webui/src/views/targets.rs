//! Targets: what initiators see, who they may be, and how to connect them.

use super::confirm::Confirm;
use super::error::PageError;
use super::form::Signed;
use super::panels::{self, Panels};
use super::shell::{Shell, Tab};
use super::{Page, Viewer, back, back_or_again, html, words};
use crate::app::Shared;
use crate::errors::{ApiError, ErrorKind};
use crate::sessions::Typed;
use crate::text::segment;
use askama::Template;
use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Response;
use control::api::{Command, LunStatus, SessionStatus, Status, TargetStatus};
use control::names::{Pattern, normal};
use serde::Deserialize;

#[derive(Template)]
#[template(path = "targets.html")]
struct TargetsPage {
    shell: Shell,
    panels: Panels,
    targets: Vec<TargetStatus>,
    sessions: Vec<SessionStatus>,
    /// Those that are no LUN yet.
    volumes: Vec<String>,
    /// There are others.
    mapped: bool,
    stale: Option<String>,
}

#[derive(Template)]
#[template(path = "lun.html")]
struct LunPage {
    shell: Shell,
    iqn: String,
    lun: LunStatus,
    stale: Option<String>,
}

/// The page.
pub(super) async fn page(State(app): State<Shared>, Extension(viewer): Extension<Viewer>) -> Page {
    let seen = app.fresh().await;
    let shell = Shell::new(&app, &viewer, Tab::Targets, "Targets");
    let panels = panels::render(&seen)?;
    let stale = panels::stale_mark(&seen);
    let (targets, volumes, sessions) =
        seen.status.map(|s| (s.targets, s.volumes, s.sessions)).unwrap_or_default();
    let mapped = |name: &str| targets.iter().flat_map(|t| &t.luns).any(|lun| lun.volume == name);
    let (used, free): (Vec<_>, Vec<_>) = volumes.into_iter().map(|v| v.name).partition(|name| mapped(name));
    let (volumes, mapped) = (free, !used.is_empty());
    html(&TargetsPage { shell, panels, targets, sessions, volumes, mapped, stale })
}

/// The target of that name.
pub(super) fn find<'a>(status: Option<&'a Status>, iqn: &str) -> Result<&'a TargetStatus, PageError> {
    let found = status.and_then(|s| s.targets.iter().find(|t| t.iqn == iqn));
    found.ok_or_else(|| PageError::new(ErrorKind::NotFound, format!("There is no target {iqn}.")))
}

#[derive(Deserialize)]
pub(super) struct NewTarget {
    iqn: String,
}

/// A new target.
pub(super) async fn create(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Signed(new): Signed<NewTarget>,
) -> Response {
    let iqn = normal(&new.iqn);
    let outcome = app.command(&Command::CreateTarget { iqn: iqn.clone() }).await;
    let typed = on_page("target", vec![("iqn", new.iqn)]);
    let done = format!("Target {iqn} is created. Give it a LUN now.");
    back_or_again(&app, &viewer, "/targets", outcome, done, typed)
}

#[derive(Deserialize)]
pub(super) struct NewLun {
    iqn: String,
    // Text, as a flattened form hands every field over.
    lun: String,
    volume: String,
    /// A box that is not ticked is not sent.
    read_only: Option<String>,
    #[serde(default)]
    initiators: String,
}

/// A form of the page: a target's are told apart by its name.
pub(super) fn on_page(form: &str, fields: Vec<(&'static str, String)>) -> Typed {
    Typed { page: "/targets".to_owned(), form: form.to_owned(), fields }
}

fn lun_number(text: &str) -> Result<u16, ApiError> {
    text.trim().parse().map_err(|_| {
        let message = format!("{text:?} is no LUN; it is a number from 0 to 16383.");
        ApiError::new(ErrorKind::Invalid, message)
    })
}

/// Patterns of initiators: commas, blanks or line ends stand between them.
fn patterns(text: &str) -> Vec<Pattern> {
    let parts = text.split(|c: char| c == ',' || c.is_whitespace());
    parts.filter(|part| !part.is_empty()).map(Pattern::typed).collect()
}

/// Shows a volume as a LUN.
pub(super) async fn map(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Signed(new): Signed<NewLun>,
) -> Response {
    let done = format!("Volume {} is LUN {} now.", new.volume, new.lun.trim());
    let mut fields = vec![
        ("lun", new.lun.clone()),
        ("volume", new.volume.clone()),
        ("initiators", new.initiators.clone()),
    ];
    fields.extend(new.read_only.clone().map(|yes| ("read_only", yes)));
    let typed = on_page(&new.iqn, fields);
    let outcome = match lun_number(&new.lun) {
        Ok(lun) => {
            let (read_only, initiators) = (new.read_only.is_some(), patterns(&new.initiators));
            app.command(&Command::MapLun { iqn: new.iqn, lun, volume: new.volume, read_only, initiators })
                .await
        }
        Err(error) => Err(error),
    };
    back_or_again(&app, &viewer, "/targets", outcome, done, typed)
}

#[derive(Deserialize)]
pub(super) struct WhichLun {
    iqn: String,
    lun: u16,
}

/// One LUN.
pub(super) async fn lun(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Query(which): Query<WhichLun>,
) -> Page {
    let seen = app.fresh().await;
    let target = find(seen.status.as_ref(), &which.iqn)?;
    let lun = target.luns.iter().find(|l| l.lun == which.lun).cloned().ok_or_else(|| {
        PageError::new(ErrorKind::NotFound, format!("{} has no LUN {}.", which.iqn, which.lun))
    })?;
    html(&LunPage {
        shell: Shell::new(&app, &viewer, Tab::Targets, &format!("LUN {}", which.lun)),
        iqn: which.iqn,
        lun,
        stale: panels::stale_mark(&seen),
    })
}

#[derive(Deserialize)]
pub(super) struct LunChange {
    iqn: String,
    lun: String,
    /// A box that is not ticked is not sent.
    read_only: Option<String>,
    #[serde(default)]
    initiators: String,
}

/// Changes how it is shown.
pub(super) async fn change(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Signed(new): Signed<LunChange>,
) -> Response {
    let read_only = new.read_only.is_some();
    let done = format!("LUN {} of {} is {} now.", new.lun.trim(), new.iqn, words::access(read_only));
    let typed = Typed {
        page: format!("/targets/luns?iqn={}&lun={}", segment(&new.iqn), segment(new.lun.trim())),
        form: "lun".to_owned(),
        fields: vec![
            ("initiators", new.initiators.clone()),
            ("read_only", new.read_only.clone().unwrap_or_default()),
        ],
    };
    let outcome = match lun_number(&new.lun) {
        Ok(lun) => {
            let (read_only, initiators) = (Some(read_only), Some(patterns(&new.initiators)));
            app.command(&Command::ChangeLun { iqn: new.iqn, lun, read_only, initiators }).await
        }
        Err(error) => Err(error),
    };
    back_or_again(&app, &viewer, "/targets", outcome, done, typed)
}

#[derive(Deserialize)]
pub(super) struct Removal {
    iqn: String,
    /// Without it, the whole target.
    lun: Option<String>,
}

/// Asks first.
pub(super) async fn ask_remove(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Query(what): Query<Removal>,
) -> Page {
    let mut fields = vec![("iqn", what.iqn.clone())];
    let (title, text, button) = match what.lun {
        Some(lun) => {
            fields.push(("lun", lun.clone()));
            let text =
                format!("Initiators lose LUN {lun} of {} at once. The volume and its data stay.", what.iqn);
            (format!("Take LUN {lun} away?"), text, "Take the LUN away".to_owned())
        }
        None => {
            let text =
                format!("Initiators can no longer sign in to {}. Volumes and their data stay.", what.iqn);
            ("Delete the target?".to_owned(), text, "Delete the target".to_owned())
        }
    };
    html(&Confirm {
        shell: Shell::new(&app, &viewer, Tab::Targets, &title),
        text: vec![text, "A host that runs virtual machines from it sees its datastore vanish.".to_owned()],
        action: "/targets/remove".to_owned(),
        fields,
        typed: None,
        button,
        danger: true,
        cancel: "/targets".to_owned(),
    })
}

/// Takes a LUN or a target away.
pub(super) async fn remove(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Signed(what): Signed<Removal>,
) -> Response {
    let iqn = what.iqn.clone();
    let (command, done) = match what.lun.as_deref().map(lun_number) {
        None => (Ok(Command::DeleteTarget { iqn }), format!("Target {} is deleted.", what.iqn)),
        Some(Ok(lun)) => (Ok(Command::UnmapLun { iqn, lun }), format!("LUN {lun} of {} is gone.", what.iqn)),
        Some(Err(error)) => (Err(error), String::new()),
    };
    let outcome = match command {
        Ok(command) => app.command(&command).await,
        Err(error) => Err(error),
    };
    back(&app, &viewer, "/targets", outcome, done)
}
