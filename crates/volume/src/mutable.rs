//! The parameters of a volume that can be changed while pods use it (CSI: mutable parameters).

use std::collections::BTreeMap;

use crate::parameters::{DISCARD, SIDECAR_PREFIX};
use crate::{Discard, Error, Filesystem, LimitChanges, Rate, Result};

/// The mutable parameters of CreateVolume and ControllerModifyVolume: what a VolumeAttributesClass sets. What it does not
/// set stays as it is. The default changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MutableParameters {
    /// The changes of its I/O limits.
    pub limits: LimitChanges,
    /// When the unused space of its filesystem is discarded; `None`: as before.
    pub discard: Option<Discard>,
}

impl MutableParameters {
    /// Parses the parameters of a VolumeAttributesClass. Keys of the sidecars are ignored.
    ///
    /// # Errors
    /// `InvalidRequest` for an unknown key, which the message names with the known ones, or an invalid value.
    pub fn parse(parameters: &BTreeMap<String, String>) -> Result<Self> {
        let limits = Rate::ALL.map(Rate::parameter);
        let known = |key: &str| key.starts_with(SIDECAR_PREFIX) || key == DISCARD || limits.contains(&key);
        if let Some(unknown) = parameters.keys().find(|key| !known(key)) {
            return Err(Error::invalid(format!(
                "mutable parameter {unknown:?} is unknown; a VolumeAttributesClass can have {}, {DISCARD}",
                limits.join(", ")
            )));
        }
        let discard = parameters.get(DISCARD).map(|word| word.parse::<Discard>()).transpose();
        let discard = discard.map_err(|error| Error::invalid(format!("mutable parameter {DISCARD:?}: {error}")))?;
        Ok(Self { limits: LimitChanges::read(|key| parameters.get(key).map(String::as_str))?, discard })
    }

    /// The same as parameters: [`MutableParameters::parse`] yields them again.
    #[must_use]
    pub fn parameters(&self) -> BTreeMap<String, String> {
        let discard = self.discard.map(|discard| (DISCARD.to_owned(), discard.to_string()));
        self.limits.parameters().into_iter().chain(discard).collect()
    }

    /// Checks whether a volume with this filesystem can have these parameters; `None` for a raw block volume.
    ///
    /// # Errors
    /// `InvalidRequest` for `discard` without a filesystem. A StorageClass can have it, because claims of both kinds share
    /// it. A VolumeAttributesClass is selected for one claim, and would have no effect.
    pub fn check(&self, filesystem: Option<Filesystem>) -> Result<()> {
        match (self.discard, filesystem) {
            (Some(discard), None) => Err(Error::invalid(format!(
                "a raw block volume cannot have \"{DISCARD}: {discard}\": it has no filesystem, and the program that uses \
                 it discards; use a VolumeAttributesClass without {DISCARD:?}"
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IoLimits, Parameters, Reason};

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_class_changes_what_it_names_and_nothing_else() {
        let class = Parameters::parse(&map(&[("discard", "online"), ("readIops", "5"), ("writeIops", "6")])).unwrap();
        let with = |pairs: &[(&str, &str)]| class.clone().with(&MutableParameters::parse(&map(pairs)).unwrap());
        assert_eq!(with(&[]), class);
        assert_eq!(with(&[("csi.storage.k8s.io/pvc/name", "a")]), class);
        let changed = with(&[("discard", "none"), ("readIops", "none"), ("writeBytesPerSecond", "1Mi")]);
        assert_eq!(changed.discard, Some(Discard::None));
        assert_eq!(changed.limits, IoLimits::new([None, Some(1 << 20), None, Some(6)]));
        assert_eq!(with(&[("readIops", "7")]).discard, Some(Discard::Online));
    }

    #[test]
    fn an_unknown_key_or_a_wrong_value_is_an_invalid_request_that_names_it() {
        for (key, value, why) in [
            ("readbytespersecond", "64Mi", "is unknown; a VolumeAttributesClass can have readBytesPerSecond"),
            ("mkfsOptions", "-m 0", "writeIops, discard"),
            ("limits", "required", "is unknown"),
            ("discard", "weekly", "online, periodic or none"),
            ("discard", "", "online, periodic or none"),
            ("writeIops", "0", "would stop"),
        ] {
            let error = MutableParameters::parse(&map(&[(key, value), ("readIops", "5")])).unwrap_err();
            assert_eq!(error.reason, Reason::InvalidRequest, "{key}={value}");
            assert!(error.message.contains(key) && error.message.contains(why), "{}", error.message);
        }
    }

    #[test]
    fn a_raw_block_volume_cannot_have_discard() {
        let discard = MutableParameters { discard: Some(Discard::Periodic), ..MutableParameters::default() };
        discard.check(Some(Filesystem::Ext4)).unwrap();
        let error = discard.check(None).unwrap_err();
        assert_eq!(error.reason, Reason::InvalidRequest);
        assert!(error.message.contains("raw block volume cannot have \"discard: periodic\""), "{error}");
        MutableParameters::parse(&map(&[("readIops", "5")])).unwrap().check(None).unwrap();
    }

    #[test]
    fn changes_survive_as_parameters() {
        for discard in Discard::ALL.map(Some).into_iter().chain([None]) {
            let limits = MutableParameters::parse(&map(&[("readIops", "5"), ("writeIops", "none")])).unwrap().limits;
            let changes = MutableParameters { limits, discard };
            assert_eq!(MutableParameters::parse(&changes.parameters()).unwrap(), changes);
        }
    }
}
