//! Stores the items in a directory, without Kubernetes.
//!
//! Each item is a subdirectory with the layout of a Secret mounted by kubelet, so the same code can follow
//! changes: the files are in a directory of their own that never changes, the symlink `..data` points to it,
//! and `tls.crt` is a symlink to `..data/tls.crt`. A new version is a new directory; one `rename` of the
//! symlink makes it current. A reader that resolves `..data` once reads one consistent version.
//!
//! Writers exclude each other, across processes, by a lock on the file `.lock`; the kernel releases it when
//! its holder exits. Everything is flushed before it becomes current, and the next writer removes what a
//! killed writer left behind.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::store::{Create, Data, Item, Store, StoreError, Update, Versioned};

const CURRENT: &str = "..data";
const CURRENT_NEXT: &str = "..data_next";
const LINK_NEXT: &str = "..link_next";
const VERSION_PREFIX: &str = "..version-";
const LOCK: &str = ".lock";

/// The items as subdirectories `authority`, `controller` and `node` of one directory. Directories are created
/// with mode 0700, files with 0600. Plain files from an operator are read as well.
#[derive(Clone, Debug)]
pub struct DirectoryStore {
    root: PathBuf,
}

impl DirectoryStore {
    /// A store in `root`, which is created with the first write.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory of an item, to follow its files.
    #[must_use]
    pub fn directory(&self, item: Item) -> PathBuf {
        self.root.join(item.name())
    }

    /// Runs `work` on the item's directory on a thread for blocking work.
    async fn blocking<T: Send + 'static>(
        &self,
        attempted: &'static str,
        item: Item,
        work: impl FnOnce(&Path, &Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (root, directory) = (self.root.clone(), self.directory(item));
        let result = tokio::task::spawn_blocking(move || work(&root, &directory)).await;
        let result = result.unwrap_or_else(|end| Err(io::Error::other(end)));
        result.map_err(|why| StoreError { attempted, item, source: why.into() })
    }
}

#[async_trait]
impl Store for DirectoryStore {
    async fn get(&self, item: Item) -> Result<Option<Versioned>, StoreError> {
        self.blocking("read", item, |root, directory| {
            let _lock = match File::open(root.join(LOCK)) {
                Ok(lock) => {
                    at(&root.join(LOCK), lock.lock_shared())?;
                    Some(lock)
                }
                // No store has ever written anything.
                Err(why) if why.kind() == ErrorKind::NotFound => None,
                Err(why) => return at(&root.join(LOCK), Err(why)),
            };
            read(directory)
        })
        .await
    }

    async fn create(&self, item: Item, data: Data) -> Result<Create, StoreError> {
        self.blocking("create", item, move |root, directory| {
            let _lock = lock(root)?;
            if read(directory)?.is_some() {
                return Ok(Create::AlreadyThere);
            }
            write(directory, &data).map(|()| Create::Created)
        })
        .await
    }

    async fn update(&self, item: Item, data: Data, version: &str) -> Result<Update, StoreError> {
        let version = version.to_owned();
        self.blocking("update", item, move |root, directory| {
            let _lock = lock(root)?;
            if read(directory)?.is_none_or(|present| present.version != version) {
                return Ok(Update::Conflict);
            }
            write(directory, &data).map(|()| Update::Updated)
        })
        .await
    }
}

/// Excludes all other writers until it is dropped.
fn lock(root: &Path) -> io::Result<File> {
    at(root, make_directory(root, true))?;
    let path = root.join(LOCK);
    let lock =
        at(&path, OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path))?;
    at(&path, lock.lock())?;
    Ok(lock)
}

