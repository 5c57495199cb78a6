//! StorageClass parameters: the keys of CreateVolume and GetCapacity.

use std::collections::BTreeMap;

use crate::{
    AccessTypes, ContentSource, Discard, Encryption, Error, Filesystem, IoLimits, Layout, LimitChanges,
    MutableParameters, Result, SizeRange, Wipe,
};

/// The keys that a StorageClass may set, documented in docs/storageclass.md.
pub const KNOWN: [&str; 15] = [
    "pool",
    "layout",
    "stripes",
    "stripeSize",
    "mirrors",
    "mkfsOptions",
    DISCARD,
    "wipe",
    ENCRYPTION,
    "readBytesPerSecond",
    "writeBytesPerSecond",
    "readIops",
    "writeIops",
    LIMITS,
    ON_NODE_LOSS,
];
/// The key that says when the unused space of a filesystem is discarded; also in a VolumeAttributesClass.
pub(crate) const DISCARD: &str = "discard";
/// The key that says how volumes are encrypted.
const ENCRYPTION: &str = "encryption";
/// The key that says what happens to a volume's claim when its node is gone for good; also in the volume's context, from
/// which the controller reads it then.
pub const ON_NODE_LOSS: &str = "onNodeLoss";
/// Its value for a claim that is deleted.
pub const RELEASE: &str = "release";
/// Its value for a claim that stays. The default.
const KEEP: &str = "keep";
/// The key that says whether the I/O limits must be in force.
const LIMITS: &str = "limits";
/// Its value for a volume that no pod may use without its limits.
const REQUIRED: &str = "required";
/// Its value for a volume that can also be used where limits are not possible.
const PREFERRED: &str = "preferred";

/// The prefix of the sidecars' own keys.
pub(crate) const SIDECAR_PREFIX: &str = "csi.storage.k8s.io/";

/// The key of the mkfs options in the volume's context, which takes them from CreateVolume to
/// NodeStageVolume.
pub const MKFS_OPTIONS: &str = "mkfsOptions";

/// The parameters of a StorageClass. The default is a class without parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// The pool, if the class names one.
    pub pool: Option<String>,
    /// The layout of the volume on the disks.
    pub layout: Layout,
    /// Options for mkfs, with normalised white space, not yet checked against the filesystem's allow-list.
    pub mkfs_options: String,
    /// How the volume is wiped when it is deleted; `None` for the pool's setting. Only for whole disks.
    pub wipe: Option<Wipe>,
    /// When the unused space of its filesystem is discarded; `None` for the default of the pool. A raw block volume
    /// ignores it: see [`VolumeSpec::discard`].
    pub discard: Option<Discard>,
    /// How the volume is encrypted; `None`: not at all.
    pub encryption: Option<Encryption>,
    /// The I/O limits that its volumes begin with. They can be changed later.
    pub limits: IoLimits,
    /// Whether a pod may use the volume only where its limits are in force.
    pub requires_limits: bool,
    /// Whether the controller deletes a volume's claim when the volume's node is gone for good.
    pub release_on_node_loss: bool,
}

impl Parameters {
    /// Parses the parameters of a CreateVolume or GetCapacity request. Keys of the sidecars are ignored.
    ///
    /// # Errors
    /// `InvalidRequest` for an unknown key (the message lists the known ones) or an invalid value.
    pub fn parse(parameters: &BTreeMap<String, String>) -> Result<Self> {
        let own: BTreeMap<&str, &str> = parameters
            .iter()
            .filter(|(key, _)| !key.starts_with(SIDECAR_PREFIX))
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        if let Some(unknown) = own.keys().find(|key| !KNOWN.contains(key)) {
            return Err(Error::invalid(format!(
                "StorageClass parameter {unknown:?} is unknown; known parameters: {}",
                KNOWN.join(", ")
            )));
        }
        let layout = Layout::parse(&own).map_err(|error| Error::invalid(error.to_string()))?;
        let pool = match own.get("pool") {
            Some(&"") => return Err(Error::invalid("StorageClass parameter \"pool\" is empty: name a pool")),
            Some(name) => Some((*name).to_owned()),
            None => None,
        };
        let wipe = own.get("wipe").map(|word| word.parse::<Wipe>()).transpose();
        let wipe = wipe.map_err(|error| Error::invalid(format!("StorageClass parameter \"wipe\": {error}")))?;
        let discard = own.get(DISCARD).map(|word| word.parse::<Discard>()).transpose();
        let discard =
            discard.map_err(|error| Error::invalid(format!("StorageClass parameter {DISCARD:?}: {error}")))?;
        let encryption = own.get(ENCRYPTION).map(|word| word.parse::<Encryption>()).transpose();
        let encryption =
            encryption.map_err(|error| Error::invalid(format!("StorageClass parameter {ENCRYPTION:?}: {error}")))?;
        let mkfs_options = own.get(MKFS_OPTIONS).copied().unwrap_or_default();
        let limits = IoLimits::default().with(&LimitChanges::read(|key| own.get(key).copied())?);
        let requires_limits = is(&own, LIMITS, REQUIRED, PREFERRED)?;
        let release_on_node_loss = is(&own, ON_NODE_LOSS, RELEASE, KEEP)?;
        let mkfs_options = fold(mkfs_options);
        Ok(Self {
            pool,
            layout,
            mkfs_options,
            wipe,
            discard,
            encryption,
            limits,
            requires_limits,
            release_on_node_loss,
        })
    }

