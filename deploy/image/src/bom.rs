//! The bill of materials in CycloneDX JSON: every Debian package and every crate, with version, licence and
//! digest. The program alone has a bill of its crates.
//!
//! It contains no date and no random number: the same image has the same bill. The image's digest connects
//! the two.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::debian::Package;
use crate::oci::Written;
use crate::program::Crate;

/// What the program is made of.
pub(crate) struct Program {
    pub(crate) crates: Vec<Crate>,
    /// The version of the C library that is linked.
    pub(crate) c_library: Option<String>,
}

impl Program {
    /// Writes the bill of the program alone as JSON. `sha256` is the digest of its file.
    pub(crate) fn json(&self, version: &str, sha256: &str) -> Result<String> {
        let component = json!({
            "type": "application", "bom-ref": "quarry", "name": "quarry", "version": version,
            "hashes": [{"alg": "SHA-256", "content": sha256}],
        });
        text(component, self.components().collect())
    }

    fn components(&self) -> impl Iterator<Item = Value> {
        let c_library = self.c_library.iter().map(|version| {
            json!({
                "type": "library", "bom-ref": "glibc", "name": "glibc", "version": version,
                "description": "Linked into quarry statically; the version of the package libc6-dev on the machine that built it.",
                "licenses": [{"license": {"id": "LGPL-2.1-or-later"}}],
            })
        });
        self.crates.iter().map(cargo).chain(c_library)
    }
}

/// The contents of the image's bill.
pub(crate) struct Bill<'a> {
    /// The image's full name, tag included.
    pub(crate) image: &'a str,
    pub(crate) written: &'a Written,
    /// The text of the image's os-release file.
    pub(crate) os_release: &'a str,
    pub(crate) packages: &'a [Package],
    pub(crate) program: &'a Program,
}

impl Bill<'_> {
    /// Writes the bill as JSON.
    pub(crate) fn json(&self) -> Result<String> {
        let (name, tag) = self.image.rsplit_once(':').context("the image's name has no tag")?;
        let digest = self.written.digest.strip_prefix("sha256:").context("the image's digest is not SHA-256")?;
        let distribution = self.os("ID")?;
        let release = format!("{distribution}-{}", self.os("VERSION_ID")?);
        let system = json!({
            "type": "operating-system", "bom-ref": "os", "name": distribution, "version": self.os("VERSION_ID")?,
        });
        let packages = self.packages.iter().map(|package| deb(package, &distribution, &release));
        let component = json!({
            "type": "container", "bom-ref": "image", "name": name, "version": tag,
            "hashes": [{"alg": "SHA-256", "content": digest}],
        });
        text(component, std::iter::once(system).chain(packages).chain(self.program.components()).collect())
    }

    /// A value of the os-release file.
    fn os(&self, key: &str) -> Result<String> {
        let mut lines = self.os_release.lines();
        let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        Ok(value.with_context(|| format!("the image's os-release has no {key}"))?.trim_matches('"').to_owned())
    }
}

/// A bill of this component, which consists of the others.
fn text(component: Value, components: Vec<Value>) -> Result<String> {
    let mut bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": component},
        "components": components,
    });
    bill.sort_all_objects();
    Ok(serde_json::to_string_pretty(&bill)? + "\n")
}

fn deb(package: &Package, distribution: &str, release: &str) -> Value {
    let Package { name, version, architecture, source, sha256, licences } = package;
    let purl = format!(
        "pkg:deb/{distribution}/{}@{}?arch={architecture}&distro={release}&upstream={}",
        escape(name),
        escape(version),
        escape(source)
    );
    let licences: Vec<_> = licences.iter().map(|licence| json!({"license": {"name": licence}})).collect();
    let mut component = json!({
        "type": "library", "bom-ref": purl, "purl": purl, "name": name, "version": version,
        "hashes": [{"alg": "SHA-256", "content": sha256}],
    });
    if let (false, Some(object)) = (licences.is_empty(), component.as_object_mut()) {
        object.insert("licenses".to_owned(), licences.into());
    }
    component
}

fn cargo(crate_: &Crate) -> Value {
    let Crate { name, version, licence, own } = crate_;
    let mut component = json!({
        "type": "library", "bom-ref": format!("cargo:{name}@{version}"), "name": name, "version": version,
        "licenses": [{"expression": licence}],
    });
    // Quarry's own crates are published nowhere else.
    if let (false, Some(object)) = (*own, component.as_object_mut()) {
        object.insert("purl".to_owned(), format!("pkg:cargo/{}@{}", escape(name), escape(version)).into());
    }
    component
}

/// As package URLs require: letters, digits and a few marks stay, other bytes become percent and two digits.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_named_once_and_tied_to_the_image() {
        let package = Package {
            name: "libdevmapper1.02.1".to_owned(),
            version: "2:1.02.185-2+b1".to_owned(),
            architecture: "amd64".to_owned(),
            source: "lvm2".to_owned(),
            sha256: "ab".repeat(32),
            licences: vec!["GPL-2".to_owned()],
        };
        let named = |name: &str, own| Crate {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            licence: "MIT OR Apache-2.0".to_owned(),
            own,
        };
        let written = Written { digest: format!("sha256:{}", "cd".repeat(32)), compressed: 1, unpacked: 1 };
        let program = Program {
            crates: vec![named("tokio", false), named("quarry-lvm", true)],
            c_library: Some("2.36-9".to_owned()),
        };
        let bill = Bill {
            image: "quarry.dev/quarry:0.1.0",
            written: &written,
            os_release: "NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nID=debian\n",
            packages: &[package],
            program: &program,
        };
        let text = bill.json().unwrap();
        assert_eq!(text, bill.json().unwrap());
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["metadata"]["component"]["hashes"][0]["content"], "cd".repeat(32));
        assert_eq!(read["metadata"]["component"]["name"], "quarry.dev/quarry");
        let purls: Vec<_> = read["components"].as_array().unwrap().iter().map(|part| part["purl"].as_str()).collect();
        let deb = "pkg:deb/debian/libdevmapper1.02.1@2%3A1.02.185-2%2Bb1?arch=amd64&distro=debian-12&upstream=lvm2";
        assert_eq!(purls, [None, Some(deb), Some("pkg:cargo/tokio@1.0.0"), None, None]);

        let alone: Value = serde_json::from_str(&program.json("0.1.0", &"ef".repeat(32)).unwrap()).unwrap();
        assert_eq!(alone["metadata"]["component"]["hashes"][0]["content"], "ef".repeat(32));
        let parts = read["components"].as_array().unwrap();
        assert_eq!(alone["components"].as_array().unwrap(), &parts[2..], "the crates and the C library of the image");
    }
}
