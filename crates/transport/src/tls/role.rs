//! Verifies the role of a certificate: in addition to webpki's checks (chain, time, usage, name), the usage
//! must be stated, not merely permitted by omission, and the name must be the exact name of the role, not
//! covered by a wildcard.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::CONTROLLER_NAME;

/// The server's verifier: its clients must be controllers.
#[derive(Debug)]
pub(super) struct Controllers(Arc<dyn ClientCertVerifier>);

/// The client's verifier: its server must be a node.
#[derive(Debug)]
pub(super) struct Nodes(Arc<WebPkiServerVerifier>);

impl Controllers {
    pub(super) fn new(roots: Arc<RootCertStore>, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider))
            .build()
            .map(Self)
            .map_err(|error| error.to_string())
    }
}

impl Nodes {
    pub(super) fn new(roots: Arc<RootCertStore>, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider))
            .build()
            .map(Self)
            .map_err(|error| error.to_string())
    }
}

/// An authority with the same name but another key is another authority.
fn another_authority(error: Error) -> Error {
    match error {
        Error::InvalidCertificate(CertificateError::BadSignature) => CertificateError::UnknownIssuer.into(),
        other => other,
    }
}

/// Checks usage and name of a certificate whose chain has been verified.
fn check(certificate: &CertificateDer<'_>, usage: fn(&ExtendedKeyUsage<'_>) -> bool, name: &str) -> Result<(), Error> {
    let bad = |_| Error::from(CertificateError::BadEncoding);
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let stated = certificate.extended_key_usage().map_err(bad)?;
    if !stated.is_some_and(|extension| usage(extension.value)) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    let names = certificate.subject_alternative_name().map_err(bad)?;
    let presented: Vec<String> = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect();
    if presented.iter().any(|presented| presented.eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    Err(match ServerName::try_from(name.to_owned()) {
        Ok(expected) => CertificateError::NotValidForNameContext { expected, presented }.into(),
        Err(_) => CertificateError::NotValidForName.into(),
    })
}

/// Only TLS 1.3 is supported.
fn never_tls12() -> Error {
    PeerMisbehaved::SelectedTls12UsingTls13VersionExtension.into()
}

/// The methods of a verifier that do not depend on the role: rustls has two traits with the same ones.
macro_rules! tls13_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(never_tls12())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.0.verify_tls13_signature(message, certificate, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.supported_verify_schemes()
        }
    };
}

impl ClientCertVerifier for Controllers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now).map_err(another_authority)?;
        check(end_entity, |usage| usage.client_auth, CONTROLLER_NAME)?;
        Ok(verified)
    }

    tls13_signatures!();
}

impl ServerCertVerifier for Nodes {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self
            .0
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .map_err(another_authority)?;
        check(end_entity, |usage| usage.server_auth, &server_name.to_str())?;
        Ok(verified)
    }

    tls13_signatures!();
}
