//! Errors of mount operations, with messages for operators.

use std::fmt;
use std::path::PathBuf;

use nix::errno::Errno;

use crate::Device;

/// Why a mount, a bind, an unmount or a check failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path cannot be a mount target.
    #[error("{target:?} cannot be a mount target: {why}; give an absolute path that ends in a name")]
    InvalidTarget {
        /// The given path.
        target: PathBuf,
        /// Why it is invalid.
        why: &'static str,
    },
    /// The target is a symbolic link. Following it could mount over, or unmount, something foreign.
    #[error("{target:?} is a symbolic link, and Quarry never follows those; remove it and try again")]
    Symlink {
        /// The link.
        target: PathBuf,
    },
    /// The target exists, but has the wrong type.
    #[error("{target:?} is {found}, but must be {wanted}; check what it is and move it away")]
    WrongKind {
        /// The target.
        target: PathBuf,
        /// The required type.
        wanted: &'static str,
        /// The actual type.
        found: &'static str,
    },
    /// The parent directory of the target does not exist.
    #[error("cannot mount at {target:?}: its parent directory does not exist; the caller must create it first")]
    NoParent {
        /// The target.
        target: PathBuf,
    },
    /// Something else is mounted at the target.
    #[error(
        "cannot {attempted} at {target:?}: {found} is mounted there; nothing was changed: find its owner and unmount it"
    )]
    Foreign {
        /// What was attempted.
        attempted: &'static str,
        /// The target.
        target: PathBuf,
        /// The other mount.
        found: String,
    },
    /// There is no staged volume to publish.
    #[error("nothing is mounted at {volume:?}, so there is no volume to publish; stage it first")]
    NotMounted {
        /// Where the volume should be.
        volume: PathBuf,
    },
    /// The volume is mounted at the target, but with different options than requested.
    #[error("{target:?} is already mounted {found}, but {asked} is requested; unpublish it first")]
    Different {
        /// The target.
        target: PathBuf,
        /// How it should be mounted.
        asked: String,
        /// How it is mounted.
        found: String,
    },
    /// The filesystem that is mounted at the target no longer works.
    #[error(
        "the filesystem mounted at {target:?} does not respond: its device is lost, or the kernel shut it down \
         (see the kernel log); end the pods that use it: the next stage then recovers what is still on the disk"
    )]
    Dead {
        /// The target.
        target: PathBuf,
    },
    /// The mount is in use.
    #[error("cannot {attempted} at {target:?}: it is in use{holders}; end its users, then retry")]
    Busy {
        /// What was attempted.
        attempted: &'static str,
        /// The target.
        target: PathBuf,
        /// The users that this process can see: `" by …"`.
        holders: String,
    },
    /// The device cannot be mounted because it is held exclusively.
    #[error(
        "cannot mount {device:?} at {target:?}: the device or the target is in use (EBUSY): an mkfs or a wipe \
         may still run, or it is mounted elsewhere with other options; a retry succeeds after that has ended"
    )]
    DeviceBusy {
        /// The device.
        device: PathBuf,
        /// The target.
        target: PathBuf,
    },
    /// The device cannot be mapped because a program holds it exclusively.
    #[error(
        "cannot map device {device} read-only: a program holds it exclusively (a pod that mounted a filesystem \
         on it?); a retry succeeds after that has ended"
    )]
    Claimed {
        /// The device.
        device: Device,
    },
    /// The read-only mapping of an earlier publication maps another device, or less of this one, and is still in use.
    #[error(
        "cannot map device {device} read-only: the mapping that was made for this target, {mapping}, maps another device \
         or less of it, and is published at {target:?}; nothing was changed: unpublish it there first (delete its pod)"
    )]
    Published {
        /// The device.
        device: Device,
        /// The mapping.
        mapping: Device,
        /// Where its node is mounted.
        target: PathBuf,
    },
    /// The target cannot be removed because it contains data.
    #[error("cannot remove {target:?}: nothing is mounted there, but {holds}; nothing was changed: move the data away")]
    NotEmpty {
        /// The target.
        target: PathBuf,
        /// What it contains.
        holds: &'static str,
    },
    /// The system call succeeded, but mountinfo does not show the result.
    #[error("{attempted} at {target:?} reported success, but mountinfo shows {found} there; try again")]
    Unverified {
        /// What was done.
        attempted: &'static str,
        /// The target.
        target: PathBuf,
        /// What mountinfo shows.
        found: String,
    },
    /// A system call failed.
    #[error("cannot {attempted} {on:?}: {source}{}", remedy(*.attempted, *.source))]
    Syscall {
        /// What was attempted.
        attempted: Attempt,
        /// On what.
        on: PathBuf,
        /// Why it failed.
        source: Errno,
    },
    /// The kernel's table of mounts cannot be read.
    #[error("cannot read /proc/self/mountinfo: {0}; is /proc mounted?")]
    Table(#[source] std::io::Error),
}

/// The purpose of a failed system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Mount a device.
    Mount,
    /// Bind-mount something.
    Bind,
    /// Make a mount read-only.
    MakeReadOnly,
    /// Unmount.
    Unmount,
    /// Anything else, in words that follow "cannot".
    Other(&'static str),
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mount => "mount",
            Self::Bind => "bind-mount at",
            Self::MakeReadOnly => "make the mount read-only at",
            Self::Unmount => "unmount",
            Self::Other(words) => words,
        })
    }
}

/// What the operator can do, if the error number shows it.
fn remedy(attempted: Attempt, source: Errno) -> &'static str {
    match source {
        Errno::EINVAL if !matches!(attempted, Attempt::Other(_)) => {
            "; this kernel does not know an option, or the superblock is damaged: see the kernel log"
        }
        Errno::ENODEV => "; this kernel does not have the filesystem: load its module",
        Errno::EIO | Errno::EUCLEAN => "; the device has failed or the filesystem is damaged: see the kernel log",
        Errno::EPERM | Errno::EACCES => "; Quarry needs CAP_SYS_ADMIN, and write access to the device",
        Errno::ENOENT => "; the path or its parent does not exist",
        Errno::EROFS => "; the host's filesystem or the device is read-only",
        Errno::ENOSPC => "; the kernel's limit fs.mount-max, or the host's disk, is full",
        _ => "",
    }
}

impl Error {
    /// A failed call of the standard library.
    pub(crate) fn io(attempted: &'static str, on: &std::path::Path, error: &std::io::Error) -> Self {
        let source = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
        Self::Syscall { attempted: Attempt::Other(attempted), on: on.to_owned(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_argument_of_a_mount_has_a_remedy() {
        let text = |attempted| Error::Syscall { attempted, on: "/t".into(), source: Errno::EINVAL }.to_string();
        assert_eq!(
            text(Attempt::Mount),
            "cannot mount \"/t\": EINVAL: Invalid argument; this kernel does not know an option, or the superblock is \
             damaged: see the kernel log"
        );
        assert!(text(Attempt::Bind).starts_with("cannot bind-mount at \"/t\""));
        assert_eq!(text(Attempt::Other("look up")), "cannot look up \"/t\": EINVAL: Invalid argument");
    }
}
