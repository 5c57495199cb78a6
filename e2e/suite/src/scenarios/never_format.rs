//! Storage that may hold data is never formatted, wiped or removed.
//!
//! Every rejection is checked twice: the answer, and a checksum of all bytes of the device before and after.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tonic::Code;

use crate::csi::{Ask, Made, refused};
use crate::node::{GROUP, Node};
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::{EVENT, checksum, close, device_of, open, read, retag, tags, write};

const GIB: u64 = 1 << 30;

pub async fn run(context: Context) -> Passed {
    let mut node = Node::bare("never-format", &[GIB]).await?;
    node.keep_active().await?;
    node.serve().await?;
    let mut refusals = 0;
    refusals += ready_volumes(&node).await.context("a `ready` volume")?;
    context.say("ready volumes done");
    refusals += new_volumes(&node).await.context("a `new` volume")?;
    context.say("new volumes done");
    inactive(&node).await.context("an inactive volume")?;
    refusals += restored_metadata(&node).await.context("metadata from before `ready`")?;
    context.say("inactive and restored volumes done");
    refusals += foreign_volumes(&node).await.context("a foreign logical volume")?;
    refusals += unreadable_records(&node).await.context("a record that this version does not know")?;
    node.expect_empty().await?;
    Ok(format!("{refusals} refusals, 0 bytes changed"))
}

/// Nothing that is done to a volume by `calls` may change its bytes.
async fn untouched(node: &Node, made: &Made, calls: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    let device = device_of(made);
    let before = checksum(node, &device).await?;
    calls().await?;
    ensure!(checksum(node, &device).await? == before, "the bytes of {} were changed", made.id);
    Ok(())
}

/// Staging must fail, report what is there, and leave it.
async fn stage_refused(node: &Node, made: &Made, what: &str, words: &str) -> Result<()> {
    node.kubelet_folders(made).await?;
    untouched(node, made, async || refused(what, node.csi.stage(made).await, Code::FailedPrecondition, words)).await
}

async fn ready_volumes(node: &Node) -> Result<usize> {
    let made = node.csi.create(&Ask::mount("ready", "ext4")).await?;
    open(node, &made).await?;
    write(node, &made).await?;
    close(node, &made).await?;
    ensure!(tags(node, &made).await?.contains("/s=ready/"), "it is not ready");
    let device = device_of(&made);
    let uuid = node.vm.sh(format!("blkid -p -s UUID -o value {device}")).await?;
    let (record, key) = (tags(node, &made).await?, format!("/u={}", uuid.trim().replace('-', "")));
    ensure!(record.ends_with(&key), "the record of the filesystem {uuid} is {record}");
    // What mkfs overwrites at the start is kept, so that the file can be brought back.
    node.vm.sh(format!("dd if={device} of=/root/ready bs=1M iflag=direct status=none")).await?;
    let damages = [
        ("a zeroed superblock", format!("dd if=/dev/zero of={device} bs=4k count=1 status=none"), "nothing"),
        ("random bytes", format!("dd if=/dev/urandom of={device} bs=64k count=1 status=none"), "nothing"),
        ("another UUID", format!("mkfs.ext4 -q -F -U random {device}"), "ext4"),
        ("another filesystem with our UUID", format!("mkfs.ext3 -q -F -U {uuid} {device}"), "ext3"),
        ("swap", format!("mkswap -q -f {device}"), "swap"),
        ("a partition table", partitioned(&device), "partition table"),
    ];
    let mut count = 0;
    for (what, damage, words) in damages {
        node.vm
            .sh(format!("{damage}; blockdev --flushbufs {device}"))
            .await
            .with_context(|| format!("making {what}"))?;
        node.kubelet_folders(&made).await?;
        untouched(node, &made, async || {
            refused(what, node.csi.stage(&made).await, Code::FailedPrecondition, words)?;
            // CreateVolume comes again when its first answer was lost: it may not touch it either.
            let again = node.csi.create(&made.ask).await.context("CreateVolume again")?;
            ensure!(again.id == made.id, "CreateVolume gave {}", again.id);
            Ok(())
        })
        .await
        .with_context(|| format!("with {what}"))?;
        count += 1;
    }
    node.vm
        .sh(format!("dd if=/root/ready of={device} bs=1M oflag=direct conv=fsync status=none; rm /root/ready"))
        .await?;
    open(node, &made).await.context("after its bytes were restored")?;
    read(node, &made).await?;
    close(node, &made).await?;
    node.csi.delete(&made.id).await?;
    Ok(count)
}

/// A script that leaves nothing but a DOS partition table with one Linux partition.
fn partitioned(device: &str) -> String {
    format!(
        "wipefs -qaf {device}; dd if=/dev/zero of={device} bs=512 count=1 conv=notrunc status=none; \
         printf '\\0\\0\\0\\0\\203\\0\\0\\0\\0\\010\\0\\0\\0\\020\\0\\0' | dd of={device} bs=1 seek=446 conv=notrunc status=none; \
         printf '\\125\\252' | dd of={device} bs=1 seek=510 conv=notrunc status=none"
    )
}

