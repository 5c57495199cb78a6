//! What tenants and operators do to encrypted volumes, and what a cryptsetup that was killed leaves.

use anyhow::{Context as _, Result, ensure};
use tonic::Code;

use super::super::steps::{close, open, read, write};
use super::{DISK, KEY, on_disks, start};
use crate::csi::{Ask, Made, refused, retry};
use crate::node::{GROUP, Node};
use crate::scenario::{Context, Passed};

/// The scenario.
pub async fn interference(_context: Context) -> Passed {
    let mut node = Node::bare("encrypted-interference", &[DISK, DISK]).await?;
    start(&mut node).await?;
    other_secret(&node).await.context("a Secret for a volume that is not encrypted")?;
    nested_group(&node).await.context("a volume group in a raw volume")?;
    left_devices(&node).await.context("what was left open")?;
    open_elsewhere(&node).await.context("a device that something else has open")?;
    other_headers(&node).await.context("headers that were changed by hand")?;
    node.expect_empty().await?;
    Ok("4 volumes".to_owned())
}

/// A Secret of a plain volume may have any keys.
async fn other_secret(node: &Node) -> Result<()> {
    let ask = Ask { passphrase: Some(KEY.to_owned()), ..Ask::mount("pvc-plain", "ext4") };
    let made = retry(|| node.csi.create(&ask)).await?;
    open(node, &made).await?;
    close(node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await.map(drop).map_err(Into::into)
}

/// A volume group that a tenant creates in a raw volume, and that is active on the host, does not keep the volume from
/// being closed, nor from being deleted.
async fn nested_group(node: &Node) -> Result<()> {
    let ask = Ask::block("pvc-nested").encrypted(KEY);
    let made = retry(|| node.csi.create(&ask)).await?;
    let group = "pvcreate -qq -y $top && vgcreate -qq tenant $top && lvcreate -qq -y -Wn -l 1 -n inner tenant";
    for script in [group, "vgchange -qq -ay tenant"] {
        open(node, &made).await?;
        node.vm.sh(format!("top=/dev/$(grep -l quarry-crypt /sys/block/dm-*/dm/name | cut -d/ -f4); {script}")).await?;
        node.vm.sh("dmsetup info tenant-inner").await.context("it is not active")?;
        close(node, &made).await?;
        node.vm.sh("! dmsetup info tenant-inner 2>/dev/null").await.context("it is still active")?;
        not_open(node).await?;
    }
    retry(|| node.csi.delete(&made.id)).await.map(drop).map_err(Into::into)
}

/// Device-mapper devices that an earlier process left: one without an active table, which holds the storage, and one on
/// a disk that is gone.
async fn left_devices(node: &Node) -> Result<()> {
    let ask = Ask::mount("pvc-left", "ext4").encrypted(KEY);
    let made = retry(|| node.csi.create(&ask)).await?;
    open(node, &made).await?;
    write(node, &made).await?;
    let name = node.vm.sh("dmsetup ls --target crypt | cut -f1").await?.trim().to_owned();
    let uuid = node.vm.sh(format!("dmsetup info -c --noheadings -o uuid {name}")).await?.trim().to_owned();
    close(node, &made).await?;
    let raw = inactive(node, &made).await?;
    let unfinished = format!(
        "lvchange -qq -ay {raw}; dmsetup create {name} --uuid {uuid} --notable; \
         dmsetup load {name} --table \"0 8 linear $(stat -L -c %Hr:%Lr {raw}) 0\"; ls /sys/dev/block/$(stat -L -c %Hr:%Lr {raw})/holders | grep -q dm-"
    );
    let stale = format!("dmsetup create {name} --uuid {uuid} --table '0 8 zero'");
    for (what, script) in [("unfinished", &unfinished), ("stale", &stale)] {
        node.vm.sh(script.clone()).await.context(what)?;
        open(node, &made).await.context(what)?;
        read(node, &made).await.context(what)?;
        close(node, &made).await.context(what)?;
        not_open(node).await.context(what)?;
        inactive(node, &made).await?;
    }
    // A stale one that is in use is named.
    node.vm.sh(format!("{stale}; setsid sh -c 'exec sleep 1000 </dev/mapper/{name}' >/dev/null 2>&1 &")).await?;
    let staged = node.csi.stage(&made).await;
    refused("a stale device in use", staged, Code::Aborted, "in use")?;
    node.vm.sh("pkill -f 'sleep 100[0]'").await?;
    open(node, &made).await?;
    close(node, &made).await?;
    inactive(node, &made).await?;
    node.vm.sh(unfinished).await?;
    retry(|| node.csi.delete(&made.id)).await.context("deletion")?;
    not_open(node).await
}

/// Keys are not erased as long as the deletion can still be refused.
async fn open_elsewhere(node: &Node) -> Result<()> {
    let ask = Ask::mount("pvc-open", "ext4").encrypted(KEY);
    let made = retry(|| node.csi.create(&ask)).await?;
    open(node, &made).await?;
    write(node, &made).await?;
    close(node, &made).await?;
    let raw = inactive(node, &made).await?;
    node.vm.sh(format!("lvchange -qq -ay {raw}; setsid sh -c 'exec sleep 1000 <{raw}' >/dev/null 2>&1 &")).await?;
    let deleted = node.csi.delete(&made.id).await;
    refused("an open device", deleted, Code::FailedPrecondition, "in use")?;
    let opens = format!("printf %s '{KEY}' | cryptsetup open --test-passphrase --key-file - {raw}");
    node.vm.sh(opens).await.context("its keys were erased")?;
    node.vm.sh("pkill -f 'sleep 100[0]'").await?;
    open(node, &made).await?;
    read(node, &made).await?;
    close(node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await.map(drop).map_err(Into::into)
}

/// What a deletion erases: the key slots of the volume, also if its header is damaged; not a header of another device.
async fn other_headers(node: &Node) -> Result<()> {
    node.vm.sh("echo the-key-slots-0f1e >/run/slots; echo 11111111-2222-4333-8444-555566667777 >/run/uuid").await?;
    for (name, script, file, kept) in [
        ("pvc-damaged", "dd if=/dev/zero of=$raw bs=32k count=1 oflag=direct status=none", "/run/slots", false),
        ("pvc-foreign", "cryptsetup luksUUID -q --uuid $(cat /run/uuid) $raw", "/run/uuid", true),
    ] {
        let ask = Ask::mount(name, "ext4").encrypted(KEY);
        let made = retry(|| node.csi.create(&ask)).await?;
        open(node, &made).await?;
        close(node, &made).await?;
        let raw = inactive(node, &made).await?;
        let slots = "dd if=/run/slots of=$raw seek=12M bs=4k oflag=seek_bytes conv=notrunc,fsync status=none";
        node.vm.sh(format!("lvchange -qq -ay {raw}; raw={raw}; {slots}; {script}; sync $raw")).await.context(name)?;
        ensure!(on_disks(node, file).await? > 0, "{name}: nothing to find");
        retry(|| node.csi.delete(&made.id)).await.context(name)?;
        ensure!((on_disks(node, file).await? > 0) == kept, "{name}: {}", if kept { "erased" } else { "left" });
    }
    Ok(())
}

/// Waits until the volume's storage is inactive, and returns its node.
async fn inactive(node: &Node, made: &Made) -> Result<String> {
    let raw = node.storage.device(&made.ask.name);
    let mapped = format!("{GROUP}-{}", made.ask.name.replace('-', "--"));
    let wait =
        format!("for i in $(seq 100); do dmsetup info {mapped} >/dev/null 2>&1 || exit 0; sleep 0.1; done; exit 1");
    node.vm.sh(wait).await.context("it stays active")?;
    Ok(raw)
}

/// Fails if an encrypted device is open.
async fn not_open(node: &Node) -> Result<()> {
    let open = node.vm.sh("dmsetup ls 2>/dev/null | grep quarry-crypt || true").await?;
    ensure!(open.is_empty(), "still open: {open}");
    Ok(())
}
