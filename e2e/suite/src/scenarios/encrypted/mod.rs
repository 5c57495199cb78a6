//! Encrypted volumes: nothing readable is on the disks, the key is nowhere to be seen, a wrong key changes nothing, and
//! after a deletion no key is left.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Bus, Command, Disk};
use tonic::Code;

pub use self::copies::copies;
pub use self::many::many;
pub use self::others::interference;
pub use self::rejected::refusals;
pub use self::rekeyed::rekeyed;
use super::kill::Course;
use super::kill::expand::opened_size;
use super::kill::sweep::sweep;
use super::steps::{close, open};
use crate::csi::{Ask, MIB, Made, refused, retry};
use crate::node::{GROUP, LOG, Node};
use crate::scenario::{Context, Passed};

mod copies;
mod many;
mod others;
mod rejected;
mod rekeyed;

const DISK: u64 = 400 << 20;
/// A random key, and a passphrase: a header of each kind.
pub const KEY: &str = "bWFya2VyLW9mLWEtcmFuZG9tLWtleS0wMTIzNDU2Nzg5YWI=";
const PASSPHRASE: &str = "three-odd-Words-17";
/// What is written into volumes, and must be nowhere else.
const MARKER: &str = "the-marker-of-a-tenant-0f1e2d3c";
/// The bytes of a header, with its key slots.
const HEADER: i64 = 16 * MIB;

/// In a thin pool.
pub async fn thin(_context: Context) -> Passed {
    let mut node = Node::on_thin_pool("encrypted-thin", &[DISK, DISK]).await?;
    node.stop().await?;
    start(&mut node).await?;
    let asks = [Ask::mount("pvc-ext4", "ext4").encrypted(KEY), Ask::block("pvc-block").encrypted(KEY)];
    lives(&mut node, asks).await
}

/// On whole disks.
pub async fn disks(_context: Context) -> Passed {
    let disks = vec![
        Disk::new("d1", 100 << 20).bus(Bus::Nvme).block_size(4096),
        Disk::new("d2", 100 << 20),
        Disk::new("d3", 100 << 20).bus(Bus::Scsi),
    ];
    let mut node = Node::on_disks("encrypted-disks", disks).await?;
    start(&mut node).await?;
    let asks = [
        Ask::mount("pvc-ext4", "ext4").encrypted(KEY).parameter("wipe", "none"),
        Ask::block("pvc-block").encrypted(KEY).parameter("wipe", "none"),
        Ask::mount("pvc-wiped", "ext4").encrypted(KEY).parameter("wipe", "zero"),
    ];
    lives(&mut node, asks).await
}

/// On LVM, with every filesystem and layout; a sample of them, except in `make soak`.
pub async fn lvm(context: Context) -> Passed {
    let mut node = Node::bare("encrypted-lvm", &[DISK, DISK]).await?;
    start(&mut node).await?;
    let asks = [
        Ask::mount("pvc-ext4", "ext4").encrypted(KEY),
        Ask::mount("pvc-xfs", "xfs").encrypted(PASSPHRASE).parameter("discard", "online"),
        // The kernel grows no smaller btrfs.
        Ask::mount("pvc-btrfs", "btrfs").size(260 * MIB).encrypted(KEY),
        Ask::block("pvc-block").encrypted(KEY),
        Ask::mount("pvc-striped", "ext4").encrypted(KEY).parameter("layout", "striped").parameter("stripes", "2"),
        Ask::mount("pvc-raid1", "ext4").encrypted(KEY).parameter("layout", "raid1"),
    ];
    // Each takes two minutes.
    let chosen = if context.settings.soak { (0..asks.len()).collect() } else { context.random().sample(2, asks.len()) };
    let chosen = asks.into_iter().enumerate().filter(|(index, _)| chosen.contains(index)).map(|(_, ask)| ask);
    let lived = lives(&mut node, chosen).await?;
    // The search finds what is on the disks.
    node.vm
        .sh(format!("lvcreate -qq -y -Wn -l 1 -n plain {0}; dd if=/run/marker of=/dev/{0}/plain status=none", GROUP))
        .await?;
    ensure!(on_disks(&node, "/run/marker").await? > 0, "the search does not find what is on the disks");
    Ok(lived)
}

