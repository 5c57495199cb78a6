//! The images that the specs of Kubernetes' storage suite ask for, by the names of the version in
//! `binaries/conformance/go.mod`: stand-ins with the same commands.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use quarry_cache::Cache;
use quarry_image::{Image, Layer};

use super::archive;

/// Where the images are.
const REGISTRY: &str = "registry.k8s.io/e2e-test-images";
/// Most pods run a shell in it.
const BUSYBOX: &str = "busybox:1.37.0-1";
/// Some specs run a shell in it.
const NGINX: &str = "nginx:1.15-4";
/// The specs that write to raw devices need GNU dd, from this image.
const GNU: &str = "glibc-dns-testing:2.0.0";
/// The image of agnhost.
const AGNHOST: &str = "agnhost:2.63.0";

/// The files of Debian's packages that GNU dd needs, with their paths in the image, and a shell that runs it: busybox'
/// shell runs its own dd, which lacks `oflag=nocache`.
const GNU_FILES: &[(&str, &str)] = &[
    ("bin/dd", "bin/dd"),
    ("bin/dash", "bin/sh"),
    ("lib/x86_64-linux-gnu/libc.so.6", "lib/x86_64-linux-gnu/libc.so.6"),
    ("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "lib64/ld-linux-x86-64.so.2"),
];

/// The archives of the images, from the cache or newly built.
///
/// # Errors
/// When busybox does not run, Debian's packages cannot be fetched, or an archive cannot be written.
pub(crate) async fn all(cache: &Cache, agnhost: &Path) -> Result<Vec<PathBuf>> {
    let busybox = quarry_vm::busybox(cache).await?;
    let shell = shell(&busybox).await?;
    let agnhost = shell.clone().file("/agnhost", agnhost, 0o755);
    let mut archives = vec![gnu(cache, &shell).await?];
    for (name, image) in [
        ("suite-busybox", image(BUSYBOX, shell.clone())),
        ("suite-nginx", image(NGINX, shell)),
        ("suite-agnhost", image(AGNHOST, agnhost).entrypoint(["/agnhost"]).command(["pause"])),
    ] {
        archives.push(archive(cache, name, image).await?);
    }
    Ok(archives)
}

/// An image whose containers run a shell.
fn image(name: &str, layer: Layer) -> Image {
    Image::new(format!("{REGISTRY}/{name}")).layer(layer).command(["sh"])
}

/// busybox with all its programs, and the users that pods may have.
async fn shell(busybox: &Path) -> Result<Layer> {
    let applets = quarry_vm::run(busybox, ["--list"], Duration::from_secs(60)).await.context("cannot run busybox")?;
    let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
    let layer = Layer::default()
        .file("/bin/busybox", busybox, 0o755)
        .directory("/tmp", 0o1777)
        .bytes("/etc/passwd", users, 0o644)
        .bytes("/etc/group", "root:x:0:\nnobody:x:65534:\n", 0o644);
    let applets = applets.lines().filter(|applet| *applet != "busybox");
    Ok(applets.fold(layer, |layer, applet| layer.symlink(&format!("/bin/{applet}"), "busybox")))
}

/// The archive of the image with GNU dd.
async fn gnu(cache: &Cache, shell: &Layer) -> Result<PathBuf> {
    let options = ["--variant=extract", "--include=coreutils,dash,libc6", "bookworm"];
    let parts = format!("{shell:?} {GNU_FILES:?} {GNU}");
    let key = quarry_cache::key(options.iter().copied().chain([parts.as_str()]).map(str::as_bytes));
    let folder = cache
        .entry("container-suite-gnu", &key, async |folder: &Path| {
            let root = folder.join("root.tar");
            let arguments = options.map(str::to_owned).into_iter().chain([root.display().to_string()]);
            quarry_vm::run(Path::new("mmdebstrap"), arguments, Duration::from_secs(1200))
                .await
                .context("cannot unpack Debian's packages")?;
            let file = File::open(&root).with_context(|| format!("cannot open {}", root.display()))?;
            let mut layer = shell.clone();
            layer.add_tar(file, place)?;
            image(GNU, layer).uncompressed().write(&folder.join("image.tar"))?;
            std::fs::remove_file(&root).context("cannot remove the unpacked packages")
        })
        .await?;
    Ok(folder.join("image.tar"))
}

/// The path in the image of a file of Debian's packages; none if it is left out.
fn place(path: &str) -> Option<String> {
    GNU_FILES.iter().find(|(from, _)| *from == path).map(|(_, to)| (*to).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_dd_needs_is_taken() {
        assert_eq!(place("bin/dash").as_deref(), Some("bin/sh"));
        assert_eq!(place("lib/x86_64-linux-gnu/libc.so.6").as_deref(), Some("lib/x86_64-linux-gnu/libc.so.6"));
        assert_eq!(place("bin/cp"), None);
    }
}
