//! Downloads packages with apt, which verifies them against Debian's signed index; this host's apt is not
//! changed.
//!
//! Only apt's own folder is cached: indexes are updated each time, so that security updates arrive, and only
//! changes are downloaded. Without a network, the last download is used, with a warning.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use quarry_cache::Cache;

use super::RELEASE;
use crate::Architecture;
use crate::command::{command, run};

const MIRROR: &str = "http://deb.debian.org/debian";
const SECURITY_MIRROR: &str = "http://deb.debian.org/debian-security";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A package's file.
pub(super) struct Deb {
    pub(super) path: PathBuf,
    pub(super) sha256: String,
}

/// Downloads packages, sorted by name.
pub(super) fn download(cache: &Cache, architecture: Architecture, packages: &[&str]) -> Result<Vec<Deb>> {
    if !Path::new(KEYRING).exists() {
        bail!("the keys to verify Debian's packages are missing; install the package debian-archive-keyring");
    }
    let folder = cache.root().join(format!("debian-packages-{RELEASE}-{}", architecture.name()));
    let debs = folder.join("debs");
    for made in [folder.join("lists/partial"), folder.join("cache/archives/partial"), debs.clone()] {
        fs::create_dir_all(&made).with_context(|| format!("cannot make the folder {}", made.display()))?;
    }
    let lock = File::create(folder.join("lock")).context("cannot open the lock of apt's folder")?;
    lock.lock().context("cannot take the lock of apt's folder")?;
    let configuration = folder.join("apt.conf");
    fs::write(&configuration, configure(&folder, architecture)).context("cannot write apt's configuration")?;
    fs::write(folder.join("sources.list"), sources()).context("cannot write apt's list of sources")?;
    let apt = |arguments: &[&str], inside: &Path| {
        run(command("apt-get", arguments).env("APT_CONFIG", &configuration).current_dir(inside))
    };

    let complete = folder.join("complete");
    match apt(&["update", "-qq", "-o", "APT::Update::Error-Mode=any"], &folder) {
        Ok(_) => fs::write(&complete, "").context("cannot record that the indexes are complete")?,
        Err(error) if complete.exists() => {
            eprintln!(
                "quarry-image: Debian's mirror is unreachable; using the packages of the last download\n{error:#}"
            );
        }
        Err(error) => {
            return Err(error.context(
                "cannot update Debian's package indexes (QUARRY_DEBIAN_MIRROR and QUARRY_DEBIAN_SECURITY_MIRROR set other mirrors)",
            ));
        }
    }
    // Not in the folder with the files: apt does not list those that already exist.
    let listed = apt(&[&["download", "-qq", "--print-uris"], packages].concat(), &folder)?;
    let mut found = listed.lines().map(|line| deb(line, &debs)).collect::<Result<Vec<_>>>()?;
    if found.len() != packages.len() {
        bail!("apt knows {} of {} packages:\n{listed}", found.len(), packages.len());
    }
    // An existing file is verified by its digest too, and downloaded again if it differs.
    apt(&[&["download", "-qq"], packages].concat(), &debs).context("cannot download Debian's packages")?;
    found.sort_by(|one, other| one.path.cmp(&other.path));
    remove_others(&debs, &found)?;
    Ok(found)
}

/// Parses a line of the download list: 'address' name size SHA256:digest.
fn deb(line: &str, folder: &Path) -> Result<Deb> {
    let mut words = line.split(' ').skip(1);
    let (name, digest) = (words.next(), words.nth(1).and_then(|word| word.strip_prefix("SHA256:")));
    let (Some(name), Some(sha256)) = (name, digest) else { bail!("apt gave no name and SHA-256 in: {line}") };
    Ok(Deb { path: folder.join(name), sha256: sha256.to_owned() })
}

/// Removes files of superseded versions.
fn remove_others(folder: &Path, keep: &[Deb]) -> Result<()> {
    for entry in fs::read_dir(folder).context("cannot read the folder of packages")? {
        let path = entry.context("cannot read the folder of packages")?.path();
        if !keep.iter().any(|deb| deb.path == path) {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Uses Quarry's own folders and installs no package; this host's other settings, such as a proxy, still
/// apply.
fn configure(folder: &Path, architecture: Architecture) -> String {
    let (folder, name) = (folder.display(), architecture.name());
    format!(
        r#"Dir::Cache "{folder}/cache";
Dir::Etc::SourceList "{folder}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "{folder}";
Dir::State::Lists "{folder}/lists";
Dir::State::status "/dev/null";
APT::Architecture "{name}";
APT::Architectures {{ "{name}"; }};
// As root, apt would drop to _apt, which may not write here.
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
"#
    )
}

fn sources() -> String {
    let mirror = |variable: &str, usual: &str| match std::env::var(variable) {
        Ok(mirror) if !mirror.is_empty() => mirror,
        _ => usual.to_owned(),
    };
    let main = mirror("QUARRY_DEBIAN_MIRROR", MIRROR);
    let security = mirror("QUARRY_DEBIAN_SECURITY_MIRROR", SECURITY_MIRROR);
    let line = |mirror: &str, suite: &str| format!("deb [signed-by={KEYRING}] {mirror} {RELEASE}{suite} main\n");
    [line(&main, ""), line(&main, "-updates"), line(&security, "-security")].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_apt_is_parsed() {
        let line = "'http://deb.debian.org/debian/pool/a%2bb.deb' a_1+b_amd64.deb 70936 SHA256:3eb1";
        let found = deb(line, Path::new("/debs")).unwrap();
        assert_eq!((found.path.to_str().unwrap(), found.sha256.as_str()), ("/debs/a_1+b_amd64.deb", "3eb1"));
        assert!(deb("'http://x' a.deb 1 MD5Sum:00", Path::new("/debs")).is_err());
    }
}
