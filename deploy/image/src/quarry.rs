//! Quarry's image: Debian's tools in one layer, the program in another, so that a new version only downloads
//! the smaller one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use quarry_cache::Cache;

use crate::bom::{Bill, Program};
use crate::oci::sha256;
use crate::{Architecture, Image, Layer, Written, debian, program};

/// The options of a build.
#[derive(Clone, Debug)]
pub struct Build {
    /// The processor architecture.
    pub architecture: Architecture,
    /// The image's full name, tag included.
    pub tag: String,
    /// The folder for `quarry.tar` and `quarry.cdx.json`.
    pub output: PathBuf,
    /// An existing statically linked program; if none, it is built.
    pub binary: Option<PathBuf>,
    /// The image's date in seconds since the epoch, if it has one.
    pub created: Option<i64>,
}

/// The results of a build.
#[derive(Clone, Debug)]
pub struct Built {
    /// The image.
    pub image: PathBuf,
    /// Its bill of materials.
    pub bill: PathBuf,
    /// Digest and sizes.
    pub written: Written,
}

/// Builds the image and its bill of materials.
///
/// # Errors
/// The program does not build, Debian's packages cannot be downloaded, or a file cannot be written.
pub fn build(cache: &Cache, build: &Build) -> Result<Built> {
    let Build { architecture, tag, output, .. } = build;
    make(output)?;
    let (tools, packages) = debian::layer(cache, *architecture)?;
    let os_release = tools.content("/usr/lib/os-release").context("there is no os-release in the image")?;
    let os_release = String::from_utf8_lossy(os_release).into_owned();
    let (binary, c_library) = match &build.binary {
        Some(binary) => (binary.clone(), None),
        None => (program::build(*architecture)?, program::c_library(*architecture)),
    };
    let image = output.join("quarry.tar");
    let written = describe(build, base(tools), &binary).write(&image)?;
    let program = Program { crates: program::crates(*architecture)?, c_library };
    let bill = Bill { image: tag, written: &written, os_release: &os_release, packages: &packages, program: &program };
    let bill = write_bill(output, &bill.json()?)?;
    Ok(Built { image, bill, written })
}

/// Builds the program alone, linked statically, and its bill of materials: `quarry` and `quarry.cdx.json` in the folder
/// `output`. It is the same program as in the image.
///
/// # Errors
/// The program does not build, or a file cannot be written.
pub fn program(architecture: Architecture, output: &Path) -> Result<PathBuf> {
    make(output)?;
    let (built, file) = (program::build(architecture)?, output.join("quarry"));
    std::fs::copy(&built, &file).with_context(|| format!("cannot copy {} to {}", built.display(), file.display()))?;
    let content = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let program = Program { crates: program::crates(architecture)?, c_library: program::c_library(architecture) };
    write_bill(output, &program.json(env!("CARGO_PKG_VERSION"), &sha256(&content))?)?;
    Ok(file)
}

fn make(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))
}

fn write_bill(output: &Path, bill: &str) -> Result<PathBuf> {
    let path = output.join("quarry.cdx.json");
    std::fs::write(&path, bill).with_context(|| format!("cannot write the bill of materials {}", path.display()))?;
    Ok(path)
}

fn describe(build: &Build, tools: Layer, binary: &Path) -> Image {
    let version = build.tag.rsplit_once(':').map_or("", |(_, tag)| tag);
    let image = Image::new(&build.tag)
        .architecture(build.architecture)
        .layer(tools)
        .layer(Layer::default().file("/usr/bin/quarry", binary, 0o755))
        .entrypoint(["/usr/bin/quarry"])
        .variable("PATH", "/usr/sbin:/usr/bin")
        .label("org.opencontainers.image.title", "Quarry")
        .label("org.opencontainers.image.description", "A CSI driver for the disks of the host a pod runs on")
        .label("org.opencontainers.image.licenses", env!("CARGO_PKG_LICENSE"))
        .label("org.opencontainers.image.version", version)
        .label("org.opencontainers.image.base.name", format!("debian:{}", debian::RELEASE));
    match build.created {
        Some(seconds) => image.created(seconds),
        None => image,
    }
}

/// The few files that no package provides without its installation scripts, and the mount points: with a
/// read-only root they cannot be created later.
fn base(tools: Layer) -> Layer {
    let layer = tools
        .bytes("/etc/passwd", include_bytes!("../etc/passwd"), 0o644)
        .bytes("/etc/group", include_bytes!("../etc/group"), 0o644)
        .bytes("/etc/nsswitch.conf", include_bytes!("../etc/nsswitch.conf"), 0o644)
        .bytes("/etc/lvm/lvm.conf", include_bytes!("../etc/lvm.conf"), 0o644)
        .directory("/etc/lvm/archive", 0o700)
        .directory("/etc/lvm/backup", 0o700)
        .directory("/etc/quarry", 0o755)
        .directory("/root", 0o700)
        .directory("/tmp", 0o1777)
        .directory("/var/lib/kubelet", 0o755)
        .symlink("/var/run", "/run")
        .symlink("/var/lock", "/run/lock");
    let mounted =
        ["/dev", "/proc", "/sys", "/run/cryptsetup", "/run/lock/lvm", "/run/lvm", "/run/udev", "/run/udev/data"];
    mounted.iter().fold(layer, |layer, folder| layer.directory(folder, 0o755))
}
