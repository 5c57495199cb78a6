//! containerd on a node, and what every node has before its first boot: programs and images.
//!
//! On an emulated processor an import takes the better part of a minute, so it is done once, in the state that all
//! nodes start from (see [`Preparation`]), and not on each of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use quarry_vm::{Command, Guest, Preparation};

use crate::binaries::Binaries;

/// The folder of the programs in the guest.
const PROGRAMS: &str = "/usr/local/bin";
/// The folder of the CNI plugins.
const PLUGINS: &str = "/opt/cni/bin";
/// containerd's socket.
pub(crate) const SOCKET: &str = "/run/containerd/containerd.sock";
const CONFIGURATION: &str = include_str!("../image/containerd.toml");
/// How long an import may take.
const IMPORT: Duration = Duration::from_secs(600);

/// The one-time preparations of a node's disk: the programs, and each group of images on top of those before.
pub(crate) fn preparations(binaries: &Binaries, images: &[Vec<PathBuf>]) -> Result<Vec<Preparation>> {
    let mut files: Vec<(PathBuf, String)> = Vec::new();
    for (programs, folder) in [(&binaries.node, PROGRAMS), (&binaries.cni, PLUGINS)] {
        for program in programs {
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            files.push((program.clone(), format!("{folder}/{name}")));
        }
    }
    let key = contents(files.iter().map(|(local, _)| local.as_path()), CONFIGURATION)?;
    let programs = Preparation::new("Kubernetes' programs", key, move |guest: Guest| {
        let files = files.clone();
        async move {
            for (local, remote) in &files {
                guest.push(local, remote, 0o755).await?;
            }
            guest.write("/etc/containerd/config.toml", CONFIGURATION.as_bytes(), 0o644).await
        }
    });
    let mut all = vec![programs];
    for group in images {
        let key = contents(group.iter().map(PathBuf::as_path), "")?;
        let group = group.clone();
        all.push(Preparation::new(format!("container images ({})", group.len()), key, move |guest: Guest| {
            let group = group.clone();
            async move {
                start(&guest).await?;
                for archive in &group {
                    import(&guest, archive).await?;
                }
                let end = "pkill -TERM -x containerd; while pgrep -x containerd >/dev/null; do sleep 0.1; done";
                guest.sh(end).await.map(drop)
            }
        }));
    }
    Ok(all)
}

/// A hash of what files hold.
fn contents<'a>(files: impl Iterator<Item = &'a Path>, more: &str) -> Result<String> {
    let files: Vec<Vec<u8>> = files
        .map(|file| std::fs::read(file).with_context(|| format!("cannot read {}", file.display())))
        .collect::<Result<_>>()?;
    Ok(quarry_cache::key(files.iter().map(Vec::as_slice).chain([more.as_bytes()])))
}

/// Starts containerd and waits until it serves.
pub(crate) async fn start(guest: &Guest) -> Result<()> {
    guest.sh("modprobe -a overlay br_netfilter nf_tables").await?;
    daemon(guest, "containerd", &[]).await?;
    let serves = "until ctr version >/dev/null 2>&1; do pgrep -x containerd >/dev/null; sleep 0.2; done";
    guest.sh(serves).await.map(drop).context("containerd does not serve; see /var/log/containerd.log")
}

/// Starts a long-running program: as a service where systemd is the first process. Elsewhere it is in a control group
/// next to that of the pods, as a service would be: without one it would take CPU time from all pods together.
pub(crate) async fn daemon(guest: &Guest, name: &str, arguments: &[String]) -> Result<()> {
    let script = format!(
        "if [ -d /run/systemd/system ]; then
            while [ \"$(systemctl show --property LoadState --value {name})\" = loaded ]; do sleep 0.1; done
            log=append:/var/log/{name}.log
            exec systemd-run --quiet --collect --unit {name} --setenv GOGC --property Delegate=yes --property KillMode=process \
                --property StandardOutput=$log --property StandardError=$log \"$(command -v {name})\" \"$@\"
        fi
        group=/sys/fs/cgroup/system.slice/{name}; mkdir -p $group
        for folder in /sys/fs/cgroup $group/..; do echo +cpu >$folder/cgroup.subtree_control; done
        echo $$ >$group/cgroup.procs; exec {name} \"$@\" >>/var/log/{name}.log 2>&1"
    );
    let argv = ["sh", "-ec", &script, name].map(str::to_owned).into_iter().chain(arguments.iter().cloned());
    // Memory there is; collecting garbage seldom leaves more of the processor to the pods.
    let command = Command::new(argv).env("GOGC", "400").detach();
    guest.spawn(command).await.map(drop).with_context(|| format!("cannot start {name}"))
}

/// Imports an image archive.
///
/// # Errors
/// It is not an image, or the disk is full.
pub(crate) async fn import(guest: &Guest, archive: &Path) -> Result<()> {
    let remote = "/var/tmp/image.tar";
    guest.push(archive, remote, 0o600).await?;
    let script = format!("ctr -n k8s.io images import --local {remote} && rm {remote} && sync");
    let imported = guest.check(Command::sh(script).timeout(IMPORT)).await;
    imported.map(drop).with_context(|| format!("cannot import {}", archive.display()))
}
