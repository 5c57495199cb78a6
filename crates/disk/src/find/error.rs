//! What can go wrong while disks are looked for, in words for the operator.

use std::path::PathBuf;

/// Why the disks of a host, or one of them, cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A table that says what is in use, or which disks there are, cannot be read.
    #[error("cannot list the disks: reading {path:?} failed: {source}; are the host's /sys and /proc mounted there?")]
    Table {
        /// Which.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// The kernel has the disk, and does not tell what has to be known of it.
    #[error("cannot use the disk {disk}: reading {path:?} failed: {source}; see the kernel log for errors of the disk")]
    Attribute {
        /// The disk's kernel name.
        disk: String,
        /// What was read.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// The kernel says something of the disk that is not understood.
    #[error("cannot use the disk {disk}: {path:?} contains the unexpected value {text:?}; please report this")]
    Strange {
        /// The disk's kernel name.
        disk: String,
        /// What was read.
        path: PathBuf,
        /// What it says.
        text: String,
    },
    /// The node of a disk cannot be opened.
    #[error("opening {node:?} failed: {source}")]
    Open {
        /// The node.
        node: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// The node is there, and leads elsewhere.
    #[error("{node:?} is not the device node of the disk {disk} ({number}): is the host's /dev mounted there?")]
    OtherNode {
        /// The node.
        node: PathBuf,
        /// The disk's kernel name.
        disk: String,
        /// The disk's number.
        number: quarry_mount::Device,
    },
    /// Another disk has the name by now.
    #[error("the disk {disk} is gone, or another disk has its name now: retry")]
    Gone {
        /// The disk's kernel name.
        disk: String,
    },
}
