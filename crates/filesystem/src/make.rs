//! Makes filesystems.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use quarry_exec::Command;
use quarry_volume::{Filesystem, MakeOptions, OptionError};
use uuid::{Uuid, uuid};

use crate::thread::blocking;
use crate::{Error, Probe, exclusive, features, kinds, probe, superblock, wipe_signatures};

/// The namespace of the UUIDs that are derived from volumes. Never changes: volumes are recognized by it.
const NAMESPACE: Uuid = uuid!("8e1f5a3c-94b7-4d0e-a6c2-51d7b3f0492e");

/// After this time, an mkfs is overdue. Zeroing a journal on a busy spinning disk can take long.
const MKFS_DEADLINE: Duration = Duration::from_secs(300);

/// The UUID of the filesystem on a volume whose record has no UUID yet, derived from the volume's own identity
/// (an LV's UUID). A filesystem with this UUID was made for that volume, by any attempt. UUID version 5.
#[must_use]
pub fn filesystem_uuid(seed: &str) -> Uuid {
    Uuid::new_v5(&NAMESPACE, seed.as_bytes())
}

/// Makes a filesystem with that UUID on a blank device, and returns when it is flushed to the disk.
///
/// Whether it is blank is checked here, while the device is held, even if the caller has checked before:
/// mkfs.xfs and mkfs.btrfs refuse to overwrite what they recognize, but mkfs.ext4 asks only at a terminal and
/// overwrites otherwise (seen with e2fsprogs 1.47.0). What appears after the check is another matter: see the
/// crate's documentation. An xfs with the same UUID whose mkfs was interrupted is
/// wiped and made again: it was never mounted.
///
/// # Errors
/// [`Error::Busy`] if the device is in use, also by an earlier mkfs, or if an earlier mkfs has just made the
/// requested filesystem; [`Error::NotBlank`] if it contains anything else; [`Error::Mkfs`] if mkfs fails, for
/// example because options do not fit the device.
pub async fn make(kind: Filesystem, device: &Path, uuid: &str, options: &MakeOptions) -> Result<(), Error> {
    if options.kind() != kind {
        let problem = format!("options for {} were given for {kind}", options.kind());
        return Err(OptionError { place: "mkfsOptions", problem, allowed: format!("options for {kind}") }.into());
    }
    let program = kinds::of(kind).mkfs;
    let mut options = options.clone();
    features::for_this_kernel(&mut options, program).await?;

    let held = blocking(device, exclusive).await?;
    let held = match probe(device).await? {
        Probe::Blank => held,
        Probe::Filesystem { kind: found, uuid: ref other, in_progress: true, .. } if found == kind && other == uuid => {
            blocking(device, move |_| wipe_signatures(&held).map(|()| held)).await?
        }
        // An mkfs that outlived the Quarry process that started it has ended since the caller's probe. The
        // retry adopts its filesystem.
        Probe::Filesystem { kind: found, uuid: ref other, .. } if found == kind && other == uuid => {
            return Err(Error::Busy { attempted: "make a filesystem on", device: device.to_owned() });
        }
        found => return Err(Error::NotBlank { device: device.to_owned(), found: found.description() }),
    };
    let failed = |source| Error::Mkfs { kind, device: device.to_owned(), source };
    Command::mutation(program)
        .args(arguments(kind, uuid, options))
        .arg(device)
        .deadline(MKFS_DEADLINE)
        .on(device.display().to_string())
        .holding(held.release_claim())
        .run()
        .await
        .map_err(failed)?
        .require_success()
        .map_err(failed)?;
    blocking(device, flush).await?;
    // It was blank before, so nothing else can be there.
    if superblock(kind, device).await?.is_some_and(|made| made.uuid == uuid && !made.in_progress) {
        return Ok(());
    }
    let found = probe(device).await?.description();
    Err(Error::Unverified { kind, device: device.to_owned(), found })
}

