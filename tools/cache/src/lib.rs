//! The cache of expensive builds: the guest's image, saved machine states, binaries, downloads.
//!
//! Entries are folders named by kind and by a hash of all inputs, so a changed input causes a new build and
//! nothing is ever updated in place. An entry is built in a temporary folder under a lock and appears by one
//! rename: two processes never build the same entry, and a killed build leaves nothing that looks complete.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};

/// Entries that were unused for this long are removed when a new one of their kind is built.
const STALE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Entries beyond the [`KEPT`] that were used last are removed already after this time. A machine that still runs then, as
/// in a cluster of `make cluster`, cannot be started again.
const SUPERSEDED: Duration = Duration::from_secs(3 * 24 * 3600);
/// How many entries of a kind are kept for [`STALE`]. A kind that depends on the program under test gets a new one with
/// each change of it.
const KEPT: usize = 8;

/// The cache's folder, outside the source tree.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens the cache: `$QUARRY_CACHE`, else `$XDG_CACHE_HOME/quarry`, else `~/.cache/quarry`.
    ///
    /// # Errors
    /// No such folder can be determined or created.
    pub fn open() -> Result<Self> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = variable("QUARRY_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("quarry")))
            .or_else(|| variable("HOME").map(|folder| folder.join(".cache/quarry")))
            .context("no folder for the cache: set QUARRY_CACHE, or HOME")?;
        let root = std::path::absolute(root).context("cannot make the cache's path absolute")?;
        Self::at(root)
    }

    /// A cache in a folder of the caller's choice.
    ///
    /// # Errors
    /// The folder cannot be created.
    pub fn at(root: PathBuf) -> Result<Self> {
        fs::create_dir_all(&root).with_context(|| format!("cannot make the cache folder {}", root.display()))?;
        Ok(Self { root })
    }

    /// The path of the cache.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether there is an entry of this kind and key, so that [`Self::entry`] builds nothing.
    #[must_use]
    pub fn contains(&self, kind: &str, key: &str) -> bool {
        self.root.join(format!("{kind}-{key}")).exists()
    }

    /// Finds the entry of this kind and key, or has it built: `build` fills the folder it is given.
    ///
    /// The name of a kind must not start with that of another and a hyphen: old entries are removed by the
    /// prefix of their names.
    ///
    /// # Errors
    /// When `build` fails, or the cache's folder cannot be written.
    pub async fn entry<F>(&self, kind: &str, key: &str, build: F) -> Result<PathBuf>
    where
        F: AsyncFnOnce(&Path) -> Result<()>,
    {
        let path = self.root.join(format!("{kind}-{key}"));
        if touch(&path) {
            return Ok(path);
        }
        let _lock = self.lock(kind, key).await?;
        if touch(&path) {
            return Ok(path);
        }
        let partial = self.root.join(format!("{kind}-{key}.partial"));
        // A killed build leaves its folder behind; the free lock shows that it is unused.
        remove(&partial)?;
        fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
        let begin = Instant::now();
        if let Err(error) = build(&partial).await {
            remove(&partial)?;
            return Err(error);
        }
        fs::write(partial.join("used"), "").context("cannot mark the cache entry as used")?;
        fs::rename(&partial, &path).with_context(|| format!("cannot move the new entry to {}", path.display()))?;
        eprintln!("quarry-cache: {kind} built in {:.1} s", begin.elapsed().as_secs_f32());
        self.prune(kind, &path);
        Ok(path)
    }

    /// Waits, without blocking the runtime, until no other process builds the same.
    async fn lock(&self, kind: &str, key: &str) -> Result<File> {
        let path = self.root.join(format!("{kind}-{key}.lock"));
        let file = File::create(&path).with_context(|| format!("cannot open the lock {}", path.display()))?;
        tokio::task::spawn_blocking(move || {
            file.lock().with_context(|| format!("cannot take the lock {}", path.display()))?;
            Ok(file)
        })
        .await
        .context("waiting for the cache's lock was cut short")?
    }

    /// Removes old entries of a kind. What cannot be removed stays: it costs space, not correctness.
    fn prune(&self, kind: &str, keep: &Path) {
        let Ok(entries) = fs::read_dir(&self.root) else { return };
        let of_kind = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(&format!("{kind}-")))
        };
        let paths = entries.flatten().map(|entry| entry.path()).filter(|path| path != keep && of_kind(path));
        let mut unused: Vec<_> = paths.filter_map(|path| Some((age(&path)?, path))).collect();
        unused.sort();
        for (number, (age, path)) in unused.into_iter().enumerate() {
            // The new entry is one of those that are kept.
            let unused = if number + 1 >= KEPT { SUPERSEDED } else { STALE };
            // Another process may have begun to use it while other entries were removed.
            if age > unused && self::age(&path).is_some_and(|age| age > unused) {
                let _ = fs::remove_dir_all(path);
            }
        }
    }

    /// Removes the whole cache. Machines that run lose their disks.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn clean(&self) -> Result<()> {
        remove(&self.root)
    }
}

