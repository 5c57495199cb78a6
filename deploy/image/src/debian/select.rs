//! Selects which files of Debian's packages go into the image, and where.
//!
//! A short list of inclusions, not a long list of exclusions: programs, the libraries they load, the
//! few files they read, and every licence. The image has no shell, so it needs no scripts, and no
//! installation scripts either; only the kernel starts programs that are not listed here.

use crate::{Architecture, Layer};

/// Programs that would need libraries (PAM, ICU) that nothing else in the image needs.
const WITHOUT: [&str; 3] = ["usr/bin/su", "usr/sbin/runuser", "usr/sbin/xfs_scrub"];

/// Files by their full paths.
const FILES: [&str; 4] = ["etc/debian_version", "etc/mke2fs.conf", "etc/os-release", "usr/lib/os-release"];

/// Folders that packages still use although they are links into /usr on Debian's systems.
pub(super) const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// The path of a package's file in the image, or none if it is left out.
pub(super) fn place(path: &str, architecture: Architecture) -> Option<String> {
    let top = path.split('/').next().unwrap_or_default();
    let path = if MERGED.contains(&top) { format!("usr/{path}") } else { path.to_owned() };
    let libraries = format!("usr/lib/{}/", architecture.triplet());
    let directly_in =
        |folder: &str| path.strip_prefix(folder).is_some_and(|name| !name.is_empty() && !name.contains('/'));
    let wanted = directly_in("usr/bin/")
        || directly_in("usr/sbin/")
        || (directly_in(&libraries) && path.contains(".so"))
        || directly_in("usr/lib64/")
        || path.starts_with("usr/lib/ld-linux-")
        || directly_in("usr/share/common-licenses/")
        || path.ends_with("/copyright")
        // In some packages the folder is a link to another package's.
        || directly_in("usr/share/doc/")
        || FILES.contains(&path.as_str());
    (wanted && !WITHOUT.contains(&path.as_str())).then_some(path)
}

/// Removes scripts, which cannot run.
pub(super) fn only_programs(layer: &mut Layer) {
    layer.retain(|path, content| {
        let program = path.starts_with("usr/bin/") || path.starts_with("usr/sbin/");
        !program || content.starts_with(b"\x7fELF")
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_libraries_go_under_usr() {
        let placed = |path| place(path, Architecture::Amd64);
        assert_eq!(placed("sbin/lvm").unwrap(), "usr/sbin/lvm");
        assert_eq!(placed("lib/x86_64-linux-gnu/libc.so.6").unwrap(), "usr/lib/x86_64-linux-gnu/libc.so.6");
        assert_eq!(placed("lib64/ld-linux-x86-64.so.2").unwrap(), "usr/lib64/ld-linux-x86-64.so.2");
        assert_eq!(placed("usr/share/doc/lvm2/copyright").unwrap(), "usr/share/doc/lvm2/copyright");
        let arm = place("lib/ld-linux-aarch64.so.1", Architecture::Arm64);
        assert_eq!(arm.unwrap(), "usr/lib/ld-linux-aarch64.so.1");
    }

    #[test]
    fn unused_files_are_left_out() {
        for path in [
            "usr/share/man/man8/lvm.8.gz",
            "usr/share/locale/de/LC_MESSAGES/e2fsprogs.mo",
            "usr/share/doc/lvm2/changelog.Debian.gz",
            "usr/lib/x86_64-linux-gnu/gconv/UTF-16.so",
            "lib/systemd/system/lvm2-monitor.service",
            "etc/lvm/lvm.conf",
            "etc/cron.d/e2scrub_all",
            "bin/su",
            "bin",
            "usr/sbin",
        ] {
            assert_eq!(place(path, Architecture::Amd64), None, "{path}");
        }
    }

    #[test]
    fn scripts_are_left_out() {
        let mut layer = Layer::default()
            .bytes("/usr/sbin/fsadm", "#!/bin/bash", 0o755)
            .bytes("/usr/sbin/lvm", b"\x7fELF", 0o755)
            .bytes("/etc/mke2fs.conf", "[defaults]", 0o644);
        only_programs(&mut layer);
        assert!(layer.content("/usr/sbin/fsadm").is_none());
        assert!(layer.content("/usr/sbin/lvm").is_some() && layer.content("/etc/mke2fs.conf").is_some());
    }
}