/// The arguments of mkfs, without the device. Never a force option.
///
/// Blocks are not discarded: that can take long (minutes on some disks) and cannot be interrupted, and fstrim
/// or the mount option `discard` can free a new logical volume's space as well.
fn arguments(kind: Filesystem, uuid: &str, mut options: MakeOptions) -> Vec<String> {
    let mut args = vec!["-q".to_owned()];
    args.extend((kinds::of(kind).prepare)(uuid, &mut options));
    args.extend(options.to_args());
    args
}

/// Flushes all writes to the device, by any process, to the disk.
pub(crate) fn flush(device: &Path) -> Result<(), Error> {
    let failed = |source| Error::io("flush", device, source);
    quarry_fault::point(|| "device:flush:before".to_owned());
    // Not opened for writing: udev reads a device again when a program closes it that could have written to it.
    let flushed = File::open(device).and_then(|file| quarry_block::flush(&file));
    quarry_fault::point(|| "device:flush:after".to_owned());
    flushed.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "11111111-2222-5333-8444-555555555555";

    fn args(kind: Filesystem, options: &str) -> String {
        arguments(kind, UUID, MakeOptions::parse(kind, options).unwrap()).join(" ")
    }

    const GOLDEN: &str = "b79cd4be-d8b3-5e16-ac2f-178919c3c36b";

    #[test]
    fn the_filesystem_uuid_of_a_volume_never_changes() {
        // Golden: existing volumes are recognized by these.
        assert_eq!(filesystem_uuid("Hn2pJr-dU4e-7cBb-KwQd-0Rxn-Zk9V-LmYt3s").to_string(), GOLDEN);
        assert_ne!(filesystem_uuid("Hn2pJr-dU4e-7cBb-KwQd-0Rxn-Zk9V-LmYt3t").to_string(), GOLDEN);
    }

    #[test]
    fn the_arguments_of_mkfs() {
        for kind in Filesystem::ALL {
            for (options, expected) in kinds::of(kind).expected.arguments {
                assert_eq!(args(kind, options), expected.replace("UUID", UUID), "{kind}, {options:?}");
            }
        }
    }

    #[test]
    fn an_ext4_has_a_checksum_seed_unless_the_operator_says_otherwise() {
        let features =
            |options: &str| args(Filesystem::Ext4, options).split_once(" -E nodiscard").unwrap().0.to_owned();
        for (options, features_made) in [
            ("-O quota", "quota,metadata_csum,metadata_csum_seed"),
            ("-O metadata_csum,^orphan_file", "metadata_csum,^orphan_file,metadata_csum_seed"),
            ("-O metadata_csum_seed", "metadata_csum_seed,metadata_csum"),
            ("-O ^metadata_csum_seed", "^metadata_csum_seed"),
            // mkfs rejects a seed without checksums.
            ("-O ^metadata_csum", "^metadata_csum"),
        ] {
            assert_eq!(features(options), format!("-q -U {UUID} -O {features_made}"), "{options}");
        }
    }

    #[test]
    fn mkfs_sets_no_checksum_seed_for_an_old_kernel() {
        let mut options = MakeOptions::none(Filesystem::Ext4);
        options.add_default("-O", "^metadata_csum_seed");
        let args = arguments(Filesystem::Ext4, UUID, options).join(" ");
        assert_eq!(args, format!("-q -U {UUID} -O ^metadata_csum_seed -E nodiscard"));
    }

    #[test]
    fn nothing_is_ever_forced() {
        for kind in Filesystem::ALL {
            let args = arguments(kind, UUID, MakeOptions::none(kind));
            assert!(!args.iter().any(|arg| arg.starts_with("-f") || arg.starts_with("-F")), "{args:?}");
        }
    }

    #[tokio::test]
    async fn options_of_another_filesystem_are_rejected() {
        let options = MakeOptions::none(Filesystem::Xfs);
        let result = make(Filesystem::Ext4, Path::new("/no/such/device"), UUID, &options).await;
        assert!(matches!(result, Err(Error::Options(_))), "{result:?}");
    }
}
