//! Why a node is unreachable, as a value: advice is selected by it, and no message is ever parsed.

/// Why a node is unreachable, by what an operator can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unreachable {
    /// The first connection attempt is in progress.
    Starting,
    /// No node plugin runs there.
    NoPod,
    /// The controller has no certificate.
    NoCertificate,
    /// One side rejects the other's certificate.
    Certificate,
    /// The address belongs to another node or pod.
    OtherNode,
    /// The host responds, but no process listens on the port.
    ConnectionRefused,
    /// The address does not respond.
    NoAnswer,
    /// Something other than a node plugin answers, or is in between.
    NotTls,
    /// The node plugin closed the connection.
    Ended,
    /// The two versions are incompatible.
    Protocol,
    /// Anything else.
    Other,
}

impl Unreachable {
    const ALL: [Self; 11] = [
        Self::Starting,
        Self::NoPod,
        Self::NoCertificate,
        Self::Certificate,
        Self::OtherNode,
        Self::ConnectionRefused,
        Self::NoAnswer,
        Self::NotTls,
        Self::Ended,
        Self::Protocol,
        Self::Other,
    ];

    /// The name in the metadata of a gRPC status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::NoPod => "no-pod",
            Self::NoCertificate => "no-certificate",
            Self::Certificate => "certificate",
            Self::OtherNode => "other-node",
            Self::ConnectionRefused => "connection-refused",
            Self::NoAnswer => "no-answer",
            Self::NotTls => "not-tls",
            Self::Ended => "ended",
            Self::Protocol => "protocol",
            Self::Other => "other",
        }
    }

    /// The cause with that name; `None` for a name from a later version.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == name)
    }

    /// Why a TCP connection failed.
    #[must_use]
    pub fn of_io(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused => Self::ConnectionRefused,
            Kind::TimedOut | Kind::HostUnreachable | Kind::NetworkUnreachable => Self::NoAnswer,
            Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof => Self::Ended,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_parsed_back() {
        for cause in Unreachable::ALL {
            assert_eq!(Unreachable::parse(cause.as_str()), Some(cause));
        }
        assert_eq!(Unreachable::parse("later"), None);
    }
}
