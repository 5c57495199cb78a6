//! StorageClass parameters: the keys that CreateVolume and GetCapacity understand.

use std::collections::BTreeMap;

use crate::{AccessTypes, Error, Filesystem, Layout, Result, SizeRange, Wipe};

/// The keys that a StorageClass may set, as documented in docs/storageclass.md.
pub const KNOWN: [&str; 7] = ["pool", "layout", "stripes", "stripeSize", "mirrors", "mkfsOptions", "wipe"];

/// Keys that the sidecars add for themselves.
const SIDECAR_PREFIX: &str = "csi.storage.k8s.io/";

/// The key under which the mkfs options travel in the volume's context, from CreateVolume to NodeStageVolume.
pub const MKFS_OPTIONS: &str = "mkfsOptions";

/// What a StorageClass asks for. The default is a class without parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// The pool, if named.
    pub pool: Option<String>,
    /// How the volume lies on the disks.
    pub layout: Layout,
    /// Options for mkfs, white space folded, not yet checked against the filesystem's allow-list.
    pub mkfs_options: String,
    /// What becomes of the volume's bytes when it is deleted; the pool's own way if `None`. Only of a whole disk.
    pub wipe: Option<Wipe>,
}

impl Parameters {
    /// Reads the parameters of a CreateVolume or GetCapacity request. Keys of the sidecars are passed over.
    ///
    /// # Errors
    /// `InvalidRequest` for a key that is not known (the message lists those that are) or a value that cannot be.
    pub fn parse(parameters: &BTreeMap<String, String>) -> Result<Self> {
        let ours: BTreeMap<&str, &str> = parameters
            .iter()
            .filter(|(key, _)| !key.starts_with(SIDECAR_PREFIX))
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        if let Some(unknown) = ours.keys().find(|key| !KNOWN.contains(key)) {
            return Err(Error::invalid(format!(
                "StorageClass parameter {unknown:?} is not known; the known ones are {}",
                KNOWN.join(", ")
            )));
        }
        let layout = Layout::parse(&ours).map_err(|error| Error::invalid(error.to_string()))?;
        let pool = match ours.get("pool") {
            Some(&"") => return Err(Error::invalid("StorageClass parameter \"pool\" is empty: name a pool")),
            Some(name) => Some((*name).to_owned()),
            None => None,
        };
        let wipe = ours.get("wipe").map(|word| word.parse::<Wipe>()).transpose();
        let wipe = wipe.map_err(|error| Error::invalid(format!("StorageClass parameter \"wipe\": {error}")))?;
        let mkfs_options = ours.get(MKFS_OPTIONS).copied().unwrap_or_default();
        Ok(Self { pool, layout, mkfs_options: fold(mkfs_options), wipe })
    }
}

/// One space between words, so that the same options written otherwise are the same.
fn fold(text: &str) -> String {
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

/// A volume to be made: everything that CreateVolume says, checked as far as this can be done without the storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// The asked name: unique, and the key of idempotency.
    pub name: String,
    /// The accepted sizes.
    pub size: SizeRange,
    /// What the volume is made for.
    pub access: AccessTypes,
    /// The filesystem to make; `None` for raw block.
    pub filesystem: Option<Filesystem>,
    /// What its StorageClass asks for.
    pub class: Parameters,
}

impl VolumeSpec {
    /// A raw block volume of this size in bytes, of a class without parameters.
    #[must_use]
    pub fn block(name: impl Into<String>, size: u64) -> Self {
        Self {
            name: name.into(),
            size: SizeRange { required: size, limit: None },
            access: AccessTypes::Block,
            filesystem: None,
            class: Parameters::default(),
        }
    }

    /// A volume with that filesystem of this size in bytes, of a class without parameters.
    #[must_use]
    pub fn mount(name: impl Into<String>, size: u64, filesystem: Filesystem) -> Self {
        Self { access: AccessTypes::Mount, filesystem: Some(filesystem), ..Self::block(name, size) }
    }

    /// The same volume in that pool.
    #[must_use]
    pub fn in_pool(self, pool: impl Into<String>) -> Self {
        Self { class: Parameters { pool: Some(pool.into()), ..self.class }, ..self }
    }

    /// The same volume in that layout.
    #[must_use]
    pub fn with_layout(self, layout: Layout) -> Self {
        Self { class: Parameters { layout, ..self.class }, ..self }
    }

    /// See [`parameters_hash`].
    #[must_use]
    pub fn parameters_hash(&self) -> String {
        parameters_hash(self.filesystem, &self.class.layout, &self.class.mkfs_options)
    }
}

/// A short hash of the parameters that a volume was made with, kept in its record: it tells a retry of the same request
/// from another one, and mkfs options that were changed on their way to the node from the ones that were checked.
#[must_use]
pub fn parameters_hash(filesystem: Option<Filesystem>, layout: &Layout, mkfs_options: &str) -> String {
    let filesystem = filesystem.map_or("-", Filesystem::as_str);
    let text = format!("quarry parameters v1\n{filesystem}\n{}\n{}", layout.code(), fold(mkfs_options));
    let hash = blake3::hash(text.as_bytes());
    let mut text = data_encoding::BASE32_NOPAD.encode(hash.as_bytes()).to_ascii_lowercase();
    text.truncate(13);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Parameters> {
        Parameters::parse(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_known_ones() {
        let error = parse(&[("pools", "a")]).unwrap_err();
        assert_eq!(error.reason, crate::Reason::InvalidRequest);
        for key in KNOWN {
            assert!(error.message.contains(key), "{}", error.message);
        }
    }

    #[test]
    fn the_sidecars_keys_are_passed_over() {
        let parameters = parse(&[("csi.storage.k8s.io/fstype", "xfs"), ("csi.storage.k8s.io/pvc/name", "a")]).unwrap();
        assert_eq!(parameters, Parameters::default());
    }

    #[test]
    fn a_class_says_how_its_volumes_are_wiped() {
        for wipe in Wipe::ALL {
            assert_eq!(parse(&[("wipe", wipe.as_str())]).unwrap().wipe, Some(wipe));
        }
        for word in ["", "Zero", "shred"] {
            let error = parse(&[("wipe", word)]).unwrap_err();
            assert_eq!(error.reason, crate::Reason::InvalidRequest, "{word}");
            assert!(error.message.contains("zero, discard or none"), "{}", error.message);
        }
    }

    #[test]
    fn layouts_that_are_not_proven_yet_are_refused() {
        for layout in ["raid5", "raid6", "raid10", "raid0", "mirror", ""] {
            let error = parse(&[("layout", layout)]).unwrap_err();
            assert_eq!(error.reason, crate::Reason::InvalidRequest, "{layout}");
        }
    }

    #[test]
    fn white_space_in_mkfs_options_makes_no_difference() {
        let hash = |options| parameters_hash(Some(Filesystem::Ext4), &Layout::Linear, options);
        assert_eq!(hash(" -m  0\t-O ^64bit "), hash("-m 0 -O ^64bit"));
        assert_ne!(hash("-m 0"), hash("-m 1"));
    }
}
