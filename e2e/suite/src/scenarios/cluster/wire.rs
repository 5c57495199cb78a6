//! A client that presents any certificate and trusts every server; and certificates of any kind.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use quarry_vm::Forward;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The start of an HTTP/2 client: the preface, and empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The type of the first frame of a server.
const SETTINGS: u8 = 4;
/// Longer than a handshake may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A certificate with its key, PEM.
#[derive(Clone)]
pub struct Certificate {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

/// The holder of a certificate.
#[derive(Clone, Copy)]
pub enum For {
    Controller,
    Node,
    /// Made for clients, under a name that is not the controller's.
    OtherClient,
}

/// An unknown authority.
pub fn authority() -> Result<Certificate> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(Certificate { certificate: params.self_signed(&key)?.pem().into(), key: key.serialize_pem().into() })
}

/// A certificate of `authority`, valid from `from` to `to` in seconds from now.
pub fn leaf(authority: &Certificate, whom: For, from: i64, to: i64) -> Result<Certificate> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).context("a certificate that is not text");
    let issuer = Issuer::from_ca_cert_pem(&text(&authority.certificate)?, KeyPair::from_pem(&text(&authority.key)?)?)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let (name, usage) = match whom {
        For::Controller => ("controller.quarry", ExtendedKeyUsagePurpose::ClientAuth),
        For::Node => ("node.quarry", ExtendedKeyUsagePurpose::ServerAuth),
        For::OtherClient => ("backup.example.org", ExtendedKeyUsagePurpose::ClientAuth),
    };
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.extended_key_usages = vec![usage];
    params.not_before = at(from).into();
    params.not_after = at(to).into();
    Ok(Certificate { certificate: params.signed_by(&key, &issuer)?.pem().into(), key: key.serialize_pem().into() })
}

fn at(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { SystemTime::now() - distance } else { SystemTime::now() + distance }
}

/// Whether a client with this certificate, or none, is served HTTP/2 there.
pub async fn served(there: &Forward, show: Option<&Certificate>) -> Result<bool> {
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config(show)?));
    let tcp = TcpStream::connect(there.local()).await?;
    let attempt = async {
        match connector.connect(ServerName::try_from("node.quarry")?, tcp).await {
            Ok(stream) => Ok(begins(stream, PREFACE).await),
            Err(_) => anyhow::Ok(false),
        }
    };
    tokio::time::timeout(PATIENCE, attempt).await.context("neither served nor rejected")?
}

/// Whether a client that says these bytes, without TLS, is served HTTP/2 there.
pub async fn served_plainly(there: &Forward, bytes: &[u8]) -> Result<bool> {
    let tcp = TcpStream::connect(there.local()).await?;
    tokio::time::timeout(PATIENCE, begins(tcp, bytes)).await.context("neither served nor rejected")
}

/// Whether the other side starts to speak HTTP/2 after these bytes. Anything else, including any end of the
/// connection, is a rejection.
async fn begins(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> bool {
    let mut header = [0; 9];
    let sent = stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok();
    // A refusal may be there although sending went wrong, and shows as an error here too.
    stream.read_exact(&mut header).await.is_ok() && sent && header[3] == SETTINGS
}

/// The preface of HTTP/2.
pub fn preface() -> &'static [u8] {
    PREFACE
}

fn config(show: Option<&Certificate>) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)));
    let mut config = match show {
        Some(Certificate { certificate, key }) => {
            let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate).collect::<Result<_, _>>()?;
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Trusts every server: the server is not under test here.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
