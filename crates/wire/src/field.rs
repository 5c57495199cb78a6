//! Fields that all requests have in common.

use quarry_volume::{Error, MAX_ID, Result, SnapshotId, VolumeId, is_of_later_version};

/// Checks a required string.
///
/// # Errors
/// `InvalidRequest` if it is empty, longer than CSI allows, or contains control characters.
pub fn required<'a>(field: &str, value: &'a str) -> Result<&'a str> {
    match value.len() {
        0 => Err(Error::invalid(format!("{field} is missing"))),
        length if length > MAX_ID => Err(Error::invalid(format!("{field} has {length} bytes; CSI allows {MAX_ID}"))),
        _ if value.chars().any(char::is_control) => {
            Err(Error::invalid(format!("{field} contains a control character: {}", value.escape_debug())))
        }
        _ => Ok(value),
    }
}

/// Parses the identifier of a volume that must exist. An identifier in another format names no volume.
///
/// # Errors
/// `InvalidRequest` as for [`required`]; `NotFound` if the identifier has another format; `Unavailable` as for
/// [`not_of_later_version`].
pub fn existing_volume(value: &str) -> Result<VolumeId> {
    required("volume_id", value)?;
    not_of_later_version('v', value)?;
    value.parse().map_err(|error| Error::not_found(format!("volume {value:?} does not exist: {error}")))
}

/// Parses the identifier of a snapshot that must exist, as [`existing_volume`] does.
///
/// # Errors
/// As for [`existing_volume`].
pub fn existing_snapshot(value: &str) -> Result<SnapshotId> {
    required("snapshot_id", value)?;
    not_of_later_version('s', value)?;
    value.parse().map_err(|_| {
        Error::not_found(format!("snapshot {value:?} does not exist: not a snapshot identifier of Quarry"))
    })
}

/// Checks that an identifier of this kind (see [`is_of_later_version`]) is not one that only a later version issues.
///
/// # Errors
/// `Unavailable` if it is: it may name something that exists.
pub fn not_of_later_version(kind: char, id: &str) -> Result<()> {
    if is_of_later_version(kind, id) {
        return Err(Error::unavailable(format!("{id:?} was issued by a later version of Quarry: upgrade Quarry")));
    }
    Ok(())
}

/// CSI uses signed numbers.
#[must_use]
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_volume::Reason;

    #[test]
    fn fields_are_checked_before_they_are_used() {
        assert_eq!(required("name", "pvc-1").unwrap(), "pvc-1");
        assert!(required("name", &"a".repeat(128)).is_ok());
        for bad in ["", "a\nb", "a\0", &"a".repeat(129)] {
            assert_eq!(required("name", bad).unwrap_err().reason, Reason::InvalidRequest, "{bad:?}");
        }
        assert_eq!(existing_volume("pvc-1").unwrap_err().reason, Reason::NotFound);
        assert_eq!(existing_volume("").unwrap_err().reason, Reason::InvalidRequest);
        assert_eq!(existing_snapshot("v1:aaaaaaaaaa:n:v").unwrap_err().reason, Reason::NotFound);
        assert_eq!(existing_snapshot("").unwrap_err().reason, Reason::InvalidRequest);
        // After a downgrade: this version cannot know that they do not exist.
        assert_eq!(existing_volume("v2:x").unwrap_err().reason, Reason::Unavailable);
        assert_eq!(existing_snapshot("s2:x").unwrap_err().reason, Reason::Unavailable);
    }
}
