//! The errors of calls that failed.
//!
//! A status from the node keeps its code and message. A status that originated on this side, because the
//! connection broke or the answer cannot be read, says nothing about what the node did: it becomes `Unavailable`, so
//! that the caller retries, and never a code after which a caller would consider the call finished.

use std::error::Error as _;

use quarry_volume::{Error, Reason, Unreachable, with_causes};
use quarry_wire::status;
use tonic::{Code, Status};

use crate::connection::is_from_node;

/// tonic's message when an answer ends in the middle of a message: it has no source error.
const CUT: &str = "Unexpected EOF";

/// Why a connection ended.
#[derive(Clone, Debug)]
pub(crate) struct Lost {
    /// The cause, as a value.
    pub(crate) cause: Unreachable,
    /// The cause, as text.
    pub(crate) why: String,
}

/// The error of a failed call with one answer. `call` was sent to `node`; `overdue` if its time is over; `cause` if it
/// is known why the connection ended.
#[must_use]
pub(crate) fn error(status: &Status, node: &str, call: &str, overdue: bool, cause: Option<&Lost>) -> Error {
    let broken = status.source().is_some() || is_cut(status) || status::read(status).is_none();
    if broken || is_from_node(status) {
        return in_stream(status, node, call, overdue, cause);
    }
    // tonic made it, although the connection works: the node has answered, and has perhaps done what was requested.
    Error::unavailable(format!(
        "node {node}: the answer to {call} cannot be read: {}; retry, and upgrade nodes and controller to the same version",
        status.message()
    ))
}

fn is_cut(status: &Status) -> bool {
    status.code() == Code::Internal && status.message().starts_with(CUT)
}

/// The same for a stream: the node ends it with a status after some messages. No code of these is final for a request.
#[must_use]
pub(crate) fn in_stream(status: &Status, node: &str, call: &str, overdue: bool, cause: Option<&Lost>) -> Error {
    let lost = |why: &str| {
        let (cause, why) = cause.map_or((Unreachable::Ended, why), |lost| (lost.cause, lost.why.as_str()));
        Error::unreachable(cause, format!("node {node}: connection lost during {call}: {why}; retry"))
    };
    if let Some(source) = status.source() {
        return lost(&with_causes(source));
    }
    match status::read(status) {
        Some(error) if !is_cut(status) => error,
        // The other end's own timeout: it expires slightly before the one here.
        None if overdue && status.code() == Code::Cancelled => late(node, call),
        _ => lost(status.message()),
    }
}

/// The error if the wait for an answer ended.
#[must_use]
pub(crate) fn late(node: &str, call: &str) -> Error {
    let message = format!("node {node} did not answer {call} in time; the operation continues there; retry");
    Error { unreachable: Some(Unreachable::NoAnswer), ..Error::new(Reason::TimedOut, message) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::mark_status;

    const NODE: &str = "n-1";

    /// A status as it arrives from the node.
    fn arrived(status: Status) -> Status {
        let mut response = status.into_http::<tonic::body::Body>();
        mark_status(response.headers_mut());
        Status::from_header_map(response.headers()).unwrap()
    }

    #[test]
    fn a_status_from_the_node_keeps_its_code_and_message() {
        for reason in Reason::ALL {
            let status = arrived(status::write(Error::new(reason, "why")));
            let error = super::error(&status, NODE, "GetVolume", false, None);
            assert_eq!((status::code(error.reason), error.message.as_str()), (status::code(reason), "why"));
        }
    }

    #[test]
    fn any_other_status_is_a_lost_connection() {
        for code in [Code::Cancelled, Code::Unknown, Code::DataLoss, Code::PermissionDenied, Code::Unauthenticated] {
            for status in [Status::new(code, "odd"), arrived(Status::new(code, "odd"))] {
                let error = super::error(&status, NODE, "GetVolume", false, None);
                assert_eq!(error.reason, Reason::Unavailable, "{code:?}");
                assert_eq!(error.message, "node n-1: connection lost during GetVolume: odd; retry");
            }
        }
        let late = super::error(&Status::new(Code::Cancelled, "Timeout expired"), NODE, "GetVolume", true, None);
        assert_eq!(late.reason, Reason::TimedOut);
        // The connection broke on this side, so the code that tonic chose does not matter.
        let broken = Status::from_error(Box::new(std::io::Error::other("torn")));
        let error = super::error(&broken, NODE, "GetVolume", true, None);
        assert_eq!((error.reason, error.message.contains("torn")), (Reason::Unavailable, true), "{error}");
    }
}
