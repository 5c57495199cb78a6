//! Why a node cannot be reached, sorted by what an operator can do about it.
//!
//! The reason is known as a sentence, made where it was met: a text is read here. Tests hold it against the very errors
//! that those places make; what is not recognised gets advice that suits everything.

/// What an operator has to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// Nothing yet: the first attempt is under way.
    Starting,
    /// Nothing runs there.
    NoPod,
    /// We have no certificate.
    NoCertificate,
    /// One of the two does not accept the other's certificate.
    Certificate,
    /// The address belongs to somebody else.
    Elsewhere,
    /// The address is reached, and nobody listens.
    NobodyListens,
    /// Nothing comes back from the address.
    Silent,
    /// What answers is no agent, or lies between.
    NotTls,
    /// The agent went away.
    Ended,
    /// Both sides do not understand each other.
    Protocol,
    /// Something else.
    Other,
}

/// Words by which a cause is known; the first that is found counts.
const WORDS: [(&str, Cause); 20] = [
    ("no connection has been made yet", Cause::Starting),
    ("its plugin pod moved to", Cause::Starting),
    ("has no plugin pod", Cause::NoPod),
    ("no certificate of our own", Cause::NoCertificate),
    ("does not speak TLS", Cause::NotTls),
    ("does not speak HTTP/2", Cause::NotTls),
    ("ended the connection before it was confirmed", Cause::Ended),
    ("certificate", Cause::Certificate),
    ("is now the address of", Cause::Elsewhere),
    ("was expected", Cause::Elsewhere),
    ("the address was given to another", Cause::Elsewhere),
    ("onnection refused", Cause::NobodyListens),
    ("did not answer", Cause::Silent),
    ("no answer", Cause::Silent),
    ("timed out", Cause::Silent),
    ("nreachable", Cause::Silent),
    ("No route to host", Cause::Silent),
    ("handshake was not done within", Cause::Silent),
    ("minor version", Cause::Protocol),
    ("connection lost", Cause::Ended),
];
/// What is said of a connection that the other side ended.
const ENDED: &str = "ended its stream";

impl Cause {
    /// The cause behind a reason.
    pub(super) fn of(why: &str) -> Self {
        if why.contains(ENDED) {
            return Self::Ended;
        }
        WORDS.iter().find(|(words, _)| why.contains(words)).map_or(Self::Other, |(_, cause)| *cause)
    }

    /// What to do about it.
    pub(super) fn advice(self) -> &'static str {
        match self {
            Self::Starting => "wait a moment and ask again",
            Self::NoPod => {
                "see why the node plugin does not run there: `kubectl get pods -o wide`, and the DaemonSet's node selector \
                 and tolerations; without Kubernetes, the list of agents"
            }
            Self::NoCertificate => {
                "see the controller's log for why its certificate is missing: the Secrets, or the directory given by \
                 --tls"
            }
            Self::Certificate => {
                "compare authority, dates and clocks of both sides; where Quarry issues the certificates this heals by \
                 itself within minutes, where somebody else does, issue the named one anew"
            }
            Self::Elsewhere => {
                "nothing in Kubernetes: the pod's new address is learnt as soon as it runs; in a list of agents, correct \
                 the address"
            }
            Self::NobodyListens => {
                "see whether the node plugin runs, and its log: `kubectl logs` of its pod on that node; compare the port"
            }
            Self::Silent => {
                "see whether the host is up, and whether a firewall or NetworkPolicy lets the controller reach the \
                 node plugin's port"
            }
            Self::NotTls => {
                "see what listens at that address: a proxy or service mesh must pass the connection on as it is"
            }
            Self::Ended => "nothing, if the node plugin is being restarted; else see its log",
            Self::Protocol => "bring controller and nodes to the same version",
            Self::Other => "see the logs of the controller and of the node plugin on that node",
        }
    }
}

/// The reason without what stands beside it anyway: the node's name, and that it is tried again.
pub(super) fn short(node: &str, why: &str) -> String {
    let rest = why.strip_prefix("node ").and_then(|rest| rest.strip_prefix(node)?.strip_prefix(": "));
    let short = rest.unwrap_or(why);
    short.strip_suffix("; it is tried again").unwrap_or(short).to_owned()
}

#[cfg(test)]
mod tests {
    use quarry_transport::tls::ConnectError;

    use super::*;

    #[test]
    fn what_tls_says_is_recognised() {
        let told = || "InvalidCertificate".to_owned();
        for (error, cause) in [
            (ConnectError::NotReady, Cause::NoCertificate),
            (ConnectError::TimedOut, Cause::Silent),
            (ConnectError::NotTls("HTTP/1.1".into()), Cause::NotTls),
            (ConnectError::Closed("end of stream".into()), Cause::Ended),
            (ConnectError::Expired(told()), Cause::Certificate),
            (ConnectError::NotYetValid(told()), Cause::Certificate),
            (ConnectError::OtherAuthority(told()), Cause::Certificate),
            (ConnectError::WrongRole(told()), Cause::Certificate),
            (ConnectError::RefusedOurs("revoked (alert CertificateRevoked)".into()), Cause::Certificate),
            (ConnectError::Other("odd".into()), Cause::Other),
        ] {
            // As the connection's maker wraps it.
            let why = format!("node n: no connection to 192.0.2.1:9810: {error}; it is tried again");
            assert_eq!(Cause::of(&why), cause, "{why}");
        }
    }

    #[tokio::test]
    async fn what_tcp_says_is_recognised() {
        // Bound, and closed again: nobody listens there.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = quarry_transport::tls::dial(address).await.unwrap_err();
        assert_eq!(Cause::of(&error.to_string()), Cause::NobodyListens, "{error}");
        for code in [nix::errno::Errno::EHOSTUNREACH, nix::errno::Errno::ENETUNREACH, nix::errno::Errno::ETIMEDOUT] {
            let error = std::io::Error::from(code);
            assert_eq!(Cause::of(&error.to_string()), Cause::Silent, "{error}");
        }
    }

    #[test]
    fn a_reason_says_nothing_twice() {
        assert_eq!(short("n", "node n: no connection to a: refused; it is tried again"), "no connection to a: refused");
        assert_eq!(short("n", "node n2: it moved"), "node n2: it moved");
        assert_eq!(short("n", "it has no plugin pod"), "it has no plugin pod");
    }

    #[test]
    fn what_the_directory_of_nodes_says_is_recognised() {
        for (why, cause) in [
            ("no connection has been made yet", Cause::Starting),
            ("it has no plugin pod", Cause::NoPod),
            ("its plugin pod moved to 192.0.2.7:9810", Cause::Starting),
            ("192.0.2.7:9810 did not answer within 30s", Cause::Silent),
            ("192.0.2.7:9810 is now the address of node b, not of a", Cause::Elsewhere),
            ("pod x answers at 192.0.2.7:9810, where pod y was expected", Cause::Elsewhere),
            ("the node has ended its stream of news: it is being stopped or restarted", Cause::Ended),
            ("node n: connection lost during Watch: keep-alive timed out; retry", Cause::Silent),
            (
                "the node greeted twice: are versions of Quarry more than one minor version apart at work?",
                Cause::Protocol,
            ),
            ("a reason that is new", Cause::Other),
        ] {
            assert_eq!(Cause::of(why), cause, "{why}");
            assert!(!cause.advice().is_empty());
        }
    }
}
