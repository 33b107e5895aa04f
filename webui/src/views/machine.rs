//! The one page of a machine without settings: `templates/machine.html`; and the last one, `machine-done.html`.

use super::shell::Shell;
use super::{Page, html};
use crate::csrf;
use crate::guard::Peer;
use crate::password::MIN_CHARACTERS;
use crate::setup::{Refusal, Request, Shared};
use crate::text;
use askama::Template;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect};
use axum::{Extension, Form};
use control::settings::{Settings, SettingsError};
use control::setup::{Machine, Wanted};

#[derive(Template)]
#[template(path = "machine.html")]
struct MachinePage {
    shell: Shell,
    machine: Machine,
    /// What stands in the fields.
    wanted: Wanted,
    faults: Vec<SettingsError>,
    /// What concerns no field.
    error: Option<String>,
    least: usize,
    fingerprint: String,
}

#[derive(Template)]
#[template(path = "machine-done.html")]
struct DonePage {
    shell: Shell,
    name: String,
    url: String,
    fingerprint: String,
}

impl MachinePage {
    fn new(setup: &Shared, machine: Machine, wanted: Wanted) -> Self {
        Self {
            shell: Shell::bare("Set this machine up"),
            machine,
            wanted,
            faults: Vec::new(),
            error: None,
            least: MIN_CHARACTERS,
            fingerprint: setup.fingerprint.clone(),
        }
    }

    /// What is wrong with a field, all of it.
    fn fault(&self, field: &str) -> Option<String> {
        let reasons: Vec<&str> =
            self.faults.iter().filter(|f| f.setting == field).map(|f| f.reason.as_str()).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// Whether something stands, or is wrong, in the part that is folded otherwise.
    fn is_unfolded(&self) -> bool {
        let Wanted { mirror_address, dns, ntp, .. } = &self.wanted;
        let is_faulty = ["mirror_address", "dns", "ntp"].iter().any(|field| self.fault(field).is_some());
        is_faulty || [mirror_address, dns, ntp].iter().any(|text| !text.is_empty())
    }

    fn takes(&self, disk: &str) -> bool {
        self.wanted.disks.as_ref().is_none_or(|disks| disks.iter().any(|taken| taken == disk))
    }
}

/// To the page, from wherever.
pub(super) async fn to_page() -> Redirect {
    Redirect::to("/setup")
}

/// Asks who the machine is to be.
pub(super) async fn page(State(setup): State<Shared>) -> Page {
    let machine = setup.machine()?;
    let wanted = Wanted {
        address: format!("{}/{}", machine.address, machine.prefix_len),
        gateway: machine.gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
        ..Wanted::default()
    };
    html(&MachinePage::new(&setup, machine, wanted))
}

/// The form's fields; `disk` comes once for each one that is taken.
fn read(fields: Vec<(String, String)>) -> (Request, String) {
    let mut request = Request { code: String::new(), wanted: Wanted::default(), password: String::new() };
    let (mut again, mut disks) = (String::new(), Vec::new());
    for (name, value) in fields {
        match name.as_str() {
            "code" => request.code = value,
            "name" => request.wanted.name = value,
            "role" => request.wanted.role = value,
            "address" => request.wanted.address = value,
            "gateway" => request.wanted.gateway = value,
            "mirror_address" => request.wanted.mirror_address = value,
            "dns" => request.wanted.dns = value,
            "ntp" => request.wanted.ntp = value,
            "disk" => disks.push(value),
            "password" => request.password = value,
            "again" => again = value,
            _ => {}
        }
    }
    request.wanted.disks = Some(disks);
    (request, again)
}

/// Makes the machine a node, or says what stands against it.
pub(super) async fn set_up(
    State(setup): State<Shared>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Form(fields): Form<Vec<(String, String)>>,
) -> Page {
    csrf::refuse_foreign(&headers)?;
    let (request, again) = read(fields);
    let fault = |setting, reason: &str| SettingsError { setting, reason: reason.to_owned() };
    let outcome = if request.password == again {
        setup.set_up(peer.address()?, &request).await
    } else {
        Err(Refusal::Fields(vec![fault("again", "The two passwords differ.")]))
    };
    let refusal = match outcome {
        Ok(settings) => return done(setup, &settings),
        Err(refusal) => refusal,
    };
    let mut page = MachinePage::new(&setup, setup.machine()?, request.wanted);
    let mut status = StatusCode::OK;
    match &refusal {
        Refusal::Code(error) => {
            status = error.status();
            page.faults = vec![fault("code", &error.message)];
        }
        Refusal::Fields(faults) => page.faults.clone_from(faults),
        Refusal::Other(error) => {
            status = error.status();
            page.error = Some(error.message.clone());
        }
    }
    let mut response = (status, html(&page)?).into_response();
    if let Refusal::Code(error) = &refusal {
        error.decorate(&mut response);
    }
    Ok(response)
}

fn done(setup: Shared, settings: &Settings) -> Page {
    let page = DonePage {
        shell: Shell::bare("Set up"),
        name: settings.name.clone(),
        url: text::console_url(settings),
        fingerprint: setup.fingerprint.clone(),
    };
    setup.farewell();
    html(&page)
}
