//! The certificates of one side, as PEM text.

/// The DNS name (subject alternative name) in the certificate of every node.
pub const NODE_NAME: &str = "node.quarry";
/// The DNS name in the certificate of every controller.
pub const CONTROLLER_NAME: &str = "controller.quarry";

/// A certificate with its key, and the authorities for the other side's certificate: the contents of a Secret
/// of type `kubernetes.io/tls`, as written by cert-manager.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    /// `tls.crt`: the certificate, then any intermediate ones.
    pub certificate: String,
    /// `tls.key`: its private key (PKCS #8, SEC1 or PKCS #1).
    pub key: String,
    /// `ca.crt`: the trusted authorities; several during a rotation.
    pub authorities: String,
}

/// The key never appears in a log.
impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pem")
            .field("certificate", &self.certificate)
            .field("key", &"<hidden>")
            .field("authorities", &self.authorities)
            .finish()
    }
}
