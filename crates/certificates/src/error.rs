//! The errors of certificate management.

use crate::store::StoreError;

/// Why certificates could not be issued, renewed or rotated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed; a retry may help.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The authority's item cannot be used. It is never overwritten.
    #[error(
        "the stored authority cannot be used: {why}; it was not changed: restore it from a backup, or empty it (in \
         Kubernetes, `kubectl patch secret NAME -n NAMESPACE --type=merge -p '{{\"data\":null}}'`; without, remove its directory): then \
         a new authority is created and all certificates are reissued (connections fail until every node has \
         loaded them)"
    )]
    AuthorityUnusable {
        /// The problem.
        why: String,
    },
    /// There is no authority yet.
    #[error("there is no authority to rotate yet: the controller creates one when it starts")]
    NoAuthority,
    /// Other replicas kept changing the items during the attempt.
    #[error("cannot {attempted}: other controllers keep changing the items; retry")]
    Contended {
        /// What was attempted.
        attempted: &'static str,
    },
    /// A certificate could not be created.
    #[error("cannot issue {what}: {source}")]
    Issue {
        /// Which certificate.
        what: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// The settings contradict each other.
    #[error("invalid certificate settings: {0}")]
    Settings(&'static str),
}
