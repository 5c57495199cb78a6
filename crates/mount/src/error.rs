//! What can go wrong with a mount, in words for the operator.

use std::path::PathBuf;

use nix::errno::Errno;

use crate::Device;

/// Why a mount, a bind, an unmount or a look at one failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path cannot be a mount target.
    #[error("{target:?} cannot be a mount target: {why}; give an absolute path that ends in a name")]
    InvalidTarget {
        /// The path as it was given.
        target: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The target is a symbolic link. Following it could mount over, or unmount, something that is not ours.
    #[error("{target:?} is a symbolic link, and those are never followed; remove it and try again")]
    Symlink {
        /// The link.
        target: PathBuf,
    },
    /// The target exists, but is neither what a mount needs nor what this crate makes.
    #[error("{target:?} is {found}, where {wanted} is needed; look at it, and move it away")]
    WrongKind {
        /// The target.
        target: PathBuf,
        /// What it has to be.
        wanted: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// Nothing can be mounted at the target, because the folder that holds it does not exist.
    #[error("{target:?} cannot be mounted at: the folder that holds it does not exist; whoever calls makes it first")]
    NoParent {
        /// The target.
        target: PathBuf,
    },
    /// Something else is mounted at the target.
    #[error(
        "cannot {attempted} at {target:?}: {found} is mounted there; it was left alone: find out whose it is and unmount it"
    )]
    Foreign {
        /// What was to be done.
        attempted: &'static str,
        /// The target.
        target: PathBuf,
        /// What is mounted there.
        found: String,
    },
    /// There is no staged volume to publish.
    #[error("nothing is mounted at {volume:?}, so there is no volume to publish; stage it first")]
    NotMounted {
        /// Where the volume should be.
        volume: PathBuf,
    },
    /// The right thing is mounted at the target, but in another way than asked.
    #[error("{target:?} is already mounted {found}, and {asked} was asked for; unpublish it first")]
    Different {
        /// The target.
        target: PathBuf,
        /// How it should be mounted.
        asked: String,
        /// How it is mounted.
        found: String,
    },
    /// What is mounted at the target no longer answers.
    #[error(
        "what is mounted at {target:?} does not answer: its device is lost, or the kernel shut the filesystem down (see \
         the kernel log); stop the pods that use it: staging it anew, once they are gone, recovers what the disk still has"
    )]
    Dead {
        /// The target.
        target: PathBuf,
    },
    /// The mount is in use.
    #[error("cannot {attempted} at {target:?}: it is in use{holders}; end what uses it, a retry then succeeds")]
    Busy {
        /// What was to be done.
        attempted: &'static str,
        /// The target.
        target: PathBuf,
        /// Who holds it, as far as this process can see: `" by …"`.
        holders: String,
    },
    /// The device cannot be mounted because something holds it exclusively.
    #[error(
        "cannot mount {device:?} at {target:?}: the device or the target is in use (EBUSY): a mkfs or a wipe may still run, \
         or it is mounted elsewhere with other options; a retry succeeds once that has ended"
    )]
    DeviceBusy {
        /// The device.
        device: PathBuf,
        /// The target.
        target: PathBuf,
    },
    /// The device cannot be mapped because a program holds it exclusively.
    #[error(
        "cannot map device {device} read-only: a program holds it exclusively (a pod that has mounted what it made there?); \
         a retry succeeds once that has ended"
    )]
    Claimed {
        /// The device.
        device: Device,
    },
    /// The target is to be removed, but holds data.
    #[error("cannot remove {target:?}: nothing is mounted there, yet {holds}; it was kept: move the data away")]
    NotEmpty {
        /// The target.
        target: PathBuf,
        /// What it holds.
        holds: &'static str,
    },
    /// The kernel said that it was done, but its own table disagrees.
    #[error("{attempted} at {target:?} reported success, but mountinfo shows {found} there; try again")]
    Unverified {
        /// What was done.
        attempted: &'static str,
        /// The target.
        target: PathBuf,
        /// What is there.
        found: String,
    },
    /// A system call failed.
    #[error("cannot {attempted} {on:?}: {source}{}", remedy(.attempted, *.source))]
    Syscall {
        /// What was to be done.
        attempted: &'static str,
        /// On what.
        on: PathBuf,
        /// Why it failed.
        source: Errno,
    },
    /// The kernel's table of mounts cannot be read.
    #[error("cannot read /proc/self/mountinfo: {0}; is /proc mounted?")]
    Table(#[source] std::io::Error),
}

/// What the operator can do, where the error number tells.
fn remedy(attempted: &str, source: Errno) -> &'static str {
    match source {
        Errno::EINVAL if attempted.contains("mount") => {
            "; an option that this kernel does not know, or a damaged superblock: the kernel log says which"
        }
        Errno::ENODEV => "; this kernel has no such filesystem: load its module",
        Errno::EIO | Errno::EUCLEAN => "; the device fails or the filesystem is damaged: see the kernel log",
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
        Self::Syscall { attempted, on: on.to_owned(), source }
    }
}
