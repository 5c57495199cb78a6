//! Volume problems, for programs: the statuses and reasons of CSI's volume health (KEP-1432).

use quarry_proto::csi::v1 as csi;

use self::csi::VolumeHealthErrorType as Status;

/// The kind of a volume's problem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// No known problem.
    #[default]
    Healthy,
    /// The volume is usable, but not all of its copies are.
    Degraded,
    /// Part of it is on a disk that is missing or too small.
    DiskMissing,
    /// Its creation was interrupted.
    Unfinished,
    /// Its record cannot be read, or a newer Quarry wrote it.
    RecordUnreadable,
    /// Its filesystem has failed.
    FilesystemFailed,
    /// Its storage cannot be read now.
    StorageUnreadable,
    /// Another problem, from a node that does not report the kind.
    Other,
}

impl Condition {
    /// The CSI status and reason; `None` if nothing is wrong.
    #[must_use]
    pub fn status(self) -> Option<(Status, &'static str)> {
        Some(match self {
            Self::Healthy => return None,
            Self::Degraded => (Status::Degraded, "CopyImpaired"),
            Self::DiskMissing => (Status::Inaccessible, "PhysicalVolumeMissing"),
            Self::Unfinished => (Status::Inaccessible, "CreationInterrupted"),
            Self::RecordUnreadable => (Status::Inaccessible, "RecordUnreadable"),
            Self::FilesystemFailed => (Status::Inaccessible, "FilesystemFailed"),
            Self::StorageUnreadable => (Status::Inaccessible, "StorageUnreadable"),
            Self::Other => (Status::Degraded, "ProblemReported"),
        })
    }

    /// The health of the volume with this identifier; `problem` is for people.
    #[must_use]
    pub fn health(self, volume_id: String, problem: &str) -> csi::VolumeHealth {
        let entry = |(status, reason): (Status, &str)| csi::volume_health::VolumeHealthEntry {
            status: status as i32,
            reason: reason.to_owned(),
            message: problem.to_owned(),
        };
        csi::VolumeHealth { volume_id, health_statuses: self.status().map(entry).into_iter().collect() }
    }
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
        let mut seen: Vec<_> = all.map(|condition| condition.status().unwrap()).into();
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
        assert_eq!(Condition::Healthy.health("v".into(), "").health_statuses, []);
        let health = Condition::Degraded.health("v".into(), "a copy is missing");
        assert_eq!(health.volume_id, "v");
        assert_eq!(health.health_statuses[0].status(), Status::Degraded);
        assert_eq!(health.health_statuses[0].message, "a copy is missing");
    }
}
