//! Checks a built image by running its programs: in a chroot of its unpacked layers, without the host's
//! disks.
//!
//! There is no list of libraries. This check finds missing ones: it passes every program of the image to the
//! image's own loader, and runs the tools that Quarry runs.
#![allow(clippy::disallowed_types)] // Programs of the image, not of production; see crate::command.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::command::{command, run};
use crate::{Architecture, Archive};

/// Each tool besides those of the filesystems, with arguments that make it print its version or usage.
const TOOLS: [&[&str]; 6] = [
    &["quarry", "--version"],
    &["lvm", "vgs", "--version", "--driverloaded", "n"],
    &["cryptsetup", "--version"],
    &["dmsetup", "--help"],
    &["blkid", "-V"],
    &["lsblk", "-V"],
];

/// Enters the image in a mount namespace of its own, with the few devices that every container has.
const ENTER: &str = r#"set -e
root=$1
shift
for device in null random urandom; do
    : >>"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
exec chroot "$root" "$@""#;

/// Large enough for any filesystem; only what mkfs writes takes space.
const SIZE: u64 = 512 << 20;

/// Unpacks the image and runs it. Needs root, or a kernel that allows user namespaces.
///
/// # Errors
/// The archive is invalid, is for another architecture than this host's, or something in it does not run.
pub fn check(image: &Path) -> Result<()> {
    let archive = Archive::open(image)?;
    let architecture = Architecture::of_this_host();
    ensure!(
        *archive.configuration.architecture() == architecture.oci(),
        "the image is for {}, and its programs cannot run on this host ({})",
        archive.configuration.architecture(),
        architecture.name()
    );
    let folder = tempfile::tempdir().context("cannot make a folder to unpack the image in")?;
    let root = Root { folder: folder.path().to_owned() };
    archive.unpack(&root.folder)?;
    root.files()?;
    root.tools()?;
    root.filesystems()?;
    root.missing_tools_are_noticed()
}

/// The unpacked image.
struct Root {
    folder: PathBuf,
}

impl Root {
    /// A command that runs inside.
    fn inside(&self, words: &[&str]) -> Result<Command> {
        let folder = self.folder.to_str().context("the temporary folder's path is not UTF-8")?;
        let proc = format!("--mount-proc={folder}/proc");
        let user: &[&str] = if nix::unistd::geteuid().is_root() { &[] } else { &["--map-root-user"] };
        let words = [&["unshare"], user, &["--pid", "--fork", &proc, "sh", "-c", ENTER, "sh", folder], words].concat();
        let (program, arguments) = words.split_first().context("there is nothing to run")?;
        let mut command = command(program, arguments);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .env("LVM_SUPPRESS_FD_WARNINGS", "1");
        Ok(command)
    }

    /// Every program finds its libraries, no link is dangling, and no program is setuid or setgid.
    fn files(&self) -> Result<()> {
        let mut programs = 0;
        for folder in ["usr/bin", "usr/sbin"] {
            for entry in fs::read_dir(self.folder.join(folder)).context("the image has no programs")? {
                let path = entry.context("cannot read the image's programs")?.path();
                let name = format!("/{folder}/{}", path.file_name().unwrap_or_default().display());
                let metadata = path.metadata().with_context(|| format!("{name} is a dangling link"))?;
                ensure!(metadata.permissions().mode() & 0o6000 == 0, "{name} is setuid or setgid");
                if path.is_symlink() {
                    continue;
                }
                let bytes = fs::read(&path).with_context(|| format!("cannot read {name}"))?;
                ensure!(bytes.starts_with(b"\x7fELF"), "{name} is not a binary, and the image has no shell to run it");
                programs += 1;
                // Statically linked programs do not use the loader.
                if name != "/usr/bin/quarry" {
                    let loader = Architecture::of_this_host().loader();
                    run(&mut self.inside(&[loader, "--list", &name])?)
                        .with_context(|| format!("{name} lacks a library"))?;
                }
            }
        }
        println!("{programs} programs find their libraries");
        Ok(())
    }

    fn tools(&self) -> Result<()> {
        let filesystems = quarry_filesystem::tools().map(|(tool, _)| vec![tool, "-V"]);
        for tool in TOOLS.into_iter().map(<[_]>::to_vec).chain(filesystems) {
            let mut command = self.inside(&tool)?;
            let output = command.output().with_context(|| format!("cannot start {}", tool.join(" ")))?;
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            // tune2fs has no option that only prints its version. It prints it before it rejects the option.
            let started = output.status.success() || (tool.first() == Some(&"tune2fs") && said.starts_with("tune2fs "));
            ensure!(started, "{} failed ({}):\n{said}", tool.join(" "), output.status);
            println!(
                "{}: {}",
                tool.join(" "),
                said.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim()
            );
        }
        Ok(())
    }

    fn filesystems(&self) -> Result<()> {
        for mkfs in quarry_filesystem::tools().map(|(tool, _)| tool) {
            let Some(kind) = mkfs.strip_prefix("mkfs.") else { continue };
            let file = format!("/tmp/{kind}");
            fs::File::create(self.folder.join(file.trim_start_matches('/')))?.set_len(SIZE)?;
            run(&mut self.inside(&[mkfs, "-q", &file])?)
                .with_context(|| format!("{kind} cannot be created in the image"))?;
            let seen = run(&mut self.inside(&["blkid", "-p", "-o", "value", "-s", "TYPE", &file])?)?;
            ensure!(seen.trim() == kind, "blkid reports {:?} after {kind} was created", seen.trim());
            println!("{kind} is created and detected");
        }
        Ok(())
    }

    /// Quarry's own list of required programs decides: at startup it reports what is missing, before anything
    /// else fails.
    fn missing_tools_are_noticed(&self) -> Result<()> {
        fs::write(
            self.folder.join("tmp/pools.yaml"),
            "pools:\n  - name: p\n    lvm: {volumeGroup: none, thinPool: {name: none}}\n",
        )?;
        // A socket that cannot exist: the program exits in any case.
        let start = [
            "quarry",
            "standalone",
            "--config",
            "/tmp/pools.yaml",
            "--node",
            "n",
            "--endpoint",
            "unix:///proc/none/csi",
        ];
        let refused = |said: &str| said.contains("missing from PATH");
        let said = self.refusal(&start)?;
        ensure!(!refused(&said), "{said}");
        ensure!(said.contains("/proc/none/csi"), "quarry did not get as far as its socket:\n{said}");
        let mkfs = self.folder.join("usr/sbin/mkfs.xfs");
        fs::remove_file(&mkfs).context("the image has no mkfs.xfs")?;
        let said = self.refusal(&start)?;
        ensure!(refused(&said) && said.contains("mkfs.xfs"), "quarry did not notice that mkfs.xfs is missing:\n{said}");
        println!("quarry finds all programs that it needs");
        Ok(())
    }

    fn refusal(&self, words: &[&str]) -> Result<String> {
        let output = self.inside(words)?.output().context("cannot start quarry")?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if output.status.success() {
            bail!("quarry succeeded although it must fail:\n{said}");
        }
        Ok(said)
    }
}
