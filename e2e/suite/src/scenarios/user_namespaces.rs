//! A pod with `hostUsers: false`: the container runtime mounts the published volume with mapped users, and processes of a
//! user namespace write to it.

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Config, Disk, System, Vm};

use crate::csi::Ask;
use crate::node::Node;
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::{close, open};

/// The first user of the host that the pod's users are mapped to, as kubelet chooses them.
const FIRST: u32 = 200_000;
/// A user in the pod other than root.
const USER: u32 = 1000;

pub async fn run(_: Context) -> Passed {
    let config = Config::new("user-namespaces").system(System::Trixie).disk(Disk::new("d1", 1 << 30));
    let mut node = Node::with_vm(Vm::start(config).await?, 1).await?;
    node.serve().await?;
    let asks = Ask::each_filesystem("pvc-");
    for ask in &asks {
        mapped(&node, ask).await.with_context(|| ask.name.clone())?;
    }
    node.expect_empty().await?;
    Ok(format!("mapped users wrote to {} filesystems", asks.len()))
}

async fn mapped(node: &Node, ask: &Ask) -> Result<()> {
    let made = node.csi.create(ask).await?;
    open(node, &made).await?;
    let (target, inside) = (made.target(), "/run/container");
    let script = format!(
        "mkdir -p {inside}
         mount --bind -o X-mount.idmap=b:0:{FIRST}:65536 '{target}' {inside}
         unshare --user sleep 600 &
         pod=$!
         while test $(readlink /proc/$pod/ns/user) = $(readlink /proc/self/ns/user); do sleep 0.1; done
         echo 0 {FIRST} 65536 >/proc/$pod/uid_map
         echo 0 {FIRST} 65536 >/proc/$pod/gid_map
         as() {{ nsenter --user --target=$pod --setuid=$1 --setgid=$1 sh -ec \"$2\"; }}
         as 0 'mkdir {inside}/own; echo root >{inside}/own/file; chown {USER}:{USER} {inside}/own'
         as {USER} 'echo user >{inside}/own/more; sync {inside}/own/more'
         if as {USER} 'echo no >{inside}/not-permitted' 2>/dev/null; then echo 'it wrote as root'; exit 1; fi
         kill $pod
         stat -c '%u %n' '{target}/own' '{target}/own/file' '{target}/own/more'
         umount {inside}"
    );
    let owners = node.vm.sh(script).await.context("a process of a mapped user")?;
    let expected = format!("{USER} {target}/own\n0 {target}/own/file\n{USER} {target}/own/more");
    ensure!(owners.trim_end() == expected, "on the disk the owners are\n{owners}not\n{expected}");
    close(node, &made).await?;
    node.csi.delete(&made.id).await.map_err(Into::into)
}
