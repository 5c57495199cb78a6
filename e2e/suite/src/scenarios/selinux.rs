//! Volumes on a host with SELinux: kubelet passes the label of a pod as the mount option `context=`. The kernel permits
//! everything, so this shows the labels and the answers, not what a policy forbids.

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Config, Disk, Shape, System, Vm};
use tonic::Code;

use crate::csi::{Ask, Made, refused, retry};
use crate::node::Node;
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::close;

/// The smallest policy that the kernel loads, with the categories c0 to c7. For secilc.
const POLICY: &str = include_str!("selinux.cil");
/// The label of the first pod, as kubelet passes it, and that of another pod.
const LABEL: &str = "system_u:object_r:container_file_t:s0:c1,c2";
const OTHER: &str = "system_u:object_r:container_file_t:s0:c3,c4";

pub async fn run(_: Context) -> Passed {
    let shape = Shape { selinux: true, ..Shape::default() };
    let config = Config::new("selinux").system(System::Bookworm).shape(shape).disk(Disk::new("d1", 1 << 30));
    let mut node = Node::with_vm(Vm::start(config).await?, 1).await?;
    load_policy(&node).await.context("loading a policy")?;
    node.serve().await?;
    let asks = Ask::each_filesystem("pvc-");
    for ask in &asks {
        labelled(&mut node, ask).await.with_context(|| ask.name.clone())?;
    }
    node.expect_empty().await?;
    Ok(format!("the files of {} filesystems have the labels of their pods", asks.len()))
}

async fn load_policy(node: &Node) -> Result<()> {
    let script = format!(
        "mountpoint -q /sys/fs/selinux || mount -t selinuxfs selinuxfs /sys/fs/selinux
         cat >/run/policy.cil <<'END'
{POLICY}
END
         secilc -M 1 -c $(cat /sys/fs/selinux/policyvers) -o /run/policy -f /dev/null /run/policy.cil
         cat /run/policy >/sys/fs/selinux/load
         cat /sys/fs/selinux/enforce"
    );
    let enforce = node.vm.sh(script).await?;
    ensure!(enforce.trim() == "0", "enforce is {enforce}");
    Ok(())
}

async fn labelled(node: &mut Node, ask: &Ask) -> Result<()> {
    let made = retry(|| node.csi.create(ask)).await?;
    node.kubelet_folders(&made).await?;
    let (one, other) = (with_context(&made, LABEL), with_context(&made, OTHER));
    retry(|| node.csi.stage(&one)).await?;
    retry(|| node.csi.publish(&one)).await?;
    node.vm.sh(format!("echo data >{}/file", made.target())).await?;
    has_label(node, &made, LABEL).await?;

    // kubelet repeats its calls, also after a restart of the plugin.
    node.kill().await?;
    node.serve().await?;
    for same in [&one, &with_context(&made, "system_u:object_r:container_file_t:s0:c2,c1"), &made] {
        node.csi.stage(same).await?;
        node.csi.publish(same).await?;
    }
    let why = "SELinux context";
    refused("a stage with another label", node.csi.stage(&other).await, Code::AlreadyExists, why)?;
    refused("a publish with another label", node.csi.publish(&other).await, Code::AlreadyExists, why)?;
    has_label(node, &made, LABEL).await?;
    close(node, &made).await?;

    // The next pod has another label, and no file was relabelled.
    retry(|| node.csi.stage(&other)).await?;
    retry(|| node.csi.publish(&other)).await?;
    has_label(node, &made, OTHER).await?;
    close(node, &made).await?;

    // Without a label, the filesystem has its own ones.
    retry(|| node.csi.stage(&made)).await?;
    refused("a label for a mount without one", node.csi.stage(&one).await, Code::AlreadyExists, "without an SELinux")?;
    close(node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await.map_err(Into::into)
}

/// The same volume, used by a pod with that label.
fn with_context(made: &Made, label: &str) -> Made {
    let mut made = made.clone();
    made.ask.mount_flags = vec![format!("context=\"{label}\"")];
    made
}

async fn has_label(node: &Node, made: &Made, label: &str) -> Result<()> {
    let found = node.vm.sh(format!("stat -c %C {}/file", made.target())).await?;
    ensure!(found.trim() == label, "the file has the label {found}, not {label}");
    Ok(())
}
