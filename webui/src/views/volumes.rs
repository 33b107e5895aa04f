//! Volumes: create, look at, hand over, delete.

use super::confirm::Confirm;
use super::error::PageError;
use super::form::Signed;
use super::panels::{self, Panels, VolumeCard};
use super::shell::{Shell, Tab};
use super::{Page, Viewer, back, back_or_again, html};
use crate::app::Shared;
use crate::errors::{ApiError, ErrorKind};
use crate::sessions::Typed;
use crate::text::{self, segment};
use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use base::ByteCount;
use control::api::{Command, Status, VolumeStatus, moving_with, successor};
use control::settings::Role;
use control::targets::{BlockFormat, Presentation};
use serde::Deserialize;

#[derive(Template)]
#[template(path = "volumes.html")]
struct VolumesPage {
    shell: Shell,
    panels: Panels,
    /// Space that each node for a new volume has left.
    room: Option<ByteCount>,
    stale: Option<String>,
}

/// A larger size on its way.
struct Growing {
    size: ByteCount,
    ready: String,
    waiting_for: String,
}

#[derive(Template)]
#[template(path = "volume.html")]
struct VolumePage {
    shell: Shell,
    card: VolumeCard,
    meaning: &'static str,
    bytes: u64,
    dirty: ByteCount,
    resynced: ByteCount,
    luns: Vec<(String, u16)>,
    growth: Option<Growing>,
    /// Why a copy is missing.
    problems: Vec<String>,
    /// Why the last growth did not come about.
    not_grown: Option<String>,
    /// About the largest size that every data node has the space for.
    largest: Option<ByteCount>,
    /// How initiators see it.
    format: String,
    stale: Option<String>,
}

/// The page.
pub(super) async fn page(State(app): State<Shared>, Extension(viewer): Extension<Viewer>) -> Page {
    let seen = app.seen();
    html(&VolumesPage {
        shell: Shell::new(&app, &viewer, Tab::Volumes, "Volumes").reloading(5),
        panels: panels::render(&seen)?,
        room: seen.status.as_ref().and_then(room),
        stale: panels::stale_mark(&seen),
    })
}

/// A new volume fits if each node that is to hold it has the space: those that hold the others.
fn room(status: &Status) -> Option<ByteCount> {
    let members = &status.cluster.as_ref()?.members;
    let holds = |name: &String| status.volumes.iter().any(|volume| volume.replicas.contains(name));
    let all_on_few = members.iter().filter(|m| holds(&m.name)).count() > 1;
    let taken = members.iter().filter(|m| m.role == Role::Data && (!all_on_few || holds(&m.name)));
    taken.map(|m| m.free).min()
}

fn find<'a>(status: Option<&'a Status>, name: &str) -> Result<&'a VolumeStatus, PageError> {
    let found = status.and_then(|s| s.volumes.iter().find(|v| v.name == name));
    found.ok_or_else(|| PageError::new(ErrorKind::NotFound, format!("There is no volume {name}.")))
}

/// One volume.
pub(super) async fn detail(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Path(name): Path<String>,
) -> Page {
    let seen = app.seen();
    let volume = find(seen.status.as_ref(), &name)?;
    let targets = seen.status.as_ref().map_or(&[][..], |s| &s.targets);
    let luns = targets
        .iter()
        .flat_map(|t| t.luns.iter().filter(|l| l.volume == name).map(|l| (t.iqn.clone(), l.lun)))
        .collect();
    html(&VolumePage {
        shell: Shell::new(&app, &viewer, Tab::Volumes, &format!("Volume {name}")).reloading(5),
        card: VolumeCard::of(volume, seen.status.as_ref().map_or(&[], |s| &s.volumes), seen.is_stale()),
        meaning: super::words::volume(volume.state).meaning,
        bytes: volume.size.0,
        dirty: volume.dirty,
        resynced: volume.resynced_total,
        luns,
        growth: volume.growth.as_ref().map(|growth| Growing {
            size: growth.size,
            ready: growth.ready.join(", "),
            waiting_for: growth.waiting_for.join(", "),
        }),
        problems: volume.problems.clone(),
        not_grown: volume.not_grown.clone(),
        largest: seen
            .status
            .as_ref()
            .and_then(room)
            .map(|room| ByteCount(volume.size.0.saturating_add(room.0))),
        format: format!(
            "{}, {}",
            volume.block_format.word(),
            if volume.thin { "takes UNMAP" } else { "without UNMAP" }
        ),
        stale: panels::stale_mark(&seen),
    })
}

#[derive(Deserialize)]
pub(super) struct NewVolume {
    name: String,
    size: String,
    #[serde(default)]
    block_format: BlockFormat,
    /// A box that is not ticked is not sent.
    no_thin: Option<String>,
}

impl NewVolume {
    fn typed(&self) -> Typed {
        let format = self.block_format.word().to_owned();
        let mut fields =
            vec![("name", self.name.clone()), ("size", self.size.clone()), ("block_format", format)];
        fields.extend(self.no_thin.clone().map(|yes| ("no_thin", yes)));
        Typed { page: "/volumes".to_owned(), form: "volume".to_owned(), fields }
    }
}

