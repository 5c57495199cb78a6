//! The errors of requests.
//!
//! Every failure of a CSI call is an [`Error`]. Its [`Reason`] selects the gRPC code, and that decides what a
//! container orchestrator does next. The table of codes is in `quarry_wire::status`.

use crate::Unreachable;

/// Why a request failed. `quarry_wire::status` maps each reason to a gRPC code; no other place selects one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A field is missing, malformed, or names something that does not exist by design.
    InvalidRequest,
    /// No volume has this identifier, or it is not at this path.
    NotFound,
    /// The name is taken by an incompatible volume, or the target is published differently.
    Exists,
    /// There is not enough space on this node: another node may have it.
    NoSpace,
    /// No node can create this size.
    SizeOutOfRange,
    /// The volume is mounted, published or open.
    InUse,
    /// The volume's content or state forbids the operation; nothing was changed.
    Precondition,
    /// Another operation on this volume is in progress.
    UnderWay,
    /// The page token was not issued by Quarry.
    BadPageToken,
    /// The pool, or its storage, cannot be read or changed now.
    Unavailable,
    /// The wait ended; the work continues.
    TimedOut,
    /// Quarry does not support this.
    Unsupported,
    /// The host failed: a tool, the kernel, a disk.
    Host,
}

impl Reason {
    /// Every reason, for tests and documentation.
    pub const ALL: [Self; 13] = [
        Self::InvalidRequest,
        Self::NotFound,
        Self::Exists,
        Self::NoSpace,
        Self::SizeOutOfRange,
        Self::InUse,
        Self::Precondition,
        Self::UnderWay,
        Self::BadPageToken,
        Self::Unavailable,
        Self::TimedOut,
        Self::Unsupported,
        Self::Host,
    ];

    /// Whether a caller treats an answer with this reason as final. After any other reason the caller does
    /// not know what was done, and retries: external-provisioner does so even if the claim is deleted
    /// meanwhile.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::UnderWay | Self::BadPageToken | Self::TimedOut | Self::Unavailable)
    }
}

/// Why a request failed, with a message for the operator: what was attempted, on what, why it failed, and
/// what to do about it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The kind of failure; selects the gRPC code.
    pub reason: Reason,
    /// The message that the caller gets.
    pub message: String,
    /// Why the node was unreachable, if that was the failure.
    pub unreachable: Option<Unreachable>,
    /// Whether the node has read all its pools, and none of them is the storage that the request names. It may come back.
    pub storage_absent: bool,
}

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with this reason and message.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), unreachable: None, storage_absent: false }
    }

    /// An invalid request.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Reason::InvalidRequest, message)
    }

    /// A state that forbids the operation.
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(Reason::Precondition, message)
    }

    /// No such volume.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Reason::NotFound, message)
    }

    /// A pool or storage that is not available now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Reason::Unavailable, message)
    }

    /// A failure of the host.
    pub fn host(message: impl Into<String>) -> Self {
        Self::new(Reason::Host, message)
    }

    /// An unreachable node.
    pub fn unreachable(cause: Unreachable, message: impl Into<String>) -> Self {
        Self { unreachable: Some(cause), ..Self::unavailable(message) }
    }

    /// Storage that no pool of the node has.
    pub fn storage_absent(message: impl Into<String>) -> Self {
        Self { storage_absent: true, ..Self::unavailable(message) }
    }

    /// The same error, with a reason after which the caller retries. For a creation that leaves a volume
    /// behind: after a final answer the caller would never retry, and the volume would never be deleted.
    #[must_use]
    pub fn not_final(self) -> Self {
        match self.reason.is_final() {
            true => Self { reason: Reason::Unavailable, ..self },
            false => self,
        }
    }

    /// The same error, prefixed with what was attempted.
    #[must_use]
    pub fn context(self, attempted: impl std::fmt::Display) -> Self {
        Self { message: format!("{attempted}: {}", self.message), ..self }
    }
}
