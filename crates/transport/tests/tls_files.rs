//! Certificates in a directory: a mounted Secret as replaced by kubelet, plain files, and everything in
//! between.

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used, clippy::panic)]

mod tls_support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use quarry_transport::tls::{Material, Pem, Source, files};
use tls_support::{Authority, Leaf, Log};
use tokio::time::{sleep, timeout};

/// Well below the minute after which files are read without notification: anything slower was found by
/// polling.
const NOTICED: Duration = Duration::from_secs(40);

fn fingerprint(pem: &Pem) -> String {
    Material::parse(pem).unwrap().fingerprint().to_owned()
}

/// Waits until `pem` is in use.
async fn expect(source: &mut Source, pem: &Pem) {
    let wanted = fingerprint(pem);
    let used = |material: &Option<_>| {
        material.as_ref().is_some_and(|material: &std::sync::Arc<Material>| material.fingerprint() == wanted)
    };
    let waited = timeout(NOTICED, source.wait_for(used)).await;
    assert!(waited.is_ok_and(|seen| seen.is_ok()), "not noticed in time");
}

async fn expect_log(log: &Log, part: &str) {
    let looking = async {
        while log.count(part) == 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(NOTICED, looking).await.unwrap_or_else(|_| panic!("{part:?} is missing in\n{}", log.text()));
}

fn write(directory: &Path, pem: &Pem) {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join(files::CERTIFICATE), &pem.certificate).unwrap();
    fs::write(directory.join(files::KEY), &pem.key).unwrap();
    fs::write(directory.join(files::AUTHORITIES), &pem.authorities).unwrap();
}

/// A Secret mounted by kubelet.
struct Mounted<'a> {
    directory: &'a Path,
    version: u32,
}

impl<'a> Mounted<'a> {
    fn new(directory: &'a Path, pem: &Pem) -> Self {
        fs::create_dir_all(directory).unwrap();
        let mut mounted = Self { directory, version: 0 };
        mounted.replace(pem);
        for name in [files::CERTIFICATE, files::KEY, files::AUTHORITIES] {
            symlink(Path::new("..data").join(name), directory.join(name)).unwrap();
        }
        mounted
    }

    /// A new directory beside the old one, the symlink exchanged, the old one removed.
    fn replace(&mut self, pem: &Pem) {
        let old = self.directory.join(format!("..2026_{}", self.version));
        self.version += 1;
        let name = format!("..2026_{}", self.version);
        write(&self.directory.join(&name), pem);
        symlink(&name, self.directory.join("..data_tmp")).unwrap();
        fs::rename(self.directory.join("..data_tmp"), self.directory.join("..data")).unwrap();
        let _ = fs::remove_dir_all(old);
    }
}

#[tokio::test]
async fn a_mounted_secret_is_followed() {
    let authority = Authority::new("a");
    let (first, second) = (authority.pem(&Leaf::node()), authority.pem(&Leaf::node()));
    let directory = tempfile::tempdir().unwrap();
    let mut mounted = Mounted::new(directory.path(), &first);
    let mut source = files::watch(directory.path());
    expect(&mut source, &first).await;
    mounted.replace(&second);
    expect(&mut source, &second).await;
    mounted.replace(&first);
    expect(&mut source, &first).await;
}

#[tokio::test]
async fn a_secret_that_is_replaced_while_it_is_read_is_never_mixed() {
    let log = Log::capture();
    let authority = Authority::new("a");
    let versions: Vec<_> = (0..6).map(|_| authority.pem(&Leaf::node())).collect();
    let directory = tempfile::tempdir().unwrap();
    let mut mounted = Mounted::new(directory.path(), &versions[0]);
    let mut source = files::watch(directory.path());
    expect(&mut source, &versions[0]).await;
    for round in 0..60 {
        for version in &versions[1..] {
            mounted.replace(version);
            // The reader gets to run now and then, at any point.
            if round % 3 == 0 {
                sleep(Duration::from_millis(7)).await;
            }
        }
    }
    expect(&mut source, versions.last().unwrap()).await;
    assert_eq!(log.count("refused"), 0, "{}", log.text());
}

#[tokio::test]
async fn a_directory_that_is_created_later_is_noticed() {
    let log = Log::capture();
    let authority = Authority::new("a");
    let (first, second) = (authority.pem(&Leaf::node()), authority.pem(&Leaf::node()));
    let above = tempfile::tempdir().unwrap();
    let directory = above.path().join("tls/node");
    let mut source = files::watch(&directory);
    expect_log(&log, "waiting for certificates").await;
    assert!(source.borrow().is_none());
    fs::create_dir(above.path().join("tls")).unwrap();
    // Long enough for the watch to have moved down, or not: both must work.
    sleep(Duration::from_millis(200)).await;
    write(&directory, &first);
    expect(&mut source, &first).await;
    assert_eq!(log.count("waiting for certificates"), 1, "{}", log.text());

    // It is removed, and replaced by another; meanwhile the old certificates stay in use.
    fs::rename(&directory, above.path().join("gone")).unwrap();
    expect_log_twice(&log, "waiting for certificates").await;
    assert_eq!(source.borrow().as_ref().unwrap().fingerprint(), fingerprint(&first));
    write(&directory, &second);
    expect(&mut source, &second).await;
}

async fn expect_log_twice(log: &Log, part: &str) {
    let looking = async {
        while log.count(part) < 2 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(NOTICED, looking).await.unwrap_or_else(|_| panic!("{part:?} is not there twice in\n{}", log.text()));
}

#[tokio::test]
async fn a_half_written_pair_is_not_used() {
    let log = Log::capture();
    let authority = Authority::new("a");
    let (first, second) = (authority.pem(&Leaf::node()), authority.pem(&Leaf::node()));
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &first);
    let mut source = files::watch(directory.path());
    expect(&mut source, &first).await;
    fs::write(directory.path().join(files::CERTIFICATE), &second.certificate).unwrap();
    // The mismatch persists: logged once.
    expect_log(&log, "new certificates are rejected").await;
    assert!(log.text().contains("replace both together"), "{}", log.text());
    assert!(!source.has_changed().unwrap(), "the old one stays in use");
    fs::write(directory.path().join(files::KEY), &second.key).unwrap();
    expect(&mut source, &second).await;
    assert_eq!(log.count("new certificates are rejected"), 1, "{}", log.text());
}

#[tokio::test]
async fn a_watch_ends_with_its_last_source() {
    let _log = Log::capture();
    let directory = tempfile::tempdir().unwrap();
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let source = files::watch(directory.path());
    let other = source.clone();
    drop(source);
    sleep(Duration::from_millis(50)).await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), before + 1);
    drop(other);
    let ending = async {
        while tokio::runtime::Handle::current().metrics().num_alive_tasks() > before {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(NOTICED, ending).await.unwrap();
}
