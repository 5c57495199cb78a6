//! What Quarry's types and CSI's messages have in common: capabilities and volume health.

use quarry_proto::csi::v1 as csi;
use quarry_proto::csi::v1::VolumeHealthErrorType as Status;
use quarry_volume::{AccessMode, AccessType, Capability, Condition, Error, Filesystem, Result};

/// Parses one capability.
///
/// # Errors
/// `InvalidRequest` if it is malformed or not supported.
pub fn capability(capability: &csi::VolumeCapability) -> Result<Capability> {
    use csi::volume_capability::AccessType as Csi;
    use csi::volume_capability::access_mode::Mode;

    let mode =
        capability.access_mode.as_ref().ok_or_else(|| Error::invalid("volume_capability.access_mode is missing"))?.mode;
    let mode = match Mode::try_from(mode) {
        Ok(Mode::SingleNodeWriter) => AccessMode::Writer,
        Ok(Mode::SingleNodeReaderOnly) => AccessMode::ReaderOnly,
        Ok(Mode::SingleNodeSingleWriter) => AccessMode::SingleWriter,
        Ok(Mode::SingleNodeMultiWriter) => AccessMode::MultiWriter,
        Ok(Mode::Unknown) => return Err(Error::invalid("volume_capability.access_mode is not set")),
        Ok(other) => {
            return Err(Error::invalid(format!(
                "access mode {} needs a volume that several nodes can share; a local volume is on one node: use a \
                 single-node mode (ReadWriteOnce, ReadWriteOncePod)",
                other.as_str_name()
            )));
        }
        Err(_) => return Err(Error::invalid(format!("access mode {mode} is unknown"))),
    };
    match &capability.access_type {
        None => Err(Error::invalid("volume_capability.access_type is missing: set mount or block")),
        Some(Csi::Block(_)) => {
            Ok(Capability { access: AccessType::Block, filesystem: None, mount_flags: Vec::new(), mode })
        }
        Some(Csi::Mount(mount)) => {
            if !mount.volume_mount_group.is_empty() {
                return Err(Error::invalid(
                    "volume_mount_group is not supported (the node has no capability VOLUME_MOUNT_GROUP)",
                ));
            }
            let filesystem = match mount.fs_type.as_str() {
                "" => None,
                name => Some(name.parse::<Filesystem>().map_err(|error| Error::invalid(error.to_string()))?),
            };
            Ok(Capability { access: AccessType::Mount, filesystem, mount_flags: mount.mount_flags.clone(), mode })
        }
    }
}

/// Parses all capabilities of a request.
///
/// # Errors
/// `InvalidRequest` for the first one that is malformed or not supported.
pub fn capabilities(list: &[csi::VolumeCapability]) -> Result<Vec<Capability>> {
    list.iter().map(capability).collect()
}

/// The status and reason of a volume's problem in CSI's volume health (KEP-1432); `None` if nothing is wrong.
fn status(condition: Condition) -> Option<(Status, &'static str)> {
    Some(match condition {
        Condition::Healthy => return None,
        Condition::Degraded => (Status::Degraded, "CopyImpaired"),
        Condition::DiskMissing => (Status::Inaccessible, "PhysicalVolumeMissing"),
        Condition::Unfinished => (Status::Inaccessible, "CreationInterrupted"),
        Condition::RecordUnreadable => (Status::Inaccessible, "RecordUnreadable"),
        Condition::FilesystemFailed => (Status::Inaccessible, "FilesystemFailed"),
        Condition::StorageUnreadable => (Status::Inaccessible, "StorageUnreadable"),
        Condition::Other => (Status::Degraded, "ProblemReported"),
    })
}

/// The health of the volume with this identifier; `problem` is for people.
#[must_use]
pub fn health(condition: Condition, volume_id: String, problem: &str) -> csi::VolumeHealth {
    let entry = |(status, reason): (Status, &str)| csi::volume_health::VolumeHealthEntry {
        status: status as i32,
        reason: reason.to_owned(),
        message: problem.to_owned(),
    };
    csi::VolumeHealth { volume_id, health_statuses: status(condition).map(entry).into_iter().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_word_and_unique_to_one_condition() {
        use Condition::{
            Degraded, DiskMissing, FilesystemFailed, Other, RecordUnreadable, StorageUnreadable, Unfinished,
        };
        let all = [Degraded, DiskMissing, Unfinished, RecordUnreadable, FilesystemFailed, StorageUnreadable, Other];
        let mut seen: Vec<_> = all.map(|condition| status(condition).unwrap()).into();
        for (_, reason) in &seen {
            assert!(
                reason.chars().all(|c| c.is_ascii_alphabetic()) && reason.starts_with(char::is_uppercase),
                "{reason}"
            );
        }
        seen.sort_by_key(|(_, reason)| *reason);
        seen.dedup();
        assert_eq!(seen.len(), all.len());
    }

    #[test]
    fn a_healthy_volume_has_no_entry() {
        assert_eq!(health(Condition::Healthy, "v".into(), "").health_statuses, []);
        let health = health(Condition::Degraded, "v".into(), "a copy is missing");
        assert_eq!(health.volume_id, "v");
        assert_eq!(health.health_statuses[0].status(), Status::Degraded);
        assert_eq!(health.health_statuses[0].message, "a copy is missing");
    }
}
