//! Encrypted volumes: nothing readable is on the disks, the key is nowhere to be seen, a wrong key changes nothing, and
//! after a deletion no key is left.

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Bus, Disk};
use tonic::Code;

use super::kill::Course;
use super::kill::expand::opened_size;
use super::kill::sweep::sweep;
use super::steps::{close, open};
use crate::csi::{Ask, MIB, Made, refused, retry};
use crate::node::{GROUP, LOG, Node};
use crate::scenario::{Context, Passed};

const DISK: u64 = 400 << 20;
/// A random key, and a passphrase: a header of each kind.
const KEY: &str = "bWFya2VyLW9mLWEtcmFuZG9tLWtleS0wMTIzNDU2Nzg5YWI=";
const PASSPHRASE: &str = "three-odd-Words-17";
/// What is written into volumes, and must be nowhere else.
const MARKER: &str = "the-marker-of-a-tenant-0f1e2d3c";
/// How often a wrong passphrase is tried.
const WRONG: usize = 100;
/// The bytes of a header, with its key slots.
const HEADER: i64 = 16 * MIB;

pub async fn run(context: Context) -> Passed {
    let mut lives = 0;
    let mut node = Node::on_thin_pool("encrypted-thin", &[DISK, DISK]).await?;
    node.stop().await?;
    start(&mut node).await?;
    for ask in [Ask::mount("pvc-ext4", "ext4").encrypted(KEY), Ask::block("pvc-block").encrypted(KEY)] {
        life(&mut node, ask).await?;
        lives += 1;
    }
    not_logged(&node).await?;
    drop(node);
    context.say("lives in a thin pool are over");

    let disks = vec![
        Disk::new("d1", 100 << 20).bus(Bus::Nvme).block_size(4096),
        Disk::new("d2", 100 << 20),
        Disk::new("d3", 100 << 20).bus(Bus::Scsi),
    ];
    let mut node = Node::on_disks("encrypted-disks", disks).await?;
    start(&mut node).await?;
    for ask in [
        Ask::mount("pvc-ext4", "ext4").encrypted(KEY).parameter("wipe", "none"),
        Ask::block("pvc-block").encrypted(KEY).parameter("wipe", "none"),
        Ask::mount("pvc-wiped", "ext4").encrypted(KEY).parameter("wipe", "zero"),
    ] {
        life(&mut node, ask).await?;
        lives += 1;
    }
    not_logged(&node).await?;
    drop(node);
    context.say("lives on whole disks are over");

    let mut node = Node::bare("encrypted-lvm", &[DISK, DISK]).await?;
    start(&mut node).await?;
    for ask in [
        Ask::mount("pvc-ext4", "ext4").encrypted(KEY),
        Ask::mount("pvc-xfs", "xfs").encrypted(PASSPHRASE).parameter("discard", "online"),
        // The kernel grows no smaller btrfs.
        Ask::mount("pvc-btrfs", "btrfs").size(260 * MIB).encrypted(KEY),
        Ask::block("pvc-block").encrypted(KEY),
        Ask::mount("pvc-striped", "ext4").encrypted(KEY).parameter("layout", "striped").parameter("stripes", "2"),
        Ask::mount("pvc-raid1", "ext4").encrypted(KEY).parameter("layout", "raid1"),
    ] {
        life(&mut node, ask).await?;
        lives += 1;
    }
    // The search finds what is on the disks.
    node.vm
        .sh(format!("lvcreate -qq -y -Wn -l 1 -n plain {0}; dd if=/run/marker of=/dev/{0}/plain status=none", GROUP))
        .await?;
    ensure!(on_disks(&node, "/run/marker").await? > 0, "the search does not find what is on the disks");
    not_logged(&node).await?;
    Ok(format!("{lives} lives"))
}

/// What is rejected, and changes nothing.
pub async fn refusals(_context: Context) -> Passed {
    let mut node = Node::bare("encrypted-refused", &[DISK, DISK]).await?;
    start(&mut node).await?;
    rejected(&node).await.context("what an encrypted volume cannot be")?;
    foreign(&node).await.context("foreign data")?;
    wrong_keys(&node).await.context("wrong keys")?;
    not_logged(&node).await?;
    Ok(format!("{WRONG} wrong keys, 5 foreign or lost headers"))
}