/// The lives of these volumes, one after the other.
async fn lives(node: &mut Node, asks: impl IntoIterator<Item = Ask>) -> Passed {
    let mut names = Vec::new();
    for ask in asks {
        names.push(ask.name.clone());
        life(node, ask).await?;
    }
    not_logged(node).await?;
    Ok(format!("lives of {}", names.join(", ")))
}

/// At every fault point, on LVM.
pub async fn points(context: Context) -> Passed {
    let mut node = Node::start("kill-encrypted", &[DISK, DISK]).await?;
    let kinds = [
        (Ask::mount("pvc-ext4", "ext4").encrypted(KEY), Course::Whole, 4),
        (Ask::block("pvc-block").size(8 * MIB).encrypted(KEY), Course::Whole, 4),
        (Ask::mount("pvc-xfs", "xfs").encrypted(KEY), Course::Expanded, 3),
        (Ask::block("pvc-block").size(8 * MIB).encrypted(KEY), Course::Expanded, 3),
        (Ask::mount("pvc-ext4", "ext4").encrypted(KEY), Course::Copied, 1),
        (Ask::block("pvc-block").size(8 * MIB).encrypted(KEY), Course::Copied, 1),
        (Ask::mount("pvc-ext4", "ext4").encrypted(KEY), Course::FullyCopied, 1),
    ];
    sweep(&context, &mut node, kinds).await
}

/// Starts quarry, and from then on looks for the keys where other processes could see them.
async fn start(node: &mut Node) -> Result<()> {
    let watch = "while [ ! -e /run/watch-end ]; do \
                 grep -lFaf /run/keys /proc/[0-9]*/cmdline /proc/[0-9]*/environ >>/run/seen 2>/dev/null; sleep 0.1; done";
    let script = format!(
        "printf '%s\\n' '{MARKER}' >/run/marker; rm -f /run/watch-end; : >/run/seen; ({watch}) </dev/null >/dev/null 2>&1 &"
    );
    // Not by a script: the watching shell has the same command line.
    node.vm.write("/run/keys", format!("{KEY}\n{PASSPHRASE}\n").as_bytes(), 0o600).await?;
    node.vm.sh(script).await?;
    node.log_everything();
    node.serve().await
}

/// Fails if a key was seen by another process, or logged.
async fn not_logged(node: &Node) -> Result<()> {
    node.vm.sh("touch /run/watch-end; sleep 1").await?;
    let seen = node.vm.sh("cat /run/seen").await?;
    ensure!(seen.is_empty(), "a key was seen in {seen}");
    let found = node.vm.sh(format!("grep -cFaf /run/keys {LOG} || true")).await?;
    ensure!(found.trim() == "0", "a key is in the log, {found} times");
    // The log has what it should have, and the search would find it.
    for what in ["cryptsetup luksFormat", "cryptsetup open", "TRACE"] {
        node.vm.sh(format!("grep -qF '{what}' {LOG}")).await.with_context(|| format!("{what} was not logged"))?;
    }
    Ok(())
}

/// Counts the lines of a file in its input. An emulated processor needs minutes for this with grep.
const COUNT: &str = r#"open my $file, "<", shift; chomp(my @wanted = <$file>); my ($found, $tail) = (0, "");
while (sysread STDIN, my $more, 1 << 20) {
    my $bytes = $tail . $more;
    for (@wanted) { my $at = -1; $found++ while ($at = index $bytes, $_, $at + 1) >= 0; }
    $tail = substr $bytes, -64;
}
print "$found\n";"#;

/// How often the lines of a file are on the disks of the machine, besides its root disk.
pub async fn on_disks(node: &Node, file: &str) -> Result<u64> {
    node.vm.write("/run/count.pl", COUNT.as_bytes(), 0o600).await?;
    let script = format!(
        "sync; root=$(mountpoint -d /); for f in /sys/block/vd* /sys/block/sd* /sys/block/nvme*; do [ -e $f/dev ] || continue; \
         [ $(cat $f/dev) != $root ] || continue; dd if=/dev/${{f##*/}} bs=1M iflag=direct status=none | \
         perl /run/count.pl {file}; done | awk '{{ sum += $1 }} END {{ print sum + 0 }}'"
    );
    let search = Command::sh(script).timeout(Duration::from_secs(600));
    Ok(node.vm.check(search).await?.trim().parse()?)
}

