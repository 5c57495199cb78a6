//! Advice about unreachable nodes.

use quarry_volume::Unreachable;

/// What an operator can do about an unreachable node.
pub(super) fn advice(cause: Unreachable) -> &'static str {
    match cause {
        Unreachable::Starting => "wait a moment and run this again",
        Unreachable::NoPod => {
            "find out why the node plugin does not run there: `kubectl get pods -o wide`, and the DaemonSet's node \
             selector and tolerations; without Kubernetes, check the list of agents"
        }
        Unreachable::NoCertificate => {
            "check the controller's log for why its certificate is missing: the Secrets, or the directory from \
             --tls"
        }
        Unreachable::Certificate => {
            "compare the authority, validity and clocks on both sides; if Quarry issues the certificates, it corrects \
             this within minutes; otherwise reissue the certificate that the error names"
        }
        Unreachable::OtherNode => {
            "in Kubernetes, nothing: the controller connects as soon as the new pod runs; in a list of agents, correct \
             the address"
        }
        Unreachable::ConnectionRefused => {
            "check that the node plugin runs, and see its log: `kubectl logs` of its pod on that node; compare the port"
        }
        Unreachable::NoAnswer => {
            "check that the host is up, and that no firewall or NetworkPolicy blocks the controller from the \
             node plugin's port"
        }
        Unreachable::NotTls => {
            "check what listens at that address: a proxy or service mesh must pass the connection through unchanged"
        }
        Unreachable::Ended => "nothing, if the node plugin is restarting; otherwise check its log",
        Unreachable::Protocol => "upgrade controller and nodes to the same version",
        Unreachable::Other => "check the logs of the controller and of the node plugin on that node",
    }
}

/// The reason without what is shown next to it anyway: the node's name, and that the controller retries.
pub(super) fn short(node: &str, why: &str) -> String {
    let rest = why.strip_prefix("node ").and_then(|rest| rest.strip_prefix(node)?.strip_prefix(": "));
    let short = rest.unwrap_or(why);
    short.strip_suffix("; the controller retries").unwrap_or(short).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_reason_repeats_nothing() {
        assert_eq!(
            short("n", "node n: no connection to a: refused; the controller retries"),
            "no connection to a: refused"
        );
        assert_eq!(short("n", "node n2: it moved"), "node n2: it moved");
        assert_eq!(short("n", "it has no plugin pod"), "it has no plugin pod");
    }
}
