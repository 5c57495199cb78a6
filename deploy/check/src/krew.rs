//! The manifest for krew, as a template and for a release.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde::Deserialize;

/// The processors that there are archives for.
const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];
/// The program in an archive; also the name of the plugin. krew links it as `kubectl-quarry`.
const PROGRAM: &str = "quarry";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Manifest {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    version: String,
    homepage: String,
    short_description: String,
    description: String,
    caveats: String,
    platforms: Vec<Platform>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Platform {
    selector: Selector,
    uri: String,
    sha256: String,
    files: Vec<Moved>,
    bin: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Selector {
    match_labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Moved {
    from: String,
    to: String,
}

/// What is wrong with the manifest; `is_template`: with placeholders for the version, the addresses and the checksums.
///
/// # Errors
/// It is not YAML, or a key is missing or unknown to krew.
pub(crate) fn wrong(text: &str, is_template: bool) -> anyhow::Result<Vec<String>> {
    let manifest: Manifest = serde_saphyr::from_str(text).context("it is no manifest of krew")?;
    let spec = &manifest.spec;
    let mut wrong = Vec::new();
    let mut expect = |is_right: bool, what: String| {
        if !is_right {
            wrong.push(what);
        }
    };
    let kind = (manifest.api_version.as_str(), manifest.kind.as_str());
    expect(kind == ("krew.googlecontainertools.github.com/v1alpha2", "Plugin"), format!("unexpected kind {kind:?}"));
    expect(manifest.metadata.name == PROGRAM, format!("the plugin's name is {}", manifest.metadata.name));
    expect(spec.short_description.len() <= 50, "the short description has more than 50 characters".to_owned());
    expect(!spec.description.is_empty() && !spec.caveats.is_empty(), "it has no description or no caveats".to_owned());
    if is_template {
        let placeholders = (spec.version.as_str(), spec.homepage.as_str());
        expect(placeholders == ("VERSION", "HOMEPAGE"), format!("no placeholders: {placeholders:?}"));
    } else {
        expect(is_version(&spec.version), format!("{} is no version such as v1.2.3", spec.version));
        expect(spec.homepage.starts_with("https://"), format!("{} is no address of a page", spec.homepage));
    }
    let found: Vec<&str> = spec.platforms.iter().map(|platform| platform.architecture()).collect();
    // A release may have been built without a compiler for one of them.
    let known: Vec<&str> = ARCHITECTURES.into_iter().filter(|known| is_template || found.contains(known)).collect();
    let platforms = format!("the platforms are {found:?}, expected {ARCHITECTURES:?} or, in a release, one of them");
    expect(!found.is_empty() && found == known, platforms);
    for platform in &spec.platforms {
        let architecture = platform.architecture();
        let archive = format!("/quarry-linux-{architecture}.tar.gz");
        let base = platform.uri.strip_suffix(&archive);
        let sum = if is_template {
            expect(base == Some("URL"), format!("{architecture}: {} is not URL{archive}", platform.uri));
            platform.sha256 == format!("SHA256-{}", architecture.to_uppercase())
        } else {
            let is_right = base.is_some_and(|base| base.starts_with("https://"));
            expect(is_right, format!("{architecture}: {} is no address of {archive}", platform.uri));
            platform.sha256.len() == 64 && platform.sha256.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        expect(sum, format!("{architecture}: {} is no checksum", platform.sha256));
        let has_program = platform.files.iter().any(|file| file.from == PROGRAM && file.to == ".");
        expect(has_program && platform.bin == PROGRAM, format!("{architecture}: it does not install {PROGRAM}"));
    }
    Ok(wrong)
}

impl Platform {
    /// The processor; empty if the platform is not a Linux.
    fn architecture(&self) -> &str {
        let label = |name: &str| self.selector.match_labels.get(name).map(String::as_str);
        if label("os") == Some("linux") { label("arch").unwrap_or_default() } else { "" }
    }
}

/// Whether krew accepts it: v and three numbers, perhaps with a suffix.
fn is_version(text: &str) -> bool {
    let numbers = text.strip_prefix('v').and_then(|rest| rest.split('-').next()).unwrap_or_default();
    let numbers: Vec<&str> = numbers.split('.').collect();
    numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = include_str!("../../krew.yaml");

    fn filled() -> String {
        let sum = "0123456789abcdef".repeat(4);
        TEMPLATE
            .replace("VERSION", "v0.1.0")
            .replace("HOMEPAGE", "https://example.com")
            .replace("URL/", "https://example.com/v0.1.0/")
            .replace("SHA256-AMD64", &sum)
            .replace("SHA256-ARM64", &sum)
    }

    #[test]
    fn the_template_and_a_release_pass() {
        assert_eq!(wrong(TEMPLATE, true).unwrap(), Vec::<String>::new());
        assert_eq!(wrong(&filled(), false).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn each_mistake_is_found() {
        for (from, to) in [
            ("name: quarry", "name: quarries"),
            ("bin: quarry", "bin: kubectl-quarry"),
            ("from: quarry", "from: ./program"),
            ("arch: arm64", "arch: riscv64"),
            ("os: linux", "os: darwin"),
            ("URL/quarry-linux-arm64", "URL/quarry-linux-amd64"),
            ("sha256: SHA256-ARM64", "sha256: SHA256-AMD64"),
            ("version: VERSION", "version: v1"),
        ] {
            let changed = TEMPLATE.replacen(from, to, 1);
            assert_ne!(changed, TEMPLATE, "{from}");
            assert_ne!(wrong(&changed, true).unwrap(), Vec::<String>::new(), "{from}");
        }
        let one = filled();
        let (one, _) = one.rsplit_once("    - selector:").unwrap();
        assert_eq!(wrong(one, false).unwrap(), Vec::<String>::new(), "a release for one processor");
        let (none, _) = TEMPLATE.rsplit_once("    - selector:").unwrap();
        assert_ne!(wrong(none, true).unwrap(), Vec::<String>::new(), "a template for one processor");
        let (none, _) = one.rsplit_once("    - selector:").unwrap();
        let none = none.replace("platforms:", "platforms: []");
        assert!(wrong(&none, false).unwrap().iter().any(|wrong| wrong.starts_with("the platforms")), "{none}");
        // What is not filled in is no release.
        assert!(wrong(TEMPLATE, false).unwrap().len() > 5);
        for (from, to) in [("v0.1.0\n", "0.1.0\n"), ("0123", "012"), ("https://example.com/", "http://example.com/")] {
            assert_ne!(wrong(&filled().replacen(from, to, 1), false).unwrap(), Vec::<String>::new(), "{from}");
        }
        wrong(&TEMPLATE.replace("shortDescription", "shortdescription"), true).unwrap_err();
    }
}
