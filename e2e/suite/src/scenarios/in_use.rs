//! Storage in use is never removed, a request for one target never gets a second one, and every unpublish and
//! unstage ends clean from any state.

use anyhow::{Result, ensure};
use quarry_proto::csi::v1::volume_capability::access_mode::Mode;
use tonic::Code;

use crate::csi::{Ask, Made, refused};
use crate::node::Node;
use crate::scenario::{Context, Passed};

const GIB: u64 = 1 << 30;

pub async fn run(_: Context) -> Passed {
    let node = Node::start("in-use", &[GIB]).await?;
    deletes(&node).await?;
    held_open(&node).await?;
    second_targets(&node).await?;
    read_only(&node).await?;
    odd_states(&node).await?;
    node.expect_empty().await?;
    Ok("deletes, second targets, read-only, odd states: all as promised".to_owned())
}

/// Deleting a mounted volume is rejected at every step of its life, and the error says where it is used.
async fn deletes(node: &Node) -> Result<()> {
    let made = node.csi.create(&Ask::mount("deletes", "ext4")).await?;
    node.kubelet_folders(&made).await?;
    node.csi.stage(&made).await?;
    refused("delete while staged", node.csi.delete(&made.id).await, Code::FailedPrecondition, &made.staging())?;
    node.csi.publish(&made).await?;
    let target = made.target();
    node.vm.sh(format!("echo kept > '{target}/file'")).await?;
    // Kubelet unstages last; if the stage is removed by hand, the publication alone has to protect the
    // volume.
    node.vm.sh(format!("umount '{}'", made.staging())).await?;
    refused("delete while published", node.csi.delete(&made.id).await, Code::FailedPrecondition, &target)?;
    node.vm.sh(format!("grep -q kept '{target}/file' && echo more >> '{target}/file'")).await?;

    // A process that sits in it.
    let mut sitting = node.vm.spawn(quarry_vm::Command::new(["sleep", "1000"]).cwd(&target)).await?;
    refused("unpublish under a process", node.csi.unpublish(&made).await, Code::Aborted, &target)?;
    node.vm.sh(format!("grep -q more '{target}/file'")).await?;
    sitting.signal(9).await?;
    sitting.wait().await?;
    node.csi.unpublish(&made).await?;
    node.csi.unstage(&made).await?;
    node.csi.delete(&made.id).await?;
    Ok(())
}

/// A raw block volume is protected by its publication, and by any process that holds the device open.
async fn held_open(node: &Node) -> Result<()> {
    let made = node.csi.create(&Ask::block("held")).await?;
    node.kubelet_folders(&made).await?;
    node.csi.stage(&made).await?;
    node.csi.publish(&made).await?;
    let target = made.target();
    refused("delete of a published device", node.csi.delete(&made.id).await, Code::FailedPrecondition, &target)?;
    let device = node.vm.sh(format!("readlink -f /dev/mapper/vg0-held; test -b '{target}'")).await?;
    let holder = format!("exec sleep 1000 < {device}");
    let mut holding = node.vm.spawn(quarry_vm::Command::sh(holder)).await?;
    node.vm.sh(format!("while ! fuser -s {device}; do sleep 0.1; done")).await?;
    node.csi.unpublish(&made).await?;
    node.csi.unstage(&made).await?;
    refused("delete of an open device", node.csi.delete(&made.id).await, Code::FailedPrecondition, "")?;
    ensure!(node.contents().await?.contains("held"), "an open device was removed");
    ensure!(node.csi.list().await?.iter().any(|volume| volume.volume_id == made.id), "an open device is not listed");
    holding.signal(9).await?;
    holding.wait().await?;
    node.csi.delete(&made.id).await?;
    Ok(())
}

/// A volume with a single writer gets one target; kubelet's own binds of it are not counted.
async fn second_targets(node: &Node) -> Result<()> {
    for (name, mode) in [("writer", Mode::SingleNodeWriter), ("single", Mode::SingleNodeSingleWriter)] {
        for ask in [Ask::mount(&format!("{name}-fs"), "ext4"), Ask::block(&format!("{name}-raw"))] {
            exclusive(node, &ask.mode(mode)).await?;
        }
    }
    for ask in [Ask::mount("multi-fs", "ext4"), Ask::block("multi-raw")] {
        let made = staged(node, &ask).await?;
        let second = second_target(node, &made).await?;
        node.csi.publish(&made).await?;
        node.csi.publish_at(&made, &second, false).await?;
        if !made.ask.is_block() {
            let (first, second) = (made.target(), &second);
            node.vm.sh(format!("echo shared > '{first}/file' && grep -q shared '{second}/file'")).await?;
            refused(
                "publish again, read-only, of a volume in use",
                {
                    // A file open for writing, so that it is not mistaken for an unfinished read-only bind.
                    let script = format!("exec sleep 1000 > '{second}/open'");
                    let mut writer = node.vm.spawn(quarry_vm::Command::sh(script)).await?;
                    node.vm.sh(format!("while ! fuser -s '{second}/open'; do sleep 0.1; done")).await?;
                    let result = node.csi.publish_at(&made, second, true).await;
                    writer.signal(9).await?;
                    writer.wait().await?;
                    result
                },
                Code::AlreadyExists,
                second,
            )?;
        }
        node.csi.unpublish_at(&made, &second).await?;
        gone(node, made).await?;
    }
    Ok(())
}

