//! The boot image of a guest: Debian's packages as a root file system, its kernel, and our first process.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use quarry_cache::{Cache, key};

use crate::cpio::Archive;
use crate::host;
use crate::static_build;
use crate::system::System;

/// The guest's architecture, in Debian's words. Another one also needs its entry in [`crate::machine`]'s arguments.
const ARCHITECTURE: &str = "amd64";

/// A kernel with few drivers: all that a virtual machine has, device-mapper included.
const KERNEL: &str = "linux-image-cloud-amd64";

/// The packages of a host that runs Quarry, and the tools of the tests, in every guest; see also
/// [`System::packages`].
const PACKAGES: &[&str] = &[
    "btrfs-progs",
    "busybox-static",
    "cryptsetup-bin",
    "dmsetup",
    "dosfstools",
    "e2fsprogs",
    "fdisk",
    "gdisk",
    "iproute2",
    "kmod",
    "lvm2",
    "mdadm",
    "mount",
    "nftables",
    "procps",
    "psmisc",
    "runc",
    "strace",
    "thin-provisioning-tools",
    "udev",
    "util-linux",
    "uuid-runtime",
    "xfsprogs",
];

/// Modules that the first file system needs to reach the root disk; the rest is loaded from there.
const BOOT_MODULES: &[&str] = &["virtio_pci", "virtio_blk"];

const BUILD_SCRIPT: &str = include_str!("../image/build.sh");
const INITRD_INIT: &str = include_str!("../image/initrd-init.sh");
const GUEST_COMMON: &str = include_str!("../image/guest-common.sh");

/// How long the image may take to build: it downloads about 150 MB.
const BUILD_DEADLINE: Duration = Duration::from_secs(1200);

/// Everything that a guest boots from, in the cache.
pub(crate) struct Image {
    /// The root file system, never written: every machine has an overlay.
    pub(crate) root: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    /// A hash of root file system and kernel.
    pub(crate) kernel_key: String,
    /// A hash of the whole image, for things derived from it.
    pub(crate) key: String,
}

/// The guests' busybox, a static program, for use in containers.
///
/// # Errors
/// When the guests' image is not there and cannot be built.
pub async fn busybox(cache: &Cache) -> Result<PathBuf> {
    let image = image(cache, System::current()?).await?;
    Ok(image.root.with_file_name("boot").join("busybox"))
}

/// Finds the image of a system in the cache, or builds it.
pub(crate) async fn image(cache: &Cache, system: System) -> Result<Image> {
    let packages = &[PACKAGES, system.packages()].concat().join(",");
    let image_key = key([BUILD_SCRIPT, system.name(), ARCHITECTURE, KERNEL, packages].map(str::as_bytes));
    // The two do not wait for each other: one waits for the network, the other for the compiler.
    let (folder, agent) = tokio::join!(
        cache.entry("image", &image_key, async |folder: &Path| build(folder, system, packages).await),
        static_build::agent(cache),
    );
    let (folder, agent) = (folder?, agent?);
    let agent_bytes = fs::read(&agent).with_context(|| format!("cannot read the agent {}", agent.display()))?;
    let scripts = [INITRD_INIT, GUEST_COMMON, system.init(), &image_key].map(str::as_bytes);
    let initrd_parts = scripts.into_iter().chain([agent_bytes.as_slice()]);
    let initrd_key = key(initrd_parts.chain(BOOT_MODULES.iter().map(|module| module.as_bytes())));
    let initrd = cache
        .entry("initrd", &initrd_key, async |out: &Path| {
            let archive = initrd(&folder.join("boot"), system, &agent_bytes)?;
            fs::write(out.join("initrd"), archive).context("cannot write the initrd")
        })
        .await?;
    Ok(Image {
        root: folder.join("root.ext4"),
        kernel: folder.join("vmlinuz"),
        initrd: initrd.join("initrd"),
        kernel_key: image_key,
        key: initrd_key,
    })
}

async fn build(folder: &Path, system: System, packages: &str) -> Result<()> {
    host::require_tools()?;
    eprintln!("quarry-vm: building the {system} guest from Debian's packages (once, about a minute on a good line)");
    let mirror = std::env::var("QUARRY_DEBIAN_MIRROR").unwrap_or_default();
    let script = folder.join("build.sh");
    fs::write(&script, BUILD_SCRIPT).context("cannot write the image's build script")?;
    let out = folder.to_str().context("the cache folder's path is not UTF-8")?;
    let script = script.to_str().context("the cache folder's path is not UTF-8")?;
    let arguments = [script, out, system.name(), ARCHITECTURE, KERNEL, packages, &mirror];
    host::run("sh", arguments, folder, BUILD_DEADLINE).await.context(
        "cannot build the guest's image; is Debian's mirror reachable? (QUARRY_DEBIAN_MIRROR names another)",
    )?;
    Ok(())
}

/// The first file system: busybox, the modules in the order of their needs, the agent, and the scripts.
fn initrd(boot: &Path, system: System, agent: &[u8]) -> Result<Vec<u8>> {
    let list = |name: &str| {
        fs::read_to_string(boot.join(name)).with_context(|| format!("the image has no {name}; clean the cache"))
    };
    let (dependencies, built_in) = (list("modules.dep")?, list("modules.builtin")?);
    let modules = load_order(&dependencies, &built_in, BOOT_MODULES)?;
    let mut archive = Archive::default();
    archive.file("busybox", &fs::read(boot.join("busybox")).context("the image has no busybox; clean the cache")?);
    archive.file("init", INITRD_INIT.as_bytes());
    archive.folder("quarry-vm");
    archive.file("quarry-vm/guest-common", GUEST_COMMON.as_bytes());
    archive.file("quarry-vm/guest-init", system.init().as_bytes());
    archive.file("quarry-vm/agent", agent);
    archive.folder("modules");
    let mut order = String::new();
    for module in modules {
        let name = module.rsplit('/').next().unwrap_or(module);
        let bytes = fs::read(boot.join(module)).with_context(|| format!("the image has no {module}"))?;
        archive.file(&format!("modules/{name}"), &bytes);
        order.push_str(name);
        order.push('\n');
    }
    archive.file("modules/order", order.as_bytes());
    Ok(archive.finish())
}

/// The modules to load, each after its dependencies, from the texts of a modules.dep and a modules.builtin.
fn load_order<'a>(dependencies: &'a str, built_in: &str, wanted: &[&str]) -> Result<Vec<&'a str>> {
    let mut order: Vec<&str> = Vec::new();
    for name in wanted {
        let file = format!("/{name}.ko");
        if built_in.lines().any(|module| module.ends_with(&file)) {
            continue;
        }
        let (module, needs) = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(module, _)| module.ends_with(&file))
            .with_context(|| format!("the kernel has no module {name}"))?;
        // A line lists its dependencies such that the last one is loaded first.
        for module in needs.split_whitespace().rev().chain([module]) {
            if !order.contains(&module) {
                order.push(module);
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_loaded_after_what_they_need() {
        let dependencies = "k/virtio.ko: k/virtio_ring.ko\nk/virtio_ring.ko:\nk/blk.ko: k/virtio.ko k/virtio_ring.ko\n";
        let order = load_order(dependencies, "k/pci.ko\n", &["pci", "virtio", "blk"]).unwrap();
        assert_eq!(order, ["k/virtio_ring.ko", "k/virtio.ko", "k/blk.ko"]);
        assert!(load_order(dependencies, "k/pci.ko\n", &["nvme"]).is_err());
    }
}