/// Reads an item; `None` if its directory is missing or contains no files.
fn read(directory: &Path) -> io::Result<Option<Versioned>> {
    // The symlink is resolved once, so that all files are from one version.
    let (from, plain) = match fs::read_link(directory.join(CURRENT)) {
        Ok(version) => (directory.join(version), false),
        Err(why) if why.kind() == ErrorKind::NotFound => (directory.to_owned(), true),
        Err(why) => return at(&directory.join(CURRENT), Err(why)),
    };
    let mut data = Data::new();
    for name in names(&from)? {
        if name.starts_with('.') {
            continue;
        }
        let path = from.join(&name);
        match fs::read(&path) {
            Ok(bytes) => drop(data.insert(name, bytes)),
            // A symlink left by a killed writer, or a foreign directory.
            Err(why) if plain && matches!(why.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => {}
            Err(why) => return at(&path, Err(why)),
        }
    }
    let version = version(&data);
    Ok((!data.is_empty()).then_some(Versioned { data, version }))
}

/// Replaces an item. The lock is held.
fn write(directory: &Path, data: &Data) -> io::Result<()> {
    if let Some(name) = data.keys().find(|name| name.is_empty() || name.starts_with('.') || name.contains('/')) {
        return Err(io::Error::other(format!("{name:?} is not a valid name for a certificate file")));
    }
    at(directory, make_directory(directory, false))?;
    let before = read(directory)?.map(|present| present.data).unwrap_or_default();
    if !before.is_empty() && fs::symlink_metadata(directory.join(CURRENT)).is_err() {
        // Plain files: first moved into the store's layout unchanged, so that they are never half replaced.
        make_current(directory, &before)?;
    }
    for name in before.keys().chain(data.keys()) {
        link(directory, &Path::new(CURRENT).join(name), name, LINK_NEXT)?;
    }
    make_current(directory, data)?;
    tidy(directory, data)
}

/// Writes a new version and makes it current.
fn make_current(directory: &Path, data: &Data) -> io::Result<()> {
    let name = format!("{VERSION_PREFIX}{:016x}", fastrand::u64(..));
    let fresh = directory.join(&name);
    at(&fresh, DirBuilder::new().mode(0o700).create(&fresh))?;
    for (file, bytes) in data {
        let path = fresh.join(file);
        let mut file = at(&path, OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path))?;
        at(&path, file.write_all(bytes).and_then(|()| file.sync_all()))?;
    }
    flush(&fresh)?;
    flush(directory)?;
    link(directory, Path::new(&name), CURRENT, CURRENT_NEXT)?;
    flush(directory)
}

/// Makes `name` a symlink to `target`, atomically, whatever was there before.
fn link(directory: &Path, target: &Path, name: &str, next: &str) -> io::Result<()> {
    let (path, next) = (directory.join(name), directory.join(next));
    if fs::read_link(&path).is_ok_and(|present| present == target) {
        return Ok(());
    }
    remove(&next)?;
    at(&next, symlink(target, &next))?;
    at(&path, fs::rename(&next, &path))
}

/// Removes everything that is not part of the current version: older or unfinished versions, dangling
/// symlinks.
fn tidy(directory: &Path, data: &Data) -> io::Result<()> {
    let current = at(&directory.join(CURRENT), fs::read_link(directory.join(CURRENT)))?;
    remove(&directory.join(LINK_NEXT))?;
    remove(&directory.join(CURRENT_NEXT))?;
    for name in names(directory)? {
        let path = directory.join(&name);
        if name.starts_with(VERSION_PREFIX) && Path::new(&name) != current {
            at(&path, fs::remove_dir_all(&path))?;
        } else if !data.contains_key(&name)
            && fs::read_link(&path).is_ok_and(|target| target == Path::new(CURRENT).join(&name))
        {
            remove(&path)?;
        }
    }
    flush(directory)
}

/// The version of the contents: a hash over all names and bytes.
fn version(data: &Data) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in data.iter().flat_map(|(name, bytes)| [name.as_bytes(), bytes]) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().to_hex().to_string()
}

/// The names in a directory; none if it is missing. Names that are not UTF-8 are foreign.
fn names(directory: &Path) -> io::Result<BTreeSet<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(why) => return at(directory, Err(why)),
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        names.extend(at(directory, entry)?.file_name().into_string().ok());
    }
    Ok(names)
}

fn make_directory(path: &Path, with_parents: bool) -> io::Result<()> {
    match DirBuilder::new().recursive(with_parents).mode(0o700).create(path) {
        Err(why) if why.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(()),
        other => at(path, other),
    }
}

fn flush(directory: &Path) -> io::Result<()> {
    at(directory, File::open(directory).and_then(|directory| directory.sync_all()))
}

/// Adds the path to an error.
fn at<T>(path: &Path, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|why| io::Error::new(why.kind(), format!("{}: {why}", path.display())))
}
