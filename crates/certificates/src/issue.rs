//! Issues certificates: authorities, and the leaves that they sign. ECDSA on P-256, signed with SHA-256.

use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData,
};

use crate::leaf::{self, Role};
use crate::state::Ca;
use crate::store::{Data, file};
use crate::{Error, Settings};

/// Creates an authority. Its common name contains a digest of its key, so that no two have the same subject.
pub(crate) fn authority(settings: &Settings, now: SystemTime) -> Result<Ca, Error> {
    let make = || {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let digest = blake3::hash(&key.subject_public_key_info()).to_hex();
        let mut params = CertificateParams::default();
        params.distinguished_name = name(format!("Quarry authority {}", digest.get(..16).unwrap_or_default()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        valid(&mut params, settings, now, settings.authority_life);
        Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
    };
    let what = "an authority";
    let (certificate, key) = make().map_err(|source| Error::Issue { what: what.to_owned(), source })?;
    Ca::parse(certificate, key)
        .map_err(|why| Error::AuthorityUnusable { why: format!("the new authority is invalid: {why}") })
}

/// Creates the files of a leaf item: a certificate for `role` from `issuer`, its key, and the trusted
/// authorities.
pub(crate) fn leaf(
    settings: &Settings,
    now: SystemTime,
    role: Role,
    issuer: &Ca,
    trusted: &[&Ca],
) -> Result<Data, Error> {
    let make = || {
        let issuer = Issuer::from_ca_cert_der(issuer.der(), KeyPair::from_pem(issuer.key())?)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new([role.dns_name().to_owned()])?;
        params.distinguished_name = name(role.dns_name().to_owned());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![role.usage()];
        params.use_authority_key_identifier_extension = true;
        valid(&mut params, settings, now, settings.leaf_life);
        Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
    };
    let (certificate, key) =
        make().map_err(|source| Error::Issue { what: format!("a certificate for the {role}"), source })?;
    Ok(Data::from([
        (file::CERTIFICATE.to_owned(), certificate.into_bytes()),
        (file::KEY.to_owned(), key.into_bytes()),
        (file::AUTHORITIES.to_owned(), leaf::bundle(trusted).into_bytes()),
    ]))
}

fn name(common: String) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Quarry");
    name.push(DnType::CommonName, common);
    name
}

fn valid(params: &mut CertificateParams, settings: &Settings, now: SystemTime, life: std::time::Duration) {
    params.not_before = now.checked_sub(settings.backdate).unwrap_or(now).into();
    params.not_after = now.checked_add(life).unwrap_or(now).into();
}
