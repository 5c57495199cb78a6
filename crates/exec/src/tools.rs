//! Finds programs, and reports which are missing.

use std::env;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Searched after `PATH`: the `PATH` of a service or a user often lacks the directories of lvm and mkfs.
const FALLBACK: [&str; 4] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"];

/// The programs among `needed` that are not on the search path, in the same order.
#[must_use]
pub fn missing_tools(needed: &[&'static str]) -> Vec<&'static str> {
    needed.iter().copied().filter(|program| find(program).is_none()).collect()
}

/// The path of the program, if it is found. A name with a slash is used as is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|file| executable(file));
    }
    directories().into_iter().map(|directory| directory.join(program)).find(|file| executable(file))
}

/// The search path in the environment of the started programs (mkfs runs mkfs.ext4).
pub(crate) fn search_path() -> OsString {
    env::join_paths(directories()).unwrap_or_else(|_| OsString::from(FALLBACK.join(":")))
}

/// Relative entries are omitted: which program runs must not depend on the working directory.
fn directories() -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> =
        env::var_os("PATH").iter().flat_map(env::split_paths).filter(|path| path.is_absolute()).collect();
    for fallback in FALLBACK.map(PathBuf::from) {
        if !directories.contains(&fallback) {
            directories.push(fallback);
        }
    }
    directories
}

fn executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
