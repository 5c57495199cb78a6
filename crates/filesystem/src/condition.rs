//! Checks whether a mounted filesystem still works. After an error, the kernel shuts a filesystem down or
//! makes it read-only, but its mounts stay: bind mounts of it look fine but do not work.

use std::path::Path;

use crate::kinds;
use crate::trouble::{Mounted, Trouble, is_failure};

/// Checks a mounted filesystem for signs of trouble. Writes nothing, except if the filesystem may have had
/// errors and only a write shows whether it works (see [`crate::try_write`]). Blocks if the device hangs.
#[must_use]
pub fn check_mounted(mounted: &Mounted<'_>) -> Option<Trouble> {
    check_in(mounted, &Path::new("/sys/fs").join(mounted.kind.as_str()))
}

fn check_in(mounted: &Mounted<'_>, sysfs: &Path) -> Option<Trouble> {
    let has = |word: &str| mounted.super_options.iter().any(|option| option == word);
    if has("shutdown") {
        return Some(Trouble::ShutDown("mountinfo says `shutdown`".to_owned()));
    }
    // This is the only sign of an xfs that is shut down.
    if let Err(error) = mounted.path.symlink_metadata()
        && is_failure(&error)
    {
        return Some(Trouble::ShutDown(error.to_string()));
    }
    if mounted.read_only {
        return None;
    }
    if let Some(word) = ["emergency_ro", "ro"].into_iter().find(|word| has(word)) {
        return Some(Trouble::ReadOnly(format!("mountinfo says `{word}`")));
    }
    (kinds::of(mounted.kind).hidden_trouble)(mounted, sysfs)
}

#[cfg(test)]
mod tests {
    use quarry_volume::Filesystem;

    use super::*;

    fn check(path: &Path, options: &[&str], read_only: bool) -> Option<Trouble> {
        let super_options: Vec<String> = options.iter().map(|&word| word.to_owned()).collect();
        let mounted =
            Mounted { path, kind: Filesystem::Ext4, read_only, super_options: &super_options, device: Some("dm-3") };
        let ext4 = tempfile::tempdir().unwrap();
        std::fs::create_dir(ext4.path().join("dm-3")).unwrap();
        std::fs::write(ext4.path().join("dm-3/errors_count"), "2\n").unwrap();
        check_in(&mounted, ext4.path())
    }

    #[test]
    fn trouble_is_seen_in_the_options_of_a_filesystem() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert_eq!(check(path, &["rw", "errors=remount-ro"], false), None, "an error policy alone is not trouble");
        assert!(matches!(check(path, &["ro"], false), Some(Trouble::ReadOnly(_))));
        assert!(matches!(check(path, &["rw", "emergency_ro"], false), Some(Trouble::ReadOnly(_))));
        assert!(matches!(check(path, &["rw", "shutdown"], false), Some(Trouble::ShutDown(_))));
        assert_eq!(check(path, &["ro"], true), None, "read-only on purpose");
        assert!(matches!(check(path, &["ro", "shutdown"], true), Some(Trouble::ShutDown(_))));
    }
}
