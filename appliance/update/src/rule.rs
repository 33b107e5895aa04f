//! Whether a bundle may replace the release that runs.
//!
//! A release writes its own formats as soon as it runs, so what the node has in use is what the running release writes: the
//! newest of each of its formats. A bundle has to understand each of those. That is the whole rule for going back,
//! too: an older release may be installed as long as it knows everything that it will find.

use crate::bundle::Header;
use crate::formats::{Format, Formats};
use core::fmt;
use semver::Version;

/// Why a bundle is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It replaces only newer releases than the one that runs.
    TooFar {
        /// The bundle's.
        version: Version,
        /// What it wants at least.
        replaces_from: Version,
        /// What runs.
        running: Version,
    },
    /// It does not know a format that is in use.
    Format {
        /// The bundle's.
        version: Version,
        /// Of what.
        format: Format,
        /// The version in use.
        in_use: u32,
        /// The newest that the bundle knows.
        newest: u32,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFar { version, replaces_from, running } => write!(
                f,
                "release {version} replaces releases from {replaces_from} on, and this is {running}: install one between \
                 them first"
            ),
            Self::Format { version, format, in_use, newest } if newest < in_use => write!(
                f,
                "release {version} is too old: it knows version {newest} of {format}, and this node has {in_use} in use"
            ),
            Self::Format { version, format, in_use, .. } => write!(
                f,
                "release {version} no longer knows version {in_use} of {format}, which this node has in use: install one \
                 between them first"
            ),
        }
    }
}

impl core::error::Error for Refusal {}

/// Whether the release of `header` may replace `running`, which has `in_use` written down.
pub fn judge(header: &Header, running: &Version, in_use: &Formats) -> Result<(), Refusal> {
    for ((format, theirs), (_, ours)) in header.formats.each().zip(in_use.each()) {
        if !theirs.understands(ours.newest) {
            return Err(Refusal::Format {
                version: header.version.clone(),
                format,
                in_use: ours.newest,
                newest: theirs.newest,
            });
        }
    }
    if running.cmp_precedence(&header.replaces_from).is_lt() {
        return Err(Refusal::TooFar {
            version: header.version.clone(),
            replaces_from: header.replaces_from.clone(),
            running: running.clone(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Part;
    use crate::formats::Spoken;
    use alloc::string::ToString;

    fn release(version: &str, replaces_from: &str, change: impl FnOnce(&mut Formats)) -> Header {
        let mut formats = Formats::CURRENT;
        change(&mut formats);
        let part = Part { len_bytes: 1, sha256: [0; 32] };
        Header {
            version: version.parse().unwrap(),
            replaces_from: replaces_from.parse().unwrap(),
            formats,
            kernel: part,
            initramfs: part,
        }
    }

    fn verdict(header: &Header) -> Result<(), Refusal> {
        judge(header, &"1.2.0".parse().unwrap(), &Formats::CURRENT)
    }

    #[test]
    fn newer_equal_and_older_releases_that_know_every_format_are_taken() {
        for version in ["1.2.1", "2.0.0", "1.2.0", "1.2.0+rebuilt", "1.1.9", "1.2.0-rc.1"] {
            assert_eq!(verdict(&release(version, "0.1.0", |_| ())), Ok(()), "{version}");
        }
    }

    #[test]
    fn a_release_that_does_not_know_a_format_in_use_is_refused_whatever_its_version() {
        for (index, format) in Format::ALL.into_iter().enumerate() {
            let in_use = Formats::CURRENT.0[index].newest;
            let older = |formats: &mut Formats| formats.0[index] = Spoken { oldest: 0, newest: in_use - 1 };
            let newer = |formats: &mut Formats| {
                formats.0[index] = Spoken { oldest: in_use + 1, newest: in_use + 2 };
            };
            let both = |formats: &mut Formats| {
                formats.0[index] = Spoken { oldest: in_use, newest: in_use + 1 };
            };
            let refusal = verdict(&release("1.3.0", "1.0.0", older)).unwrap_err();
            assert!(
                matches!(&refusal, Refusal::Format { format: found, .. } if *found == format),
                "{refusal:?}"
            );
            assert!(refusal.to_string().contains("too old"), "{refusal}");
            let refusal = verdict(&release("1.3.0", "1.0.0", newer)).unwrap_err();
            assert!(refusal.to_string().contains("no longer knows"), "{refusal}");
            assert_eq!(verdict(&release("1.3.0", "1.0.0", both)), Ok(()));
        }
    }

    #[test]
    fn a_release_says_how_far_it_jumps() {
        assert_eq!(verdict(&release("3.0.0", "1.2.0", |_| ())), Ok(()));
        assert_eq!(verdict(&release("3.0.0", "1.2.0-rc.1", |_| ())), Ok(()));
        let refusal = verdict(&release("3.0.0", "1.2.1", |_| ())).unwrap_err();
        assert!(refusal.to_string().contains("replaces releases from 1.2.1 on"), "{refusal}");
    }
}
