//! Volume identifiers: Kubernetes keeps them in a PV's `volumeHandle` for the volume's whole life.
//!
//! `v1:STORAGE:NODE:VOLUME`. STORAGE is a short hash of the storage's own identity (the volume group's UUID),
//! so that a volume group with the same name on other disks is never mistaken for it; NODE is the node that
//! holds it; VOLUME is the volume's name on the storage. Opaque to other software, but readable for an
//! operator. The format is frozen.

use std::fmt;
use std::str::FromStr;

/// The maximum length of an identifier in CSI, in bytes.
pub const MAX_ID: usize = 128;
/// The maximum length of a node name, in bytes: it is the value of a topology key, a Kubernetes label.
pub const MAX_NODE: usize = 63;
/// The maximum length of a volume's name on its storage, in bytes.
pub const MAX_VOLUME: usize = 48;

/// The identity of a storage (a volume group, a disk), as in a [`VolumeId`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorageId(String);

impl StorageId {
    /// Derives the identity from the storage's own identity, for example a volume group's UUID.
    #[must_use]
    pub fn of(identity: &str) -> Self {
        let hash = blake3::hash(format!("quarry storage v1\n{identity}").as_bytes());
        // 50 bits: in practice two storages on one node never collide, and the node also checks the volume's
        // record.
        let mut text = data_encoding::BASE32_NOPAD.encode(hash.as_bytes()).to_ascii_lowercase();
        text.truncate(10);
        Self(text)
    }

    /// The text in the identifier.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StorageId {
    type Err = ForeignId;

    fn from_str(text: &str) -> Result<Self, ForeignId> {
        let hash = |c: char| c.is_ascii_lowercase() || ('2'..='7').contains(&c);
        if text.len() == 10 && text.chars().all(hash) { Ok(Self(text.to_owned())) } else { Err(ForeignId) }
    }
}

/// The identifier of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeId {
    /// Which storage.
    pub storage: StorageId,
    /// Which node.
    pub node: String,
    /// The volume's name on that storage.
    pub volume: String,
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v1:{}:{}:{}", self.storage.0, self.node, self.volume)
    }
}

/// The text is not a volume identifier of Quarry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a volume identifier of Quarry")]
pub struct ForeignId;

impl FromStr for VolumeId {
    type Err = ForeignId;

    fn from_str(text: &str) -> Result<Self, ForeignId> {
        let (storage, node, volume) = parts("v1", text)?;
        Ok(Self { storage, node, volume })
    }
}

/// Parses the storage, the node and the name in an identifier that begins with that version.
pub(crate) fn parts(version: &str, text: &str) -> Result<(StorageId, String, String), ForeignId> {
    let mut parts = text.split(':');
    let (Some(first), Some(storage), Some(node), Some(name), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(ForeignId);
    };
    let plain = |text: &str, max| {
        !text.is_empty()
            && text.len() <= max
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+'))
    };
    if first == version && plain(node, MAX_NODE) && plain(name, MAX_VOLUME) {
        Ok((storage.parse()?, node.to_owned(), name.to_owned()))
    } else {
        Err(ForeignId)
    }
}

/// Whether a text has the form of an identifier that only a later version of Quarry issues, such as `v2:…` for a volume
/// (`kind` is `v`) or `s2:…` for a snapshot (`s`). A controller that was downgraded meets them: it cannot say that nothing
/// has this identifier.
#[must_use]
pub fn is_of_later_version(kind: char, text: &str) -> bool {
    let version = text.split_once(':').and_then(|(first, _)| first.strip_prefix(kind));
    let digits = version.filter(|version| version.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse::<u32>().ok()).is_some_and(|version| version > 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn identifiers_of_later_versions_are_recognized() {
        for (kind, text) in [('v', "v2:a:b:c"), ('v', "v10:some/thing"), ('s', "s2:a:b:c:d")] {
            assert!(is_of_later_version(kind, text), "{text}");
            assert!(text.parse::<VolumeId>().is_err(), "{text}");
        }
        for (kind, text) in
            [('v', "v1:a:b:c"), ('v', "v1:a"), ('v', "s2:a:b:c"), ('v', "v+2:a"), ('v', "v:a"), ('v', "v2"), ('v', "")]
        {
            assert!(!is_of_later_version(kind, text), "{text}");
        }
    }

    /// Golden: identifiers are stored in users' etcd. They must never change.
    #[test]
    fn identifiers_are_frozen() {
        let id = VolumeId {
            storage: StorageId::of("Zr3Ot2-MsTU-yPvW-5Ttd-gaYN-WeYT-vP8EJt"),
            node: "worker-1.example.org".to_owned(),
            volume: "pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11".to_owned(),
        };
        assert_eq!(id.to_string(), "v1:d5hwhwt27w:worker-1.example.org:pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11");
        assert_eq!(id.to_string().parse::<VolumeId>().unwrap(), id);
    }

    #[test]
    fn a_storages_identity_is_read_alone() {
        let storage = StorageId::of("Zr3Ot2-MsTU-yPvW-5Ttd-gaYN-WeYT-vP8EJt");
        assert_eq!(storage.as_str().parse(), Ok(storage));
        for text in ["", "aaaaaaaaa", "aaaaaaaaaaa", "AAAAAAAAAA", "aaaaaaaaa1", "aaaaaaaa:a"] {
            assert_eq!(text.parse::<StorageId>(), Err(ForeignId), "{text:?}");
        }
    }

    #[test]
    fn foreign_identifiers_are_rejected() {
        for text in [
            "",
            "v1",
            "v1:::",
            "v2:aaaaaaaaaa:n:v",
            "v1:aaaaaaaaaa:n:v:x",
            "v1:AAAAAAAAAA:n:v",
            "v1:aaaaaaaaaa:n:../v",
            "v1:aaaaaaaaaa:n\n:v",
        ] {
            assert!(text.parse::<VolumeId>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn the_longest_parts_fit_and_come_back(node in "[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", volume in "[a-zA-Z0-9+_.][a-zA-Z0-9+_.-]{0,47}", identity in ".{0,60}") {
            let id = VolumeId { storage: StorageId::of(&identity), node, volume };
            let text = id.to_string();
            prop_assert!(text.len() <= MAX_ID);
            prop_assert_eq!(text.parse::<VolumeId>().unwrap(), id);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,200}") {
            let _ = text.parse::<VolumeId>();
        }
    }
}
