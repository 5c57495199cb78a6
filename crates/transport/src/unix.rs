//! The CSI socket: a listener that only root may connect to, and the client.
//!
//! A socket's file outlives a killed process, and the next process must replace it without ever taking it
//! from a running process. So a file is removed only if it is a socket on which no process answers, and only
//! by one process at a time (a lock on the directory, which leaves no extra file beside the socket).

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen as listen_on, socket};
use nix::sys::stat::{Mode, fchmod};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::Stream;
use tonic::transport::{Channel, Endpoint};

use crate::accept::Pauses;

/// Read and write for the owner only: access to the socket means permission to create and delete volumes.
const MODE: u32 = 0o600;
/// How long another process may hold the directory's lock; it needs it only briefly.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// The timeout for connecting.
const CONNECT_WAIT: Duration = Duration::from_secs(10);

/// Why there is no listener or no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not the endpoint of a unix socket.
    #[error("{0:?} is not the endpoint of a unix socket: use unix:///path/to/csi.sock or an absolute path")]
    Endpoint(String),
    /// Another process serves on the path.
    #[error("cannot listen on {}: another process answers on it; stop that process, or use another path", .0.display())]
    InUse(PathBuf),
    /// The path exists and is not a socket, so Quarry does not remove it.
    #[error("cannot listen on {}: the path exists and is not a socket; remove it, or use another path", .0.display())]
    NotASocket(PathBuf),
    /// Another process holds the directory's lock.
    #[error("cannot listen on {}: another process holds the lock of its directory; retry later", .0.display())]
    Locked(PathBuf),
    /// A system call failed.
    #[error("cannot listen on {}: {action}: {source}", path.display())]
    Listen {
        /// The path of the socket.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// No process answers, or permission is denied.
    #[error("cannot connect to {}: {reason}; check that the driver runs, and that this user may open its socket", path.display())]
    Connect {
        /// The path of the socket.
        path: PathBuf,
        /// Why it failed.
        reason: String,
    },
}

/// The path of a unix socket's endpoint: `unix:///path`, `unix:/path` or `/path`.
///
/// # Errors
/// [`Error::Endpoint`] for anything else, a relative path included.
pub fn path_of(endpoint: &str) -> Result<PathBuf, Error> {
    let path = endpoint.strip_prefix("unix://").or_else(|| endpoint.strip_prefix("unix:")).unwrap_or(endpoint);
    if path.starts_with('/') && !path.ends_with('/') {
        Ok(PathBuf::from(path))
    } else {
        Err(Error::Endpoint(endpoint.to_owned()))
    }
}

/// A listening socket: a stream of connections for tonic's `serve_with_incoming`. Its file is removed with it, unless
/// [`Listener::keep_file`] was called. It yields no errors: if the system cannot accept a connection, because too many
/// files are open for example, it logs that and pauses. tonic would retry at once, for ever, without a word.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    pauses: Pauses,
    file: SocketFile,
    keep: bool,
}

/// The file of a listening socket.
#[derive(Clone, Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode of this process's file. A successor's file has another inode: as long as the listener lives,
    /// the kernel keeps its inode, and does not use the number again.
    identity: (u64, u64),
}

impl SocketFile {
    /// Whether the file is still at its path, and was not replaced. Only reliable while the listener lives.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        std::fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.identity)
    }
}

impl Listener {
    /// The socket's file.
    #[must_use]
    pub fn file(&self) -> SocketFile {
        self.file.clone()
    }

    /// Keeps the file when this listener ends: the next [`listen`] replaces it.
    #[must_use]
    pub fn keep_file(mut self) -> Self {
        self.keep = true;
        self
    }
}

/// Listens on `path`, in an existing directory, for the owner only (mode 0600). A socket left by a dead
/// process is replaced. Must be called within a tokio runtime. It may block for up to five seconds while another
/// process starts in the same directory.
///
/// # Errors
/// If another process answers there, if the path is not a socket, or if the system fails: nothing is changed
/// then.
pub fn listen(path: &Path) -> Result<Listener, Error> {
    let failed = |action| move |source: io::Error| Error::Listen { path: path.to_owned(), action, source };

    let _alone = lock_directory(path)?;
    remove_dead(path)?;

    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
        .map_err(|error| failed("creating a socket")(error.into()))?;
    // Linux gives the file the socket's mode: other users cannot connect at any time.
    fchmod(&socket, Mode::from_bits_truncate(MODE)).map_err(|error| failed("setting its mode")(error.into()))?;
    let address = UnixAddr::new(path).map_err(|error| failed("the path is too long or invalid")(error.into()))?;
    bind(socket.as_raw_fd(), &address).map_err(|error| failed("binding")(error.into()))?;
    // Override the umask.
    std::fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(failed("setting its mode"))?;
    listen_on(&socket, Backlog::MAXCONN).map_err(|error| failed("listening")(error.into()))?;

    let file = std::fs::symlink_metadata(path).map_err(failed("reading the new socket"))?;
    let socket = UnixListener::from_std(StdListener::from(socket)).map_err(failed("watching for connections"))?;
    let file = SocketFile { path: path.to_owned(), identity: (file.dev(), file.ino()) };
    let pauses = Pauses::new(format!("the clients of {}", path.display()));
    Ok(Listener { socket, pauses, file, keep: false })
}

