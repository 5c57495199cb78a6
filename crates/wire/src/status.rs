//! Errors as gRPC statuses. This is the one table from reasons to codes, for every service of Quarry.
//!
//! The codes are the ones that the CSI specification defines for each call; they decide what a container
//! orchestrator does next: external-provisioner reschedules on `RESOURCE_EXHAUSTED`, retries on the same node
//! after `ABORTED`, `UNAVAILABLE` and `DEADLINE_EXCEEDED`, and delays a claim for minutes after
//! `INVALID_ARGUMENT`.

use quarry_volume::{Error, Reason, Result, Unreachable};
use tonic::metadata::MetadataValue;
use tonic::{Code, Response, Status};

use crate::text::truncated;

/// The metadata of a status that names an [`Unreachable`].
const UNREACHABLE: &str = "quarry-unreachable";
/// The metadata of a status that says that the storage in the request is absent: [`Error::storage_absent`].
const STORAGE_ABSENT: &str = "quarry-storage-absent";

/// The gRPC code of a reason (CSI 1.13, "Error Scheme").
#[must_use]
pub fn code(reason: Reason) -> Code {
    match reason {
        Reason::InvalidRequest => Code::InvalidArgument,
        Reason::NotFound => Code::NotFound,
        Reason::Exists => Code::AlreadyExists,
        Reason::NoSpace => Code::ResourceExhausted,
        Reason::SizeOutOfRange => Code::OutOfRange,
        Reason::InUse | Reason::Precondition => Code::FailedPrecondition,
        Reason::UnderWay | Reason::BadPageToken => Code::Aborted,
        Reason::Unavailable => Code::Unavailable,
        Reason::TimedOut => Code::DeadlineExceeded,
        Reason::Unsupported => Code::Unimplemented,
        Reason::Host => Code::Internal,
    }
}

/// The reason for a code from another Quarry process; if several reasons share the code, the least specific
/// one. `None` for codes that no reason maps to: Quarry did not select them.
#[must_use]
pub fn reason(code: Code) -> Option<Reason> {
    match code {
        Code::InvalidArgument => Some(Reason::InvalidRequest),
        Code::NotFound => Some(Reason::NotFound),
        Code::AlreadyExists => Some(Reason::Exists),
        Code::ResourceExhausted => Some(Reason::NoSpace),
        Code::OutOfRange => Some(Reason::SizeOutOfRange),
        Code::FailedPrecondition => Some(Reason::Precondition),
        Code::Aborted => Some(Reason::UnderWay),
        Code::Unavailable => Some(Reason::Unavailable),
        Code::DeadlineExceeded => Some(Reason::TimedOut),
        Code::Unimplemented => Some(Reason::Unsupported),
        Code::Internal => Some(Reason::Host),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::PermissionDenied
        | Code::DataLoss
        | Code::Unauthenticated => None,
    }
}

/// The status of an error. gRPC sends messages in an HTTP header; many proxies and clients limit all headers
/// together to 8 KiB, so a longer message is truncated.
#[must_use]
pub fn write(error: Error) -> Status {
    let Error { reason, message, unreachable, storage_absent } = error;
    let mut status = Status::new(code(reason), truncated(message));
    if let Some(cause) = unreachable {
        status.metadata_mut().insert(UNREACHABLE, MetadataValue::from_static(cause.as_str()));
    }
    if storage_absent {
        status.metadata_mut().insert(STORAGE_ABSENT, MetadataValue::from_static("true"));
    }
    status
}

/// The error of a status from another Quarry process; `None` if Quarry did not select its code.
#[must_use]
pub fn read(status: &Status) -> Option<Error> {
    let name = status.metadata().get(UNREACHABLE).and_then(|name| name.to_str().ok());
    Some(Error {
        reason: reason(status.code())?,
        message: status.message().to_owned(),
        unreachable: name.and_then(Unreachable::parse),
        storage_absent: status.metadata().contains_key(STORAGE_ABSENT),
    })
}

/// The answer of a gRPC service: what `work` returns, or the status of its error.
///
/// # Errors
/// The status of the error of `work`.
pub async fn answer<T>(work: impl Future<Output = Result<T>>) -> Result<Response<T>, Status> {
    work.await.map(Response::new).map_err(write)
}

/// The answer to a call that Quarry does not support, and does not advertise.
///
/// # Errors
/// Always: UNIMPLEMENTED, with `why` as the message.
pub fn unsupported<T>(why: &str) -> Result<Response<T>, Status> {
    Err(write(Error::new(Reason::Unsupported, why)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MAX_TEXT;

    /// The codes are a contract with external-provisioner and kubelet: changing one changes what they do
    /// next.
    #[test]
    fn every_reason_has_the_code_that_the_sidecars_expect() {
        let table: Vec<(Reason, i32)> = Reason::ALL.iter().map(|reason| (*reason, code(*reason) as i32)).collect();
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
        for one in Reason::ALL {
            assert_eq!(reason(code(one)).map(code), Some(code(one)), "{one:?}");
        }
        for other in (0..=16).map(Code::from_i32).filter(|other| Reason::ALL.iter().all(|one| code(*one) != *other)) {
            assert_eq!(reason(other), None, "{other:?}");
        }
    }

    /// The four codes after which external-provisioner retries (`checkError` in its controller.go).
    #[test]
    fn retried_reasons_are_kept_and_final_ones_become_unavailable() {
        for reason in Reason::ALL {
            let error = Error::new(reason, "why").not_final();
            let expected = if [1, 4, 10, 14].contains(&(code(reason) as i32)) { reason } else { Reason::Unavailable };
            assert_eq!((error.reason, error.message.as_str()), (expected, "why"), "{reason:?}");
        }
    }

    #[test]
    fn absent_storage_is_sent_beside_the_message() {
        let absent = write(Error::storage_absent("why").context("deleting"));
        assert_eq!((absent.code(), absent.message()), (Code::Unavailable, "deleting: why"));
        assert!(read(&absent).unwrap().storage_absent);
        assert!(!read(&write(Error::unavailable("why"))).unwrap().storage_absent);
    }

    #[test]
    fn the_cause_of_an_unreachable_node_is_sent_beside_the_message() {
        let error = Error::unreachable(Unreachable::OtherNode, "this is b").context("creating");
        let back = read(&write(error.not_final())).unwrap();
        assert_eq!((back.unreachable, back.message.as_str()), (Some(Unreachable::OtherNode), "creating: this is b"));
        assert_eq!(read(&write(Error::unavailable("busy"))).unwrap().unreachable, None);
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let status = write(Error::invalid("é".repeat(5000)));
        assert!(status.message().len() <= MAX_TEXT + '…'.len_utf8());
        assert!(status.message().ends_with('…'));
    }
}
