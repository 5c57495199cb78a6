//! Finds what keeps a mount busy, as far as this process can see.

use std::path::Path;

use crate::mountinfo::table;

/// The maximum number of reported holders.
const MOST: usize = 5;

/// Text to append to "it is in use": mounts inside it, and processes that work in it or have files open.
/// Empty if nothing is visible: in a container, processes outside of it are not.
pub(crate) fn of(target: &Path, mount_id: u64) -> String {
    let mut holders: Vec<String> = table()
        .unwrap_or_default()
        .iter()
        .filter(|entry| entry.parent == mount_id)
        .map(|entry| format!("the mount at {:?}", entry.target))
        .collect();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        if holders.len() >= MOST {
            break;
        }
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if works_in(&process.path(), target) || has_open(&process.path(), mount_id) {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            holders.push(format!("{} (pid {pid})", name.trim()));
        }
    }
    holders.truncate(MOST);
    if holders.is_empty() { String::new() } else { format!(" by {}", holders.join(", ")) }
}

/// Whether the process has its working directory, root or executable in the mount.
fn works_in(process: &Path, target: &Path) -> bool {
    ["cwd", "root", "exe"]
        .iter()
        .any(|link| std::fs::read_link(process.join(link)).is_ok_and(|path| path.starts_with(target)))
}

/// Whether the process has a file open through this mount.
fn has_open(process: &Path, mount_id: u64) -> bool {
    std::fs::read_dir(process.join("fdinfo")).into_iter().flatten().flatten().any(|open| {
        std::fs::read_to_string(open.path()).is_ok_and(|info| {
            info.lines()
                .find_map(|line| line.strip_prefix("mnt_id:"))
                .is_some_and(|id| id.trim().parse() == Ok(mount_id))
        })
    })
}