async fn exclusive(node: &Node, ask: &Ask) -> Result<()> {
    let made = staged(node, ask).await?;
    let (first, second) = (made.target(), second_target(node, &made).await?);
    node.csi.publish(&made).await?;
    let again = node.csi.publish_at(&made, &second, false).await;
    refused("a second target", again, Code::FailedPrecondition, &first)?;
    node.csi.publish(&made).await?;

    // What kubelet binds: a sub-path of the pod, or its own map of the device. It outlives the pod's target for a
    // while.
    let (source, bind) = if made.ask.is_block() {
        (first.clone(), format!("/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/{}/dev/pod-1", ask.name))
    } else {
        (format!("{first}/sub"), format!("/var/lib/kubelet/pods/pod-1/volume-subpaths/{}/app/0", ask.name))
    };
    let make = if made.ask.is_block() {
        format!("mkdir -p \"$(dirname '{bind}')\" && touch '{bind}'")
    } else {
        format!("mkdir -p '{source}' '{bind}'")
    };
    node.vm.sh(format!("{make} && mount --bind '{source}' '{bind}'")).await?;
    node.csi.publish(&made).await?;
    node.csi.unpublish(&made).await?;
    node.csi.publish_at(&made, &second, false).await?;
    refused("back at the first", node.csi.publish(&made).await, Code::FailedPrecondition, &second)?;
    refused("delete", node.csi.delete(&made.id).await, Code::FailedPrecondition, "")?;
    node.csi.unpublish_at(&made, &second).await?;
    refused("delete under kubelet's bind", node.csi.delete(&made.id).await, Code::FailedPrecondition, "")?;
    node.vm.sh(format!("umount '{bind}'; rm -r '{bind}'")).await?;
    gone(node, made).await
}

/// A read-only publication next to a writable one, and volumes that cannot be read-only.
async fn read_only(node: &Node) -> Result<()> {
    let made = staged(node, &Ask::mount("read-only", "ext4")).await?;
    let (writable, reader) = (made.target(), second_target(node, &made).await?);
    node.csi.publish_at(&made, &reader, true).await?;
    node.csi.publish_at(&made, &reader, true).await?;
    node.csi.publish(&made).await?;
    node.vm.sh(format!("echo bytes > '{writable}/file' && grep -q bytes '{reader}/file'")).await?;
    let write = format!(
        "LC_ALL=C; export LC_ALL; ! echo more > '{reader}/file' && ! rm '{reader}/file' && ! touch '{reader}/new'"
    );
    let output = node.vm.exec(quarry_vm::Command::sh(write)).await?;
    let words = output.error_text();
    ensure!(output.exit.success(), "a read-only publication was written");
    ensure!(words.matches("ead-only file system").count() == 3, "writes failed otherwise than with EROFS: {words}");
    node.vm.sh(format!("echo more >> '{writable}/file'")).await?;
    let again = node.csi.publish_at(&made, &reader, false).await;
    refused("the read-only target, writable", again, Code::AlreadyExists, &reader)?;
    node.vm.sh(format!("! touch '{reader}/new' 2>/dev/null")).await?;
    node.csi.unpublish_at(&made, &reader).await?;
    gone(node, made).await?;

    // A volume that is read-only by its access mode.
    let made = staged(node, &Ask::mount("reader", "ext4").mode(Mode::SingleNodeReaderOnly)).await?;
    node.csi.publish(&made).await?;
    node.vm.sh(format!("ls '{0}' && ! touch '{0}/new' 2>/dev/null", made.target())).await?;
    gone(node, made).await?;

    // A raw block volume: `raw-read-only` has more of it.
    let made = staged(node, &Ask::block("raw-reader").mode(Mode::SingleNodeReaderOnly)).await?;
    node.csi.publish(&made).await?;
    node.vm.sh(format!("! dd if=/dev/zero of='{}' bs=4k count=1 conv=notrunc 2>/dev/null", made.target())).await?;
    gone(node, made).await
}

