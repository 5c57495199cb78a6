//! Turns off filesystem features that the running kernel does not support.
//!
//! The tools come with Quarry's image, but the kernel is the host's: a newer mkfs turns on features by
//! default that an older kernel cannot mount.

use quarry_exec::Command;
use quarry_volume::{Filesystem, MakeOptions};

use crate::Error;
use crate::kinds::{self, Feature, Version};

/// Adds options so that the running kernel can mount the result. Features that the operator sets by name are
/// not changed.
pub(crate) async fn for_this_kernel(options: &mut MakeOptions, program: &'static str) -> Result<(), Error> {
    let release = nix::sys::utsname::uname()
        .map_err(|errno| Error::io("ask for the kernel's release", "/proc/sys/kernel/osrelease".as_ref(), errno))?;
    let Some(kernel) = version_in(&release.release().to_string_lossy()) else { return Ok(()) };
    // The version of mkfs matters only with an old kernel.
    if unknown_to(kernel, options.kind()).next().is_none() {
        return Ok(());
    }
    let output = Command::query(program).arg("-V").run().await.map_err(|source| Error::Command {
        attempted: "ask for the version of",
        device: program.into(),
        source,
    })?;
    let text = format!("{} {}", output.stderr, String::from_utf8_lossy(&output.stdout));
    turn_off(options, kernel, version_in(&text).unwrap_or((0, 0)));
    Ok(())
}

fn turn_off(options: &mut MakeOptions, kernel: Version, tools: Version) {
    for feature in unknown_to(kernel, options.kind()).filter(|feature| feature.tools <= tools) {
        options.add_default(feature.flag, feature.off);
    }
}

fn unknown_to(kernel: Version, kind: Filesystem) -> impl Iterator<Item = &'static Feature> {
    kinds::of(kind).features.iter().filter(move |feature| kernel < feature.kernel)
}

/// The first `major.minor` in a text; anything may follow it.
fn version_in(text: &str) -> Option<Version> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|word| {
        let mut numbers = word.split('.').map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use quarry_volume::Filesystem::{Btrfs, Ext4, Xfs};

    use super::*;

    fn args(kind: Filesystem, given: &str, kernel: Version, tools: Version) -> String {
        let mut options = MakeOptions::parse(kind, given).unwrap();
        turn_off(&mut options, kernel, tools);
        options.to_args().join(" ")
    }

    #[test]
    fn versions_are_found() {
        for (text, version) in [
            ("6.18.44-fc-v669", (6, 18)),
            ("4.18.0-553.el8_10.x86_64", (4, 18)),
            ("mke2fs 1.47.0 (5-Feb-2023)\n\tUsing EXT2FS Library version 1.47.0", (1, 47)),
            ("mkfs.xfs version 6.1.0", (6, 1)),
            ("mkfs.btrfs, part of btrfs-progs v6.2 ", (6, 2)),
        ] {
            assert_eq!(version_in(text), Some(version), "{text}");
        }
        assert_eq!(version_in("no number"), None);
    }

    #[test]
    fn a_new_kernel_needs_no_options() {
        for kind in Filesystem::ALL {
            assert_eq!(args(kind, "", (6, 12), (99, 0)), "");
        }
    }

    #[test]
    fn an_old_kernel_gets_only_supported_features() {
        assert_eq!(args(Ext4, "", (5, 10), (1, 47)), "-O ^orphan_file");
        assert_eq!(args(Ext4, "-O quota", (5, 10), (1, 47)), "-O quota,^orphan_file");
        assert_eq!(args(Xfs, "", (5, 4), (6, 1)), "-m bigtime=0,inobtcount=0 -i nrext64=0");
        assert_eq!(
            args(Xfs, "-m reflink=1", (4, 15), (6, 13)),
            "-m reflink=1,rmapbt=0,bigtime=0,inobtcount=0 -i nrext64=0,exchange=0 -n parent=0"
        );
        assert_eq!(args(Btrfs, "", (5, 15), (6, 19)), "-O ^block-group-tree");
    }

    #[test]
    fn an_option_that_mkfs_does_not_know_is_not_passed() {
        assert_eq!(args(Ext4, "", (5, 10), (1, 46)), "");
        assert_eq!(args(Xfs, "", (5, 4), (5, 4)), "");
        assert_eq!(args(Xfs, "", (5, 4), (0, 0)), "");
        assert_eq!(args(Btrfs, "", (5, 15), (6, 2)), "");
    }

    #[test]
    fn options_of_the_operator_are_kept() {
        assert_eq!(args(Ext4, "-O orphan_file", (5, 10), (1, 47)), "-O orphan_file");
        assert_eq!(args(Xfs, "-m bigtime=1 -i nrext64=1", (5, 4), (6, 1)), "-m bigtime=1,inobtcount=0 -i nrext64=1");
    }
}
