//! The commands that Quarry prints for a damaged claim, run on a file.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use quarry_exec::Command;

use super::damage::{backup, forge, repartition};
use super::*;

/// A file that stands for a disk, as the claim's code and other programs see it.
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
}

/// Runs the commands that are meant for the disk; `partx` is for a block device.
async fn mend(image: &Image) -> Vec<String> {
    let mut about = Vec::new();
    for mend in read(image).unwrap().mends(image.path()) {
        for command in
            mend.commands.iter().filter(|command| ["sfdisk", "dd"].iter().any(|name| command.starts_with(name)))
        {
            sh(command).await;
        }
        about.push(mend.about);
        if matches!(read(image).unwrap(), ClaimState::Claimed(_)) {
            break;
        }
    }
    about
}

/// A used claim of 16 MiB, damaged by `harm`.
async fn mended(harm: impl FnOnce(&Double)) -> Claim {
    let (disk, _) = ready(512);
    harm(&disk);
    let image = Image::of(&disk);
    let about = mend(&image).await;
    match read(&image).unwrap() {
        ClaimState::Claimed(claim) => claim,
        other => panic!("after {about:?}: {other:?}"),
    }
}

/// Runs a line of shell, which has to succeed.
async fn sh(line: &str) {
    let output = Command::query("sh").args(["-c", line]).run().await.unwrap();
    assert_eq!(output.code, 0, "{line}\n{}", output.stderr);
}

#[tokio::test]
#[ignore = "needs sfdisk"]
async fn the_tables_are_mended_by_what_is_printed() {
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
        let claim = mended(harm).await;
        assert_eq!((claim.degraded, claim.record.as_slice()), (vec![], READY), "harm {number}");
    }
}

/// As growpart does it, on a disk that has grown, and on one that has not.
#[tokio::test]
#[ignore = "needs sfdisk"]
async fn a_partition_that_was_made_larger_is_mended_by_what_is_printed() {
    for more in [0, 8 * MIB] {
        let (disk, claim) = ready(512);
        let mut image = Image::of(&disk);
        image.size += more;
        image.file().set_len(image.size).unwrap();
        sh(&format!("echo ', +' | sfdisk --no-reread --force -N 2 {}", image.path().display())).await;
        let ClaimState::Damaged(damaged) = read(&image).unwrap() else { panic!("not damaged") };
        assert!(damaged.partition.unwrap() > claim.length);
        let about = mend(&image).await;
        assert!(about[0].contains("another program"), "{about:?}");
        assert!(about[1].contains("xfs cannot be shrunk"), "{about:?}");
        let ClaimState::Claimed(found) = read(&image).unwrap() else { panic!("not mended") };
        let grown = Degraded::Resized { then: disk.size(), now: image.size };
        assert_eq!(found.degraded, if more == 0 { vec![] } else { vec![grown] });
        assert_eq!(found.length, claim.length);
    }
}

#[tokio::test]
async fn the_copy_of_another_claim_is_erased_by_what_is_printed() {
    for at in [MIB, MIB + MIB / 2] {
        let claim = mended(|disk| {
            let stranger = Double::new(16 * MIB, 512, Before::Zeros);
            claim(&stranger, OTHER, READY).unwrap();
            disk.poke(at, &stranger.peek(MIB, 4096));
        })
        .await;
        assert_eq!(claim.degraded, [Degraded::Record]);
        assert_eq!(claim.identity, Identity::of(NAME));
    }
}

#[tokio::test]
async fn a_claim_that_was_written_over_is_given_up_by_what_is_printed() {
    let (disk, _) = ready(512);
    repartition(&disk, 512);
    let image = Image::of(&disk);
    let found = read(&image).unwrap();
    assert!(matches!(&found, ClaimState::Foreign { over: Some(claim), .. } if claim.identity == Identity::of(NAME)));
    let give_up = found.mends(image.path()).pop().unwrap();
    assert!(give_up.about.contains("ceases to exist"), "{give_up:?}");
    for command in give_up.commands {
        sh(&command).await;
    }
    assert_eq!(read(&image).unwrap(), ClaimState::Foreign { what: "a GPT partition table", over: None });
}

#[test]
fn where_no_command_helps_none_is_printed() {
    let commands = |disk: &Double| {
        let mends = read(disk).unwrap().mends(Path::new("/dev/nvme0n1"));
        mends.into_iter().flat_map(|mend| mend.commands).collect::<Vec<_>>()
    };
    let (disk, _) = ready(512);
    assert!(commands(&disk).is_empty(), "nothing is wrong");
    disk.attach(32 * MIB, 512);
    assert!(commands(&disk).is_empty(), "a disk that has grown needs nothing");
    disk.attach(8 * MIB, 512);
    assert!(commands(&disk).is_empty(), "the bytes are not on it");
    // The record cannot be made again. The files can be copied.
    let (disk, _) = ready(512);
    disk.poke(MIB, b"#");
    disk.poke(MIB + MIB / 2, b"#");
    assert_eq!(commands(&disk), ["mount -o ro /dev/nvme0n1p2 /mnt"]);
    // Behind an adapter with other sectors, the numbers would be wrong.
    let (disk, _) = ready(4096);
    disk.poke(0, &[0; 512]);
    disk.attach(16 * MIB, 512);
    assert!(commands(&disk).is_empty());
}

/// A disk that was made a physical volume looks like a claim that has lost its MBR: its label must not be written over
/// before somebody has looked.
#[test]
fn what_was_put_on_the_disk_since_is_looked_at_first() {
    let (disk, _) = ready(512);
    disk.poke(0, &[0; 512]);
    disk.poke(512, b"LABELONE");
    disk.poke(backup(512).0, &[0; 512]);
    let mends = read(&disk).unwrap().mends(Path::new("/dev/vdb"));
    assert_eq!(mends[0].commands, ["wipefs --no-act /dev/vdb"]);
    assert!(mends[0].about.contains("stop here"), "{mends:?}");
    assert!(mends[1].commands[0].starts_with("sfdisk "), "{mends:?}");
}
