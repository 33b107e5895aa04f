//! "Are you sure?": what will happen, said before it does.

use super::shell::Shell;
use askama::Template;

#[derive(Template)]
#[template(path = "confirm.html")]
pub(super) struct Confirm {
    pub(super) shell: Shell,
    /// What will happen, paragraph by paragraph.
    pub(super) text: Vec<String>,
    /// Where the form goes.
    pub(super) action: String,
    /// Hidden fields.
    pub(super) fields: Vec<(&'static str, String)>,
    /// To be typed into the field `confirm`, where data would be lost.
    pub(super) typed: Option<String>,
    /// On the button.
    pub(super) button: String,
    /// It destroys something.
    pub(super) danger: bool,
    /// Where "Cancel" leads.
    pub(super) cancel: String,
}