/// A short hash of all inputs of an entry. Lengths are hashed too, so that parts cannot run together.
#[must_use]
pub fn key<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().to_hex().chars().take(16).collect()
}

/// How long the entry was not used.
fn age(entry: &Path) -> Option<Duration> {
    let used = fs::metadata(entry.join("used")).and_then(|file| file.modified()).ok()?;
    SystemTime::now().duration_since(used).ok()
}

/// Whether the entry exists; if so it is marked as used now.
fn touch(path: &Path) -> bool {
    let Ok(file) = File::options().write(true).open(path.join("used")) else { return false };
    // A read-only cache is usable too.
    let _ = file.set_modified(SystemTime::now());
    true
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().join("cache")).unwrap();
        (folder, cache)
    }

    #[test]
    fn keys_distinguish_parts() {
        assert_ne!(key([&b"ab"[..], b"c"]), key([&b"a"[..], b"bc"]));
        assert_eq!(key([&b"a"[..]]), key([&b"a"[..]]));
    }

    #[tokio::test]
    async fn an_entry_is_built_once_and_never_half() {
        let (_folder, cache) = scratch();
        let failed = cache.entry("image", "k", async |_: &Path| anyhow::bail!("no network")).await;
        assert!(failed.is_err());
        for expected in ["first", "first"] {
            let path = cache
                .entry("image", "k", async |folder: &Path| Ok(fs::write(folder.join("file"), expected)?))
                .await
                .unwrap();
            assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "first");
        }
        cache.clean().unwrap();
        assert!(!cache.root().exists());
    }

    #[tokio::test]
    async fn two_builders_of_the_same_take_turns() {
        let (_folder, cache) = scratch();
        let build = async |folder: &Path| {
            assert!(!folder.join("file").exists());
            fs::write(folder.join("file"), "")?;
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(())
        };
        let (one, two) = tokio::join!(cache.entry("image", "k", build), cache.entry("image", "k", build));
        assert_eq!(one.unwrap(), two.unwrap());
        cache.clean().unwrap();
    }

    /// Marks an entry as used that long ago.
    fn set_age(entry: &Path, age: Duration) {
        let long_ago = SystemTime::now() - age;
        File::options().write(true).open(entry.join("used")).unwrap().set_modified(long_ago).unwrap();
    }

    #[tokio::test]
    async fn a_new_entry_removes_stale_ones_of_its_kind() {
        let (_folder, cache) = scratch();
        let build = async |folder: &Path| Ok(fs::write(folder.join("file"), "")?);
        let old = cache.entry("image", "1", build).await.unwrap();
        let used = cache.entry("image", "2", build).await.unwrap();
        let other = cache.entry("agent", "1", build).await.unwrap();
        for entry in [&old, &used, &other] {
            set_age(entry, 2 * STALE);
        }
        assert_eq!(cache.entry("image", "2", build).await.unwrap(), used, "an entry that is found counts as used");
        cache.entry("image", "3", build).await.unwrap();
        assert!(!old.exists() && used.exists() && other.exists());
    }

    #[tokio::test]
    async fn only_the_entries_that_were_used_last_are_kept_for_long() {
        let (_folder, cache) = scratch();
        let build = async |folder: &Path| Ok(fs::write(folder.join("file"), "")?);
        let mut entries = Vec::new();
        for number in 0..2 * KEPT {
            entries.push(cache.entry("image", &number.to_string(), build).await.unwrap());
        }
        for (number, entry) in (0_u64..).zip(&entries) {
            set_age(entry, SUPERSEDED * 9 - Duration::from_secs(number));
        }
        // In use today.
        set_age(&entries[0], SUPERSEDED / 2);
        entries.push(cache.entry("image", "new", build).await.unwrap());
        let kept: Vec<bool> = entries.iter().map(|entry| entry.exists()).collect();
        let expected: Vec<bool> =
            (0..entries.len()).map(|number| number == 0 || number > entries.len() - KEPT).collect();
        assert_eq!(kept, expected);
    }

    #[tokio::test]
    async fn the_remains_of_a_killed_build_are_not_used() {
        let (_folder, cache) = scratch();
        let partial = cache.root().join("image-k.partial");
        fs::create_dir(&partial).unwrap();
        fs::write(partial.join("half"), "").unwrap();
        let entry = cache.entry("image", "k", async |_: &Path| Ok(())).await.unwrap();
        assert!(!entry.join("half").exists() && !partial.exists());
    }
}