    /// The parameters of a volume with these mutable parameters, which take precedence over those of its StorageClass.
    #[must_use]
    pub fn with(self, changes: &MutableParameters) -> Self {
        Self { limits: self.limits.with(&changes.limits), discard: changes.discard.or(self.discard), ..self }
    }
}

/// Whether a key has the first of two values. The second one is the default.
fn is(own: &BTreeMap<&str, &str>, key: &str, yes: &str, no: &str) -> Result<bool> {
    match own.get(key).copied() {
        Some(value) if value == yes => Ok(true),
        None => Ok(false),
        Some(value) if value == no => Ok(false),
        Some(other) => Err(Error::invalid(format!("StorageClass parameter {key:?} is {other:?}: use {yes} or {no}"))),
    }
}

/// One space between words, so that the same options with other spacing are equal.
fn fold(text: &str) -> String {
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

/// A volume to create: everything in CreateVolume, checked as far as possible without the storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// The requested name: unique, and the key of idempotency.
    pub name: String,
    /// The accepted sizes.
    pub size: SizeRange,
    /// The access types of the volume.
    pub access: AccessTypes,
    /// The filesystem to create; `None` for raw block.
    pub filesystem: Option<Filesystem>,
    /// The parameters of its StorageClass.
    pub class: Parameters,
    /// What it is filled with; `None` for an empty volume.
    pub source: Option<ContentSource>,
}

impl VolumeSpec {
    /// A raw block volume with this size in bytes and no parameters.
    #[must_use]
    pub fn block(name: impl Into<String>, size: u64) -> Self {
        Self {
            name: name.into(),
            size: SizeRange { required: size, limit: None },
            access: AccessTypes::Block,
            filesystem: None,
            class: Parameters::default(),
            source: None,
        }
    }

    /// A volume with this filesystem and size in bytes, and no parameters.
    #[must_use]
    pub fn mount(name: impl Into<String>, size: u64, filesystem: Filesystem) -> Self {
        Self { access: AccessTypes::Mount, filesystem: Some(filesystem), ..Self::block(name, size) }
    }

    /// The same volume in another pool.
    #[must_use]
    pub fn in_pool(self, pool: impl Into<String>) -> Self {
        Self { class: Parameters { pool: Some(pool.into()), ..self.class }, ..self }
    }

    /// The same volume with another layout.
    #[must_use]
    pub fn with_layout(self, layout: Layout) -> Self {
        Self { class: Parameters { layout, ..self.class }, ..self }
    }

    /// The same volume, filled from that source.
    #[must_use]
    pub fn filled_from(self, source: ContentSource) -> Self {
        Self { source: Some(source), ..self }
    }

    /// When the unused space of its filesystem is discarded, if its class sets that. A class can be used for filesystems
    /// and for raw block volumes, so it has no meaning for the latter: their user discards.
    #[must_use]
    pub fn discard(&self) -> Option<Discard> {
        self.class.discard.filter(|_| self.filesystem.is_some())
    }

    /// How many bytes of its storage its user does not have.
    #[must_use]
    pub fn overhead(&self) -> u64 {
        self.class.encryption.map_or(0, Encryption::overhead)
    }

    /// See [`parameters_hash`].
    #[must_use]
    pub fn parameters_hash(&self) -> String {
        parameters_hash(self.filesystem, &self.class.layout, &self.class.mkfs_options)
    }
}