/// Calls that come too early, twice, or find something odd.
async fn odd_states(node: &Node) -> Result<()> {
    let made = node.csi.create(&Ask::mount("odd", "ext4")).await?;
    let (staging, target) = (made.staging(), made.target());
    // Never published, never staged, folders that do not exist.
    node.csi.unpublish(&made).await?;
    node.csi.unstage(&made).await?;
    node.kubelet_folders(&made).await?;
    refused("publish before stage", node.csi.publish(&made).await, Code::FailedPrecondition, "stage it first")?;
    node.vm.sh(format!("test ! -e '{target}'")).await?;
    node.csi.unpublish(&made).await?;

    // Something else at the staging path.
    node.vm.sh(format!("mount -t tmpfs foreign '{staging}'")).await?;
    refused("stage over another mount", node.csi.stage(&made).await, Code::FailedPrecondition, &staging)?;
    node.vm.sh(format!("umount '{staging}'")).await?;

    node.csi.stage(&made).await?;
    let other = Ask { mount_flags: vec!["noatime".to_owned()], ..made.ask.clone() };
    let other = Made { ask: other, ..made.clone() };
    refused("stage with other flags", node.csi.stage(&other).await, Code::AlreadyExists, "noatime")?;
    node.csi.publish(&made).await?;
    node.vm.sh(format!("echo kept > '{target}/file'")).await?;

    // A foreign mount over the target: it is left alone, and so is everything below. A bind shares its mounts
    // with its source: without `private` the foreign one would cover the staging path too.
    node.vm.sh(format!("mount --make-private '{target}' && mount -t tmpfs foreign '{target}'")).await?;
    refused("unpublish a foreign mount", node.csi.unpublish(&made).await, Code::FailedPrecondition, &target)?;
    // Nor is it unmounted for an unknown volume.
    let unknown_volume = Made { id: "missing".to_owned(), ..made.clone() };
    let answer = node.csi.unpublish(&unknown_volume).await;
    refused("unpublish a foreign mount of an unknown volume", answer, Code::FailedPrecondition, &target)?;
    refused("publish over it", node.csi.publish(&made).await, Code::FailedPrecondition, &target)?;
    node.vm.sh(format!("mountpoint -q '{target}' && umount '{target}' && grep -q kept '{target}/file'")).await?;

    // The volume stacked on itself, as repeated publishes of a careless driver leave it.
    let stack =
        format!("for i in 1 2 3; do mount --make-private '{target}'; mount --bind '{staging}' '{target}'; done");
    node.vm.sh(stack).await?;
    node.csi.unpublish(&made).await?;
    node.vm.sh(format!("test ! -e '{target}'")).await?;
    node.csi.unpublish(&made).await?;

    // Unmounted by hand; and then there is a file in the bare folder.
    node.csi.publish(&made).await?;
    node.vm.sh(format!("umount '{target}'")).await?;
    node.csi.publish(&made).await?;
    node.vm.sh(format!("grep -q kept '{target}/file' && umount '{target}' && echo stray > '{target}/stray'")).await?;
    refused("unpublish a folder with data", node.csi.unpublish(&made).await, Code::FailedPrecondition, &target)?;
    node.vm.sh(format!("rm '{target}/stray'")).await?;
    node.csi.unpublish(&made).await?;
    node.vm.sh(format!("test ! -e '{target}'")).await?;

    // A link at the target leads nowhere we go.
    node.vm.sh(format!("mkdir -p /root/elsewhere && ln -s /root/elsewhere '{target}'")).await?;
    refused("publish at a link", node.csi.publish(&made).await, Code::InvalidArgument, "link")?;
    refused("unpublish a link", node.csi.unpublish(&made).await, Code::InvalidArgument, "link")?;
    node.vm.sh(format!("! mountpoint -q /root/elsewhere && rm '{target}'")).await?;

    // Unstaged under a publication: the target keeps working, and is unpublished later.
    node.csi.publish(&made).await?;
    node.csi.unstage(&made).await?;
    node.vm.sh(format!("grep -q kept '{target}/file'")).await?;
    node.csi.stage(&made).await?;
    node.vm.sh(format!("umount '{staging}' && rmdir '{staging}'")).await?;
    node.csi.unpublish(&made).await?;
    node.csi.unstage(&made).await?;
    node.csi.unstage(&made).await?;
    node.csi.delete(&made.id).await?;
    // After its deletion, late repetitions of all of them end well.
    node.csi.unpublish(&made).await?;
    node.csi.unstage(&made).await?;
    node.csi.delete(&made.id).await?;
    Ok(())
}

async fn staged(node: &Node, ask: &Ask) -> Result<Made> {
    let made = node.csi.create(ask).await?;
    node.kubelet_folders(&made).await?;
    node.csi.stage(&made).await?;
    Ok(made)
}

/// The volume's target for another pod, with the folder above it.
async fn second_target(node: &Node, made: &Made) -> Result<String> {
    let target = made.target_in("pod-2");
    node.vm.sh(format!("mkdir -p \"$(dirname '{target}')\"")).await?;
    Ok(target)
}

async fn gone(node: &Node, made: Made) -> Result<()> {
    node.csi.unpublish(&made).await?;
    node.csi.unstage(&made).await?;
    node.csi.delete(&made.id).await?;
    Ok(())
}
