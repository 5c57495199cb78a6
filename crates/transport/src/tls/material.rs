//! The certificates of one side, parsed and checked, and their replacement while in use.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::role::{Controllers, Nodes};
use super::{PROTOCOL, Pem};

/// The newest material; `None` until the first is loaded. Acceptors and connectors read it at every handshake.
pub type Source = watch::Receiver<Option<Arc<Material>>>;

/// Why a [`Pem`] cannot be used. Each error names the bad part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MaterialError {
    /// The certificate or its chain.
    #[error("the certificate (tls.crt) cannot be used: {0}; it must be PEM, with this side's certificate first")]
    Certificate(String),
    /// The private key.
    #[error(
        "the private key (tls.key) cannot be used: {0}; it must be one PEM block of ECDSA, Ed25519 or RSA, unencrypted"
    )]
    Key(String),
    /// Certificate and key are each valid, but do not match.
    #[error("the private key (tls.key) does not match the certificate (tls.crt); replace both together")]
    Mismatch,
    /// The authorities.
    #[error("the authorities (ca.crt) cannot be used: {0}; it must hold one or more PEM certificates")]
    Authorities(String),
}

/// A parsed and checked [`Pem`], ready for both roles: errors are found before it is used.
pub struct Material {
    pem: Pem,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    expires: SystemTime,
    expires_text: String,
    fingerprint: String,
    authorities: Vec<String>,
}

impl Material {
    /// Parses and checks. Expiry is not checked: clocks may be wrong, and the other side rejects an expired
    /// certificate.
    ///
    /// # Errors
    /// [`MaterialError`], which names the bad part.
    pub fn parse(pem: &Pem) -> Result<Self, MaterialError> {
        let provider = Arc::new(ring::default_provider());

        let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| MaterialError::Certificate(error.to_string()))?;
        let own = chain.first().ok_or_else(|| MaterialError::Certificate("it contains no certificate".into()))?;
        let fingerprint = fingerprint(own);
        let (_, parsed) = X509Certificate::from_der(own)
            .map_err(|error| MaterialError::Certificate(format!("it is not an X.509 certificate: {error}")))?;
        let not_after = parsed.validity().not_after;
        let expires = SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(u64::try_from(not_after.timestamp()).unwrap_or(0)))
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let expires_text = not_after.to_string();

        let key =
            PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).map_err(|error| MaterialError::Key(error.to_string()))?;
        let key = provider.key_provider.load_private_key(key).map_err(|error| MaterialError::Key(error.to_string()))?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => MaterialError::Mismatch,
            other => MaterialError::Certificate(other.to_string()),
        })?;
        let identity = Arc::new(SingleCertAndKey::from(certified));

        let (roots, authorities) = roots(&pem.authorities)?;
        let server = server_config(&provider, &roots, &identity)?;
        let client = client_config(&provider, &roots, identity)?;
        Ok(Self { pem: pem.clone(), server, client, expires, expires_text, fingerprint, authorities })
    }

    /// When this side's certificate expires.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// SHA-256 of this side's certificate in hexadecimal, like `openssl x509 -fingerprint -sha256` without
    /// colons.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The fingerprints of the trusted authorities, in the order of `ca.crt`.
    #[must_use]
    pub fn authorities(&self) -> &[String] {
        &self.authorities
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    pub(super) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }
}

/// The key never appears in a log.
impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material")
            .field("fingerprint", &self.fingerprint)
            .field("expires", &self.expires_text)
            .field("authorities", &self.authorities)
            .finish_non_exhaustive()
    }
}

/// SHA-256 of a certificate, in lower-case hexadecimal.
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = ::ring::digest::digest(&::ring::digest::SHA256, certificate);
    digest.as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The authorities, and their fingerprints.
fn roots(pem: &str) -> Result<(Arc<RootCertStore>, Vec<String>), MaterialError> {
    let mut roots = RootCertStore::empty();
    let mut fingerprints = Vec::new();
    for (index, certificate) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
        let bad = |error: String| MaterialError::Authorities(format!("certificate {}: {error}", index + 1));
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        fingerprints.push(fingerprint(&certificate));
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(MaterialError::Authorities("it contains no certificate".into()));
    }
    Ok((Arc::new(roots), fingerprints))
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    identity: &Arc<SingleCertAndKey>,
) -> Result<Arc<ServerConfig>, MaterialError> {
    let verifier = Controllers::new(Arc::clone(roots), provider).map_err(MaterialError::Authorities)?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| MaterialError::Certificate(error.to_string()))?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::clone(identity) as Arc<_>);
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // A resumed connection would not present its certificate again, which may have expired meanwhile.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    identity: Arc<SingleCertAndKey>,
) -> Result<Arc<ClientConfig>, MaterialError> {
    let verifier = Nodes::new(Arc::clone(roots), provider).map_err(MaterialError::Authorities)?;
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| MaterialError::Certificate(error.to_string()))?
        // "Dangerous" means verifying less; this verifier does what webpki does, and then checks more.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(identity);
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Where new material is offered; the [`Source`] of the same [`slot`] receives it.
#[derive(Debug)]
pub struct Slot {
    newest: watch::Sender<Option<Arc<Material>>>,
    /// The error that was logged last, so that it is logged once.
    last_error: Mutex<Option<MaterialError>>,
}

/// A slot for replaceable material, and its source for acceptors and connectors. Initially empty.
#[must_use]
pub fn slot() -> (Slot, Source) {
    let (newest, source) = watch::channel(None);
    (Slot { newest, last_error: Mutex::new(None) }, source)
}

impl Slot {
    /// Uses `pem` for every handshake from now on; true if it differs from the current material. Invalid
    /// material is rejected and logged (once per error), and the current material stays in use.
    ///
    /// # Errors
    /// [`MaterialError`] for invalid material.
    pub fn offer(&self, pem: &Pem) -> Result<bool, MaterialError> {
        if self.newest.borrow().as_ref().is_some_and(|current| current.pem == *pem) {
            self.is_new_error(None);
            return Ok(false);
        }
        let material = match Material::parse(pem) {
            Ok(material) => material,
            Err(error) => {
                if self.is_new_error(Some(error.clone())) {
                    let kept = self.newest.borrow().is_some();
                    tracing::error!(%error, old_stays_in_use = kept, "new certificates are rejected");
                }
                return Err(error);
            }
        };
        self.is_new_error(None);
        tracing::info!(
            fingerprint = material.fingerprint(),
            expires = material.expires_text,
            authorities = ?material.authorities(),
            "new certificates are in use for new connections"
        );
        if material.expires() < SystemTime::now() {
            tracing::warn!(
                expires = material.expires_text,
                "this side's certificate has expired: the other side will reject it"
            );
        }
        self.newest.send_replace(Some(Arc::new(material)));
        Ok(true)
    }

    /// Waits until the source is no longer in use.
    pub async fn closed(&self) {
        self.newest.closed().await;
    }

    /// Remembers the current error; true if it is new.
    fn is_new_error(&self, error: Option<MaterialError>) -> bool {
        let mut last_error = self.last_error.lock();
        let new = *last_error != error;
        *last_error = error;
        new
    }
}