async fn new_volumes(node: &Node) -> Result<usize> {
    let made = node.csi.create(&Ask::mount("new", "ext4")).await?;
    let device = device_of(&made);
    let signatures = [
        ("a foreign ext4", format!("mkfs.ext4 -q -F -U random {device}"), "ext4"),
        ("swap", format!("wipefs -qaf {device}; mkswap -q {device}"), "swap"),
        ("a partition table", partitioned(&device), "partition table"),
        (
            "a LUKS header",
            format!("wipefs -qaf {device}; printf 'LUKS\\272\\276\\0\\001' | dd of={device} conv=notrunc status=none"),
            "LUKS",
        ),
    ];
    let mut count = 0;
    for (what, write, words) in signatures {
        node.vm
            .sh(format!("{write}; blockdev --flushbufs {device}"))
            .await
            .with_context(|| format!("making {what}"))?;
        stage_refused(node, &made, what, words).await?;
        ensure!(tags(node, &made).await?.contains("/s=new/"), "its record was changed");
        count += 1;
    }
    node.vm.sh(format!("wipefs -qaf {device}")).await?;
    open(node, &made).await.context("blank again")?;
    close(node, &made).await?;
    node.csi.delete(&made.id).await?;
    Ok(count)
}

async fn inactive(node: &Node) -> Result<()> {
    for ask in [Ask::mount("inactive", "ext4"), Ask::block("inactive-block")] {
        let made = node.csi.create(&ask).await?;
        open(node, &made).await?;
        write(node, &made).await?;
        close(node, &made).await?;
        node.vm.sh(format!("lvchange -qq -an {GROUP}/{}; test ! -e {}", ask.name, device_of(&made))).await?;
        let again = node.csi.create(&ask).await?;
        ensure!(again.id == made.id, "CreateVolume of an inactive volume made {}", again.id);
        open(node, &made).await?;
        read(node, &made).await?;
        close(node, &made).await?;
        node.vm.sh(format!("lvchange -qq -an {GROUP}/{}", ask.name)).await?;
        node.csi.delete(&made.id).await.context("an inactive volume")?;
    }
    Ok(())
}

/// An operator restores lvm metadata from a time when the volumes were `new`: their data is adopted.
async fn restored_metadata(node: &Node) -> Result<usize> {
    let mut volumes = Vec::new();
    for ask in Ask::each_filesystem("restored-") {
        volumes.push(node.csi.create(&ask).await?);
    }
    node.vm.sh(format!("vgcfgbackup -qq -f /root/before {GROUP}")).await?;
    for made in &volumes {
        open(node, made).await?;
        write(node, made).await?;
        close(node, made).await?;
    }
    node.vm
        .sh(format!("vgchange -qq -an {GROUP}; vgcfgrestore -qq -y -f /root/before {GROUP}; rm /root/before; {EVENT}"))
        .await?;
    for (index, made) in volumes.iter().enumerate() {
        ensure!(tags(node, made).await?.contains("/s=new/"), "the metadata was not restored");
        // With a repeated CreateVolume, which may not wipe, and without.
        if index != 1 {
            let again = node.csi.create(&made.ask).await?;
            ensure!(again.id == made.id, "CreateVolume gave {}", again.id);
        }
        open(node, made).await?;
        read(node, made).await?;
        close(node, made).await?;
        ensure!(tags(node, made).await?.contains("/s=ready/"), "it was used and is not ready");
        node.csi.delete(&made.id).await?;
    }

    // The owner of a raw device's bytes cannot be determined: it is not used, and a stage does not zero it.
    let block = node.csi.create(&Ask::block("restored-block")).await?;
    open(node, &block).await?;
    write(node, &block).await?;
    close(node, &block).await?;
    let ready = tags(node, &block).await?;
    retag(node, &block, &[&ready.replace("/s=ready/", "/s=new/")]).await?;
    stage_refused(node, &block, "a raw block volume that is `new`", "zeroed").await?;
    retag(node, &block, &[&ready]).await?;
    open(node, &block).await?;
    read(node, &block).await?;
    close(node, &block).await?;
    node.csi.delete(&block.id).await?;
    Ok(1)
}