/// Creates one.
pub(super) async fn create(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Signed(new): Signed<NewVolume>,
) -> Response {
    let name = new.name.trim().to_owned();
    let typed = new.typed();
    let outcome = match text::parse_size(&new.size) {
        Ok(size) => {
            let presentation = Presentation { block_format: new.block_format, thin: new.no_thin.is_none() };
            app.command(&Command::CreateVolume { name: name.clone(), size, presentation }).await
        }
        Err(message) => Err(ApiError::new(ErrorKind::Invalid, format!("{message}."))),
    };
    let done = format!("Volume {name} is created. Give it a LUN on the Targets page.");
    back_or_again(&app, &viewer, "/volumes", outcome, done, typed)
}

#[derive(Deserialize)]
pub(super) struct Growth {
    size: String,
}

/// Gives it a larger size.
pub(super) async fn grow(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Path(name): Path<String>,
    Signed(form): Signed<Growth>,
) -> Response {
    let outcome = match text::parse_size(&form.size) {
        Ok(size) => app.command(&Command::GrowVolume { name: name.clone(), size }).await,
        Err(message) => Err(ApiError::new(ErrorKind::Invalid, format!("{message}."))),
    };
    let page = format!("/volumes/{}", segment(&name));
    let done = format!("Volume {name} grows. When it has its new size, rescan the storage on your hosts.");
    let typed = Typed { page: page.clone(), form: "growth".to_owned(), fields: vec![("size", form.size)] };
    back_or_again(&app, &viewer, &page, outcome, done, typed)
}

/// Asks before a hand-over.
pub(super) async fn ask_hand_over(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Path(name): Path<String>,
) -> Page {
    let seen = app.seen();
    let volume = find(seen.status.as_ref(), &name)?;
    let volumes = seen.status.as_ref().map_or(&[][..], |s| &s.volumes);
    let moving = moving_with(volumes, volume);
    let Some(to) = successor(volumes, volume) else {
        let text =
            format!("No other node has {} in sync, so there is nobody to hand over to.", moving.join(", "));
        return Err(PageError::new(ErrorKind::Refused, text));
    };
    let from = volume.primary.as_deref().unwrap_or("no node");
    let what = match moving.as_slice() {
        [_] => "the volume".to_owned(),
        all => format!("{}: all of them move, as hosts reach them at one address", all.join(", ")),
    };
    html(&Confirm {
        shell: Shell::new(&app, &viewer, Tab::Volumes, &format!("Hand {name} over to node {to}?")),
        text: vec![
            format!("Node {from} finishes and flushes what it was given, then node {to} serves {what}."),
            "Initiators pause for a moment and reconnect at the same address. The copies stay in sync; no data moves."
                .to_owned(),
        ],
        action: format!("/volumes/{}/handover", segment(&name)),
        fields: vec![("to", to.to_owned())],
        typed: None,
        button: format!("Hand over to {to}"),
        danger: false,
        cancel: "/".to_owned(),
    })
}

#[derive(Deserialize)]
pub(super) struct HandOver {
    to: String,
}

/// Does it.
pub(super) async fn hand_over(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Path(volume): Path<String>,
    Signed(form): Signed<HandOver>,
) -> Response {
    let seen = app.seen();
    let volumes = seen.status.as_ref().map_or(&[][..], |s| &s.volumes);
    let moving = volumes.iter().find(|v| v.name == volume).map_or(vec![], |v| moving_with(volumes, v));
    let done = match moving.as_slice() {
        [] | [_] => format!("Volume {volume} is served by node {} now.", form.to),
        all => format!("Volumes {} are served by node {} now.", all.join(", "), form.to),
    };
    let outcome = app.command(&Command::HandOver { volume, to: Some(form.to) }).await;
    back(&app, &viewer, "/", outcome, done)
}

/// Asks before a deletion.
pub(super) async fn ask_delete(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Path(name): Path<String>,
) -> Page {
    let seen = app.seen();
    let volume = find(seen.status.as_ref(), &name)?;
    html(&Confirm {
        shell: Shell::new(&app, &viewer, Tab::Volumes, &format!("Delete volume {name}?")),
        text: vec![
            format!(
                "All its data, {} on {} nodes, is lost. There is no way back.",
                volume.size,
                volume.replicas.len()
            ),
            "A volume that is a LUN of a target is not deleted; take the LUN away first.".to_owned(),
        ],
        action: format!("/volumes/{}/delete", segment(&name)),
        fields: Vec::new(),
        typed: Some(name.clone()),
        button: "Delete the volume and its data".to_owned(),
        danger: true,
        cancel: format!("/volumes/{}", segment(&name)),
    })
}

#[derive(Deserialize)]
pub(super) struct Deletion {
    confirm: String,
}

/// Does it.
pub(super) async fn delete(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Path(name): Path<String>,
    Signed(form): Signed<Deletion>,
) -> Response {
    if form.confirm.trim() != name {
        let error =
            ApiError::new(ErrorKind::Invalid, format!("The name typed is not {name}; nothing was deleted."));
        return back(
            &app,
            &viewer,
            &format!("/volumes/{}", segment(&name)),
            Err::<(), _>(error),
            String::new(),
        );
    }
    let outcome = app.command(&Command::DeleteVolume { name: name.clone() }).await;
    back(&app, &viewer, "/volumes", outcome, format!("Volume {name} is deleted."))
}
