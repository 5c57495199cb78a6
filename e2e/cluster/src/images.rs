//! The images of the nodes, built here without a registry. A single static program becomes an image with one
//! file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use quarry_cache::Cache;
use quarry_image::{Architecture, Image, Layer, quarry};

use crate::binaries::{self, Binaries};
use crate::objects::BUSYBOX;

mod conformance;

pub(crate) use conformance::all as conformance;

/// The image that holds a pod's namespaces; containerd.toml names it too.
const PAUSE: &str = "registry.k8s.io/pause:3.10";
/// The sidecars, as the chart's values name them; the registrar only in older charts.
const PROVISIONER: &str = "registry.k8s.io/sig-storage/csi-provisioner:v6.3.0";
const RESIZER: &str = "registry.k8s.io/sig-storage/csi-resizer:v2.3.0";
const SNAPSHOTTER: &str = "registry.k8s.io/sig-storage/csi-snapshotter:v8.7.0";
const REGISTRAR: &str = "registry.k8s.io/sig-storage/csi-node-driver-registrar:v2.17.0";

/// Quarry's own image, as the chart names it.
pub(crate) const QUARRY: &str = concat!("quarry.dev/quarry:", env!("CARGO_PKG_VERSION"));

/// The image of PostgreSQL from Debian's package.
pub(crate) const POSTGRESQL: &str = "docker.io/library/postgres:15";

/// The image of etcd.
pub(crate) const ETCD: &str = "gcr.io/etcd-development/etcd:v3.6.16";

/// The archives of all images except Quarry's own, from the cache or newly built.
///
/// # Errors
/// When a part of an image is missing or cannot be read.
pub async fn all(cache: &Cache, binaries: &Binaries) -> Result<Vec<PathBuf>> {
    let busybox = quarry_vm::busybox(cache).await?;
    let shell = Image::new(BUSYBOX).layer(shell(&busybox).await?).command(["/bin/sh"]);
    let pause = Image::new(PAUSE).file("/busybox", &busybox, 0o755).entrypoint(["/busybox", "sleep", "1000000000"]);
    let images = [
        ("pause", pause),
        ("busybox", shell),
        ("provisioner", sidecar(PROVISIONER, &binaries.provisioner)),
        ("resizer", sidecar(RESIZER, &binaries.resizer)),
    ];
    let mut archives = Vec::new();
    for (name, image) in images {
        archives.push(archive(cache, name, image).await?);
    }
    Ok(archives)
}

/// busybox with all its programs, and a folder for temporary files.
async fn shell(busybox: &Path) -> Result<Layer> {
    let listed =
        quarry_vm::run(busybox, ["--list"], Duration::from_secs(60)).await.context("which programs busybox has")?;
    let programs = listed.split_whitespace().filter(|program| *program != "busybox");
    let layer = programs.fold(Layer::default().file("/bin/busybox", busybox, 0o755), |layer, program| {
        layer.symlink(&format!("/bin/{program}"), "busybox")
    });
    Ok(layer.directory("/tmp", 0o1777))
}

/// The archive of an image with etcd, etcdctl and a shell, from the cache or newly built.
///
/// # Errors
/// As [`all`].
pub(crate) async fn etcd(cache: &Cache) -> Result<PathBuf> {
    let (server, tool) = (binaries::build(cache).await?.etcd, binaries::etcdctl(cache).await?);
    let programs = Layer::default().file("/bin/etcd", &server, 0o755).file("/bin/etcdctl", &tool, 0o755);
    let image = Image::new(ETCD).layer(shell(&quarry_vm::busybox(cache).await?).await?).layer(programs);
    archive(cache, "etcd", image).await
}

/// The archive of external-snapshotter's sidecar, from the cache or newly built.
///
/// # Errors
/// As [`all`].
pub(crate) async fn snapshotter(cache: &Cache, program: &Path) -> Result<PathBuf> {
    archive(cache, "snapshotter", sidecar(SNAPSHOTTER, program)).await
}

/// The archive of the registrar, from the cache or newly built.
///
/// # Errors
/// As [`all`].
pub(crate) async fn registrar(cache: &Cache, program: &Path) -> Result<PathBuf> {
    archive(cache, "registrar", sidecar(REGISTRAR, program)).await
}

/// An image that consists of one program.
fn sidecar(name: &str, program: &Path) -> Image {
    Image::new(name).file("/sidecar", program, 0o755).entrypoint(["/sidecar"])
}

async fn archive(cache: &Cache, name: &str, image: Image) -> Result<PathBuf> {
    let image = image.uncompressed();
    // The description lists the image's parts, and each program's path in the cache identifies its inputs.
    let key = quarry_cache::key([format!("{image:?}").as_bytes()]);
    let folder = cache
        .entry(&format!("container-{name}"), &key, async |folder: &Path| {
            image.write(&folder.join("image.tar")).map(drop).with_context(|| format!("cannot make the image {name}"))
        })
        .await?;
    Ok(folder.join("image.tar"))
}

/// Builds the image that is shipped, as it is now, into a folder; with this program instead of the released one, if one is
/// given.
///
/// # Errors
/// When it cannot be built.
pub fn quarry(cache: &Cache, folder: &Path, binary: Option<PathBuf>) -> Result<PathBuf> {
    let build = quarry::Build {
        architecture: Architecture::of_this_host(),
        tag: QUARRY.to_owned(),
        output: folder.to_owned(),
        binary,
        created: None,
    };
    // Programs are run and waited for.
    let built = tokio::task::block_in_place(|| quarry::build(cache, &build)).context("cannot build Quarry's image")?;
    Ok(built.image)
}

/// PostgreSQL from Debian's package, from the cache or newly built.
///
/// # Errors
/// When the packages cannot be fetched.
pub(crate) async fn postgresql(cache: &Cache) -> Result<PathBuf> {
    let options = [
        "--variant=essential",
        "--include=postgresql-15",
        // No database in the image.
        "--essential-hook=mkdir -p \"$1/etc/postgresql-common\"; echo create_main_cluster=false >\"$1/etc/postgresql-common/createcluster.conf\"",
        "--aptopt=Acquire::Languages \"none\"",
        "--aptopt=APT::Install-Recommends \"false\"",
        "--dpkgopt=force-unsafe-io",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/lib/*/libLLVM*",
        // What only installing needed, and compiling queries: each MiB takes a second to import on an emulated
        // processor.
        "--customize-hook=rm -rf \"$1\"/usr/lib/*/perl \"$1\"/usr/share/perl \"$1\"/usr/lib/*/libz3* \"$1\"/usr/share/i18n \
            \"$1\"/usr/lib/postgresql/15/lib/bitcode \"$1\"/var/lib/apt \"$1\"/var/cache/apt",
        "bookworm",
    ];
    let key = quarry_cache::key(options.iter().copied().chain([POSTGRESQL]).map(str::as_bytes));
    let folder = cache
        .entry("container-postgresql", &key, async |folder: &Path| {
            let root = folder.join("root.tar");
            let arguments = options.iter().map(ToString::to_string).chain([root.display().to_string()]);
            quarry_vm::run(Path::new("mmdebstrap"), arguments, Duration::from_secs(1200))
                .await
                .context("cannot make a root of PostgreSQL from Debian's packages")?;
            Image::new(POSTGRESQL).tree(&root).user("postgres").uncompressed().write(&folder.join("image.tar"))?;
            std::fs::remove_file(&root).context("cannot remove the root's archive")
        })
        .await?;
    Ok(folder.join("image.tar"))
}
