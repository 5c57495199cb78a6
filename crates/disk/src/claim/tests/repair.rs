//! Runs the commands that Quarry prints for a damaged claim, on a file.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use quarry_exec::Command;

use super::damage::{backup, forge, repartition};
use super::*;

/// A file that stands for a disk, both for the claim's code and for other programs.
struct Image {
    file: tempfile::NamedTempFile,
    size: u64,
}

impl Image {
    fn of(disk: &Double) -> Self {
        let file = super::tools::image(disk);
        Self { file, size: disk.size() }
    }

    fn file(&self) -> &File {
        self.file.as_file()
    }
}

impl Sectors for Image {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        512
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.file().read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        self.file().write_all_at(bytes, offset)
    }

    fn flush(&self) -> std::io::Result<()> {
        self.file().sync_all()
    }

    fn drop_cache(&self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs the commands that work on a file. `partx` needs a block device.
async fn repair(image: &Image) -> Vec<String> {
    let mut about = Vec::new();
    for repair in read(image).unwrap().repairs(image.path()) {
        for command in
            repair.commands.iter().filter(|command| ["sfdisk", "dd"].iter().any(|name| command.starts_with(name)))
        {
            sh(command).await;
        }
        about.push(repair.about);
        if matches!(read(image).unwrap(), ClaimState::Claimed(_)) {
            break;
        }
    }
    about
}

/// A used claim of 16 MiB, damaged by `harm`.
async fn repaired(harm: impl FnOnce(&Double)) -> Claim {
    let (disk, _) = ready(512);
    harm(&disk);
    let image = Image::of(&disk);
    let about = repair(&image).await;
    match read(&image).unwrap() {
        ClaimState::Claimed(claim) => claim,
        other => panic!("after {about:?}: {other:?}"),
    }
}

/// Runs a line of shell, which must succeed.
async fn sh(line: &str) {
    let output = Command::query("sh").args(["-c", line]).run().await.unwrap();
    assert_eq!(output.code, 0, "{line}\n{}", output.stderr);
}

#[tokio::test]
#[ignore = "needs sfdisk"]
async fn printed_commands_repair_the_tables() {
    let lost_start = |disk: &Double| disk.poke(512, &[0; 512]);
    let lost_end = |disk: &Double| disk.poke(backup(512).0, &[0; 512]);
    let lost_mbr = |disk: &Double| disk.poke(0, &[0; 512]);
    let dos_table = |disk: &Double| disk.poke(446, &[0x80, 0, 2, 0, 0x83]);
    let third = |disk: &Double| {
        for (header_at, entries_at) in [(512, 1024), backup(512)] {
            forge(disk, header_at, entries_at, |_, entries| entries[256..272].copy_from_slice(&[7; 16]));
        }
    };
    let another_guid = |disk: &Double| {
        for (header_at, entries_at) in [(512, 1024), backup(512)] {
            forge(disk, header_at, entries_at, |header, _| header[56..72].fill(9));
        }
    };
    let harms: [&dyn Fn(&Double); 9] = [
        &lost_start,
        &lost_end,
        &lost_mbr,
        &dos_table,
        &third,
        &another_guid,
        &|disk| repartition(disk, 512),
        &|disk| (lost_start(disk), lost_end(disk)).0,
        &|disk| (lost_start(disk), lost_mbr(disk)).0,
    ];
    for (number, harm) in harms.into_iter().enumerate() {
        let claim = repaired(harm).await;
        assert_eq!((claim.degraded, claim.record.as_slice()), (vec![], READY), "damage {number}");
    }
}

/// What growpart does, on a disk that has grown and on one that has not.
#[tokio::test]
#[ignore = "needs sfdisk"]
async fn printed_commands_repair_a_grown_partition() {
    for more in [0, 8 * MIB] {
        let (disk, claim) = ready(512);
        let mut image = Image::of(&disk);
        image.size += more;
        image.file().set_len(image.size).unwrap();
        sh(&format!("echo ', +' | sfdisk --no-reread --force -N 2 {}", image.path().display())).await;
        let ClaimState::Damaged(damaged) = read(&image).unwrap() else { panic!("not damaged") };
        assert!(damaged.partition.unwrap() > claim.length);
        let about = repair(&image).await;
        assert!(about[0].contains("another program"), "{about:?}");
        assert!(about[1].contains("xfs cannot be shrunk"), "{about:?}");
        let ClaimState::Claimed(found) = read(&image).unwrap() else { panic!("not repaired") };
        assert_eq!((found.degraded, found.length), (vec![], claim.length));
    }
}

#[tokio::test]
async fn printed_commands_erase_a_foreign_copy() {
    for at in [MIB, MIB + MIB / 2] {
        let claim = repaired(|disk| {
            let foreign = Double::new(16 * MIB, 512, Before::Zeros);
            claim(&foreign, OTHER, READY).unwrap();
            disk.poke(at, &foreign.peek(MIB, 4096));
        })
        .await;
        assert_eq!(claim.degraded, [Degraded::Record]);
        assert_eq!(claim.identity, Identity::of(NAME));
    }
}

#[tokio::test]
async fn printed_commands_give_up_an_overwritten_claim() {
    let (disk, _) = ready(512);
    repartition(&disk, 512);
    let image = Image::of(&disk);
    let found = read(&image).unwrap();
    assert!(matches!(&found, ClaimState::Foreign { over: Some(claim), .. } if claim.identity == Identity::of(NAME)));
    let give_up = found.repairs(image.path()).pop().unwrap();
    assert!(give_up.about.contains("ceases to exist"), "{give_up:?}");
    for command in give_up.commands {
        sh(&command).await;
    }
    assert_eq!(read(&image).unwrap(), ClaimState::Foreign { what: "a GPT partition table", over: None });
}

#[test]
fn no_commands_are_printed_if_none_can_help() {
    let commands = |disk: &Double| {
        let repairs = read(disk).unwrap().repairs(Path::new("/dev/nvme0n1"));
        repairs.into_iter().flat_map(|repair| repair.commands).collect::<Vec<_>>()
    };
    let (disk, _) = ready(512);
    assert!(commands(&disk).is_empty(), "nothing is wrong");
    disk.attach(32 * MIB, 512);
    assert!(commands(&disk).is_empty(), "a grown disk needs no repair");
    disk.attach(8 * MIB, 512);
    assert!(commands(&disk).is_empty(), "the data is not on it");
    // The record cannot be restored, but the files can be copied.
    let (disk, _) = ready(512);
    disk.poke(MIB, b"#");
    disk.poke(MIB + MIB / 2, b"#");
    assert_eq!(commands(&disk), ["mount -o ro,noload /dev/nvme0n1p2 /mnt"]);
    // With another sector size, the numbers would be wrong.
    let (disk, _) = ready(4096);
    disk.poke(0, &[0; 512]);
    disk.attach(16 * MIB, 512);
    assert!(commands(&disk).is_empty());
}

/// A disk that was made a physical volume looks like a claim that has lost its MBR: its label must not be
/// overwritten before an operator has checked the disk.
#[test]
fn the_first_step_lists_newer_contents() {
    let (disk, _) = ready(512);
    disk.poke(0, &[0; 512]);
    disk.poke(512, b"LABELONE");
    disk.poke(backup(512).0, &[0; 512]);
    let repairs = read(&disk).unwrap().repairs(Path::new("/dev/vdb"));
    assert_eq!(repairs[0].commands, ["wipefs --no-act /dev/vdb"]);
    assert!(repairs[0].about.contains("stop here"), "{repairs:?}");
    assert!(repairs[1].commands[0].starts_with("sfdisk "), "{repairs:?}");
}
