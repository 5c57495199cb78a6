//! The image's layer from Debian: tools, the libraries they load, and a record of each package.
//!
//! apt downloads and verifies the packages, and they are unpacked here, file by file; none is installed. So
//! this needs no root, no chroot and no emulation for another architecture, and nothing depends on
//! installation scripts. Each package has a record in `/var/lib/dpkg/status.d`, where vulnerability scanners
//! look in images without dpkg.

mod apt;
mod licences;
mod select;

use anyhow::{Context, Result};
use quarry_cache::Cache;

use crate::command::{command, drain, run, stream};
use crate::{Architecture, Layer};

/// Debian's release: the tests on real LVM, crash sweeps included, run its tools. Tests and image change
/// together. Newer tools would also write formats that older tools on hosts cannot read.
pub(crate) const RELEASE: &str = "bookworm";

/// Every package, libraries included: this list decides what is in the image, not a resolver. The image's
/// check finds what a program lacks.
const PACKAGES: &[&str] = &[
    // The tools that Quarry runs.
    "btrfs-progs",
    "cryptsetup-bin",
    "dmsetup",
    "e2fsprogs",
    "lvm2",
    "thin-provisioning-tools",
    "util-linux",
    "xfsprogs",
    // The release files and the licences.
    "base-files",
    // Libraries.
    "libaio1",
    "libargon2-1",
    "libblkid1",
    "libbsd0",
    "libc6",
    "libcap-ng0",
    "libcap2",
    "libcom-err2",
    "libcrypt1",
    "libcryptsetup12",
    "libdevmapper-event1.02.1",
    "libdevmapper1.02.1",
    "libedit2",
    "libexpat1",
    "libext2fs2",
    "libgcrypt20",
    "libgpg-error0",
    "libinih1",
    "libjson-c5",
    "liblz4-1",
    "liblzma5",
    "liblzo2-2",
    "libmd0",
    "libmount1",
    "libpcre2-8-0",
    "libpopt0",
    "libselinux1",
    "libsmartcols1",
    "libss2",
    "libssl3",
    "libstdc++6",
    "libsystemd0",
    "libtinfo6",
    "libudev1",
    "liburcu8",
    "libuuid1",
    "libzstd1",
    "zlib1g",
    // Loaded by name when a thread ends (mkfs.btrfs); its licence is in the compiler's package.
    "gcc-12-base",
    "libgcc-s1",
];

/// A package in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) architecture: String,
    /// The source package, which advisories refer to.
    pub(crate) source: String,
    /// The SHA-256 of the package's file, from Debian's signed index.
    pub(crate) sha256: String,
    /// The short names of its licences, if its copyright file is machine-readable.
    pub(crate) licences: Vec<String>,
}

/// Builds the layer and returns it with its packages.
pub(crate) fn layer(cache: &Cache, architecture: Architecture) -> Result<(Layer, Vec<Package>)> {
    let mut layer = select::MERGED.iter().fold(Layer::default(), |layer, top| match *top {
        // Only if the loader is expected there.
        "lib64" if architecture != Architecture::Amd64 => layer,
        top => layer.symlink(top, &format!("usr/{top}")),
    });
    let mut packages = Vec::new();
    for deb in apt::download(cache, architecture, PACKAGES)? {
        let file = deb.path.to_str().context("the cache folder's path is not UTF-8")?;
        let control = run(&mut command("dpkg-deb", &["--field", file]))?;
        stream(&mut command("dpkg-deb", &["--fsys-tarfile", file]), |mut tar| {
            layer.add_tar(&mut tar, |path| select::place(path, architecture))?;
            drain(tar)
        })
        .with_context(|| format!("cannot unpack {file}"))?;
        let package = package(&control, deb.sha256)?;
        layer = layer.bytes(&format!("/var/lib/dpkg/status.d/{}", package.name), control, 0o644);
        packages.push(package);
    }
    select::only_programs(&mut layer);
    for package in &mut packages {
        let copyright = layer.content(&format!("/usr/share/doc/{}/copyright", package.name));
        let copyright = copyright.with_context(|| format!("{} has no copyright file in the image", package.name))?;
        package.licences = licences::of(&String::from_utf8_lossy(copyright));
    }
    Ok((layer, packages))
}

/// Reads a package's control file.
fn package(control: &str, sha256: String) -> Result<Package> {
    let field = |name: &str| {
        control
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .map(|value| value.trim().to_owned())
    };
    let wanted = |name: &str| field(name).with_context(|| format!("a package's control file has no {name}"));
    let name = wanted("Package")?;
    // "systemd (252.39)": the version where it differs from the package's.
    let source = field("Source").and_then(|source| source.split(' ').next().map(str::to_owned));
    Ok(Package {
        version: wanted("Version")?,
        architecture: wanted("Architecture")?,
        source: source.unwrap_or_else(|| name.clone()),
        name,
        sha256,
        licences: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_file_is_parsed() {
        let control = "Package: libudev1\nSource: systemd (252.39)\nVersion: 252.39-1~deb12u2\nArchitecture: amd64\n \
                       Version: no field\n";
        let package = package(control, "00".to_owned()).unwrap();
        assert_eq!((package.name.as_str(), package.source.as_str()), ("libudev1", "systemd"));
        assert_eq!((package.version.as_str(), package.architecture.as_str()), ("252.39-1~deb12u2", "amd64"));
        assert!(super::package("Package: x\n", String::new()).unwrap_err().to_string().contains("Version"));
    }

    #[test]
    fn no_package_is_listed_twice() {
        let mut names = PACKAGES.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PACKAGES.len());
    }

    #[test]
    fn the_tools_of_every_filesystem_are_in_both_images() {
        let containerfile = include_str!("../../../Containerfile");
        for (tool, package) in quarry_filesystem::tools() {
            assert!(PACKAGES.contains(&package), "{tool} is in {package}, which is not in the released image");
            assert!(
                containerfile.split_whitespace().any(|word| word == package),
                "{package} is not in deploy/Containerfile"
            );
        }
    }
}
