//! The errors of requests, and the one table that maps them to gRPC codes.
//!
//! Every failure of a CSI call is an [`Error`]. The codes are the ones that the CSI specification defines for
//! each call; they decide what a container orchestrator does next: external-provisioner reschedules on
//! `RESOURCE_EXHAUSTED`, retries on the same node after `ABORTED`, `UNAVAILABLE` and `DEADLINE_EXCEEDED`, and
//! delays a claim for minutes after `INVALID_ARGUMENT`.

use tonic::Code;

use crate::Unreachable;

/// The metadata of a status that names an [`Unreachable`].
const UNREACHABLE: &str = "quarry-unreachable";

/// Why a request failed. The table in [`Reason::code`] is the only place where a gRPC code is selected.
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

    /// The gRPC code of this reason (CSI 1.13, "Error Scheme").
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::InvalidRequest => Code::InvalidArgument,
            Self::NotFound => Code::NotFound,
            Self::Exists => Code::AlreadyExists,
            Self::NoSpace => Code::ResourceExhausted,
            Self::SizeOutOfRange => Code::OutOfRange,
            Self::InUse | Self::Precondition => Code::FailedPrecondition,
            Self::UnderWay | Self::BadPageToken => Code::Aborted,
            Self::Unavailable => Code::Unavailable,
            Self::TimedOut => Code::DeadlineExceeded,
            Self::Unsupported => Code::Unimplemented,
            Self::Host => Code::Internal,
        }
    }

    /// Whether a caller treats an answer with this reason as final. After any other reason the caller does
    /// not know what was done, and retries: external-provisioner does so even if the claim is deleted
    /// meanwhile.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self.code(), Code::Aborted | Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable)
    }

    /// The reason for a code from another Quarry process; if several reasons share the code, the least
    /// specific one. `None` for codes that no reason maps to: Quarry did not select them.
    #[must_use]
    pub fn of_code(code: Code) -> Option<Self> {
        match code {
            Code::InvalidArgument => Some(Self::InvalidRequest),
            Code::NotFound => Some(Self::NotFound),
            Code::AlreadyExists => Some(Self::Exists),
            Code::ResourceExhausted => Some(Self::NoSpace),
            Code::OutOfRange => Some(Self::SizeOutOfRange),
            Code::FailedPrecondition => Some(Self::Precondition),
            Code::Aborted => Some(Self::UnderWay),
            Code::Unavailable => Some(Self::Unavailable),
            Code::DeadlineExceeded => Some(Self::TimedOut),
            Code::Unimplemented => Some(Self::Unsupported),
            Code::Internal => Some(Self::Host),
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::PermissionDenied
            | Code::DataLoss
            | Code::Unauthenticated => None,
        }
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
}

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with this reason and message.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), unreachable: None }
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

    /// Why the node was unreachable, from the other side's status; `None` if it was reachable.
    #[must_use]
    pub fn unreachable_of(status: &tonic::Status) -> Option<Unreachable> {
        Unreachable::parse(status.metadata().get(UNREACHABLE)?.to_str().ok()?)
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

/// gRPC sends messages in an HTTP header; many proxies and clients limit all headers together to 8 KiB.
const MAX_MESSAGE: usize = 2048;

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        let mut message = error.message;
        if message.len() > MAX_MESSAGE {
            message.truncate(message.floor_char_boundary(MAX_MESSAGE));
            message.push('…');
        }
        let mut status = Self::new(error.reason.code(), message);
        if let Some(cause) = error.unreachable {
            status.metadata_mut().insert(UNREACHABLE, tonic::metadata::MetadataValue::from_static(cause.as_str()));
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes are a contract with external-provisioner and kubelet: changing one changes what they do
    /// next.
    #[test]
    fn every_reason_has_the_code_that_the_sidecars_expect() {
        let table: Vec<(Reason, i32)> = Reason::ALL.iter().map(|reason| (*reason, reason.code() as i32)).collect();
        assert_eq!(
            table,
            [
                (Reason::InvalidRequest, 3),
                (Reason::NotFound, 5),
                (Reason::Exists, 6),
                (Reason::NoSpace, 8),
                (Reason::SizeOutOfRange, 11),
                (Reason::InUse, 9),
                (Reason::Precondition, 9),
                (Reason::UnderWay, 10),
                (Reason::BadPageToken, 10),
                (Reason::Unavailable, 14),
                (Reason::TimedOut, 4),
                (Reason::Unsupported, 12),
                (Reason::Host, 13),
            ]
        );
    }

    #[test]
    fn every_used_code_maps_back_to_a_reason_with_the_same_code() {
        for reason in Reason::ALL {
            assert_eq!(Reason::of_code(reason.code()).map(Reason::code), Some(reason.code()), "{reason:?}");
        }
        for code in (0..=16).map(Code::from_i32).filter(|code| Reason::ALL.iter().all(|ours| ours.code() != *code)) {
            assert_eq!(Reason::of_code(code), None, "{code:?}");
        }
    }

    /// The four codes after which external-provisioner retries (`checkError` in its controller.go).
    #[test]
    fn retried_reasons_are_kept_and_final_ones_become_unavailable() {
        for reason in Reason::ALL {
            let error = Error::new(reason, "why").not_final();
            let code = reason.code() as i32;
            let expected = if [1, 4, 10, 14].contains(&code) { reason } else { Reason::Unavailable };
            assert_eq!((error.reason, error.message.as_str()), (expected, "why"), "{reason:?}");
        }
    }

    #[test]
    fn the_cause_of_an_unreachable_node_is_sent_beside_the_message() {
        let error = Error::unreachable(Unreachable::OtherNode, "this is b").context("creating");
        let status = tonic::Status::from(error.not_final());
        assert_eq!(Error::unreachable_of(&status), Some(Unreachable::OtherNode));
        assert_eq!(Error::unreachable_of(&Error::unavailable("busy").into()), None);
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let status = tonic::Status::from(Error::invalid("é".repeat(5000)));
        assert!(status.message().len() <= MAX_MESSAGE + '…'.len_utf8());
        assert!(status.message().ends_with('…'));
    }
}
