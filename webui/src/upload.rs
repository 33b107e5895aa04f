//! An update on its way in: from a request into a file, and, if it is for this node, to the supervisor, who takes it from
//! there.
//!
//! Invariants
//! - One at a time, and none while one is being installed: the file is not changed under the supervisor.
//! - The file has its name only when it is whole; what is no update is refused after its first bytes.
//! - Memory does not grow with it.

use crate::errors::{ApiError, ErrorKind};
use crate::upstream::Upstream;
use axum::body::Bytes;
use control::update::Installation;
use futures_util::{Stream, StreamExt};
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;
use update::bundle::MOST_BYTES;
use update::{Claimed, HEADER_BYTES};

/// A sender that says nothing for this long is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// One place for uploads.
pub(crate) struct Uploads {
    whole: PathBuf,
    turn: Mutex<()>,
}

impl Uploads {
    /// Into the file `whole`, which may be in use. What an earlier process left that is not whole is removed.
    pub(crate) fn new(whole: PathBuf) -> Self {
        let uploads = Self { whole, turn: Mutex::new(()) };
        uploads.forget_part();
        uploads
    }

    /// Takes `body`, if it is `wanted`, and keeps it in place of what was there before. What it claims to be is not proven.
    pub(crate) async fn keep<E: Display>(
        &self,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
        wanted: impl FnOnce() -> Result<(), ApiError>,
    ) -> Result<Claimed, ApiError> {
        let kept = async {
            let _turn = self.turn.try_lock().map_err(|_| busy())?;
            wanted()?;
            // Two of them may be more than the disk has room for.
            let _ = tokio::fs::remove_file(&self.whole).await;
            self.fill(&mut body).await
        };
        let kept = kept.await;
        if kept.is_err() {
            read_on(&mut body).await;
        }
        kept
    }

    /// Removes what was kept, and what came of one that is not whole.
    pub(crate) fn forget(&self) {
        // In this order: nothing gets its name in between.
        self.forget_part();
        let _ = std::fs::remove_file(&self.whole);
    }

    fn forget_part(&self) {
        // Space; a file that is left is replaced by the next one.
        let _ = std::fs::remove_file(self.part());
    }

    /// The file's name until it is whole.
    fn part(&self) -> PathBuf {
        self.whole.with_extension("new")
    }

    /// Takes `body` and has it installed; returns when that has begun.
    pub(crate) async fn take<E: Display>(
        &self,
        upstream: &Upstream,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<(), ApiError> {
        let taken = self.take_in_turn(upstream, &mut body).await;
        if taken.is_err() {
            // Else the connection's end would throw the answer away.
            read_on(&mut body).await;
        }
        taken
    }

    async fn take_in_turn<E: Display>(
        &self,
        upstream: &Upstream,
        body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
    ) -> Result<(), ApiError> {
        let _turn = self.turn.try_lock().map_err(|_| busy())?;
        let status = upstream.update().await?;
        if status.installation.as_ref().is_some_and(Installation::is_under_way) {
            return Err(busy());
        }
        if status.slots.is_none() {
            return Err(ApiError::new(ErrorKind::Refused, NO_SLOTS));
        }
        self.fill(body).await?;
        upstream.begin_update().await
    }

    /// Into the file, in one go for those who look at it.
    async fn fill<E: Display>(
        &self,
        body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
    ) -> Result<Claimed, ApiError> {
        let part = self.part();
        let filled = async {
            let claimed = receive(&part, body).await?;
            tokio::fs::rename(&part, &self.whole).await.map_err(not_kept)?;
            Ok(claimed)
        };
        let filled = filled.await;
        if filled.is_err() {
            // Space on a small disk; what is left is replaced by the next one.
            let _ = tokio::fs::remove_file(&part).await;
        }
        filled
    }
}

fn busy() -> ApiError {
    ApiError::new(ErrorKind::InUse, "An update is on its way in or being installed already.")
}

/// As the supervisor says it.
const NO_SLOTS: &str =
    "This node did not start from an appliance's system disk: there is no slot to put an update into.";

fn not_kept(error: io::Error) -> ApiError {
    ApiError::internal("the update can't be kept", &error)
}

/// What still comes of a body that is refused, up to the size of an update.
pub(crate) async fn read_on<E>(body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin)) {
    let mut left = MOST_BYTES;
    while let Ok(Some(Ok(piece))) = tokio::time::timeout(PATIENCE, body.next()).await {
        match left.checked_sub(piece.len() as u64) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

async fn receive<E: Display>(
    path: &Path,
    body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
) -> Result<Claimed, ApiError> {
    if let Some(folder) = path.parent() {
        tokio::fs::create_dir_all(folder).await.map_err(not_kept)?;
    }
    let mut file = File::create(path).await.map_err(not_kept)?;
    let mut first: Vec<u8> = Vec::with_capacity(HEADER_BYTES);
    let mut len_bytes: u64 = 0;
    let mut expected = MOST_BYTES;
    loop {
        let next = tokio::time::timeout(PATIENCE, body.next()).await;
        let next = next.map_err(|_| {
            ApiError::new(ErrorKind::TimedOut, format!("Nothing came for {} seconds.", PATIENCE.as_secs()))
        })?;
        let Some(piece) = next else { break };
        let piece =
            piece.map_err(|e| ApiError::new(ErrorKind::Invalid, format!("The upload broke: {e}.")))?;
        len_bytes = len_bytes.saturating_add(piece.len() as u64);
        if len_bytes > expected {
            return Err(ApiError::new(ErrorKind::TooLarge, "The update is longer than it says."));
        }
        if first.len() < HEADER_BYTES {
            let missing = HEADER_BYTES.saturating_sub(first.len());
            first.extend(piece.iter().take(missing));
            if first.len() == HEADER_BYTES {
                expected = claim(&first)?.header.bundle_bytes();
            }
        }
        file.write_all(&piece).await.map_err(not_kept)?;
    }
    let claimed = claim(&first)?;
    if len_bytes != claimed.header.bundle_bytes() {
        let expected = claimed.header.bundle_bytes();
        let text = format!("The update is not whole: {len_bytes} of {expected} bytes came.");
        return Err(ApiError::new(ErrorKind::Invalid, text));
    }
    file.sync_all().await.map_err(not_kept)?;
    Ok(claimed)
}

fn claim(first: &[u8]) -> Result<Claimed, ApiError> {
    Claimed::decode(first).map_err(|error| ApiError::new(ErrorKind::Invalid, format!("Refused: {error}.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_process_did_not_finish_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, part) = (dir.path().join("bundle"), dir.path().join("bundle.new"));
        for file in [&whole, &part] {
            std::fs::write(file, "bytes").unwrap();
        }
        let uploads = Uploads::new(whole.clone());
        assert!(whole.exists() && !part.exists(), "a whole one may be in use");
        uploads.forget();
        assert!(!whole.exists());
    }
}
