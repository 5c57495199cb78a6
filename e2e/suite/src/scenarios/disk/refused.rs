//! Disks that must never be used. For each, three things are checked: CreateVolume gets no disk, its answer
//! names the disk and the reason, and no byte of the disk changes.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use quarry_vm::{Bus, Disk};
use tonic::Code;

use super::signatures::{self, Make, Signature};
use super::{MIB, capacity, disk, kernel_name};
use crate::csi::Ask;
use crate::node::Node;
use crate::scenario::{Context, Passed};
use crate::scenarios::steps::offered;

/// The addresses of the pairs of disks, one of each sector size: as many as fit in an answer, besides the
/// root disk.
const BUSES: [Bus; 3] = [Bus::Virtio, Bus::Nvme, Bus::Scsi];
/// The smallest size for ZFS: libblkid does not look for it on smaller disks.
const SIZE: u64 = 64 * MIB;

/// The contents of one disk, and the expected reason.
pub struct Case<'a> {
    pub disk: &'a Disk,
    pub what: String,
    pub words: Vec<&'static str>,
}

/// The disks, in pairs with sectors of 512 and of 4096 bytes.
pub fn pairs() -> Vec<Disk> {
    let pair = |(index, bus)| [512, 4096].map(|sector| disk(&format!("d{index}-{sector}"), bus, sector, SIZE));
    BUSES.into_iter().enumerate().flat_map(pair).collect()
}

/// The signatures that are tried at once: one for each pair of disks.
pub fn batches() -> impl Iterator<Item = &'static [Signature]> {
    signatures::ALL.chunks(BUSES.len())
}

/// Writes each signature of a batch to a pair of disks.
pub async fn cases<'a>(node: &Node, batch: &[Signature], disks: &'a [Disk]) -> Result<Vec<Case<'a>>> {
    let mut cases = Vec::new();
    for (signature, pair) in batch.iter().zip(disks.chunks(2)) {
        for disk in pair {
            make(node, signature, disk).await.with_context(|| format!("making {} on {disk}", signature.what))?;
            let what = format!("{}, sectors of {}", signature.what, disk.block_size);
            cases.push(Case { disk, what, words: signature.words.to_vec() });
        }
    }
    Ok(cases)
}

/// A script that makes a blank disk look like one with a boot sector, so that it is not free.
pub fn boot_sector(path: &str) -> String {
    format!("printf '\\125\\252' | dd of={path} bs=1 seek=510 conv=notrunc,fsync status=none")
}

pub async fn run(context: Context) -> Passed {
    let disks = pairs();
    let mut node = Node::on_disks("disk-refused", disks.clone()).await?;
    node.serve().await?;
    let all = capacity(SIZE) * i64::try_from(disks.len())?;
    // Blank, each disk is offered: later only its content is the reason for a rejection.
    offered(&node, all).await?;

    let mut refusals = 0;
    for batch in batches() {
        let cases = cases(&node, batch, &disks).await?;
        refusals += refuse(&node, &disks, &cases).await?;
        blank(&node, &disks).await?;
        offered(&node, all).await?;
        context.say(batch.iter().map(|signature| signature.what).collect::<Vec<_>>().join("; "));
    }
    let signatures = refusals;
    // The partition is on NVMe, whose names have another format.
    let mut others = disks.clone();
    others.rotate_left(2);
    for (ways, disks) in [(WHOLE, &disks), (PARTS, &others)] {
        refusals += used(&node, ways, disks).await?;
        // In this state they are offered: only the changes made to them were the reason.
        offered(&node, all).await?;
    }
    // The root disk was among them each time.
    refusals += 1;

    let made = node.csi.create(&Ask::block("taken")).await?;
    node.expect_only(&made).await?;
    node.csi.delete(&made.id).await?;
    node.expect_empty().await?;
    Ok(format!(
        "{refusals} signatures and states tried, {refusals} rejected ({signatures} of them signatures), 0 bytes changed"
    ))
}

