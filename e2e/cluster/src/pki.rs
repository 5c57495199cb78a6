//! The certificates of a cluster: one authority, and the certificates that it signs for the control plane,
//! nodes and users.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// The authority of one cluster, with its files in one folder.
pub(crate) struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes an authority, and the key pair by which the API server signs the tokens of service accounts.
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let key = KeyPair::generate().context("cannot make a key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name("quarry-cluster", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).context("cannot make the cluster's authority")?;
        write(&folder.join("ca.crt"), &certificate.pem())?;
        let tokens = KeyPair::generate().context("cannot make a key")?;
        write(&folder.join("tokens.key"), &tokens.serialize_pem())?;
        write(&folder.join("tokens.pub"), &tokens.public_key_pem())?;
        Ok(Self { folder: folder.to_owned(), issuer: Issuer::new(params, key) })
    }

    /// The authority's certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// The key that signs service account tokens, and the one that verifies them.
    pub(crate) fn tokens(&self) -> (PathBuf, PathBuf) {
        (self.folder.join("tokens.key"), self.folder.join("tokens.pub"))
    }

    /// A certificate for a client: the API server takes the common name for its user, and the organization for its
    /// group.
    pub(crate) fn client(&self, file: &str, user: &str, group: Option<&str>) -> Result<Pair> {
        self.issue(file, user, group, &[], ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A certificate for a server with these names and addresses.
    pub(crate) fn server(&self, file: &str, common: &str, names: &[&str]) -> Result<Pair> {
        self.issue(file, common, None, names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn issue(
        &self,
        file: &str,
        common: &str,
        group: Option<&str>,
        names: &[&str],
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Pair> {
        let make = || {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())?;
            params.distinguished_name = name(common, group);
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![usage];
            Ok::<_, rcgen::Error>((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
        };
        let (certificate, key) = make().with_context(|| format!("cannot make the certificate of {common}"))?;
        let pair =
            Pair { certificate: self.folder.join(format!("{file}.crt")), key: self.folder.join(format!("{file}.key")) };
        write(&pair.certificate, &certificate)?;
        write(&pair.key, &key)?;
        Ok(pair)
    }
}

fn name(common: &str, group: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    name.push(DnType::CommonName, common);
    name
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_files_of_their_own() {
        let folder = std::env::temp_dir().join(format!("quarry-cluster-pki-{}", std::process::id()));
        let authority = Authority::create(&folder).unwrap();
        let server = authority.server("apiserver", "kube-apiserver", &["localhost", "127.0.0.1"]).unwrap();
        let client = authority.client("admin", "admin", Some("system:masters")).unwrap();
        assert_ne!(fs::read(&server.certificate).unwrap(), fs::read(&client.certificate).unwrap());
        assert!(fs::read_to_string(&client.key).unwrap().contains("PRIVATE KEY"));
        assert!(fs::read_to_string(authority.tokens().1).unwrap().contains("PUBLIC KEY"));
        fs::remove_dir_all(folder).unwrap();
    }
}