/// A short hash of the parameters that a volume was created with, kept in its record: it distinguishes a
/// retry of the same request from another request, and detects mkfs options that were changed between the
/// check and the node.
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
    fn an_unknown_key_is_rejected_and_the_known_ones_are_listed() {
        let error = parse(&[("pools", "a")]).unwrap_err();
        assert_eq!(error.reason, crate::Reason::InvalidRequest);
        for key in KNOWN {
            assert!(error.message.contains(key), "{}", error.message);
        }
    }

    #[test]
    fn the_chart_accepts_classes_with_the_known_keys() {
        let schema = include_str!("../../../deploy/chart/values.schema.json");
        let (_, after) = schema.split_once("\"propertyNames\": {\n              \"anyOf\"").unwrap();
        let (_, after) = after.split_once("\"enum\": [").unwrap();
        let (keys, _) = after.split_once(']').unwrap();
        let keys: Vec<&str> = keys.split(',').map(|key| key.trim().trim_matches('"')).collect();
        assert_eq!(keys, KNOWN);
    }

    #[test]
    fn the_sidecars_keys_are_ignored() {
        let parameters = parse(&[("csi.storage.k8s.io/fstype", "xfs"), ("csi.storage.k8s.io/pvc/name", "a")]).unwrap();
        assert_eq!(parameters, Parameters::default());
    }

    #[test]
    fn a_class_sets_how_its_volumes_are_wiped() {
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
    fn a_class_sets_how_its_volumes_are_encrypted() {
        assert_eq!(parse(&[("encryption", "luks2")]).unwrap().encryption, Some(Encryption::Luks2));
        assert_eq!(parse(&[]).unwrap().encryption, None);
        for word in ["", "luks", "LUKS2", "true", "none"] {
            let error = parse(&[("encryption", word)]).unwrap_err();
            assert_eq!(error.reason, crate::Reason::InvalidRequest, "{word}");
            assert!(error.message.contains("\"encryption\": ") && error.message.contains("luks2"), "{error}");
        }
    }

    #[test]
    fn a_class_sets_what_happens_when_a_node_is_lost() {
        assert!(!parse(&[]).unwrap().release_on_node_loss);
        assert!(!parse(&[("onNodeLoss", "keep")]).unwrap().release_on_node_loss);
        assert!(parse(&[("onNodeLoss", "release")]).unwrap().release_on_node_loss);
        for word in ["", "true", "Release", "delete"] {
            let error = parse(&[("onNodeLoss", word)]).unwrap_err();
            assert!(error.message.contains("use release or keep"), "{error}");
        }
    }

    #[test]
    fn a_class_sets_when_unused_space_is_discarded() {
        for discard in Discard::ALL {
            assert_eq!(parse(&[("discard", discard.as_str())]).unwrap().discard, Some(discard));
        }
        for word in ["", "Online", "weekly", "true"] {
            let error = parse(&[("discard", word)]).unwrap_err();
            assert_eq!(error.reason, crate::Reason::InvalidRequest, "{word}");
            assert!(error.message.contains("\"discard\": ") && error.message.contains("online, periodic or none"));
        }
    }

    #[test]
    fn a_class_sets_the_limits_that_its_volumes_begin_with() {
        let class = parse(&[("readBytesPerSecond", "64Mi"), ("writeIops", "500"), ("limits", "required")]).unwrap();
        assert_eq!(class.limits.values(), [Some(64 << 20), None, None, Some(500)]);
        assert!(class.requires_limits);
        assert!(!parse(&[("limits", "preferred")]).unwrap().requires_limits);
        for (key, value) in [("limits", "yes"), ("readIops", "x"), ("readIops", "")] {
            let error = parse(&[(key, value)]).unwrap_err();
            assert_eq!(error.reason, crate::Reason::InvalidRequest, "{key}");
            assert!(error.message.contains(key), "{}", error.message);
        }
    }

    #[test]
    fn a_raw_block_volume_ignores_it() {
        let class = Parameters { discard: Some(Discard::Online), ..Parameters::default() };
        let raw = VolumeSpec { class: class.clone(), ..VolumeSpec::block("a", 1) };
        let mounted = VolumeSpec { class, ..VolumeSpec::mount("a", 1, Filesystem::Xfs) };
        assert_eq!((raw.discard(), mounted.discard()), (None, Some(Discard::Online)));
    }

    #[test]
    fn layouts_that_are_not_proven_yet_are_rejected() {
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
