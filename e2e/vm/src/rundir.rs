//! A virtual node's own folder: its overlay, its disks, its console log.
//!
//! The folder is removed with the node. A killed test cannot do that, so the next start removes folders whose
//! lock is free.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use quarry_cache::Cache;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A folder that lives as long as this value.
pub(crate) struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Makes a new folder, after removing what killed processes left behind.
    pub(crate) fn create(cache: &Cache, name: &str) -> Result<Self> {
        let runs = cache.root().join("runs");
        fs::create_dir_all(&runs).with_context(|| format!("cannot make {}", runs.display()))?;
        sweep(&runs);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = runs.join(format!("{name}-{}-{number}", std::process::id()));
        // The lock is created before the folder, next to it: a sweep never sees a folder without its lock.
        let lock_path = path.with_extension("lock");
        let lock = File::create(&lock_path).with_context(|| format!("cannot make {}", lock_path.display()))?;
        lock.lock().with_context(|| format!("cannot lock {}", lock_path.display()))?;
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // Keeps a failed test's disks and console for inspection. Without its lock the folder is not swept either.
        if std::env::var_os("QUARRY_VM_KEEP").is_some() {
            eprintln!("quarry-vm: kept {}", self.path.display());
        } else {
            let _ = fs::remove_dir_all(&self.path);
        }
        let _ = fs::remove_file(self.path.with_extension("lock"));
    }
}

fn sweep(runs: &Path) {
    let Ok(entries) = fs::read_dir(runs) else { return };
    for lock_path in entries.flatten().map(|entry| entry.path()) {
        if lock_path.extension().is_some_and(|extension| extension == "lock")
            && let Ok(lock) = File::open(&lock_path)
            && lock.try_lock().is_ok()
        {
            let _ = fs::remove_dir_all(lock_path.with_extension(""));
            let _ = fs::remove_file(lock_path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_killed_processes_are_removed_and_live_ones_stay() {
        let root = std::env::temp_dir().join(format!("quarry-vm-runs-{}", std::process::id()));
        let cache = Cache::at(root.clone()).unwrap();
        let runs = root.join("runs");
        fs::create_dir_all(runs.join("dead-1-0")).unwrap();
        fs::write(runs.join("dead-1-0.lock"), "").unwrap();
        let one = RunDir::create(&cache, "one").unwrap();
        let two = RunDir::create(&cache, "two").unwrap();
        assert!(!runs.join("dead-1-0").exists());
        assert!(one.path().exists() && two.path().exists());
        let gone = one.path().to_owned();
        drop(one);
        assert!(!gone.exists());
        drop(two);
        cache.clean().unwrap();
    }
}
