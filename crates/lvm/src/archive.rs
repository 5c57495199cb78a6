//! lvm's archive: the folder with the metadata from before each change.

use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};

use crate::host::system_folder;

/// Why lvm cannot write its archive of metadata now. `None` if it can, or if the folder does not exist yet.
/// Changes are then made without it, so the operator cannot undo them. Starts no program.
#[must_use]
pub fn archive_problem() -> Option<String> {
    problem_of(&system_folder().join("archive"))
}

fn problem_of(folder: &Path) -> Option<String> {
    let state = statvfs(folder).ok()?;
    let why = if state.flags().contains(FsFlags::ST_RDONLY) {
        "read-only"
    } else if state.blocks_available() == 0 || (state.files() > 0 && state.files_available() == 0) {
        "full"
    } else {
        return None;
    };
    Some(format!(
        "lvm cannot write its archive of metadata: {} is {why}; changes are made without an archive, so vgcfgrestore \
         cannot undo them",
        folder.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unwritable_folder_is_a_problem() {
        let folder = tempfile::tempdir().expect("folder");
        assert_eq!(problem_of(folder.path()), None);
        assert_eq!(problem_of(&folder.path().join("none")), None);
        // The files in /proc are on a filesystem without free space.
        let why = problem_of(Path::new("/proc")).expect("full");
        assert!(why.contains("/proc is "), "{why}");
    }
}