/// Creates, uses, expands and deletes a volume.
async fn life(node: &mut Node, ask: Ask) -> Result<()> {
    let name = ask.name.clone();
    live(node, ask).await.with_context(|| format!("volume {name}"))
}

async fn live(node: &mut Node, ask: Ask) -> Result<()> {
    let made = retry(|| node.csi.create(&ask)).await?;
    ensure!(made.size >= ask.required, "{} bytes", made.size);
    node.expect_only(&made).await?;
    let listed = node.csi.list().await?;
    ensure!(listed.iter().all(|volume| volume.capacity_bytes == made.size), "{} bytes, not {listed:?}", made.size);
    node.kubelet_folders(&made).await?;
    // Without a secret, nothing is written.
    let without = Made { ask: Ask { passphrase: None, ..ask.clone() }, ..made.clone() };
    refused("no secret", node.csi.stage(&without).await, Code::FailedPrecondition, "\"passphrase\"")?;
    let raw = node.storage.device(&ask.name);
    let is_luks = format!("cryptsetup isLuks {raw}");
    ensure!(node.vm.sh(is_luks.clone()).await.is_err(), "a header without a key");

    for _ in 0..2 {
        open(node, &made).await?;
    }
    node.vm.sh(is_luks).await.context("it has no LUKS header")?;
    let target = made.target();
    let file = if ask.is_block() { target.clone() } else { format!("{target}/file") };
    let write =
        format!("yes '{MARKER}' | head -c 2M | dd of='{file}' bs=64k iflag=fullblock conv=notrunc,fsync status=none");
    let read = format!("yes '{MARKER}' | head -c 2M | cmp -n 2097152 - '{file}'");
    node.vm.sh(write).await?;
    opened_size(node, &made).await?;
    ensure!(on_disks(node, "/run/marker").await? == 0, "what was written is readable on the disks");

    // The plugin is replaced while the volume is used.
    node.kill().await?;
    node.serve().await?;
    open(node, &without).await.context("after a restart, it is open already")?;
    node.vm.sh(format!("sync; {read}")).await?;

    // A disk stays as large as it is.
    let made = if ask.parameters.contains_key("wipe") {
        made
    } else {
        let size = retry(|| node.csi.expand(&made, made.size + 16 * MIB)).await?.size;
        let made = Made { size, ..made };
        retry(|| node.csi.node_expand(&made, &target)).await?;
        opened_size(node, &made).await.context("after an expansion")?;
        made
    };
    node.vm.sh(read.clone()).await.context("after an expansion")?;
    let crypt = "dmsetup ls --target crypt 2>/dev/null";
    let name = node.vm.sh(crypt).await?;
    ensure!(name.contains("quarry-crypt-"), "not open: {name}");
    close(node, &made).await?;
    let name = node.vm.sh(crypt).await?;
    ensure!(!name.contains("quarry-crypt-"), "still open after an unstage: {name}");

    open(node, &made).await.context("again")?;
    node.vm.sh(read).await.context("again")?;
    // The UUID of the header is readable on the disks until the volume is deleted.
    node.vm.sh(format!("cryptsetup luksUUID {raw} >/run/uuid")).await?;
    node.vm
        .sh(format!("head -c {HEADER} {raw} | grep -qaFf /run/uuid"))
        .await
        .context("its header has another UUID")?;
    node.vm.sh("cat /run/uuid /run/marker >/run/both").await?;
    let refusal = node.csi.delete(&made.id).await;
    ensure!(refusal.is_err(), "a volume in use was deleted");
    node.vm.sh(format!("cryptsetup isLuks {raw}")).await.context("a refused deletion erased the header")?;
    close(node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await?;
    node.expect_empty().await?;
    ensure!(on_disks(node, "/run/both").await? == 0, "the header is left, or what was written is readable");
    Ok(())
}