async fn foreign_volumes(node: &Node) -> Result<usize> {
    let ours = node.csi.create(&Ask::mount("ours", "ext4")).await?;
    let names = ["foreign", "foreign-tagged", "quarry", "snap"];
    node.vm
        .sh(format!(
            "lvcreate -qq -y -l 8 -n foreign {GROUP}; lvcreate -qq -y -l 8 -n foreign-tagged --addtag quarry \
             --addtag quarry/s=new {GROUP}; lvcreate -qq -y -l 8 -n quarry --addtag other1/s=new {GROUP}; lvcreate \
             -qq -y -l 8 -n snap --addtag quarry2/k=snapshot/s=ready/n=snap {GROUP}"
        ))
        .await?;
    let listed: Vec<String> = node.csi.list().await?.into_iter().map(|volume| volume.volume_id).collect();
    ensure!(listed == [ours.id.clone()], "listed: {listed:?}");
    let mut count = 0;
    for name in names {
        node.vm.sh(format!("mkfs.ext4 -q /dev/{GROUP}/{name}; blockdev --flushbufs /dev/{GROUP}/{name}")).await?;
        let id = ours.id.replace(":ours", &format!(":{name}"));
        ensure!(id != ours.id, "the identifier {id} has another form");
        let forged = Made { id, ask: Ask { name: name.to_owned(), ..ours.ask.clone() }, ..ours.clone() };
        node.kubelet_folders(&forged).await?;
        untouched(node, &forged, async || {
            // It is not a volume of Quarry: CSI treats it as deleted.
            let _ = node.csi.delete(&forged.id).await;
            refused(name, node.csi.stage(&forged).await, Code::NotFound, "does not exist")?;
            refused(name, node.csi.publish(&forged).await, Code::NotFound, "does not exist")?;
            let (code, words) = match name {
                // A newer Quarry made it.
                "snap" => (Code::FailedPrecondition, "newer Quarry"),
                _ => (Code::AlreadyExists, "does not have this volume's record"),
            };
            refused(name, node.csi.create(&forged.ask).await, code, words)
        })
        .await
        .with_context(|| format!("logical volume {name}"))?;
        count += 3;
    }
    // A volume that loses its tag is foreign from then on, in use or not.
    open(node, &ours).await?;
    write(node, &ours).await?;
    let mark = tags(node, &ours).await?;
    retag(node, &ours, &[]).await?;
    let began = Instant::now();
    while !node.csi.list().await?.is_empty() {
        ensure!(began.elapsed() < Duration::from_secs(10), "a volume without a mark is listed ten seconds later");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let _ = node.csi.delete(&ours.id).await;
    node.vm.sh(format!("lvs {GROUP}/ours")).await.context("a volume without its tag was removed")?;
    retag_blank(node, &ours, &mark).await?;
    read(node, &ours).await?;
    close(node, &ours).await?;
    node.csi.delete(&ours.id).await?;
    let names = names.map(|name| format!("{GROUP}/{name}")).join(" ");
    node.vm.sh(format!("lvremove -qq -y {names}")).await?;
    Ok(count)
}

/// Gives a volume without tags this one.
async fn retag_blank(node: &Node, made: &Made, tag: &str) -> Result<()> {
    node.vm.sh(format!("lvchange -qq --addtag '{tag}' {GROUP}/{} && {EVENT}", made.ask.name)).await.map(drop)
}

/// Records with a higher version and unreadable ones: listed, unpublished and unstaged, nothing else.
async fn unreadable_records(node: &Node) -> Result<usize> {
    let made = node.csi.create(&Ask::mount("unreadable", "ext4")).await?;
    let record = {
        open(node, &made).await?;
        write(node, &made).await?;
        tags(node, &made).await?
    };
    let double = record.replace("/n=unreadable/", "/n=double/");
    let mut count = 0;
    for (what, tags, words) in [
        ("a newer record", vec!["quarry2/s=frozen/of=another&kind"], "newer Quarry"),
        ("a broken record", vec!["quarry1/s=old/n=a"], "is invalid"),
        ("two records", vec![record.as_str(), double.as_str()], "several records"),
    ] {
        retag(node, &made, &tags).await?;
        let calls = async || -> Result<()> {
            let listed = node.csi.list().await?;
            ensure!(listed.len() == 1 && listed[0].volume_id == made.id, "listed: {listed:?}");
            refused("delete", node.csi.delete(&made.id).await, Code::FailedPrecondition, words)?;
            refused("stage", node.csi.stage(&made).await, Code::FailedPrecondition, words)?;
            refused("publish", node.csi.publish(&made).await, Code::FailedPrecondition, words)?;
            refused("create", node.csi.create(&made.ask).await, Code::FailedPrecondition, words)
        };
        calls().await.with_context(|| format!("{what}, published"))?;
        close(node, &made).await.with_context(|| format!("{what}: unpublish and unstage"))?;
        untouched(node, &made, calls).await.with_context(|| format!("{what}, at rest"))?;
        let now = self::tags(node, &made).await?;
        ensure!(
            now.split(',').count() == tags.len() && tags.iter().all(|tag| now.contains(tag)),
            "{what} became {now}"
        );
        // The operator repairs it.
        node.vm
            .sh(format!(
                "lvchange -qq {} {GROUP}/unreadable",
                tags.iter().map(|tag| format!("--deltag '{tag}'")).collect::<Vec<_>>().join(" ")
            ))
            .await?;
        retag_blank(node, &made, &record).await?;
        open(node, &made).await?;
        read(node, &made).await?;
        count += 8;
    }
    close(node, &made).await?;
    node.csi.delete(&made.id).await?;
    Ok(count)
}
