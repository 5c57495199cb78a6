//! The state of a thin pool, according to the kernel.

use std::str::FromStr;

use crate::dm;
use crate::uuid::{LvUuid, TPOOL, UNUSED_POOL, VgUuid, device_uuid, parse_device_uuid};

/// The size of a block of a thin pool's metadata in bytes (dm-thin-metadata.h).
const METADATA_BLOCK: u64 = 4096;

/// Whether a thin pool can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ThinPoolMode {
    /// It works.
    Writable,
    /// It is full: blocks that are in use can be written to, but no others.
    OutOfDataSpace,
    /// The kernel does not write to it any more: its metadata is full, or a disk failed.
    ReadOnly,
    /// The kernel does not use it any more.
    Failed,
}

/// The kernel's status of an active thin pool. The numbers are 0 if its mode is [`ThinPoolMode::Failed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ThinPoolStatus {
    /// Whether it can be written to.
    pub mode: ThinPoolMode,
    /// Whether its metadata must be checked, and repaired if needed, before it can be written to again.
    pub needs_check: bool,
    /// The part of its data that is used, in chunks, and how many there are.
    pub data: (u64, u64),
    /// The part of its metadata that is used, in blocks of 4 KiB, and how many there are.
    pub metadata: (u64, u64),
}

impl ThinPoolStatus {
    /// The used part of its data in percent, rounded up.
    #[must_use]
    pub fn data_percent(&self) -> u8 {
        percent(self.data)
    }

    /// The used part of its metadata in percent, rounded up.
    #[must_use]
    pub fn metadata_percent(&self) -> u8 {
        percent(self.metadata)
    }

    /// The size of its metadata in bytes.
    #[must_use]
    pub fn metadata_size(&self) -> u64 {
        self.metadata.1.saturating_mul(METADATA_BLOCK)
    }
}

fn percent((used, all): (u64, u64)) -> u8 {
    let percent = (u128::from(used) * 100).div_ceil(u128::from(all.max(1)));
    u8::try_from(percent).unwrap_or(100).min(100)
}

/// The kernel's status of the active thin pool with these UUIDs. `None` if it is not active, is not a thin pool, or the
/// kernel cannot be asked.
#[must_use]
pub fn thin_pool_status(group: VgUuid, pool: LvUuid) -> Option<ThinPoolStatus> {
    let uuid = device_uuid(group, pool);
    let ask = |end: &str| dm::status(&format!("{uuid}{end}"), "thin-pool");
    // Until its first volume is created, a pool has no layer.
    [TPOOL, UNUSED_POOL, ""].into_iter().find_map(ask)?.parse().ok()
}

/// How many bytes the active thin volume with these UUIDs uses in its pool, and up to which of its bytes. 0: nothing is
/// stored in it. `None` if it is not active, is not a thin volume, or the kernel cannot be asked.
#[must_use]
pub fn mapped_bytes(group: VgUuid, volume: LvUuid) -> Option<(u64, u64)> {
    parse_mapped(&dm::status(&device_uuid(group, volume), "thin")?)
}

/// The number of sectors of 512 bytes, and the last one, or `-` (Documentation/admin-guide/device-mapper/thin-provisioning.rst).
fn parse_mapped(status: &str) -> Option<(u64, u64)> {
    let mut words = status.split_ascii_whitespace();
    let sectors: u64 = words.next()?.parse().ok()?;
    let end = match words.next()? {
        "-" if sectors == 0 => 0,
        last => last.parse::<u64>().ok()?.checked_add(1)?,
    };
    Some((sectors.checked_mul(512)?, end.checked_mul(512)?))
}

/// The thin pool whose layer has that UUID in the kernel: the device below each of its volumes. `None` if it is the UUID
/// of anything else.
#[must_use]
pub fn thin_pool_of_layer(uuid: &str) -> Option<(VgUuid, LvUuid)> {
    parse_device_uuid(uuid.strip_suffix(TPOOL)?)
}

