//! What the kernel says of a raid: which of its images are alive, in step, or failed.
//!
//! A raid of device-mapper has no folder of `md` in sysfs, and no uevent tells that an image has failed. lvm learns it from
//! the status line of the device, by one ioctl; so do we, without a process. The question takes no part in input and
//! output, and does not wait for a disk.

use std::str::FromStr;

use crate::dm;

/// The state of one image of a raid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageState {
    /// Alive, and the same as the others.
    InStep,
    /// Alive, and still being brought into step.
    Rebuilding,
    /// The kernel has given it up after an error: it is not written any more, and what lies on it grows old.
    Failed,
    /// The kernel was given no device for it.
    Absent,
}

/// What the status line of a raid says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RaidStatus {
    /// Its images, in the order of its table.
    pub images: Vec<ImageState>,
    /// How much is in step, in hundredths of a percent.
    pub in_step: u32,
    /// What it is doing: `idle`, `resync`, `recover`, `check`, `repair` …; empty where the kernel does not say.
    pub action: String,
    /// Sectors that the last check found to differ between the images.
    pub mismatches: u64,
}

/// The status of the active raid with these UUIDs, by the kernel's word. `None`: it is not active, is no raid, or the kernel
/// cannot be asked.
#[must_use]
pub fn raid_status(group_uuid: &str, volume_uuid: &str) -> Option<RaidStatus> {
    dm::status(&dm::device_uuid(group_uuid, volume_uuid), "raid")?.parse().ok()
}

impl FromStr for RaidStatus {
    type Err = ();

    /// Reads what follows the word `raid` in `dmsetup status`: level, number of images, a letter for each, how much is in
    /// step, and since Linux 3.11 the action and the mismatches.
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
    fn reads_the_lines_that_kernels_write() {
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
    fn what_is_no_status_is_refused() {
        for line in
            ["", "raid1", "raid1 2", "raid1 2 A 1/1", "raid1 2 AX 1/1", "raid1 2 AA", "raid1 2 AA x/1", "raid1 2 AA 1"]
        {
            assert!(line.parse::<RaidStatus>().is_err(), "{line:?}");
        }
    }
}
