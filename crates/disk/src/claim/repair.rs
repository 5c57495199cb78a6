//! The commands that repair a claim. Quarry never runs them itself: only a person knows whether this is still
//! the same disk.

use std::path::Path;

use super::damage::{Damage, Damaged};
use super::geometry::{METADATA_LENGTH, METADATA_OFFSET, SLOT_OFFSETS};
use super::identity::{METADATA_TYPE, PartitionGuid, VOLUME_TYPE};
use super::slot::SLOT_LENGTH;
use super::state::{Claim, ClaimState, Degraded};

/// One step of a repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// What the commands do, and when to use them, as a sentence.
    pub about: String,
    /// The commands for the disk's host, in order. Empty if only a person can help.
    pub commands: Vec<String>,
}

impl Repair {
    fn new(about: impl Into<String>, commands: impl IntoIterator<Item = String>) -> Self {
        Self { about: about.into(), commands: commands.into_iter().collect() }
    }
}

impl ClaimState {
    /// The steps that repair the claim on the disk at `device`, in order. Empty if nothing is wrong, or if no
    /// command can help.
    #[must_use]
    pub fn repairs(&self, device: &Path) -> Vec<Repair> {
        match self {
            Self::Claimed(claim) if claim.degraded.iter().any(is_of_tables) => vec![write_tables(claim, device)],
            Self::Damaged(damaged) => damaged.repairs(device),
            Self::Foreign { over: Some(claim), .. } => vec![
                list_contents(device),
                write_tables(claim, device),
                Repair::new(
                    "If the volume is no longer needed, and the new partition table must stay: this erases the \
                     claim's record, and the volume ceases to exist.",
                    SLOT_OFFSETS.map(|offset| erase_slot(offset, device)),
                ),
            ],
            _ => Vec::new(),
        }
    }
}

/// Whether rewriting the tables repairs it. A disk that has grown needs no repair.
fn is_of_tables(degraded: &Degraded) -> bool {
    matches!(degraded, Degraded::PrimaryTable | Degraded::BackupTable)
}

impl Damaged {
    fn repairs(&self, device: &Path) -> Vec<Repair> {
        let Some(claim) = self.claim() else { return self.rescue(device).into_iter().collect() };
        if claim.sector_size != self.sector_size || claim.is_releasing() {
            return Vec::new();
        }
        match self.damage {
            Damage::Copies => self.erase_foreign_copy(claim, device).into_iter().collect(),
            // The volume's data is not on this disk.
            Damage::TooSmall | Damage::NoRecord => Vec::new(),
            Damage::BootSector | Damage::Tables | Damage::Remnants | Damage::NoTable | Damage::NoBootSector => {
                let grown = self.partition.filter(|bytes| *bytes > claim.length);
                let shrink = grown.map(|_| shrink(claim, device));
                [list_contents(device)].into_iter().chain(shrink).chain([write_tables(claim, device)]).collect()
            }
        }
    }

    /// The options that remain without a record.
    fn rescue(&self, device: &Path) -> Option<Repair> {
        if self.damage != Damage::NoRecord {
            return None;
        }
        let node = partition(device, 2);
        Some(Repair::new(
            "The volume's record is lost and cannot be restored, but its filesystem may be intact: copy the files \
             that you need. Then give up the claim as described in docs/disk-format.md. The command is for ext4, and writes \
             nothing; for xfs, the options are ro,norecovery,nouuid, and for btrfs ro. If the partition is encrypted \
             (cryptsetup isLuks), open it with cryptsetup open --readonly first, and mount what that makes.",
            [format!("mount -o ro,noload {node} /mnt")],
        ))
    }

    /// Erases the copy of the record that does not match the tables.
    fn erase_foreign_copy(&self, claim: &Claim, device: &Path) -> Option<Repair> {
        let [one, other] = self.claims.as_slice() else { return None };
        if one.identity == other.identity {
            return None;
        }
        let offset = self.offset_of(if one == claim { other } else { one })?;
        Some(Repair::new(
            "The partition tables belong to one of the two copies of the record. This erases the other copy.",
            [erase_slot(offset, device)],
        ))
    }

    /// The offset of the copy with this content.
    fn offset_of(&self, claim: &Claim) -> Option<u64> {
        SLOT_OFFSETS.into_iter().zip(&self.copies).find(|(_, copy)| **copy == Some(claim.identity)).map(|(at, _)| at)
    }
}

/// Lists the other contents of the disk: a claim may be damaged because the disk was reused.
fn list_contents(device: &Path) -> Repair {
    Repair::new(
        "First check whether another program has written to the disk since: this lists what it finds, next to the \
         \"gpt\" and \"PMBR\" of the claim itself. If that data is needed, stop here: the next steps overwrite the \
         first and the last MiB of the disk.",
        [format!("wipefs --no-act {}", device.display())],
    )
}

/// Restores the claim's partition tables and protective MBR.
fn write_tables(claim: &Claim, device: &Path) -> Repair {
    let sectors = |bytes: u64| bytes / u64::from(claim.sector_size);
    let line = |number: u32, start: u64, length: u64, kind: uuid::Uuid, unique: PartitionGuid, name: &str| {
        format!(
            "{number} : start={}, size={}, type={kind}, uuid={unique}, name=\"{name}\"",
            sectors(start),
            sectors(length)
        )
    };
    let (identity, shown) = (&claim.identity, device.display());
    let script = [
        format!("sfdisk --no-reread --force --wipe never --wipe-partitions never {shown} <<'END'"),
        "label: gpt".to_owned(),
        format!("label-id: {}", identity.disk),
        line(1, METADATA_OFFSET, METADATA_LENGTH, METADATA_TYPE, identity.metadata, "quarry-metadata"),
        line(2, claim.offset, claim.length, VOLUME_TYPE, identity.volume, "quarry-volume"),
        "END".to_owned(),
    ];
    Repair::new(
        "If this is still the same disk: this restores the claim's partition tables, and makes the kernel read them. \
         The record and the volume's bytes are not touched, and the volume may be in use.",
        [script.join("\n"), format!("partx --update {shown}")],
    )
}

/// Shrinks a filesystem, which was grown together with its partition, to the volume's size.
fn shrink(claim: &Claim, device: &Path) -> Repair {
    let node = partition(device, 2);
    Repair::new(
        "Partition 2 is larger than the volume. If its filesystem was grown too, shrink it first, while the volume is \
         unstaged. These commands are for ext4; for btrfs, mount it and run `btrfs filesystem resize`; xfs cannot be \
         shrunk: copy its files to another volume. If the partition is encrypted (cryptsetup isLuks), the filesystem is on \
         what cryptsetup open makes of it, and must become smaller by the LUKS header as well. If the filesystem was not \
         grown, skip this step.",
        [format!("e2fsck -f -p {node}"), format!("resize2fs {node} {}K", claim.length / 1024)],
    )
}

fn erase_slot(offset: u64, device: &Path) -> String {
    let length = SLOT_LENGTH as u64;
    format!("dd if=/dev/zero of={} bs={length} seek={} count=1 conv=notrunc,fsync", device.display(), offset / length)
}

/// The node of a partition: `/dev/sdb2`, `/dev/nvme0n1p2`.
fn partition(device: &Path, number: u32) -> String {
    let disk = device.display().to_string();
    let infix = if disk.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
    format!("{disk}{infix}{number}")
}