/// Locks the socket's directory against another process that starts there too.
fn lock_directory(path: &Path) -> Result<Flock<File>, Error> {
    let failed = |source| Error::Listen { path: path.to_owned(), action: "opening its directory", source };
    let directory = match path.parent() {
        Some(directory) if directory != Path::new("") => directory,
        _ => Path::new("."),
    };
    let mut file = File::open(directory).map_err(failed)?;
    let give_up = Instant::now() + LOCK_WAIT;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, nix::errno::Errno::EWOULDBLOCK)) if Instant::now() < give_up => file = back,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Err(Error::Locked(path.to_owned())),
            Err((_, error)) => return Err(failed(error.into())),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Removes a socket left by a dead process. Returns `false` if the path does not exist. This may block.
///
/// # Errors
/// If another process answers there, if the path is not a socket, or if the system fails: nothing is changed then.
pub fn remove_dead(path: &Path) -> Result<bool, Error> {
    let failed = |action| move |source: io::Error| Error::Listen { path: path.to_owned(), action, source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("reading the path")(error)),
        Ok(file) if !file.file_type().is_socket() => return Err(Error::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match StdStream::connect(path) {
        Ok(_) => Err(Error::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "removing the socket of a dead process");
            std::fs::remove_file(path).map_err(failed("removing the old socket")).map(|()| true)
        }
        Err(error) => Err(failed("checking the old socket")(error)),
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.keep || !self.file.is_in_place() {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.file.path) {
            tracing::warn!(path = %self.file.path.display(), %error, "cannot remove the socket's file");
        }
    }
}

impl Stream for Listener {
    type Item = io::Result<UnixStream>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { socket, pauses, .. } = self.get_mut();
        let accepted = pauses.poll(context, |context| socket.poll_accept(context).map(Some));
        accepted.map(|accepted| accepted.map(|(stream, _)| Ok(stream)))
    }
}

/// Connects to the server on `path`.
///
/// # Errors
/// If no process answers, or permission is denied.
pub async fn connect(path: &Path) -> Result<Channel, Error> {
    let failed = |reason: String| Error::Connect { path: path.to_owned(), reason };
    let text = path.to_str().ok_or_else(|| failed("the path is not UTF-8".into()))?;
    let endpoint = Endpoint::from_shared(format!("unix://{text}")).map_err(|error| failed(innermost(&error)))?;
    endpoint.connect_timeout(CONNECT_WAIT).connect().await.map_err(|error| failed(innermost(&error)))
}

/// tonic reports only "transport error"; the cause is inside.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn endpoints_are_read_in_three_forms() {
        for text in ["unix:///run/a b/csi.sock", "unix:/run/a b/csi.sock", "/run/a b/csi.sock"] {
            assert_eq!(path_of(text).unwrap(), Path::new("/run/a b/csi.sock"));
        }
        for text in ["", "unix:", "unix://", "run/csi.sock", "unix://run/csi.sock", "tcp://h:1", "http://h/x", "/run/"]
        {
            assert!(path_of(text).unwrap_err().to_string().contains("unix:///path"), "{text}");
        }
    }

    #[tokio::test]
    async fn the_socket_is_the_owners_and_goes_with_the_listener() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("csi.sock");
        let listener = listen(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "no file beside it");
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_live_socket_is_kept_and_a_dead_one_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("csi.sock");
        let live = StdListener::bind(&path).unwrap();
        assert!(matches!(listen(&path), Err(Error::InUse(_))));
        assert!(path.exists());
        drop(live);
        let listener = listen(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        StdStream::connect(&path).unwrap();
        drop(listener);
    }

    #[tokio::test]
    async fn other_files_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("csi.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(&path), Err(Error::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_successors_socket_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("csi.sock");
        let listener = listen(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _successor = StdListener::bind(&path).unwrap();
        drop(listener);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_kept_file_stays_until_the_next_listener_replaces_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("csi.sock");
        let first = listen(&path).unwrap().keep_file();
        assert!(first.file().is_in_place());
        drop(first);
        assert!(path.exists() && StdStream::connect(&path).is_err());
        let _second = listen(&path).unwrap();
        StdStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn a_missing_directory_and_a_long_path_are_reported() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("no/csi.sock");
        let text = listen(&missing).unwrap_err().to_string();
        assert!(text.contains("no/csi.sock") && text.contains("directory"), "{text}");
        let long = directory.path().join("x".repeat(120));
        assert!(listen(&long).unwrap_err().to_string().contains("too long"));
    }

    #[tokio::test]
    async fn a_failed_connection_names_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let text = connect(&directory.path().join("csi.sock")).await.unwrap_err().to_string();
        assert!(text.contains("csi.sock") && text.contains("No such file"), "{text}");
    }

    #[tokio::test]
    async fn when_two_start_at_once_on_a_dead_socket_one_wins() {
        for _ in 0..20 {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("csi.sock");
            drop(StdListener::bind(&path).unwrap());
            let other = path.clone();
            let runtime = tokio::runtime::Handle::current();
            let second = std::thread::spawn(move || {
                let _inside = runtime.enter();
                listen(&other)
            });
            let (first, second) = (listen(&path), second.join().unwrap());
            assert_eq!([&first, &second].iter().filter(|result| result.is_ok()).count(), 1, "{first:?} {second:?}");
            StdStream::connect(&path).unwrap();
        }
    }
}
