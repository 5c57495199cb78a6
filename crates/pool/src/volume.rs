//! A volume as its pool finds it.

use quarry_volume::{Error, Reason, Result, SizeRange, StorageId, safe_name};
use uuid::Uuid;

use crate::Record;
use crate::key::VolumeKey;

/// A volume as its pool finds it on the storage.
#[derive(Clone, Debug)]
pub struct PoolVolume {
    /// The name in its identifier, unique in the pool: made from the name in its record, if that can be read.
    pub name: String,
    /// Its current name on the storage. On LVM, it differs after the volume was renamed by hand.
    pub stored_as: String,
    /// The identity of its pool's storage.
    pub storage: StorageId,
    /// Identifies it on its storage.
    pub(crate) key: VolumeKey,
    /// Its size in bytes.
    pub size: u64,
    /// Its record, or why this version cannot use it.
    pub record: Recorded,
    /// The state of the storage under it.
    pub health: Health,
}

/// The record of a Quarry volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// Readable.
    Here(Box<Record>),
    /// Written by a newer Quarry, with this record version.
    Newer(u32),
    /// Marked as Quarry's, but unreadable.
    Broken(String),
    /// Several objects on the storage have it, so the volume is ambiguous. Their names. Not for whole disks:
    /// there, a volume that two disks hold is unreadable.
    Ambiguous(Vec<String>),
}

/// The state of the storage under a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Complete.
    Whole,
    /// Something that it has several of is lost or damaged, so it works: a disk under a mirror, a copy of the
    /// disk's tables.
    Degraded(String),
    /// Its disk, or a part of its data, is lost or cannot be reached now.
    Lost(String),
    /// Its creation was interrupted before its layout was complete; possible only for a `new` volume.
    Incomplete(String),
}

impl Health {
    /// The problem, if there is one.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::Whole => None,
            Self::Degraded(why) | Self::Lost(why) | Self::Incomplete(why) => Some(why),
        }
    }
}

impl PoolVolume {
    /// Whether it is smaller than requested.
    ///
    /// # Errors
    /// `SizeOutOfRange` if it is larger than permitted: a volume is never made smaller.
    pub fn needs_expansion(&self, size: &SizeRange) -> Result<bool> {
        match size.limit {
            Some(limit) if limit < self.size => Err(Error::new(
                Reason::SizeOutOfRange,
                format!("it has {} bytes, more than the limit of {limit}, and cannot be made smaller", self.size),
            )),
            _ => Ok(self.size < size.required),
        }
    }

    /// The size to expand to, for storage that adds multiples of `unit` bytes: the smallest one in the range.
    ///
    /// # Errors
    /// `SizeOutOfRange` if no such size is in the range.
    pub(crate) fn expanded_size(&self, size: &SizeRange, unit: u64) -> Result<u64> {
        let more = size.required.saturating_sub(self.size).checked_next_multiple_of(unit.max(1));
        let expanded = more.and_then(|more| self.size.checked_add(more)).filter(|size| i64::try_from(*size).is_ok());
        let why = match (expanded, size.limit) {
            (None, _) => format!("{} bytes is more than any volume can have", size.required),
            (Some(expanded), Some(limit)) if expanded > limit => format!(
                "it grows by multiples of {unit} bytes; {} rounds up to {expanded}, above the limit of {limit} bytes",
                size.required
            ),
            (Some(expanded), _) => return Ok(expanded),
        };
        Err(Error::new(Reason::SizeOutOfRange, why))
    }

    /// The UUID of its filesystem, made or still to be made: the one in its record, otherwise the one that is
    /// derived from its own UUID. Whatever has to recognize the filesystem compares with this one.
    #[must_use]
    pub fn filesystem_uuid(&self) -> Uuid {
        let recorded = match &self.record {
            Recorded::Here(record) => record.filesystem_uuid,
            Recorded::Newer(_) | Recorded::Broken(_) | Recorded::Ambiguous(_) => None,
        };
        recorded.unwrap_or_else(|| quarry_filesystem::filesystem_uuid(&self.uuid()))
    }

