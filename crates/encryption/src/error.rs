//! Errors of encrypted devices, with messages for operators.

use std::path::{Path, PathBuf};

/// Why an encrypted device could not be made, opened, resized or closed. No message contains a key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No key slot belongs to the passphrase. Nothing was changed.
    #[error("the passphrase opens no key slot of the LUKS2 header on {device:?}")]
    WrongKey {
        /// The device.
        device: PathBuf,
    },
    /// A passphrase is not text, so kubelet cannot pass it.
    #[error(
        "a passphrase is not text (UTF-8 without NUL), so kubelet could never pass it; nothing was changed: is it encoded \
         in base64 once more, as in a Secret?"
    )]
    NotText,
    /// The old and the new passphrase are the same.
    #[error("the old and the new passphrase are the same; nothing was changed")]
    SamePassphrase,
    /// The volume is not open on this host.
    #[error(
        "cannot change the passphrase of volume {volume}: it is not open on this host; do it on the volume's node, while a \
         pod uses the volume"
    )]
    NotOpen {
        /// The identifier of the volume.
        volume: String,
    },
    /// The device below an open dm-crypt device does not contain its header.
    #[error("the encrypted device {name} is open, but {device:?} contains {found}; nothing was changed")]
    OtherHeader {
        /// The name of the open device.
        name: String,
        /// The device below.
        device: PathBuf,
        /// What it contains.
        found: String,
    },
    /// The device contains something else, so no header is written to it.
    #[error(
        "cannot write a LUKS2 header to {device:?}: it is not blank, it contains {found}; nothing was changed: find out \
         whose data this is"
    )]
    NotBlank {
        /// The device.
        device: PathBuf,
        /// What it contains.
        found: String,
    },
    /// A device that should contain the copy of a header does not.
    #[error(
        "{device:?} should contain the LUKS2 header of its source, but it contains {found}; nothing was changed: the \
         source was not complete, so a copy of it could not be opened"
    )]
    NoHeader {
        /// The device.
        device: PathBuf,
        /// What it contains.
        found: String,
    },
    /// The passphrase cannot be used.
    #[error("the passphrase has {length} bytes; it must have 1 to {} bytes", quarry_exec::Secret::MAX)]
    Passphrase {
        /// Its length in bytes.
        length: usize,
    },
    /// Something has the device open, or one with this name exists already.
    #[error("cannot {attempted} {on:?}: it is in use; a retry succeeds once that has ended")]
    Busy {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        on: PathBuf,
    },
    /// The kernel did not remove a dm-crypt device.
    #[error("cannot remove the dm-crypt device {name}: {source}; `dmsetup info {name}` shows its state")]
    Mapping {
        /// Its name.
        name: String,
        /// Why.
        source: quarry_mount::Error,
    },
    /// cryptsetup succeeded, but the result is not there.
    #[error("cryptsetup reported success, but {device:?} contains {found}")]
    Unverified {
        /// The device.
        device: PathBuf,
        /// What was found.
        found: String,
    },
    /// The device cannot be read, or held exclusively.
    #[error(transparent)]
    Device(#[from] quarry_filesystem::Error),
    /// cryptsetup could not be run, or failed.
    #[error("cannot {attempted} {on:?}: {source}")]
    Command {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        on: PathBuf,
        /// The error of the command.
        source: quarry_exec::Error,
    },
    /// A system call failed.
    #[error("cannot {attempted} {path:?}: {source}; see the kernel log for errors of the device")]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Error {
    /// A failed system call.
    pub(crate) fn io(attempted: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { attempted, path: path.to_owned(), source }
    }
}