async fn make(node: &Node, signature: &Signature, disk: &Disk) -> Result<()> {
    let (path, sector) = (disk.path(), u64::from(disk.block_size));
    match signature.make {
        Make::Tool(script) => drop(node.vm.sh(format!("exec >/dev/null; {}", script(&path, sector))).await?),
        Make::Bytes(bytes) => {
            for (at, bytes) in bytes(disk.size, sector) {
                node.vm.write("/run/bytes", &bytes, 0o600).await?;
                let dd = format!(
                    "dd if=/run/bytes of={path} bs=1M oflag=seek_bytes seek={at} conv=notrunc,fsync status=none"
                );
                node.vm.sh(dd).await?;
            }
        }
    }
    Ok(())
}

/// Makes every disk blank again.
pub async fn blank(node: &Node, disks: &[Disk]) -> Result<()> {
    let paths: Vec<String> = disks.iter().map(Disk::path).collect();
    let script = "blkdiscard --force --zeroout $disk; sync $disk; blockdev --rereadpt $disk";
    node.vm.sh(format!("for disk in {}; do {script}; done; udevadm settle", paths.join(" "))).await.map(drop)
}

/// A checksum of each disk's bytes, as they are on the disk, a line each.
pub async fn checksums(node: &Node, cases: &[Case<'_>]) -> Result<String> {
    let paths: Vec<String> = cases.iter().map(|case| case.disk.path()).collect();
    let script =
        format!("for disk in {}; do dd if=$disk bs=1M iflag=direct status=none | md5sum; done", paths.join(" "));
    node.vm.sh(script).await
}

/// CreateVolume must be rejected, name each of these disks, and change nothing. Returns their number. The
/// other disks are prepared such that they are rejected as well.
async fn refuse(node: &Node, disks: &[Disk], cases: &[Case<'_>]) -> Result<usize> {
    for disk in disks.iter().filter(|disk| cases.iter().all(|case| case.disk != *disk)) {
        node.vm.sh(boot_sector(&disk.path())).await?;
    }
    node.vm.sh("sync; udevadm settle").await?;
    let before = checksums(node, cases).await?;
    // quarry receives the event of a change a moment after udev. Until then, its message may describe the state before.
    let mut tries = 0;
    loop {
        let message = match node.csi.create(&Ask::mount("never", "ext4").size(1)).await {
            Err(status) if status.code() == Code::ResourceExhausted => status.message().to_owned(),
            other => {
                bail!("CreateVolume must fail because no disk is free, not with: {other:?}\n{}", node.contents().await?)
            }
        };
        match names_every_disk(node, cases, &message).await {
            Err(error) if tries == 20 => return Err(error),
            Err(_) => tries += 1,
            Ok(()) => break,
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let after = checksums(node, cases).await?;
    for (case, (before, after)) in cases.iter().zip(before.lines().zip(after.lines())) {
        ensure!(before == after, "{}: the disk's bytes were changed", case.what);
    }
    let (available, largest) = node.csi.capacity(&Default::default()).await?;
    ensure!((available, largest) == (0, 0), "{available} bytes are offered, {largest} at most");
    ensure!(node.csi.list().await?.is_empty(), "a volume is listed");
    Ok(cases.len())
}

/// Fails unless the message says of each disk why it is not free.
pub async fn names_every_disk(node: &Node, cases: &[Case<'_>], message: &str) -> Result<()> {
    let mut names = vec![("vda".to_owned(), "the root disk", vec!["is mounted on /"])];
    for case in cases {
        names.push((kernel_name(node, case.disk).await?, case.what.as_str(), case.words.clone()));
    }
    // The text about each disk ends where the next one is named.
    let mut begins: Vec<(usize, &str)> = Vec::new();
    for (name, what, _) in &names {
        let at = [": ", "; "].iter().find_map(|before| message.find(&format!("{before}{name} ")));
        begins.push((at.with_context(|| format!("{what}: {name} is not named: {message}"))?, name));
    }
    begins.sort_unstable();
    for (name, what, words) in &names {
        let index = begins.iter().position(|(_, other)| other == name).context("its place")?;
        let end = begins.get(index + 1).map_or(message.len(), |(at, _)| *at);
        let said = &message[begins[index].0..end];
        for words in words {
            ensure!(said.contains(words), "{what}: {words:?} should be said, and it is: {said:?}");
        }
    }
    Ok(())
}

/// A way for a disk to be in use.
struct Way {
    what: &'static str,
    /// A script that starts it, given the disk's path.
    begin: fn(&str) -> String,
    /// A script that ends it.
    end: fn(&str) -> String,
    /// Quarry's message about such a disk.
    words: &'static [&'static str],
}

/// Opens a disk exclusively, as mkfs and virtual machines do.
const HOLD: &str = "use Fcntl; sysopen(my $disk, $ARGV[0], O_RDONLY | O_EXCL) or die $!; open(my $held, '>', '/run/held'); \
                    print $held $$; close $held; sleep 3600";

/// One disk for each.
const WHOLE: &[Way] = &[
    Way {
        what: "opened exclusively by a program",
        begin: |disk| {
            format!(
                "rm -f /run/held; setsid perl -e \"{}\" {disk} >/dev/null 2>&1 & until [ -s /run/held ]; do sleep 0.1; done",
                HOLD.replace('$', "\\$")
            )
        },
        end: |_| "kill $(cat /run/held)".to_owned(),
        words: &["is held by another program or the kernel"],
    },
    Way {
        what: "mounted",
        begin: |disk| {
            format!(
                "mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 {disk}; mkdir -p /run/a; \
                 mount -o noatime {disk} /run/a"
            )
        },
        end: |_| "umount /run/a".to_owned(),
        words: &["is mounted on /run/a", "has an ext4 filesystem"],
    },
    Way {
        what: "held by device-mapper",
        begin: |disk| format!("dmsetup create taken --table \"0 2048 linear {disk} 0\""),
        end: |_| "dmsetup remove --retry taken".to_owned(),
        words: &["used by dm-0"],
    },
    Way {
        what: "read-only",
        begin: |disk| format!("blockdev --setro {disk}"),
        end: |disk| format!("blockdev --setrw {disk}"),
        words: &["is read-only"],
    },
    Way {
        what: "used as swap",
        begin: |disk| format!("mkswap -q {disk}; swapon {disk}"),
        end: |disk| format!("swapoff {disk}"),
        words: &["is used as swap"],
    },
    Way {
        what: "behind a loop device",
        begin: |disk| format!("losetup /dev/loop7 {disk}"),
        end: |_| "losetup -d /dev/loop7".to_owned(),
        words: &["used by loop7"],
    },
];

/// The same, where less than the disk is in use, or not the disk itself.
const PARTS: &[Way] = &[
    Way {
        what: "a raw block volume of a pod",
        begin: |disk| format!("touch /run/node; mount --bind $(readlink -f {disk}) /run/node"),
        end: |_| "umount /run/node".to_owned(),
        words: &["is a raw block volume at /run/node"],
    },
    Way {
        what: "one whose partition is mounted",
        begin: |disk| {
            format!(
                "sgdisk -n 1:1MiB:+24MiB {disk} >/dev/null; udevadm settle; \
                 mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 {disk}-part1; mkdir -p /run/b; \
                 mount -o noatime {disk}-part1 /run/b"
            )
        },
        end: |_| "umount /run/b".to_owned(),
        words: &["is mounted on /run/b", "has partitions"],
    },
    Way {
        what: "under an active logical volume",
        begin: |disk| format!("vgcreate -qq other {disk}; lvcreate -qq -y -L 8M -n one other"),
        end: |_| "vgremove -qq -f other".to_owned(),
        words: &["used by dm-0", "holds an LVM physical volume"],
    },
];

/// Puts disks to these uses, checks that they are rejected, and ends the uses.
async fn used(node: &Node, ways: &[Way], disks: &[Disk]) -> Result<usize> {
    let mut cases = Vec::new();
    for (way, disk) in ways.iter().zip(disks) {
        let begin = (way.begin)(&disk.path());
        node.vm.sh(begin).await.with_context(|| format!("making a disk that is {}", way.what))?;
        cases.push(Case { disk, what: way.what.to_owned(), words: way.words.to_vec() });
    }
    let refusals = refuse(node, disks, &cases).await?;
    for (way, disk) in ways.iter().zip(disks) {
        node.vm.sh((way.end)(&disk.path())).await.with_context(|| format!("ending that one is {}", way.what))?;
    }
    blank(node, disks).await?;
    Ok(refusals)
}
