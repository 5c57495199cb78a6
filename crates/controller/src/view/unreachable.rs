//! What is said of a node that cannot be reached.

use quarry_volume::Unreachable;

/// What an operator can do about a node that cannot be reached.
pub(super) fn advice(cause: Unreachable) -> &'static str {
    match cause {
        Unreachable::Starting => "wait a moment and ask again",
        Unreachable::NoPod => {
            "see why the node plugin does not run there: `kubectl get pods -o wide`, and the DaemonSet's node selector \
             and tolerations; without Kubernetes, the list of agents"
        }
        Unreachable::NoCertificate => {
            "see the controller's log for why its certificate is missing: the Secrets, or the directory given by \
             --tls"
        }
        Unreachable::Certificate => {
            "compare authority, dates and clocks of both sides; where Quarry issues the certificates this heals by \
             itself within minutes, where somebody else does, issue the named one anew"
        }
        Unreachable::OtherNode => {
            "nothing in Kubernetes: the pod's new address is learnt as soon as it runs; in a list of agents, correct \
             the address"
        }
        Unreachable::ConnectionRefused => {
            "see whether the node plugin runs, and its log: `kubectl logs` of its pod on that node; compare the port"
        }
        Unreachable::NoAnswer => {
            "see whether the host is up, and whether a firewall or NetworkPolicy lets the controller reach the \
             node plugin's port"
        }
        Unreachable::NotTls => {
            "see what listens at that address: a proxy or service mesh must pass the connection on as it is"
        }
        Unreachable::Ended => "nothing, if the node plugin is being restarted; else see its log",
        Unreachable::Protocol => "bring controller and nodes to the same version",
        Unreachable::Other => "see the logs of the controller and of the node plugin on that node",
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
    use super::*;

    #[test]
    fn a_reason_says_nothing_twice() {
        assert_eq!(short("n", "node n: no connection to a: refused; it is tried again"), "no connection to a: refused");
        assert_eq!(short("n", "node n2: it moved"), "node n2: it moved");
        assert_eq!(short("n", "it has no plugin pod"), "it has no plugin pod");
    }
}
