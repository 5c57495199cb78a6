//! Parses and checks a leaf's item.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quarry_transport::tls::{CONTROLLER_NAME, NODE_NAME, Pem};
use rcgen::{ExtendedKeyUsagePurpose, KeyPair, PublicKeyData};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::state::Ca;
use crate::store::{Data, Item, file};

/// The role of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The controller: a client.
    Controller,
    /// A node: a server.
    Node,
}

impl Role {
    /// Both roles.
    pub const ALL: [Role; 2] = [Role::Controller, Role::Node];

    /// The item that holds this role's certificate.
    #[must_use]
    pub fn item(self) -> Item {
        match self {
            Role::Controller => Item::Controller,
            Role::Node => Item::Node,
        }
    }

    /// The DNS name in the certificate.
    pub(crate) fn dns_name(self) -> &'static str {
        match self {
            Role::Controller => CONTROLLER_NAME,
            Role::Node => NODE_NAME,
        }
    }

    /// The extended key usage of the certificate.
    pub(crate) fn usage(self) -> ExtendedKeyUsagePurpose {
        match self {
            Role::Controller => ExtendedKeyUsagePurpose::ClientAuth,
            Role::Node => ExtendedKeyUsagePurpose::ServerAuth,
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.item().name())
    }
}

/// A parsed leaf item.
pub(crate) struct Leaf {
    pub(crate) pem: Pem,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    certificate: CertificateDer<'static>,
    authorities: Vec<CertificateDer<'static>>,
}

impl Leaf {
    /// Parses a leaf's item.
    ///
    /// # Errors
    /// What is wrong with it, and in which file.
    pub(crate) fn parse(data: &Data) -> Result<Self, String> {
        let pem = pem(data)?;
        let mut certificates = certificates(&pem.certificate, file::CERTIFICATE)?;
        if certificates.len() != 1 {
            return Err(format!("{} contains {} certificates instead of one", file::CERTIFICATE, certificates.len()));
        }
        let certificate = certificates.remove(0);
        let authorities = self::certificates(&pem.authorities, file::AUTHORITIES)?;
        let (not_before, not_after) = check_pair(&certificate, &pem.key)?;
        Ok(Self { pem, not_before, not_after, certificate, authorities })
    }

    /// Checks that this matches a phase: a certificate for `role` from `issuer`, and exactly the authorities
    /// `trusted`. Its age does not matter here.
    ///
    /// # Errors
    /// How it differs.
    pub(crate) fn check(&self, role: Role, issuer: &Ca, trusted: &[&Ca]) -> Result<(), String> {
        let all_trusted = trusted.iter().all(|ca| self.authorities.contains(ca.der()));
        if !all_trusted || self.authorities.len() != trusted.len() {
            return Err(format!("{} does not contain the current authorities", file::AUTHORITIES));
        }
        let wrong =
            |why: webpki::Error| format!("{} was not issued by the current authority: {why}", file::CERTIFICATE);
        let anchor = webpki::anchor_from_trusted_cert(issuer.der()).map_err(wrong)?;
        let entity = webpki::EndEntityCert::try_from(&self.certificate).map_err(wrong)?;
        let usage = match role {
            Role::Controller => webpki::KeyUsage::client_auth(),
            Role::Node => webpki::KeyUsage::server_auth(),
        };
        // At its own last instant, because its age is checked elsewhere.
        let instant = UnixTime::since_unix_epoch(self.not_after.duration_since(UNIX_EPOCH).unwrap_or_default());
        entity
            .verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &[anchor], &[], instant, usage, None, None)
            .map_err(wrong)?;
        let name = ServerName::try_from(role.dns_name()).map_err(|why| why.to_string())?;
        entity
            .verify_is_valid_for_subject_name(&name)
            .map_err(|_| format!("{} is not for the name {}", file::CERTIFICATE, role.dns_name()))?;
        let (_, parsed) = X509Certificate::from_der(&self.certificate).map_err(|why| why.to_string())?;
        let usages = parsed.extended_key_usage().ok().flatten();
        let fits = usages.is_some_and(|usages| match role {
            Role::Controller => usages.value.client_auth && !usages.value.server_auth,
            Role::Node => usages.value.server_auth && !usages.value.client_auth,
        });
        if !fits {
            return Err(format!("{} does not have the key usage of a {role}", file::CERTIFICATE));
        }
        Ok(())
    }

    /// When it must be renewed.
    pub(crate) fn renew_at(&self) -> SystemTime {
        two_thirds(self.not_before, self.not_after)
    }
}

/// The instant at which two thirds of a lifetime are over.
pub(crate) fn two_thirds(from: SystemTime, to: SystemTime) -> SystemTime {
    let life = to.duration_since(from).unwrap_or_default();
    to.checked_sub(life / 3).unwrap_or(from)
}

/// The three files of a leaf's item as text.
///
/// # Errors
/// Which file is missing or is not text.
pub(crate) fn pem(data: &Data) -> Result<Pem, String> {
    Ok(Pem {
        certificate: text(data, file::CERTIFICATE)?,
        key: text(data, file::KEY)?,
        authorities: text(data, file::AUTHORITIES)?,
    })
}

/// A file of an item as text; a missing file is an error.
pub(crate) fn text(data: &Data, name: &str) -> Result<String, String> {
    let bytes = data.get(name).ok_or_else(|| format!("{name} is missing"))?;
    String::from_utf8(bytes.clone()).map_err(|_| format!("{name} is not text"))
}

/// The certificates in a PEM file, at least one.
pub(crate) fn certificates(pem: &str, name: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|why| format!("{name} is not PEM: {why}"))?;
    if all.is_empty() { Err(format!("{name} contains no certificate")) } else { Ok(all) }
}

/// The content of a leaf's `ca.crt`.
pub(crate) fn bundle(trusted: &[&Ca]) -> String {
    trusted.iter().map(|ca| ca.certificate()).collect()
}

/// Checks that the key matches the certificate, and returns the certificate's validity: from, to.
pub(crate) fn check_pair(certificate: &CertificateDer<'_>, key: &str) -> Result<(SystemTime, SystemTime), String> {
    let (rest, parsed) =
        X509Certificate::from_der(certificate).map_err(|why| format!("{} is damaged: {why}", file::CERTIFICATE))?;
    if !rest.is_empty() {
        return Err(format!("{} is followed by other bytes", file::CERTIFICATE));
    }
    let key = KeyPair::from_pem(key).map_err(|why| format!("{} (must be PKCS #8): {why}", file::KEY))?;
    if key.subject_public_key_info() != parsed.public_key().raw {
        return Err(format!("{} is not the key of {}", file::KEY, file::CERTIFICATE));
    }
    let validity = parsed.validity();
    Ok((time(validity.not_before.timestamp()), time(validity.not_after.timestamp())))
}

fn time(unix: i64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(unix).unwrap_or_default())).unwrap_or(UNIX_EPOCH)
}
