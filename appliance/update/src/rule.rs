//! Whether a bundle may replace the release that runs.
//!
//! What a node has written down is of the versions in force, or older and still to be written anew ([`Levels`](base::Levels)):
//! a bundle has to understand those. That is the whole rule for going back, too: an older release may be installed as long
//! as it knows everything that it will find, and that is until the cluster raises a version. And it has to speak, with each
//! other member, a version of the protocols that the member speaks.

use crate::bundle::Header;
use alloc::string::String;
use base::{Format, Versions};
use control::update::InUse;
use core::fmt;
use semver::Version;

/// The oldest release that this one may replace, unless whoever builds an update says otherwise.
pub const REPLACES_FROM: &str = "0.1.0";

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
        in_use: u16,
        /// The newest that the bundle knows.
        newest: u16,
    },
    /// It could not talk to another member.
    Member {
        /// The bundle's.
        version: Version,
        /// The member.
        member: String,
        /// In which protocol.
        format: Format,
        /// What the bundle speaks of it.
        speaks: Versions,
        /// What the member speaks.
        spoken: Versions,
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
            Self::Member { version, member, format, speaks, spoken } => write!(
                f,
                "release {version} can't talk to node {member}: it speaks {speaks} of {format}, and the release there \
                 speaks {spoken}: update that node to a release between them first"
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

/// Whether the release of `header` may replace `running` on a node that has this in use.
pub fn judge(header: &Header, running: &Version, in_use: &InUse) -> Result<(), Refusal> {
    if let Some((format, level)) = header.formats.lack(&in_use.levels) {
        return Err(Refusal::Format {
            version: header.version.clone(),
            format,
            in_use: level,
            newest: header.formats.of(format).newest,
        });
    }
    for member in &in_use.members {
        for format in [Format::Replication, Format::Cluster] {
            let (speaks, spoken) = (header.formats.of(format), member.formats.of(format));
            if speaks.common(spoken).is_none() {
                return Err(Refusal::Member {
                    version: header.version.clone(),
                    member: member.name.clone(),
                    format,
                    speaks,
                    spoken,
                });
            }
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
    use alloc::string::ToString;
    use base::{Formats, Levels};
    use control::update::MemberFormats;

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
        judge(header, &"1.2.0".parse().unwrap(), &in_use(&[]))
    }

    fn in_use(members: &[(&str, Formats)]) -> InUse {
        let member =
            |(name, formats): &(&str, Formats)| MemberFormats { name: (*name).into(), formats: *formats };
        InUse { levels: Levels::OLDEST, promised: None, members: members.iter().map(member).collect() }
    }

    #[test]
    fn newer_equal_and_older_releases_that_know_every_format_are_taken() {
        for version in ["1.2.1", "2.0.0", "1.2.0", "1.2.0+rebuilt", "1.1.9", "1.2.0-rc.1"] {
            assert_eq!(verdict(&release(version, "0.1.0", |_| ())), Ok(()), "{version}");
        }
    }

    #[test]
    fn a_release_that_does_not_know_a_format_in_use_is_refused_whatever_its_version() {
        for (format, in_use) in Levels::OLDEST.each() {
            let older = |formats: &mut Formats| {
                *formats.of_mut(format) = Versions { oldest: 0, newest: in_use - 1 };
            };
            let newer = |formats: &mut Formats| {
                *formats.of_mut(format) = Versions { oldest: in_use + 1, newest: in_use + 2 };
            };
            let both = |formats: &mut Formats| {
                *formats.of_mut(format) = Versions { oldest: in_use, newest: in_use + 1 };
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

    /// What this release could write does not count, only what is in force.
    #[test]
    fn going_back_is_good_until_a_version_was_raised() {
        let back = release("1.1.0", "1.0.0", |_| ());
        let running: Version = "1.2.0".parse().unwrap();
        let mut in_use = in_use(&[]);
        assert_eq!(judge(&back, &running, &in_use), Ok(()));
        in_use.levels.metadata = Levels::NEWEST.metadata + 1;
        let refusal = judge(&back, &running, &in_use).unwrap_err().to_string();
        assert!(refusal.contains("too old") && refusal.contains("replica metadata"), "{refusal}");
    }

    #[test]
    fn a_release_that_another_member_could_not_talk_to_is_refused_naming_it() {
        let running: Version = "1.2.0".parse().unwrap();
        let current = Formats::CURRENT;
        for format in [Format::Replication, Format::Cluster] {
            let mut older = current;
            older.of_mut(format).oldest = 0;
            older.of_mut(format).newest = current.of(format).oldest - 1;
            let in_use = in_use(&[("b", current), ("witness", older)]);
            let refusal = judge(&release("2.0.0", "1.0.0", |_| ()), &running, &in_use).unwrap_err();
            assert!(matches!(&refusal, Refusal::Member { member, format: found, .. }
                if member == "witness" && *found == format));
            assert!(refusal.to_string().contains("can't talk to node witness"), "{refusal}");
            // One that speaks the older one, too, is between them.
            let between = |formats: &mut Formats| formats.of_mut(format).oldest = 0;
            assert_eq!(judge(&release("1.9.0", "1.0.0", between), &running, &in_use), Ok(()));
        }
    }

    #[test]
    fn a_release_may_replace_itself() {
        let oldest: Version = REPLACES_FROM.parse().unwrap();
        assert!(oldest <= env!("CARGO_PKG_VERSION").parse().unwrap());
    }

    #[test]
    fn a_release_says_how_far_it_jumps() {
        assert_eq!(verdict(&release("3.0.0", "1.2.0", |_| ())), Ok(()));
        assert_eq!(verdict(&release("3.0.0", "1.2.0-rc.1", |_| ())), Ok(()));
        let refusal = verdict(&release("3.0.0", "1.2.1", |_| ())).unwrap_err();
        assert!(refusal.to_string().contains("replaces releases from 1.2.1 on"), "{refusal}");
    }
}
