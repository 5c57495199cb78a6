//! Reads a volume group from its disks, without lvm: a process of lvm takes tens of milliseconds, and waits for lvm's
//! locks.
//!
//! The result is the same [`VolumeGroup`] as that of lvm's report, or an error that says why the report is needed:
//! this reader never guesses. lvm still decides each change, and reads everything itself before it makes one.
//!
//! 1. [`read_disk`] reads label, headers and texts of one disk. It blocks like any read, so the caller decides about
//!    threads and patience.
//! 2. [`next`] compares all copies, parses the text, adds what the kernel knows, compares with the last report what only
//!    lvm may judge, and sees whether a command of lvm is in the middle of a change.
//! 3. [`crate::metadata_fingerprint`] of each disk is still that of [`Disk`]: nothing was changed meanwhile.

mod checksum;
mod connections;
mod copies;
mod devices;
mod disk;
mod fields;
mod group;
mod lock;
mod parts;
mod reason;
mod state;
pub mod text;

pub use devices::{Device, Devices};
pub use disk::{Area, Disk, has_only_label, read_disk};
pub use reason::{DiskProblem, NeedsReport, Unknown};

use crate::types::VolumeGroup;

/// The volume group on these disks: all disks that the last report found.
///
/// The fields that a report does not have stay empty, as after [`crate::parse`]: `scope`, what says of
/// missing disks where they may be, `duplicates`, and what [`crate::kernel`] adds.
///
/// # Errors
/// Why lvm's report is needed.
pub fn volume_group(disks: &[Disk], kernel: &Devices) -> Result<VolumeGroup, NeedsReport> {
    group::volume_group(&text::parse(copies::agreed(disks)?)?, disks, kernel)
}

/// The volume group on these disks, which are all disks of the `last` one. Asks the kernel about its devices; the status of
/// a thin pool may wait for the pool's disks.
///
/// # Errors
/// Why lvm's report is needed.
pub fn next(last: &VolumeGroup, disks: &[Disk]) -> Result<VolumeGroup, NeedsReport> {
    let require_unlocked = || match lock::is_locked(&last.name, &last.scope) {
        Ok(false) => Ok(()),
        Ok(true) => Err(NeedsReport::Locked),
        Err(error) => Err(NeedsReport::Lock(error)),
    };
    // Both before and after: a command that has just committed may still suspend and resume devices.
    require_unlocked()?;
    let kernel = Devices::of(last.uuid).map_err(NeedsReport::Kernel)?;
    let group = follows(last, volume_group(disks, &kernel)?)?;
    require_unlocked()?;
    Ok(group)
}

/// Completes a volume group that was read from disks with what the last report knows in addition, if it may follow
/// that report: lvm would read this volume group as well.
///
/// # Errors
/// It is another volume group, or its owner, name or export state has changed, or the last report had a problem that
/// lvm must look at again.
pub fn follows(last: &VolumeGroup, mut now: VolumeGroup) -> Result<VolumeGroup, NeedsReport> {
    if (now.uuid, &now.name) != (last.uuid, &last.name) {
        return Err(NeedsReport::Other("the name or UUID of the volume group"));
    }
    if (&now.system_id, &now.lock_type, now.exported) != (&last.system_id, &last.lock_type, last.exported) {
        return Err(NeedsReport::Other("the owner of the volume group"));
    }
    if !last.hidden.is_empty() || last.physical_volumes.iter().any(|pv| !pv.duplicates.is_empty()) {
        return Err(NeedsReport::Other("a disk that lvm does not use"));
    }
    now.scope = last.scope.clone();
    Ok(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PhysicalVolume;
    use crate::uuid::testing::uuid;

    #[test]
    fn only_a_group_that_lvm_would_read_as_well_follows() {
        let mut last = VolumeGroup { name: "vg".into(), uuid: uuid("vg"), seqno: 7, ..VolumeGroup::default() };
        last.scope.devices.push("/dev/vdb".into());
        let now = VolumeGroup { seqno: 8, scope: crate::Scope::default(), ..last.clone() };
        let followed = follows(&last, now.clone()).expect("follows");
        assert_eq!((followed.seqno, &followed.scope), (8, &last.scope));
        for other in [
            VolumeGroup { name: "renamed".into(), ..now.clone() },
            VolumeGroup { uuid: uuid("other"), ..now.clone() },
            VolumeGroup { system_id: "other".into(), ..now.clone() },
            VolumeGroup { lock_type: "none".into(), ..now.clone() },
            VolumeGroup { exported: true, ..now.clone() },
        ] {
            assert!(matches!(follows(&last, other), Err(NeedsReport::Other(_))));
        }
        let pv = PhysicalVolume { duplicates: vec!["/dev/vdc".into()], ..PhysicalVolume::default() };
        for last in [
            VolumeGroup { hidden: vec!["filtered".into()], ..last.clone() },
            VolumeGroup { physical_volumes: vec![pv], ..last.clone() },
        ] {
            assert!(matches!(follows(&last, now.clone()), Err(NeedsReport::Other(_))));
        }
    }
}
