//! Which features a filesystem is made without, because the running kernel does not know them.
//!
//! The tools are ours (they come with the image), the kernel is the host's: a newer mkfs turns features on by default
//! that an older kernel refuses to mount.

use quarry_exec::Command;
use quarry_volume::{Filesystem, MakeOptions};

use crate::{Error, kinds};

/// A version as major and minor.
pub(crate) type Version = (u32, u32);

/// A feature that some mkfs turns on by default.
///
/// From the release notes of Linux, e2fsprogs, xfsprogs and btrfs-progs. A distribution's kernel may know a feature
/// earlier; it is then made without, which costs little.
pub(crate) struct Feature {
    /// The first kernel that mounts it for writing, without calling it experimental where that is known.
    kernel: Version,
    /// The first release of the tools that knows the word; before that it would be an error, and the feature is not made.
    tools: Version,
    /// The argument that turns it off.
    flag: &'static str,
    off: &'static str,
}

pub(crate) const fn feature(kernel: Version, tools: Version, flag: &'static str, off: &'static str) -> Feature {
    Feature { kernel, tools, flag, off }
}

/// Adds to the options what keeps the running kernel able to mount the result. What the operator asks for by name is
/// left as it is.
pub(crate) async fn for_this_kernel(options: &mut MakeOptions, program: &'static str) -> Result<(), Error> {
    let release = nix::sys::utsname::uname()
        .map_err(|errno| Error::io("ask for the kernel's release", "/proc/sys/kernel/osrelease".as_ref(), errno))?;
    let Some(kernel) = version_in(&release.release().to_string_lossy()) else { return Ok(()) };
    // Only an old kernel needs to know which mkfs this is.
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

/// The first `major.minor` in a text, after which anything may follow.
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
    fn a_new_kernel_needs_nothing() {
        for kind in Filesystem::ALL {
            assert_eq!(args(kind, "", (6, 12), (99, 0)), "");
        }
    }

    #[test]
    fn an_old_kernel_gets_what_it_knows() {
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
    fn a_mkfs_that_does_not_know_the_word_is_not_given_it() {
        assert_eq!(args(Ext4, "", (5, 10), (1, 46)), "");
        assert_eq!(args(Xfs, "", (5, 4), (5, 4)), "");
        assert_eq!(args(Xfs, "", (5, 4), (0, 0)), "");
        assert_eq!(args(Btrfs, "", (5, 15), (6, 2)), "");
    }

    #[test]
    fn what_the_operator_asks_for_stands() {
        assert_eq!(args(Ext4, "-O orphan_file", (5, 10), (1, 47)), "-O orphan_file");
        assert_eq!(args(Xfs, "-m bigtime=1 -i nrext64=1", (5, 4), (6, 1)), "-m bigtime=1,inobtcount=0 -i nrext64=1");
    }
}
