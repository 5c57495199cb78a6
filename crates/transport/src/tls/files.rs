//! Certificates from a directory: a Secret mounted by kubelet, or files from an operator or cert-manager.
//!
//! Kubelet replaces a mounted Secret by exchanging one symlink, `..data`, so files read through that link are
//! consistent. Plain files are replaced one after another: if key and certificate do not match, they are not
//! used, and read again a little later.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Material, Pem, Slot, Source, slot};
use crate::changes::Changes;

/// The certificate and its chain.
pub const CERTIFICATE: &str = "tls.crt";
/// Its key.
pub const KEY: &str = "tls.key";
/// The trusted authorities.
pub const AUTHORITIES: &str = "ca.crt";

/// The symlink through which kubelet exposes the files of a mounted Secret.
const DATA: &str = "..data";
/// How often the files are read without a change notification: a symlink elsewhere may have changed.
const REREAD: Duration = Duration::from_secs(60);
/// How often, if the kernel sends no change notifications.
const REREAD_BLIND: Duration = Duration::from_secs(5);
/// How long after inconsistent files the next read follows.
const RETRY: Duration = Duration::from_secs(1);
/// How long after a change the files are read: changes come in groups.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// Follows the files [`CERTIFICATE`], [`KEY`] and [`AUTHORITIES`] in `directory`, which need not exist yet,
/// for as long as the source is in use. If files disappear or become invalid, the previous ones stay in use.
/// Must be called within a tokio runtime.
#[must_use]
pub fn watch(directory: impl Into<PathBuf>) -> Source {
    let (slot, source) = slot();
    tokio::spawn(follow(directory.into(), slot));
    source
}

async fn follow(directory: PathBuf, slot: Slot) {
    let mut complaint = None;
    let mut bad_since: Option<Instant> = None;
    loop {
        // Before the files are read, so that no change is missed in between.
        let changes = watch_for_changes(&directory);
        let set = read(&directory).await;
        let bad = set.as_ref().map_or(true, |pem| Material::parse(pem).is_err());
        // Missing or inconsistent files may be in the middle of a replacement: logged only if it persists.
        let wait = if bad && bad_since.get_or_insert_with(Instant::now).elapsed() < RETRY {
            RETRY
        } else {
            match set {
                Ok(pem) => {
                    complaint = None;
                    if slot.offer(&pem).is_ok() {
                        bad_since = None;
                    }
                }
                Err(error) => {
                    let why = error.to_string();
                    if complaint.as_ref() != Some(&why) {
                        tracing::warn!(directory = %directory.display(), why, "waiting for certificates");
                        complaint = Some(why);
                    }
                }
            }
            if changes.is_some() { REREAD } else { REREAD_BLIND }
        };
        tokio::select! {
            () = slot.closed() => return,
            () = sleep(wait) => {}
            () = changed(changes.as_ref()) => sleep(DEBOUNCE).await,
        }
    }
}

/// All three files, through [`DATA`] if it exists.
async fn read(directory: &Path) -> io::Result<Pem> {
    let data = directory.join(DATA);
    // Resolved once: if the link is exchanged meanwhile, two sets are not mixed.
    let base = match tokio::fs::canonicalize(&data).await {
        Ok(base) => base,
        Err(error) if error.kind() == io::ErrorKind::NotFound => directory.to_owned(),
        Err(error) => return Err(named(&data, &error)),
    };
    let file = async |name: &str| {
        let path = base.join(name);
        tokio::fs::read_to_string(&path).await.map_err(|error| named(&directory.join(name), &error))
    };
    Ok(Pem { certificate: file(CERTIFICATE).await?, key: file(KEY).await?, authorities: file(AUTHORITIES).await? })
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()))
}

/// Waits for the first change; forever if the kernel sends no notifications.
async fn changed(changes: Option<&Changes>) {
    match changes {
        Some(changes) => changes.changed().await,
        None => std::future::pending().await,
    }
}

/// `None` if the kernel has no more watches; the files are then read more often.
fn watch_for_changes(directory: &Path) -> Option<Changes> {
    let changes = Changes::in_directory(directory);
    if let Err(error) = &changes {
        tracing::debug!(%error, directory = %directory.display(), "cannot watch it: reading more often");
    }
    changes.ok()
}
