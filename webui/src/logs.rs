//! The ends of the services' logs below `DIR/log`.
//!
//! Invariant: only regular files directly in that directory are read; a link could lead to a secret.

use crate::errors::{ApiError, ErrorKind};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// The last `most` bytes of the file at `path`.
pub(crate) fn tail(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(most)))?;
    let mut end = Vec::new();
    file.take(most).read_to_end(&mut end)?;
    Ok(end)
}

/// The last whole lines, at most `most` bytes, of the log of service `name`.
pub(crate) fn of_service(dir: &Path, name: &str, most: u64) -> Result<String, ApiError> {
    let missing = || ApiError::new(ErrorKind::NotFound, format!("There is no log of a service {name}."));
    if !control::settings::is_name(name) {
        return Err(missing());
    }
    let path = dir.join(control::paths::LOG_DIR).join(format!("{name}.log"));
    let end = match tail(&path, most) {
        Ok(end) => end,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
        Err(error) => return Err(ApiError::internal(&format!("{}: cannot be read", path.display()), &error)),
    };
    let text = String::from_utf8_lossy(&end);
    let whole = u64::try_from(end.len()).unwrap_or(u64::MAX) < most;
    Ok(match text.split_once('\n') {
        Some((_, rest)) if !whole => rest.to_owned(),
        _ => text.into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_in_whole_lines_and_nothing_outside() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::create_dir(&log).unwrap();
        fs::write(log.join("storage.log"), "first\nsecond\nthird\n").unwrap();
        fs::write(dir.path().join("secret.log"), "secret").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret.log"), log.join("link.log")).unwrap();
        assert_eq!(of_service(dir.path(), "storage", 1000).unwrap(), "first\nsecond\nthird\n");
        assert_eq!(of_service(dir.path(), "storage", 10).unwrap(), "third\n");
        for name in ["../secret", "none", ""] {
            assert_eq!(of_service(dir.path(), name, 9).unwrap_err().kind, ErrorKind::NotFound, "{name}");
        }
        assert!(of_service(dir.path(), "link", 9).is_err());
    }
}