/// At every fault point, on LVM.
pub async fn points(context: Context) -> Passed {
    let mut node = Node::start("kill-encrypted", &[DISK, DISK]).await?;
    let kinds = [
        (Ask::mount("pvc-ext4", "ext4").encrypted(KEY), Course::Whole, 4),
        (Ask::block("pvc-block").size(8 * MIB).encrypted(KEY), Course::Whole, 4),
        (Ask::mount("pvc-xfs", "xfs").encrypted(KEY), Course::Expanded, 3),
        (Ask::block("pvc-block").size(8 * MIB).encrypted(KEY), Course::Expanded, 3),
    ];
    sweep(&context, &mut node, kinds).await
}

/// Starts quarry, and from then on looks for the keys where other processes could see them.
async fn start(node: &mut Node) -> Result<()> {
    let watch = "while [ ! -e /run/watch-end ]; do \
                 grep -lFaf /run/keys /proc/[0-9]*/cmdline /proc/[0-9]*/environ >>/run/seen 2>/dev/null; sleep 0.02; done";
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

/// How often the lines of a file are on the disks of the machine, besides its root disk.
async fn on_disks(node: &Node, file: &str) -> Result<u64> {
    let script = format!(
        "sync; root=$(mountpoint -d /); for f in /sys/block/vd* /sys/block/sd* /sys/block/nvme*; do [ -e $f/dev ] || continue; \
         [ $(cat $f/dev) != $root ] || continue; dd if=/dev/${{f##*/}} bs=1M iflag=direct status=none | \
         tr '\\0' '\\n' | grep -caFf {file} || true; done | awk '{{ sum += $1 }} END {{ print sum + 0 }}'"
    );
    Ok(node.vm.sh(script).await?.trim().parse()?)
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

/// A wrong passphrase, also a changed one, is rejected, and not a byte changes.
async fn wrong_keys(node: &Node) -> Result<()> {
    let ask = Ask::mount("pvc-wrong", "ext4").encrypted(KEY);
    let made = retry(|| node.csi.create(&ask)).await?;
    open(node, &made).await?;
    node.vm.sh(format!("seq 1000 >'{}/file'", made.target())).await?;
    close(node, &made).await?;
    let raw = node.storage.device(&ask.name);
    // Makes the device appear.
    let wrong = |key: &str| Made { ask: ask.clone().encrypted(key), ..made.clone() };
    node.kubelet_folders(&made).await?;
    let attempt = async |key: &str| {
        let made = wrong(key);
        let staged = retry(|| node.csi.stage(&made)).await;
        refused(key, staged, Code::FailedPrecondition, "opens no key slot")
    };
    attempt(&format!("{KEY}x")).await?;
    let sum = format!("head -c {} {raw} | sha256sum; sha256sum <{raw}", HEADER);
    let before = node.vm.sh(sum.clone()).await?;
    for at in 0..WRONG {
        attempt(&format!("{}{at}", &KEY[..40])).await?;
    }
    attempt(&format!("{KEY}\n")).await?;
    let staged = node.csi.stage(&wrong(&"x".repeat(5000))).await;
    refused("a long key", staged, Code::FailedPrecondition, "5000 bytes")?;
    let staged = node.csi.stage(&wrong("")).await;
    refused("an empty key", staged, Code::FailedPrecondition, "0 bytes")?;
    ensure!(node.vm.sh(sum).await? == before, "a wrong key changed bytes");

    // The passphrase is changed as docs/encryption.md says.
    let script = format!(
        "umask 077; printf %s '{KEY}' >/run/old; printf %s '{PASSPHRASE}' >/run/new; cryptsetup luksAddKey --pbkdf pbkdf2 \
         --pbkdf-force-iterations 100000 --key-file /run/old {raw} /run/new; cryptsetup open --test-passphrase \
         --key-file /run/new {raw} && cryptsetup luksRemoveKey {raw} /run/old"
    );
    node.vm.sh(script).await.context("changing the passphrase")?;
    attempt(KEY).await.context("the old passphrase")?;
    let made = wrong(PASSPHRASE);
    open(node, &made).await.context("the new passphrase")?;
    node.vm.sh(format!("seq 1000 | cmp - '{}/file'", made.target())).await?;
    close(node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await?;
    node.expect_empty().await
}

/// What Quarry did not write is never overwritten, and a lost header is never replaced.
async fn foreign(node: &Node) -> Result<()> {
    let activate = |raw: &str| format!("lvchange -qq -ay {0} && udevadm settle && test -b {0}", raw);
    for (name, script) in [
        ("pvc-foreign-fs", "mkfs.ext4 -q -F $raw"),
        ("pvc-foreign-luks", "printf x | cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $raw -"),
        ("pvc-foreign-luks1", "printf x | cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 $raw -"),
    ] {
        let ask = Ask::block(name).encrypted(KEY);
        let made = retry(|| node.csi.create(&ask)).await?;
        let raw = node.storage.device(name);
        node.vm.sh(format!("{}; raw={raw}; {script}; sync", activate(&raw))).await.context(name)?;
        let before = node.vm.sh(format!("sha256sum <{raw}")).await?;
        node.kubelet_folders(&made).await?;
        refused(name, retry(|| node.csi.stage(&made)).await, Code::FailedPrecondition, "contains")?;
        ensure!(node.vm.sh(format!("sha256sum <{raw}")).await? == before, "{name}: bytes were changed");
        retry(|| node.csi.delete(&made.id)).await?;
    }
    for (name, script, words) in [
        ("pvc-lost-header", "blkdiscard -z -l 1M $raw", "no LUKS2 header"),
        ("pvc-erased-keys", "cryptsetup luksErase -q $raw", "no key opens"),
    ] {
        let ask = Ask::mount(name, "ext4").encrypted(KEY);
        let made = retry(|| node.csi.create(&ask)).await?;
        open(node, &made).await?;
        close(node, &made).await?;
        let raw = node.storage.device(name);
        // It is deactivated after the unstage.
        node.vm.sh(format!("for i in $(seq 100); do test -b {raw} || break; sleep 0.1; done")).await?;
        node.vm.sh(format!("{}; raw={raw}; {script}; sync", activate(&raw))).await.context(name)?;
        let before = node.vm.sh(format!("sha256sum <{raw}")).await?;
        node.kubelet_folders(&made).await?;
        refused(name, retry(|| node.csi.stage(&made)).await, Code::FailedPrecondition, words)?;
        ensure!(node.vm.sh(format!("sha256sum <{raw}")).await? == before, "{name}: bytes were changed");
        retry(|| node.csi.delete(&made.id)).await?;
    }
    node.expect_empty().await
}

/// Snapshots, copies, other values.
async fn rejected(node: &Node) -> Result<()> {
    let other = Ask::block("pvc-other").parameter("encryption", "luks1");
    refused("another value", node.csi.create(&other).await, Code::InvalidArgument, "luks2")?;
    let (encrypted, plain) = (Ask::block("pvc-encrypted").encrypted(KEY), Ask::block("pvc-plain"));
    let encrypted = retry(|| node.csi.create(&encrypted)).await?;
    let snapshot = node.csi.snapshot("snap", &encrypted.id).await;
    refused("a snapshot", snapshot, Code::FailedPrecondition, "is encrypted")?;
    let clone = Ask::block("pvc-clone").filled_from_volume(&encrypted);
    refused("a clone", node.csi.create(&clone).await, Code::FailedPrecondition, "is encrypted")?;
    let plain = retry(|| node.csi.create(&plain)).await?;
    let clone = Ask::block("pvc-clone").encrypted(KEY).filled_from_volume(&plain);
    refused("an encrypted clone", node.csi.create(&clone).await, Code::InvalidArgument, "cannot be filled")?;
    let plain_now = Ask::block("pvc-encrypted");
    refused("the same without encryption", node.csi.create(&plain_now).await, Code::AlreadyExists, "encryption")?;
    for made in [plain, encrypted] {
        retry(|| node.csi.delete(&made.id)).await?;
    }
    node.expect_empty().await
}
