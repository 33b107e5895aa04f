//! The support bundle: what someone needs to find a fault, as a tar archive. No secrets: no identity, no password
//! hash, no certificate key, no data.

use crate::app::Shared;
use crate::errors::ApiError;
use crate::text::unix_now;
use crate::{links, logs};
use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use control::settings::Settings;
use serde::Serialize;
use std::io;
use std::path::Path;
use std::time::Instant;

/// The end of each log that goes in.
const LOG_BYTES: u64 = 4 << 20;
/// Most log files that go in.
const LOG_FILES: usize = 64;

/// Sends the archive. A part that can't be had is replaced by the reason.
pub(crate) async fn download(State(app): State<Shared>) -> Result<Response, ApiError> {
    let (status, events) = tokio::join!(app.status(), app.upstream.events(0));
    let parts = [
        ("status.json", text_of(status)),
        ("events.json", text_of(events)),
        ("services.json", text_of(app.upstream.services().await)),
        ("update.json", text_of(app.upstream.update().await)),
        ("settings.json", text_of(Ok::<&Settings, ApiError>(&app.settings))),
        ("version.txt", format!("futago {}\n", env!("CARGO_PKG_VERSION"))),
    ];
    let logs = app.dir.join(control::paths::LOG_DIR);
    let prefix = format!("futago-{}", app.settings.name);
    let name = format!("{prefix}-{}.tar", unix_now());
    let archive = tokio::task::spawn_blocking(move || pack(&prefix, &parts, &logs))
        .await
        .map_err(|e| ApiError::internal("support bundle", &e))?
        .map_err(|e| ApiError::internal("support bundle", &e))?;
    let headers = [
        (header::CONTENT_TYPE, "application/x-tar".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
    ];
    Ok((headers, archive).into_response())
}

/// A new link to it.
#[derive(Serialize)]
pub(crate) struct Link {
    /// Below the console's URL.
    path: String,
    /// Seconds that it is good for.
    valid_s: u64,
}

/// Makes a link that downloads it once, without sign-in.
pub(crate) async fn make_link(State(app): State<Shared>) -> Result<Json<Link>, ApiError> {
    let token = app.links.make(Instant::now()).map_err(|e| ApiError::internal("random numbers", &e))?;
    tracing::info!("a download link for the support bundle was made");
    Ok(Json(Link { path: format!("/bundle/{token}"), valid_s: links::VALID.as_secs() }))
}

fn text_of<T: Serialize>(part: Result<T, ApiError>) -> String {
    match part {
        Ok(part) => serde_json::to_string_pretty(&part).unwrap_or_else(|e| format!("not written: {e}\n")),
        Err(error) => format!("{}\n", error.message),
    }
}

fn pack(prefix: &str, parts: &[(&str, String)], logs: &Path) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, text) in parts {
        append(&mut archive, &format!("{prefix}/{name}"), text.as_bytes())?;
    }
    // No log directory: a node whose supervisor writes its logs elsewhere.
    if let Ok(entries) = std::fs::read_dir(logs) {
        for entry in entries.flatten().take(LOG_FILES) {
            let Ok(file_name) = entry.file_name().into_string() else { continue };
            if entry.file_type().is_ok_and(|t| t.is_file()) {
                let end = logs::tail(&entry.path(), LOG_BYTES)
                    .unwrap_or_else(|e| format!("not read: {e}\n").into_bytes());
                append(&mut archive, &format!("{prefix}/log/{file_name}"), &end)?;
            }
        }
    }
    archive.into_inner()
}

fn append(archive: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(unix_now());
    archive.append_data(&mut header, name, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_go_in_by_their_end_and_links_do_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("storage.log"), vec![b'x'; usize::try_from(LOG_BYTES + 5).unwrap()])
            .unwrap();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("link.log")).unwrap();
        let bytes = pack("futago-a", &[("status.json", "{}".into())], dir.path()).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let names: Vec<(String, u64)> = archive
            .entries()
            .unwrap()
            .map(|e| e.unwrap())
            .map(|e| (e.path().unwrap().display().to_string(), e.size()))
            .collect();
        let expected = [("futago-a/status.json", 2), ("futago-a/log/storage.log", LOG_BYTES)];
        assert_eq!(names, expected.map(|(n, s)| (n.to_owned(), s)));
    }
}
