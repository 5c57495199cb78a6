//! What one side of a connection is given to show and to believe, as PEM text.

/// The name that a node's certificate carries (a DNS name of its subject alternative names), whichever node it is.
pub const NODE_NAME: &str = "node.quarry";
/// The name that a controller's certificate carries.
pub const CONTROLLER_NAME: &str = "controller.quarry";

/// A certificate with its key and the authorities that the other side's certificate must come from: the contents of a
/// Secret of type `kubernetes.io/tls` as cert-manager writes it.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    /// `tls.crt`: the certificate, then those between it and an authority.
    pub certificate: String,
    /// `tls.key`: its private key (PKCS #8, SEC1 or PKCS #1).
    pub key: String,
    /// `ca.crt`: the authorities that are believed; several while one follows another.
    pub authorities: String,
}

/// The key never shows in a log.
impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pem")
            .field("certificate", &self.certificate)
            .field("key", &"<hidden>")
            .field("authorities", &self.authorities)
            .finish()
    }
}
