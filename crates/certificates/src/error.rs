//! What can go wrong with the certificates.

use crate::store::StoreError;

/// Why the certificates could not be seen to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed; trying again later may help.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The authority's item holds something that cannot be used. It is never overwritten.
    #[error(
        "the stored authority cannot be used: {why}; it is left as it is: restore it from a backup, or delete it, and a \
         new authority is made and all certificates are issued anew (connections fail until every node has loaded them)"
    )]
    AuthorityUnusable {
        /// What is wrong with it.
        why: String,
    },
    /// There is no authority yet.
    #[error("there is no authority to rotate yet: the controller makes one when it starts")]
    NoAuthority,
    /// Others changed the items again and again while this was tried.
    #[error("cannot {attempted}: the items are being changed by others; try again")]
    Contended {
        /// What was attempted.
        attempted: &'static str,
    },
    /// A certificate could not be made.
    #[error("cannot issue {what}: {source}")]
    Issue {
        /// Which certificate.
        what: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// The settings contradict each other.
    #[error("settings of the certificates: {0}")]
    Settings(&'static str),
}