impl FromStr for ThinPoolStatus {
    type Err = ();

    /// Parses what follows the word `thin-pool` in the output of `dmsetup status`.
    fn from_str(line: &str) -> Result<Self, ()> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if words.first().is_some_and(|word| matches!(*word, "Fail" | "Error")) {
            return Ok(Self { mode: ThinPoolMode::Failed, needs_check: false, data: (0, 0), metadata: (0, 0) });
        }
        let fraction = |index: usize| {
            let (used, all) = words.get(index)?.split_once('/')?;
            used.parse::<u64>().ok().zip(all.parse::<u64>().ok())
        };
        let (metadata, data) = fraction(1).zip(fraction(2)).ok_or(())?;
        let mode = words.iter().skip(3).find_map(|word| match *word {
            "rw" => Some(ThinPoolMode::Writable),
            "out_of_data_space" => Some(ThinPoolMode::OutOfDataSpace),
            "ro" => Some(ThinPoolMode::ReadOnly),
            _ => None,
        });
        Ok(Self { mode: mode.ok_or(())?, needs_check: words.contains(&"needs_check"), data, metadata })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_of_real_kernels_are_parsed() {
        let parse = |line: &str| line.parse::<ThinPoolStatus>();
        let healthy = parse("1 11/1024 160/3200 - rw discard_passdown queue_if_no_space - 1024 ").unwrap();
        assert_eq!((healthy.mode, healthy.needs_check), (ThinPoolMode::Writable, false));
        assert_eq!((healthy.data_percent(), healthy.metadata_percent()), (5, 2));
        assert_eq!(healthy.metadata_size(), 4 << 20);
        let full = parse("1 20/1024 3200/3200 - out_of_data_space discard_passdown error_if_no_space - 1024").unwrap();
        assert_eq!((full.mode, full.data_percent()), (ThinPoolMode::OutOfDataSpace, 100));
        let broken = parse("7 1023/1024 9/3200 - ro no_discard_passdown queue_if_no_space needs_check 1024").unwrap();
        assert_eq!((broken.mode, broken.needs_check), (ThinPoolMode::ReadOnly, true));
        assert_eq!((broken.data_percent(), broken.metadata_percent()), (1, 100));
        // Older kernels have fewer words.
        assert_eq!(parse("1 11/1024 0/3200 - rw discard_passdown queue_if_no_space").unwrap().data_percent(), 0);
        assert_eq!(parse("Fail").unwrap().mode, ThinPoolMode::Failed);
        for line in ["", "1", "1 2 3 - rw", "1 1/2 3/4 - xx", "1 x/2 3/4 - rw"] {
            assert_eq!(parse(line), Err(()), "{line:?}");
        }
    }

    #[test]
    fn the_mapped_bytes_of_a_volume_are_parsed() {
        assert_eq!(parse_mapped("16384 1048575"), Some((8 << 20, 512 << 20)));
        assert_eq!(parse_mapped("0 -"), Some((0, 0)));
        for line in ["", "Fail", "Error", "1", "x -", "8 -", "1 x", "1 18446744073709551615"] {
            assert_eq!(parse_mapped(line), None, "{line:?}");
        }
    }

    #[test]
    fn the_layer_of_a_pool_shows_which_one_it_is() {
        let (group, pool) = ("Zr3Ot2-MsTU-yPvW-5Ttd-gaYN-WeYT-vP8EJt", "ABCDEF-ghij-KLMN-opqr-STUV-wxyz-012345");
        let (group, pool) = (group.parse().unwrap(), pool.parse().unwrap());
        let uuid = device_uuid(group, pool);
        assert_eq!(thin_pool_of_layer(&format!("{uuid}-tpool")), Some((group, pool)));
        assert_eq!(thin_pool_of_layer(&uuid), None);
        assert_eq!(thin_pool_of_layer(&format!("{uuid}-tdata")), None);
    }
}