    /// The size that its user has, in bytes.
    #[must_use]
    pub fn usable_size(&self) -> u64 {
        match &self.record {
            Recorded::Here(record) => self.size.saturating_sub(record.overhead()),
            Recorded::Newer(_) | Recorded::Broken(_) | Recorded::Ambiguous(_) => self.size,
        }
    }

    /// The problem with its name: that the storage has it under another name.
    #[must_use]
    pub fn renamed(&self) -> Option<String> {
        (self.stored_as != self.name).then(|| {
            format!(
                "volume {} was renamed by hand to {}: it works as before, but is not deleted under this name; rename \
                 it back",
                self.name, self.stored_as
            )
        })
    }

    /// Whether a request for a volume of that name means this one. A record that cannot be read does not have
    /// a name, but its volume is stored under the name of its request.
    #[must_use]
    pub fn is_requested_as(&self, name: &str) -> bool {
        match &self.record {
            Recorded::Here(record) => record.name == name,
            Recorded::Newer(_) | Recorded::Broken(_) | Recorded::Ambiguous(_) => self.name == safe_name(name),
        }
    }

    /// The record, if this version may change the volume.
    ///
    /// # Errors
    /// `Precondition` for a record of a newer Quarry, or an unreadable one; `Unavailable` if several objects
    /// have it.
    pub fn record(&self) -> Result<&Record> {
        match &self.record {
            Recorded::Here(record) => Ok(record),
            Recorded::Newer(version) => Err(Error::precondition(format!(
                "volume {} was written by a newer Quarry (record version {version}{}): it can only be unpublished and \
                 unstaged; upgrade Quarry on this node",
                self.name,
                match crate::record::NEWEST {
                    newest if *version > newest => format!(", this one knows {newest}"),
                    _ => " with fields that this one does not know".to_owned(),
                }
            ))),
            Recorded::Broken(why) => Err(Error::precondition(format!(
                "the record of volume {} is invalid ({why}), so the volume is not changed: {}",
                self.name,
                self.key.repair_of_record()
            ))),
            Recorded::Ambiguous(names) => Err(Error::unavailable(format!(
                "{} all have the record of volume {}, so the volume is ambiguous and cannot be used; {}",
                quarry_volume::some_of(names),
                self.name,
                self.key.removal_of_copy()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_grows_by_whole_units_within_the_limit() {
        let volume = PoolVolume {
            name: "a".to_owned(),
            stored_as: "a".to_owned(),
            storage: StorageId::of("s"),
            key: VolumeKey::Simulated { storage: "s".to_owned(), number: 1 },
            size: 10,
            record: Recorded::Newer(2),
            health: Health::Whole,
        };
        let expanded = |required, limit| volume.expanded_size(&SizeRange { required, limit }, 8);
        assert_eq!(expanded(11, None).unwrap(), 18);
        assert_eq!(expanded(18, Some(18)).unwrap(), 18);
        assert_eq!(expanded(19, Some(26)).unwrap(), 26);
        for (required, limit, words) in [
            (19, Some(25), "19 rounds up to 26, above the limit of 25 bytes"),
            (u64::MAX, None, "more than any volume can have"),
            (1 << 63, None, "more than any volume can have"),
        ] {
            let error = expanded(required, limit).unwrap_err();
            assert_eq!(error.reason, Reason::SizeOutOfRange);
            assert!(error.message.contains(words), "{error}");
        }
        // Large enough already; or more than it may have.
        assert!(!volume.needs_expansion(&SizeRange { required: 10, limit: Some(10) }).unwrap());
        let error = volume.needs_expansion(&SizeRange { required: 1, limit: Some(9) }).unwrap_err();
        assert_eq!(error.reason, Reason::SizeOutOfRange);
    }
}
