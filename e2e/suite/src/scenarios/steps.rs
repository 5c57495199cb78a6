//! Steps of scenarios on a volume, and checks of the storage below it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::csi::{Ask, Made, retry};
use crate::node::{GROUP, Node};

/// How long it may take until deleted space is offered again: small, emulated disks are wiped first.
pub const FREED: Duration = Duration::from_secs(120);

/// Retries until the answer is yes, and returns the start time of that call. A call that starts after `within` must
/// succeed.
pub async fn until<F: Future<Output = Result<bool>>>(
    what: &str,
    within: Duration,
    mut right: impl FnMut() -> F,
) -> Result<Duration> {
    let began = Instant::now();
    loop {
        let asked = began.elapsed();
        if right().await.with_context(|| what.to_owned())? {
            return Ok(asked);
        }
        ensure!(asked <= within, "{what}: not so after {asked:.1?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Stage and publish, as kubelet does.
pub async fn open(node: &Node, made: &Made) -> Result<()> {
    node.kubelet_folders(made).await?;
    retry(|| node.csi.stage(made)).await.with_context(|| format!("staging {}", made.id))?;
    retry(|| node.csi.publish(made)).await.with_context(|| format!("publishing {}", made.id))
}

/// Unpublish and unstage.
pub async fn close(node: &Node, made: &Made) -> Result<()> {
    retry(|| node.csi.unpublish(made)).await.with_context(|| format!("unpublishing {}", made.id))?;
    retry(|| node.csi.unstage(made)).await.with_context(|| format!("unstaging {}", made.id))
}

/// Removes the volumes that a failed check left. They are these, and are published at most at their usual targets.
pub async fn remove_left(node: &Node, asks: &[Ask]) -> Result<()> {
    for volume in retry(|| node.csi.list()).await? {
        let ask = asks.iter().find(|ask| volume.volume_id.ends_with(&format!(":{}", ask.name))).cloned();
        let ask = ask.with_context(|| format!("an unknown volume {}", volume.volume_id))?;
        let (id, size) = (volume.volume_id, volume.capacity_bytes);
        let made = Made { id, size, context: Default::default(), ask, node: String::new() };
        close(node, &made).await?;
        retry(|| node.csi.delete(&made.id)).await?;
    }
    let empty = || async { Ok(node.found().await?.is_empty()) };
    until("everything is removed", Duration::from_secs(60), empty).await.map(drop)
}

/// Writes bytes that are specific to this volume through its published target, and flushes them: a file, or
/// the first bytes of a raw device.
pub async fn write(node: &Node, made: &Made) -> Result<()> {
    let target = made.target();
    let script = if made.ask.is_block() {
        format!("{} | dd of='{target}' bs=64k iflag=fullblock oflag=direct conv=notrunc,fsync status=none", bytes(made))
    } else {
        format!("{} | dd of='{target}/file' bs=64k iflag=fullblock conv=fsync status=none", bytes(made))
    };
    node.vm.sh(script).await.with_context(|| format!("writing to {}", made.id)).map(drop)
}

/// Fails unless the bytes of [`write`] are there.
pub async fn read(node: &Node, made: &Made) -> Result<()> {
    let target = made.target();
    let file = if made.ask.is_block() { target } else { format!("{target}/file") };
    let script = format!("{} | cmp -n {LENGTH} - '{file}'", bytes(made));
    node.vm.sh(script).await.with_context(|| format!("the bytes of {} are not there", made.id)).map(drop)
}

/// How many bytes [`write`] writes.
const LENGTH: usize = 256 << 10;

fn bytes(made: &Made) -> String {
    format!("yes 'this is {}' | head -c {LENGTH}", made.id)
}

/// A checksum of all of a device's bytes, as they are on the disk.
pub async fn checksum(node: &Node, device: &str) -> Result<String> {
    node.vm.sh(format!("dd if='{device}' bs=1M iflag=direct status=none | md5sum")).await
}

/// The device node of a volume whose name lvm accepts unchanged.
pub fn device_of(made: &Made) -> String {
    format!("/dev/{GROUP}/{}", made.ask.name)
}

/// The tags of a volume, straight from lvm.
pub async fn tags(node: &Node, made: &Made) -> Result<String> {
    Ok(node.vm.sh(format!("lvs --noheadings -o lv_tags {GROUP}/{}", made.ask.name)).await?.trim().to_owned())
}

/// Gives a volume other tags, as an operator would.
pub async fn retag(node: &Node, made: &Made, tags: &[&str]) -> Result<()> {
    let before = self::tags(node, made).await?;
    // A tag in both lists would go.
    let mut command = "lvchange -qq".to_owned();
    if !tags.contains(&before.as_str()) {
        command += &format!(" --deltag '{before}'");
    }
    for tag in tags.iter().filter(|tag| **tag != before) {
        command += &format!(" --addtag '{tag}'");
    }
    node.vm.sh(format!("{command} {GROUP}/{} && {EVENT}", made.ask.name)).await.map(drop)
}

/// An event of a block device. udevd also sends one some time after lvm has written to a disk; quarry, which
/// must see a manual change within ten seconds, sees it in the next call after an event.
pub const EVENT: &str = "echo change >/sys/block/loop0/uevent";

/// Waits until exactly this many bytes are free in total.
pub async fn offered(node: &Node, bytes: i64) -> Result<()> {
    let began = Instant::now();
    loop {
        let (available, _) = node.csi.capacity(&Default::default()).await?;
        if available == bytes {
            return Ok(());
        }
        if began.elapsed() > FREED {
            // The answer names every disk that is not free, and says why.
            let answer = node.csi.create(&Ask::block("never").size(1 << 50)).await;
            let why = answer.err().map(|status| status.message().to_owned()).unwrap_or_default();
            bail!("{available} bytes are offered, not {bytes}: {why}\n{}", node.contents().await?);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
