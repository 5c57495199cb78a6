//! The errors of finding disks.

use std::path::PathBuf;

/// Why the disks of a host, or one of them, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A table of disks or of their uses cannot be read.
    #[error("cannot list the disks: reading {path:?} failed: {source}; are the host's /sys and /proc mounted there?")]
    Table {
        /// The path of the table.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The kernel has the disk, but a required attribute cannot be read.
    #[error("cannot use the disk {disk}: reading {path:?} failed: {source}; see the kernel log for errors of the disk")]
    Attribute {
        /// The disk's kernel name.
        disk: String,
        /// What was read.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The kernel reports an unexpected value for the disk.
    #[error("cannot use the disk {disk}: {path:?} contains the unexpected value {text:?}; please report this")]
    Unexpected {
        /// The disk's kernel name.
        disk: String,
        /// What was read.
        path: PathBuf,
        /// The value.
        text: String,
    },
    /// The node of a disk cannot be opened.
    #[error("opening {node:?} failed: {source}")]
    Open {
        /// The node.
        node: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The node exists, but belongs to another device.
    #[error("{node:?} is not the device node of the disk {disk} ({number}): is the host's /dev mounted there?")]
    OtherNode {
        /// The node.
        node: PathBuf,
        /// The disk's kernel name.
        disk: String,
        /// The disk's number.
        number: quarry_mount::Device,
    },
    /// Another disk has the name now.
    #[error("the disk {disk} is gone, or another disk has its name now: retry")]
    Gone {
        /// The disk's kernel name.
        disk: String,
    },
}
