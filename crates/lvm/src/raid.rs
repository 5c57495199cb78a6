//! The kernel's status of a raid: which of its images are in sync, rebuilding, or failed.
//!
//! A device-mapper raid has no `md` folder in sysfs, and there is no uevent when an image fails. lvm reads
//! the status line of the device with one ioctl; this module does the same, without a process. The ioctl does
//! no I/O on the disks and does not wait for them.

use std::str::FromStr;

use crate::uuid::REAL;
use crate::{LvUuid, VgUuid, device_uuid, dm};

/// The state of one image of a raid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageState {
    /// Alive, and equal to the others.
    InStep,
    /// Alive, and being synchronized.
    Rebuilding,
    /// The kernel has dropped it after an error: it is no longer written, so its contents become stale.
    Failed,
    /// The kernel has no device for it.
    Absent,
}

/// The status line of a raid.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RaidStatus {
    /// The images, in the order of the device's table.
    pub images: Vec<ImageState>,
    /// The part that is in sync, in hundredths of a percent.
    pub in_step: u32,
    /// The current action: `idle`, `resync`, `recover`, `check`, `repair` …; empty if the kernel does not
    /// report it.
    pub action: String,
    /// The number of sectors that differed between the images in the last check.
    pub mismatches: u64,
}

/// The kernel's status of the active raid with these UUIDs. `None` if it is not active, is not a raid, or the
/// kernel cannot be asked.
///
/// While the volume has snapshots, its own device is of another type, and the raid is the layer below it.
#[must_use]
pub fn raid_status(group: VgUuid, volume: LvUuid) -> Option<RaidStatus> {
    let device = device_uuid(group, volume);
    dm::status(&device, "raid").or_else(|| dm::status(&format!("{device}{REAL}"), "raid"))?.parse().ok()
}

impl FromStr for RaidStatus {
    type Err = ();

    /// Parses what follows the word `raid` in the output of `dmsetup status`: level, number of images, a
    /// letter for each, the part in sync, and since Linux 3.11 the action and the mismatches.
    fn from_str(line: &str) -> Result<Self, ()> {
        let mut words = line.split_ascii_whitespace().skip(1);
        let count = words.next().and_then(|word| word.parse::<usize>().ok()).ok_or(())?;
        let letters = words.next().ok_or(())?;
        let image = |letter| match letter {
            'A' => Ok(ImageState::InStep),
            'a' => Ok(ImageState::Rebuilding),
            'D' => Ok(ImageState::Failed),
            '-' => Ok(ImageState::Absent),
            _ => Err(()),
        };
        let images = letters.chars().map(image).collect::<Result<Vec<_>, ()>>()?;
        if images.len() != count {
            return Err(());
        }
        let (done, all) = words.next().and_then(|word| word.split_once('/')).ok_or(())?;
        let (done, all) = done.parse::<u64>().ok().zip(all.parse::<u64>().ok()).ok_or(())?;
        let in_step = u128::from(done).saturating_mul(10_000) / u128::from(all.max(1));
        Ok(Self {
            images,
            in_step: u32::try_from(in_step).unwrap_or(10_000).min(10_000),
            action: words.next().unwrap_or_default().to_owned(),
            mismatches: words.next().and_then(|word| word.parse().ok()).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_of_real_kernels_are_parsed() {
        let status: RaidStatus = "raid1 2 AD 204800/204800 idle 0 0 -".parse().unwrap();
        assert_eq!(status.images, [ImageState::InStep, ImageState::Failed]);
        assert_eq!((status.in_step, status.action.as_str(), status.mismatches), (10_000, "idle", 0));
        let status: RaidStatus = "raid1 3 Aa- 1024/4096 recover 12 0 -".parse().unwrap();
        assert_eq!(status.images, [ImageState::InStep, ImageState::Rebuilding, ImageState::Absent]);
        assert_eq!((status.in_step, status.action.as_str(), status.mismatches), (2_500, "recover", 12));
        // Before Linux 3.11.
        let status: RaidStatus = "raid1 2 AA 4096/4096".parse().unwrap();
        assert_eq!((status.action.as_str(), status.mismatches), ("", 0));
    }

    #[test]
    fn invalid_status_lines_are_rejected() {
        for line in
            ["", "raid1", "raid1 2", "raid1 2 A 1/1", "raid1 2 AX 1/1", "raid1 2 AA", "raid1 2 AA x/1", "raid1 2 AA 1"]
        {
            assert!(line.parse::<RaidStatus>().is_err(), "{line:?}");
        }
    }
}
