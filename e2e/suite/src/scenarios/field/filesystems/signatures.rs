//! Signatures in file data: of arrays and filesystems that keep theirs at the end or in the middle of a disk.

use anyhow::{Context as _, Result, ensure};

use crate::csi::{Ask, FILESYSTEMS, Made};
use crate::node::Node;
use crate::scenario::{Context, Passed};
use crate::scenarios::disk::signatures::{ALL, Make};
use crate::scenarios::steps::{close, device_of, open, read, retag, tags, write};

const GIB: u64 = 1 << 30;
/// The filesystem itself uses the space before this, so no file can be there.
const OWN: u64 = 1 << 20;
/// How many of the signatures blkid must detect, or the test proves nothing.
const SEEN: usize = 8;

/// A signature, and its offset on a device of that many bytes.
struct Planted {
    what: &'static str,
    pieces: Vec<(u64, Vec<u8>)>,
}

pub async fn run(context: Context) -> Passed {
    let mut node = Node::bare("signatures-in-data", &[GIB]).await?;
    node.keep_active().await?;
    node.serve().await?;
    let mut lines = Vec::new();
    for filesystem in FILESYSTEMS.map(|known| known.name) {
        let made = node.csi.create(&Ask::mount(&format!("data-{filesystem}"), filesystem)).await?;
        let (tried, seen) = every(&node, &made, filesystem).await.with_context(|| filesystem.to_owned())?;
        ensure!(seen >= SEEN, "{filesystem}: blkid saw {seen} of {tried} signatures: they test nothing");
        node.csi.delete(&made.id).await?;
        lines.push(format!("{filesystem}: {tried} staged, {seen} of which blkid takes for something else"));
        context.say(lines.last().map_or("", String::as_str));
    }
    old_record(&node).await.context("a record from old metadata")?;
    node.expect_empty().await?;
    Ok(lines.join("; "))
}

/// Writes each signature on its own into the unused part of a volume that was in use, stages it, and removes
/// it again.
async fn every(node: &Node, made: &Made, filesystem: &str) -> Result<(usize, usize)> {
    open(node, made).await?;
    write(node, made).await?;
    close(node, made).await?;
    let device = device_of(made);
    let size: u64 = node.vm.sh(format!("blockdev --getsize64 {device}")).await?.trim().parse()?;
    let (mut tried, mut seen) = (0, 0);
    for planted in at_the_end(size) {
        for (index, (at, bytes)) in planted.pieces.iter().enumerate() {
            let length = bytes.len();
            node.vm.write("/run/bytes", bytes, 0o600).await?;
            node.vm
                .sh(format!(
                    "dd if={device} of=/run/before-{index} bs={length} count=1 iflag=skip_bytes,fullblock skip={at} status=none; \
                     dd if=/run/bytes of={device} bs={length} oflag=seek_bytes seek={at} conv=notrunc,fsync status=none"
                ))
                .await?;
        }
        let says = node.vm.sh(format!("blkid -p -o value -s TYPE {device} || echo nothing")).await?;
        seen += usize::from(says.trim() != filesystem);
        let staged = async {
            open(node, made).await?;
            read(node, made).await?;
            close(node, made).await
        };
        staged.await.with_context(|| format!("with the signature of {}, which blkid calls {says:?}", planted.what))?;
        for (index, (at, _)) in planted.pieces.iter().enumerate() {
            node.vm
                .sh(format!(
                    "dd if=/run/before-{index} of={device} bs=1M oflag=seek_bytes seek={at} conv=notrunc,fsync status=none"
                ))
                .await?;
        }
        tried += 1;
    }
    Ok((tried, seen))
}

/// An operator restored metadata from before the volume's first use: its record says `new`, but its data is
/// there. A repeated CreateVolume neither wipes it nor rejects it because of its files.
async fn old_record(node: &Node) -> Result<()> {
    let made = node.csi.create(&Ask::mount("restored", "ext4")).await?;
    let before = tags(node, &made).await?;
    open(node, &made).await?;
    write(node, &made).await?;
    close(node, &made).await?;
    retag(node, &made, &[before.as_str()]).await?;
    let device = device_of(&made);
    node.vm
        .sh(format!(
            "printf JM | dd of={device} bs=1 oflag=seek_bytes seek=$(($(blockdev --getsize64 {device}) - 512)) \
             conv=notrunc,fsync status=none"
        ))
        .await?;
    let again = node.csi.create(&made.ask).await?;
    ensure!(again.id == made.id, "CreateVolume gave {}", again.id);
    open(node, &made).await?;
    read(node, &made).await?;
    close(node, &made).await?;
    node.csi.delete(&made.id).await.map(drop).map_err(Into::into)
}

/// The signatures at places that files use.
fn at_the_end(size: u64) -> Vec<Planted> {
    let known = ALL.iter().filter_map(|signature| match signature.make {
        Make::Bytes(bytes) => Some(Planted { what: signature.what, pieces: bytes(size, 512) }),
        Make::Tool(_) => None,
    });
    let sector = |back: u64| size - back * 512;
    let text = |what: &'static str, at: u64, bytes: &[u8]| Planted { what, pieces: vec![(at, bytes.to_vec())] };
    let padded = |lead: usize, bytes: &[u8]| [vec![0; lead], bytes.to_vec()].concat();
    let others = [
        text("JMicron RAID", sector(1), b"JM"),
        text("HighPoint HPT45x RAID", sector(11), &0x5a78_16f3_u32.to_le_bytes()),
        text("LSI MegaRAID", sector(1), b"$XIDE$"),
        text("NVIDIA RAID", sector(2), b"NVIDIA"),
        text("Promise RAID", sector(63), b"Promise Technology, Inc."),
        text("Promise RAID, another place", sector(255), b"Promise Technology, Inc."),
        text("Silicon Image RAID", sector(1), &padded(0x60, &0x2f00_0000_u32.to_le_bytes())),
        text("VIA RAID", sector(1), &via()),
        text("Adaptec RAID", sector(1), &adaptec()),
        text("DDF RAID", sector(1), &[&[0xde, 0x11, 0xde, 0x11][..], &[0; 84], b"01.02.00"].concat()),
        text("DRBD", size / 4096 * 4096 - 4096, &drbd()),
        text("the backup of a GPT", sector(1), b"EFI PART"),
        text("a copy of a btrfs superblock", 64 << 20, &padded(0x40, b"_BHRfS_M")),
        text("LVM's label", size - 4096, b"LABELONE"),
        text("swap", size - 4096, &padded(4086, b"SWAPSPACE2")),
    ];
    let free =
        |planted: &Planted| planted.pieces.iter().all(|(at, bytes)| *at >= OWN && at + bytes.len() as u64 <= size);
    known.chain(others).filter(free).collect()
}

/// The sector of a VIA array, with its checksum.
fn via() -> Vec<u8> {
    let mut bytes = vec![0; 51];
    bytes[..2].copy_from_slice(&0xaa55_u16.to_le_bytes());
    bytes[2] = 1;
    bytes[50] = bytes[..50].iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
    bytes
}

/// The sector of an Adaptec array.
fn adaptec() -> Vec<u8> {
    let mut bytes = vec![0; 512];
    bytes[..4].copy_from_slice(&0x37fc_4d1e_u32.to_be_bytes());
    bytes[256..260].copy_from_slice(&0x4450_544d_u32.to_be_bytes());
    bytes
}

/// The metadata of DRBD 8.4, which is at the end of its device.
fn drbd() -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[60..64].copy_from_slice(&0x8374_026b_u32.to_be_bytes());
    bytes
}
