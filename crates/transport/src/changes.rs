//! Notifications of the kernel about changed files (inotify).

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Reports that something changed in one of several places. For one use: the next check creates new watches, so what
/// was replaced needs no special case.
#[derive(Debug)]
pub struct Changes(AsyncFd<OwnedFd>);

impl Changes {
    /// Watches these files and directories. Of a directory, only its own entries are watched. A place that does not
    /// exist is left out. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The kernel has no more watches.
    pub fn in_places(places: impl IntoIterator<Item = PathBuf>) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        for place in places {
            match inotify.add_watch(&place, events()) {
                Ok(_) | Err(nix::Error::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self(readable(inotify.into())?))
    }

    /// Watches the directory, or its nearest existing ancestor. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The kernel has no more watches.
    pub fn in_directory(directory: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        watch_deepest(&inotify, directory)?;
        Ok(Self(readable(inotify.into())?))
    }

    /// Waits for the first change.
    pub async fn changed(&self) {
        if self.0.readable().await.is_err() {
            std::future::pending().await
        }
    }
}

fn events() -> AddWatchFlags {
    AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
}

/// A file descriptor registered with the runtime.
#[allow(unsafe_code)]
fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open for as long as it lives and always names the same descriptor; it is moved in here.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

/// Watches the directory, or its nearest existing ancestor.
fn watch_deepest(inotify: &Inotify, directory: &Path) -> nix::Result<()> {
    let mut watched = None;
    loop {
        let deepest = directory
            .ancestors()
            .map(|path| if path == Path::new("") { Path::new(".") } else { path })
            .find(|path| path.is_dir())
            .unwrap_or(Path::new("/"));
        // A directory that was created while its parent was being watched caused no notification.
        if watched == Some(deepest) {
            return Ok(());
        }
        inotify.add_watch(deepest, events())?;
        watched = Some(deepest);
    }
}
