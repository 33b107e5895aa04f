//! Who may log in to a target: its rules, and CHAP.

use super::confirm::Confirm;
use super::error::PageError;
use super::form::Signed;
use super::panels;
use super::shell::{Shell, Tab};
use super::targets::{find, on_page};
use super::{Page, Viewer, back, back_or_again, html};
use crate::app::Shared;
use crate::errors::{ApiError, ErrorKind};
use crate::sessions::Typed;
use crate::text::segment;
use askama::Template;
use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Response;
use control::api::{ChapStatus, Command};
use control::names::{Pattern, normal};
use control::targets::{Chap, Login, Secret};
use serde::Deserialize;

#[derive(Template)]
#[template(path = "chap.html")]
struct ChapPage {
    shell: Shell,
    iqn: String,
    /// The rule that it is for; `None`: the target.
    pattern: Option<String>,
    chap: Option<ChapStatus>,
    stale: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct NewRule {
    iqn: String,
    pattern: String,
}

/// Lets initiators log in.
pub(super) async fn allow(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Signed(new): Signed<NewRule>,
) -> Response {
    let pattern = Pattern::typed(&new.pattern);
    let done = format!("{pattern} may log in to {}.", new.iqn);
    let typed = on_page(&new.iqn, vec![("pattern", new.pattern)]);
    let outcome = app.command(&Command::AllowInitiator { iqn: new.iqn, pattern }).await;
    back_or_again(&app, &viewer, "/targets", outcome, done, typed)
}

#[derive(Deserialize)]
pub(super) struct Denial {
    iqn: String,
    pattern: String,
}

/// Asks first.
pub(super) async fn ask_deny(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Query(Denial { iqn, pattern }): Query<Denial>,
) -> Page {
    let seen = app.fresh().await;
    let target = find(seen.status.as_ref(), &iqn)?;
    let last = target.initiators.len() == 1;
    let text = if last {
        vec![
            format!("It is the last rule of {iqn}: without it every initiator may log in."),
            "To shut everyone out, take its LUNs away instead.".to_owned(),
        ]
    } else {
        vec![
            format!("Initiators that no other rule of {iqn} covers are logged out at once."),
            "A host that runs virtual machines from it sees its datastore vanish.".to_owned(),
        ]
    };
    let button = if last { "Open the target to everyone" } else { "Take the rule back" };
    let mut fields = vec![("iqn", iqn), ("pattern", pattern.clone())];
    if last {
        fields.push(("open", "yes".to_owned()));
    }
    html(&Confirm {
        shell: Shell::new(&app, &viewer, Tab::Targets, &format!("Take the rule for {pattern} back?")),
        text,
        action: "/targets/deny".to_owned(),
        fields,
        typed: None,
        button: button.to_owned(),
        danger: true,
        cancel: "/targets".to_owned(),
    })
}

#[derive(Deserialize)]
pub(super) struct Denied {
    iqn: String,
    pattern: String,
    /// The page said that it is the last rule.
    open: Option<String>,
}

/// Takes a rule back.
pub(super) async fn deny(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Signed(what): Signed<Denied>,
) -> Response {
    let pattern = Pattern::typed(&what.pattern);
    let done = format!("The rule for {pattern} is gone.");
    let command = Command::DenyInitiator { iqn: what.iqn, pattern, open: what.open.is_some() };
    let outcome = app.command(&command).await;
    back(&app, &viewer, "/targets", outcome, done)
}

#[derive(Deserialize)]
pub(super) struct WhichChap {
    iqn: String,
    pattern: Option<String>,
}

/// CHAP of a target or a rule.
pub(super) async fn chap(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Query(WhichChap { iqn, pattern }): Query<WhichChap>,
) -> Page {
    let seen = app.fresh().await;
    let target = find(seen.status.as_ref(), &iqn)?;
    let chap = match &pattern {
        None => target.chap.clone(),
        Some(text) => {
            let rule = target.initiators.iter().find(|rule| rule.pattern.as_str() == normal(text));
            let missing = || PageError::new(ErrorKind::NotFound, format!("{iqn} has no rule for {text}."));
            rule.ok_or_else(missing)?.chap.clone()
        }
    };
    html(&ChapPage {
        shell: Shell::new(&app, &viewer, Tab::Targets, "CHAP"),
        iqn,
        pattern,
        chap,
        stale: panels::stale_mark(&seen),
    })
}

#[derive(Deserialize)]
pub(super) struct NewChap {
    iqn: String,
    pattern: Option<String>,
    /// Asks for none any more.
    off: Option<String>,
    #[serde(default)]
    user: String,
    #[serde(default)]
    secret: String,
    #[serde(default)]
    mutual_user: String,
    #[serde(default)]
    mutual_secret: String,
}

/// Sets or removes it.
pub(super) async fn set_chap(
    State(app): State<Shared>,
    Extension(viewer): Extension<Viewer>,
    Signed(new): Signed<NewChap>,
) -> Response {
    let whose = new.pattern.as_ref().map_or_else(|| new.iqn.clone(), |p| format!("{p} at {}", new.iqn));
    let done = match new.off {
        Some(_) => format!("CHAP of its own is off for {whose}."),
        None => format!("CHAP is set for {whose}. It counts from the next login on."),
    };
    let rule = new.pattern.as_ref().map_or_else(String::new, |p| format!("&pattern={}", segment(p)));
    let typed = Typed {
        page: format!("/targets/chap?iqn={}{rule}", segment(&new.iqn)),
        form: "chap".to_owned(),
        fields: vec![("user", new.user.clone()), ("mutual_user", new.mutual_user.clone())],
    };
    let outcome = match read(&new) {
        Ok(chap) => {
            let pattern = new.pattern.as_deref().map(Pattern::typed);
            app.command(&Command::SetChap { iqn: new.iqn, pattern, chap }).await
        }
        Err(error) => Err(error),
    };
    back_or_again(&app, &viewer, "/targets", outcome, done, typed)
}

fn read(new: &NewChap) -> Result<Option<Chap>, ApiError> {
    if new.off.is_some() {
        return Ok(None);
    }
    let mutual = match (new.mutual_user.trim(), new.mutual_secret.as_str()) {
        ("", "") => None,
        ("", _) | (_, "") => {
            let text = "For mutual CHAP the target needs both a name and a secret; nothing was changed.";
            return Err(ApiError::new(ErrorKind::Invalid, text));
        }
        (user, secret) => Some(Login { user: user.to_owned(), secret: Secret::new(secret.to_owned()) }),
    };
    let (user, secret) = (new.user.trim().to_owned(), Secret::new(new.secret.clone()));
    Ok(Some(Chap { user, secret, mutual }))
}
