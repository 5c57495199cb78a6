//! The store in a directory: several processes and threads, readers that take no lock, writers that are killed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quarry_certificates::{Authority, Create, Data, DirectoryStore, Done, Item, Settings, Store, Update};
use tempfile::tempdir;

const FILES: [&str; 3] = ["ca.crt", "tls.crt", "tls.key"];

fn data(number: u64) -> Data {
    // Long enough that a read in the middle of a write would show.
    FILES.iter().map(|name| ((*name).to_owned(), number.to_string().repeat(3000).into_bytes())).collect()
}

fn number(data: &Data) -> u64 {
    let text = std::str::from_utf8(&data["tls.crt"]).unwrap();
    let number = text[..text.len() / 3000].parse().unwrap();
    assert_eq!(*data, self::data(number), "a mixture");
    number
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[test]
fn an_item_is_created_once_and_changed_only_from_the_version_read() {
    let directory = tempdir().unwrap();
    let store = DirectoryStore::new(directory.path().join("deep/down"));
    block_on(async {
        assert_eq!(store.get(Item::Node).await.unwrap(), None);
        assert!(!directory.path().join("deep").exists(), "reading makes nothing");
        assert_eq!(store.update(Item::Node, data(1), "").await.unwrap(), Update::Conflict);
        assert_eq!(store.create(Item::Node, data(1)).await.unwrap(), Create::Created);
        assert_eq!(store.create(Item::Node, data(2)).await.unwrap(), Create::AlreadyThere);
        let first = store.get(Item::Node).await.unwrap().unwrap();
        assert_eq!(first.data, data(1));
        assert_eq!(store.update(Item::Node, data(2), &first.version).await.unwrap(), Update::Updated);
        assert_eq!(store.update(Item::Node, data(3), &first.version).await.unwrap(), Update::Conflict);
        let second = store.get(Item::Node).await.unwrap().unwrap();
        assert_eq!(second.data, data(2));
        assert_ne!(second.version, first.version);
        // Other items are others.
        assert_eq!(store.get(Item::Controller).await.unwrap(), None);
        // A file fewer: nothing of it stays.
        let fewer: Data = data(4).into_iter().filter(|(name, _)| name != "ca.crt").collect();
        assert_eq!(store.update(Item::Node, fewer.clone(), &second.version).await.unwrap(), Update::Updated);
        assert_eq!(store.get(Item::Node).await.unwrap().unwrap().data, fewer);
        assert!(fs::symlink_metadata(store.directory(Item::Node).join("ca.crt")).is_err());
    });
}

#[test]
fn only_the_owner_may_read_and_no_old_files_remain() {
    let root = tempdir().unwrap();
    let path = root.path().join("certificates");
    let store = DirectoryStore::new(&path);
    block_on(async {
        store.create(Item::Authority, data(1)).await.unwrap();
        let version = store.get(Item::Authority).await.unwrap().unwrap().version;
        store.update(Item::Authority, data(2), &version).await.unwrap();
    });
    let item = store.directory(Item::Authority);
    for directory in [&path, &item, &item.join("..data")] {
        assert_eq!(fs::metadata(directory).unwrap().permissions().mode() & 0o777, 0o700);
    }
    for name in FILES {
        assert_eq!(fs::metadata(item.join(name)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read(item.join(name)).unwrap(), data(2)[name]);
        assert_eq!(fs::read_link(item.join(name)).unwrap(), Path::new("..data").join(name));
    }
    // The three links, `..data`, and the one version it names.
    assert_eq!(fs::read_dir(&item).unwrap().count(), 5);
}

#[test]
fn names_with_paths_are_rejected() {
    let root = tempdir().unwrap();
    let store = DirectoryStore::new(root.path());
    for name in ["../tls.key", ".hidden", "", "a/b"] {
        let error = block_on(store.create(Item::Node, Data::from([(name.to_owned(), vec![])]))).unwrap_err();
        assert!(error.to_string().contains("not a valid name"), "{error}");
    }
    assert_eq!(block_on(store.get(Item::Node)).unwrap(), None);
}

#[test]
fn an_operators_files_are_read_and_then_replaced_completely() {
    let root = tempdir().unwrap();
    let store = DirectoryStore::new(root.path());
    let item = store.directory(Item::Authority);
    fs::create_dir(&item).unwrap();
    block_on(async {
        assert_eq!(store.get(Item::Authority).await.unwrap(), None, "an empty directory is no item");
        for (name, bytes) in data(7) {
            fs::write(item.join(name), bytes).unwrap();
        }
        fs::create_dir(item.join("lost+found")).unwrap();
        let restored = store.get(Item::Authority).await.unwrap().unwrap();
        assert_eq!(restored.data, data(7));
        assert_eq!(store.create(Item::Authority, data(8)).await.unwrap(), Create::AlreadyThere);
        assert_eq!(store.update(Item::Authority, data(8), &restored.version).await.unwrap(), Update::Updated);
        assert_eq!(store.get(Item::Authority).await.unwrap().unwrap().data, data(8));
    });
    assert!(FILES.iter().all(|name| item.join(name).is_symlink()));
}

#[test]
fn an_error_names_the_file() {
    let root = tempdir().unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    let store = DirectoryStore::new(root.path().join("file"));
    let error = block_on(store.create(Item::Node, data(1))).unwrap_err().to_string();
    assert!(error.starts_with("cannot create the certificates of node: ") && error.contains("/file"), "{error}");
}

/// One reading as kubelet's readers do it: no lock, `..data` resolved once. `None` if the version was replaced meanwhile.
fn read_without_lock(item: &Path) -> Option<Data> {
    let version = item.join(fs::read_link(item.join("..data")).ok()?);
    let read = |name: &&str| fs::read(version.join(name)).ok().map(|bytes| ((*name).to_owned(), bytes));
    FILES.iter().map(read).collect::<Option<BTreeMap<_, _>>>()
}

/// Adds one to the number in the item, once.
async fn increase(store: &DirectoryStore) {
    loop {
        let present = store.get(Item::Node).await.unwrap().unwrap();
        let next = data(number(&present.data) + 1);
        if store.update(Item::Node, next, &present.version).await.unwrap() == Update::Updated {
            return;
        }
    }
}

#[test]
fn writers_lose_nothing_and_readers_never_see_a_mixture() {
    let root = tempdir().unwrap();
    let store = DirectoryStore::new(root.path());
    block_on(store.create(Item::Node, data(100))).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = [false, true]
        .map(|locked| {
            let (store, over) = (store.clone(), Arc::clone(&over));
            std::thread::spawn(move || {
                let mut seen = Vec::new();
                while !over.load(Ordering::SeqCst) {
                    let found = if locked {
                        block_on(store.get(Item::Node)).unwrap().map(|present| present.data)
                    } else {
                        read_without_lock(&store.directory(Item::Node))
                    };
                    seen.extend(found.as_ref().map(number));
                }
                assert!(seen.is_sorted());
            })
        })
        .into();
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            std::thread::spawn(move || (0..25).for_each(|_| block_on(increase(&store))))
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    over.store(true, Ordering::SeqCst);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    assert_eq!(number(&block_on(store.get(Item::Node)).unwrap().unwrap().data), 200);
}

const WRITE_TO: &str = "QUARRY_TEST_WRITE_TO";

/// Not a test: the process that the next test starts, and kills.
#[test]
#[ignore = "a process of killed_writers_leave_a_whole_item_and_no_lock"]
fn writing_process() {
    let store = DirectoryStore::new(std::env::var_os(WRITE_TO).expect("the folder to write to"));
    loop {
        block_on(increase(&store));
    }
}

#[test]
#[allow(clippy::disallowed_types)] // This very program, to be killed; no other one.
fn killed_writers_leave_a_whole_item_and_no_lock() {
    let root = tempdir().unwrap();
    let store = DirectoryStore::new(root.path());
    block_on(store.create(Item::Node, data(1000))).unwrap();
    for round in 0..12 {
        let begin = number(&block_on(store.get(Item::Node)).unwrap().unwrap().data);
        let mut writers: Vec<_> = (0..2)
            .map(|_| {
                std::process::Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "writing_process", "--ignored"])
                    .env(WRITE_TO, root.path())
                    .stdout(std::process::Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        // They are at it: killed at some instant of their next update. Read without a lock, not to be in step with them.
        while read_without_lock(&store.directory(Item::Node)).is_none_or(|data| number(&data) < begin + 3 + round) {
            assert!(writers.iter_mut().all(|writer| writer.try_wait().unwrap().is_none()), "a writer failed");
        }
        for writer in &mut writers {
            writer.kill().unwrap();
            writer.wait().unwrap();
        }
        block_on(increase(&store));
        assert_eq!(fs::read_dir(store.directory(Item::Node)).unwrap().count(), 5, "something was left behind");
    }
}

/// What a writer that was killed in the worst places left behind.
#[test]
fn leftovers_are_ignored_and_removed() {
    let root = tempdir().unwrap();
    let store = DirectoryStore::new(root.path());
    let item = store.directory(Item::Node);
    fs::create_dir_all(item.join("..version-1")).unwrap();
    fs::write(item.join("..version-1/tls.crt"), "half").unwrap();
    for (link, target) in [
        ("tls.crt", "..data/tls.crt"),
        ("old.crt", "..data/old.crt"),
        ("..link_next", "..data/x"),
        ("..data_next", "..version-1"),
    ] {
        std::os::unix::fs::symlink(target, item.join(link)).unwrap();
    }
    assert_eq!(block_on(store.get(Item::Node)).unwrap(), None);
    assert_eq!(block_on(store.create(Item::Node, data(5))).unwrap(), Create::Created);
    assert_eq!(block_on(store.get(Item::Node)).unwrap().unwrap().data, data(5));
    assert_eq!(fs::read_dir(&item).unwrap().count(), 5);
}

#[test]
fn an_authority_lives_in_a_directory() {
    let root = tempdir().unwrap();
    let authority = || Authority::new(Arc::new(DirectoryStore::new(root.path())), Settings::default()).unwrap();
    let outcome = block_on(authority().step()).unwrap();
    assert!(matches!(outcome.done.as_slice(), [Done::AuthorityMade, Done::Issued { .. }, Done::Issued { .. }]));
    let unchanged = |item: &str| fs::metadata(root.path().join(item).join("..data/tls.key")).unwrap().ino();
    let before = ["authority", "controller", "node"].map(unchanged);
    assert_eq!(block_on(authority().step()).unwrap().done, []);
    assert_eq!(["authority", "controller", "node"].map(unchanged), before);
}
