//! Images are written, read back by the rules of the format, and written again.

// A failing helper is a failing test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use oci_spec::image::{Arch, MediaType, Os};
use quarry_image::{Architecture, Archive, Image, Layer};
use serde_json::Value;

const NAME: &str = "registry.k8s.io/pause:3.10";

/// An image with two layers and every setting.
fn image(program: &Path) -> Image {
    Image::new(NAME)
        .architecture(Architecture::Arm64)
        .layer(Layer::default().bytes("/etc/motd", "hello", 0o644).directory("/tmp", 0o1777))
        .file("/bin/second", program, 0o700)
        .tree(program.parent().unwrap())
        .file("/pause", program, 0o755)
        .entrypoint(["/pause"])
        .command(["--quiet"])
        .variable("PATH", "/bin")
        .user("65532")
        .label("c", "3")
        .label("a", "1")
        .label("b", "2")
        .created(1_700_000_000)
}

/// A folder with a program in it.
fn program() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("program"), b"\x7fELF and so on").unwrap();
    folder
}

#[test]
fn a_written_image_can_be_read_and_unpacked() {
    let (folder, out) = (program(), tempfile::tempdir().unwrap());
    let file = out.path().join("pause.tar");
    let written = image(&folder.path().join("program")).write(&file).unwrap();
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1, "nothing else is left behind");

    let archive = Archive::open(&file).unwrap();
    assert_eq!(archive.descriptor.digest().to_string(), written.digest);
    assert_eq!(*archive.descriptor.media_type(), MediaType::ImageManifest);
    let names = archive.descriptor.annotations().as_ref().unwrap();
    assert_eq!(
        (names["org.opencontainers.image.ref.name"].as_str(), names["io.containerd.image.name"].as_str()),
        (NAME, NAME)
    );
    let configuration = &archive.configuration;
    assert_eq!((configuration.architecture(), configuration.os()), (&Arch::ARM64, &Os::Linux));
    assert_eq!(configuration.created().as_deref(), Some("2023-11-14T22:13:20Z"));
    assert_eq!(configuration.rootfs().diff_ids().len(), 3, "single files join the layer of single files before them");
    let config = configuration.config().as_ref().unwrap();
    assert_eq!(config.entrypoint().as_deref(), Some(&["/pause".to_owned()][..]));
    assert_eq!(config.cmd().as_deref(), Some(&["--quiet".to_owned()][..]));
    assert_eq!(config.env().as_deref(), Some(&["PATH=/bin".to_owned()][..]));
    assert_eq!(config.user().as_deref(), Some("65532"));
    assert_eq!(config.labels().as_ref().unwrap()["b"], "2");

    let root = tempfile::tempdir().unwrap();
    archive.unpack(root.path()).unwrap();
    let mode = |path: &str| root.path().join(path).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("pause"), mode("bin/second"), mode("tmp")), (0o755, 0o700, 0o1777));
    assert_eq!(fs::read(root.path().join("program")).unwrap(), b"\x7fELF and so on");
    assert_eq!(fs::read(root.path().join("etc/motd")).unwrap(), b"hello");
}

#[test]
fn the_same_image_is_the_same_bytes() {
    let (folder, out) = (program(), tempfile::tempdir().unwrap());
    let mut images = Vec::new();
    for run in ["a", "b", "c", "d"] {
        let file = out.path().join(run);
        image(&folder.path().join("program")).write(&file).unwrap();
        images.push(fs::read(file).unwrap());
        // Another day.
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(86_400);
        fs::File::options().write(true).open(folder.path().join("program")).unwrap().set_modified(later).unwrap();
    }
    assert!(images.windows(2).all(|pair| pair[0] == pair[1]));
    fs::write(folder.path().join("program"), "another").unwrap();
    let file = out.path().join("e");
    image(&folder.path().join("program")).write(&file).unwrap();
    assert_ne!(images[0], fs::read(file).unwrap());
}

#[test]
fn layers_may_stay_uncompressed() {
    let (folder, out) = (program(), tempfile::tempdir().unwrap());
    let file = out.path().join("plain.tar");
    let written = image(&folder.path().join("program")).uncompressed().write(&file).unwrap();
    assert_eq!(written.compressed, written.unpacked);
    Archive::open(&file).unwrap();
}

#[test]
fn an_image_without_a_date_has_none() {
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("empty.tar");
    Image::new("empty:1").layer(Layer::default().directory("/etc", 0o755)).write(&file).unwrap();
    assert_eq!(*Archive::open(&file).unwrap().configuration.created(), None);
}

/// Rewrites an archive with one file changed.
fn change(file: &Path, which: impl Fn(&str) -> bool, change: impl Fn(&mut Vec<u8>)) {
    let old = fs::read(file).unwrap();
    let mut new = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(old.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let (mut header, path) = (entry.header().clone(), entry.path().unwrap().into_owned());
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        if which(path.to_str().unwrap()) {
            change(&mut content);
        }
        header.set_size(content.len().try_into().unwrap());
        new.append_data(&mut header, path, content.as_slice()).unwrap();
    }
    fs::write(file, new.into_inner().unwrap()).unwrap();
}

#[test]
fn damage_is_found() {
    let (folder, out) = (program(), tempfile::tempdir().unwrap());
    let file = out.path().join("image.tar");
    let write = || image(&folder.path().join("program")).write(&file).unwrap();
    let refusal = || format!("{:#}", Archive::open(&file).err().expect("damage was not found"));

    let written = write();
    let manifest = format!("blobs/sha256/{}", written.digest.trim_start_matches("sha256:"));
    change(&file, |path| path.starts_with("blobs/") && path != manifest, |content| *content.last_mut().unwrap() ^= 1);
    assert!(refusal().contains("damaged"), "{}", refusal());

    write();
    change(&file, |path| path == manifest, |content| content.push(b' '));
    assert!(refusal().contains("damaged"), "{}", refusal());

    write();
    change(
        &file,
        |path| path == "index.json",
        |content| {
            let mut index: Value = serde_json::from_slice(content).unwrap();
            index["manifests"][0]["digest"] = format!("sha256:{}", "0".repeat(64)).into();
            *content = serde_json::to_vec(&index).unwrap();
        },
    );
    assert!(refusal().contains("missing"), "{}", refusal());
}
