//! How other programs see a claim, on a file: `blkid` (which Quarry needs anyway) and `sfdisk`.
//!
//! Both treat a file as a disk with sectors of 512 bytes.

use std::io::{Seek as _, SeekFrom, Write as _};

use quarry_exec::Command;

use super::*;

pub(super) fn image(disk: &Double) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(disk.size()).unwrap();
    for (number, piece) in disk.written() {
        file.seek(SeekFrom::Start(number * 512)).unwrap();
        file.write_all(&piece).unwrap();
    }
    file
}

/// blkid's exit code and output: 0 means that it found something, 2 that the disk is blank.
async fn blkid(disk: &Double) -> (i32, String) {
    let file = image(disk);
    let output = Command::query("blkid").args(["-p", "-o", "export"]).arg(file.path()).run().await.unwrap();
    (output.code, String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn blkid_reads_the_table_of_a_claim() {
    let (disk, claim) = ready(512);
    let (code, text) = blkid(&disk).await;
    assert_eq!(code, 0);
    assert!(text.contains("PTTYPE=gpt"), "{text}");
    assert!(text.contains(&format!("PTUUID={}", claim.identity.disk)), "{text}");
    assert!(!text.lines().any(|line| line.starts_with("TYPE=")), "{text}");
}

#[tokio::test]
async fn half_made_and_released_claims_are_blank_to_blkid() {
    for sector_size in [512, 4096] {
        let disk = Double::new(16 * MIB, sector_size, Before::Zeros);
        claim(&disk, NAME, NEW).unwrap();
        for cut in disk.cuts() {
            let claimed = matches!(read(&cut).unwrap(), ClaimState::Claimed(_));
            let (code, text) = blkid(&cut).await;
            assert_eq!(code, if claimed { 0 } else { 2 }, "{text}");
        }
        let (disk, claim) = ready(sector_size);
        release(&disk, &claim).unwrap();
        assert_eq!(blkid(&disk).await.0, 2);
    }
}

#[tokio::test]
#[ignore = "needs sfdisk"]
async fn sfdisk_reads_and_verifies_the_table_of_a_claim() {
    let (disk, claim) = ready(512);
    let file = image(&disk);
    let run = async |option| {
        let output = Command::query("sfdisk").arg(option).arg(file.path()).run().await.unwrap();
        assert_eq!(output.code, 0, "{}", output.stderr);
        (String::from_utf8(output.stdout).unwrap().to_lowercase(), output.stderr)
    };
    let (dump, _) = run("--dump").await;
    for part in [
        "label: gpt".to_owned(),
        format!("label-id: {}", claim.identity.disk),
        format!(
            "start=        2048, size=        2048, type={METADATA_TYPE}, uuid={}, name=\"quarry-metadata\"",
            claim.identity.metadata
        ),
        format!(
            "start=        4096, size=       26624, type={VOLUME_TYPE}, uuid={}, name=\"quarry-volume\"",
            claim.identity.volume
        ),
        "first-lba: 34".to_owned(),
        "last-lba: 32734".to_owned(),
    ] {
        assert!(dump.contains(&part), "{part} is not in\n{dump}");
    }
    let (said, warned) = run("--verify").await;
    assert!(said.contains("no errors detected"), "{said}");
    assert_eq!(warned, "");
}
