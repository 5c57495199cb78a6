//! Reads the metadata of real volume groups, and compares the result with lvm's report of the same moment.
//!
//! Each recording in `fixtures/metadata` has two files: `NAME.report.json`, the report with Quarry's own options, and
//! `NAME.disks.json`, what was on the disks (label, headers and texts) and in the kernel. `bookworm` is lvm 2.03.16 on
//! Linux 6.1, `trixie` is lvm 2.03.31 on Linux 6.12.

// Test helpers may panic like tests.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use quarry_lvm::metadata::{Device, Devices, Disk, DiskProblem, NeedsReport, follows, read_disk, volume_group};
use quarry_lvm::{VolumeGroup, device_uuid, parse};
use serde_json::Value;

const GUESTS: [&str; 2] = ["bookworm", "trixie"];

/// The metadata of these has everything that the report has.
const SAME: [&str; 21] = [
    // Every kind of tag, name, flag and segment that lvcreate makes; active, inactive, open, suspended.
    "linear",
    "empty",
    "striped",
    "raid1",
    // All other levels of raid.
    "raids",
    // A linear volume that became a raid1, and one with an odd name.
    "converted",
    // A disk of a raid failed.
    "raid1-failed",
    "raid1-skipped",
    // Of linear volumes and of a raid; one became full, one is inactive.
    "snapshots",
    "sparse",
    // Two pools, snapshots of snapshots, an external origin.
    "thin",
    "thin-raid1",
    "thin-full",
    "thin-off",
    // Two areas on a disk, none, and one of another size; then with `--metadataignore`, then `--vgmetadatacopies 1`.
    "two-areas",
    "ignored-areas",
    "one-copy",
    // Other alignment, a bootloader area, a smaller size than the disk's, a label in another sector.
    "geometry",
    // The text continues at the beginning of its area.
    "wrap",
    "exported",
    "read-only",
];

/// These need the report, for that reason.
const NEEDED: [(&str, &str); 15] = [
    // A change that did not reach a disk.
    ("back-but-old", "copies-differ"),
    ("missing", "missing"),
    ("missing-changed", "missing"),
    ("degraded", "missing"),
    // What `vgreduce --removemissing` leaves of a raid.
    ("error-segments", "unknown"),
    ("merging", "unknown"),
    ("pvmove", "unknown"),
    ("mirror", "unknown"),
    ("raid1-tracked", "unknown"),
    ("virtual-origin", "unknown"),
    ("cache", "unknown"),
    ("writecache", "unknown"),
    ("integrity", "unknown"),
    ("history", "unknown"),
    ("shared", "unknown"),
];

/// lvm reports `system-id` only on its own host. Only [`follows`] can see whose it is.
const OWNED: [(&str, usize); 2] = [("system-id", 1), ("other-system-id", 0)];

/// A recording.
struct Recording {
    report: Vec<VolumeGroup>,
    /// Copies of the disks, as sparse files, with the names of their devices.
    disks: Vec<(PathBuf, PathBuf)>,
    kernel: Vec<(String, Device)>,
    _folder: tempfile::TempDir,
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hexadecimal");
    hex.as_bytes().chunks(2).map(digits).collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

impl Recording {
    fn load(guest: &str, name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/metadata").join(guest);
        let read = |end: &str| fs::read(folder.join(format!("{name}.{end}.json"))).expect(name);
        let recorded: Value = serde_json::from_slice(&read("disks")).expect("JSON");
        let copies = tempfile::tempdir().expect("folder");
        let texts: Vec<String> = recorded["texts"].as_array().expect("texts").iter().map(text).collect();
        let disk = |(index, disk): (usize, &Value)| {
            let path = copies.path().join(index.to_string());
            let file = File::create(&path).expect("a file");
            file.set_len(number(&disk["size"])).expect("a sparse file");
            for part in disk["parts"].as_array().expect("parts") {
                write_part(&file, part, &texts);
            }
            (path, PathBuf::from(text(&disk["device"])))
        };
        let disks = recorded["disks"].as_array().expect("disks").iter().enumerate().map(disk).collect();
        let kernel = recorded["kernel"].as_array().expect("devices").iter().map(device).collect();
        Self { report: parse(&read("report")).expect("a report"), disks, kernel, _folder: copies }
    }

    fn read(&self) -> Result<Vec<Disk>, NeedsReport> {
        let read = |(copy, device): &(PathBuf, PathBuf)| Ok(Disk { device: device.clone(), ..read_disk(copy)? });
        self.disks.iter().map(read).collect()
    }

    fn devices(&self) -> Devices {
        self.kernel.iter().cloned().collect()
    }

    /// The device with that end of its name or layer.
    fn device(&mut self, group: &VolumeGroup, volume: &str, layer: &str) -> &mut (String, Device) {
        let volume = group.logical_volume(volume).expect(volume);
        let uuid = format!("{}{layer}", device_uuid(group.uuid, volume.uuid));
        self.kernel.iter_mut().find(|(found, _)| *found == uuid).expect(&uuid)
    }

    fn group(&self) -> Result<VolumeGroup, NeedsReport> {
        volume_group(&self.read()?, &self.devices())
    }
}

fn write_part(file: &File, part: &Value, texts: &[String]) {
    if let Some(hex) = part["hex"].as_str() {
        return file.write_all_at(&bytes(hex), number(&part["at"])).expect("write");
    }
    let (area, offset, length) = (number(&part["area"]), number(&part["offset"]), number(&part["length"]));
    let text = texts[usize::try_from(number(&part["text"])).expect("an index")].as_bytes();
    let to_end = text.len().min(usize::try_from(length - offset).expect("a length"));
    file.write_all_at(&text[..to_end], area + offset).expect("write");
    // The ring buffer begins after the header.
    file.write_all_at(&text[to_end..], area + 512).expect("write");
}

fn device(row: &Value) -> (String, Device) {
    let number = |index: usize| u32::try_from(number(&row["number"][index])).expect("a number");
    let target = |line: &Value| {
        let line = text(line);
        let mut words = line.splitn(4, ' ').skip(2).map(str::to_owned);
        (words.next().expect("a type"), words.next().unwrap_or_default())
    };
    let targets = row["targets"].as_array().expect("targets");
    let device = Device {
        number: (number(0), number(1)),
        open: row["open"] != 0,
        suspended: row["suspended"] == "Suspended",
        status: targets.first().filter(|_| targets.len() == 1).map(target),
    };
    (text(&row["uuid"]), device)
}

#[test]
fn the_metadata_is_read_as_lvm_reports_it() {
    for (guest, name) in GUESTS.iter().flat_map(|guest| SAME.map(|name| (guest, name))) {
        let recording = Recording::load(guest, name);
        let group = recording.group().unwrap_or_else(|why| panic!("{guest} {name}: {why}"));
        assert_eq!(recording.report, [group], "{guest} {name}");
    }
}

#[test]
fn what_only_lvm_can_judge_needs_the_report() {
    for (guest, (name, label)) in GUESTS.iter().flat_map(|guest| NEEDED.map(|needed| (guest, needed))) {
        let why = Recording::load(guest, name).group().expect_err(name);
        assert_eq!(why.label(), label, "{guest} {name}: {why}");
    }
}

#[test]
fn a_group_of_another_host_does_not_follow_an_own_one() {
    for (guest, (name, reports)) in GUESTS.iter().flat_map(|guest| OWNED.map(|owned| (guest, owned))) {
        let recording = Recording::load(guest, name);
        let group = recording.group().unwrap_or_else(|why| panic!("{guest} {name}: {why}"));
        assert_eq!((group.system_id.as_str(), recording.report.len()), ("node-7", reports), "{guest} {name}");
        assert!(recording.report.iter().all(|report| *report == group), "{guest} {name}");
        let before = VolumeGroup { system_id: String::new(), ..group.clone() };
        assert!(matches!(follows(&before, group.clone()), Err(NeedsReport::Other(_))));
        assert_eq!(follows(&group, group.clone()).expect("the same owner"), group);
    }
}

#[test]
fn every_recording_is_used() {
    for guest in GUESTS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/metadata").join(guest);
        let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        let mut found: Vec<String> =
            entries.filter_map(|name| Some(name.to_str()?.strip_suffix(".disks.json")?.into())).collect();
        let names = SAME.into_iter().chain(NEEDED.map(|(name, _)| name)).chain(OWNED.map(|(name, _)| name));
        let mut expected: Vec<&str> = names.collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{guest}");
    }
}

#[test]
fn what_the_recordings_contain_is_what_they_are_for() {
    let group = |name| Recording::load("bookworm", name).group().expect(name);
    let linear = group("linear");
    let volume = |name: &str| linear.logical_volume(name).expect(name);
    assert_eq!(volume("a-b--c").tags.len(), 2);
    assert_eq!((volume("held").suspended, volume("two").open, volume("two").segments), (true, Some(true), 2));
    assert_eq!((volume("off").active, volume("off").open, volume("off").device_number), (Some(false), None, None));
    assert!(volume("skipped").activation_skip && !linear.physical_volumes[2].allocatable);
    assert_eq!(linear.tags, ["b", "site=a"]);
    let areas = |name| group(name).physical_volumes.iter().map(|pv| pv.metadata_areas).collect::<Vec<_>>();
    assert_eq!((areas("two-areas"), areas("ignored-areas")), (vec![2, 2, 0, 1], vec![0, 2, 0, 1]));
    assert_eq!(areas("one-copy").iter().sum::<u64>(), 1);
    assert_eq!(group("raid1-failed").logical_volume("a").expect("a").health, "refresh needed");
    assert_eq!(group("thin-full").logical_volume("pool").expect("pool").health, "out_of_data");
    assert!(group("exported").exported && group("read-only").read_only);
}

/// LVM's checksum, written bit by bit.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0xf597_a6cf, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum: u32, _| (sum >> 1) ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

/// Where the first area of all recordings begins, and where its header has the positions of its texts.
const AREA: u64 = 4096;
const COMMITTED: usize = 40;
const PRECOMMITTED: usize = 64;

impl Recording {
    fn open(&self, disk: usize) -> File {
        File::options().read(true).write(true).open(&self.disks[disk].0).expect("open")
    }

    fn read_at(&self, disk: usize, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.open(disk).read_exact_at(&mut bytes, offset).expect("read");
        bytes
    }

    /// Changes the header of the first area, and makes its checksum right.
    fn change_header(&self, disk: usize, change: impl Fn(&mut [u8])) {
        let mut header = self.read_at(disk, AREA, 512);
        change(&mut header);
        let sum = checksum(&header[4..]);
        header[..4].copy_from_slice(&sum.to_le_bytes());
        self.open(disk).write_all_at(&header, AREA).expect("write");
    }

    fn area_size(&self, disk: usize) -> u64 {
        u64::from_le_bytes(self.read_at(disk, AREA + 32, 8).try_into().expect("8 bytes"))
    }

    /// Writes a text at that offset of the first area, and its position to that place of the header.
    fn write_text(&self, disk: usize, text: &[u8], offset: u64, place: usize) {
        let to_end = text.len().min(usize::try_from(self.area_size(disk) - offset).expect("a length"));
        self.open(disk).write_all_at(&text[..to_end], AREA + offset).expect("write");
        self.open(disk).write_all_at(&text[to_end..], AREA + 512).expect("write");
        self.change_header(disk, |header| {
            header[place..place + 8].copy_from_slice(&offset.to_le_bytes());
            header[place + 8..place + 16].copy_from_slice(&(text.len() as u64).to_le_bytes());
            header[place + 16..place + 20].copy_from_slice(&checksum(text).to_le_bytes());
        });
    }

    /// The text on all disks.
    fn text(&self) -> String {
        let disks = self.read().expect("readable");
        let text = disks.iter().flat_map(|disk| &disk.areas).find_map(|area| area.text.clone());
        String::from_utf8(text.expect("a text")).expect("UTF-8")
    }

    /// Replaces the text on all disks.
    fn replace(&self, from: &str, to: &str) {
        let text = self.text();
        assert!(text.contains(from), "{from} is not in {text}");
        let changed = text.replacen(from, to, 1);
        for disk in 0..self.disks.len() {
            self.write_text(disk, changed.as_bytes(), 512, COMMITTED);
        }
    }
}

fn linear() -> Recording {
    Recording::load("bookworm", "linear")
}

/// The next change of a group.
fn next(text: &str) -> String {
    text.replacen("seqno = 14", "seqno = 15", 1)
}

#[test]
fn a_commit_counts_once_it_is_on_all_disks() {
    let recording = linear();
    let before = recording.group().expect("readable");
    let changed = next(&recording.text());
    // lvm writes the text to each disk, then its position to each header, then makes it the valid one on each disk.
    for disk in 0..3 {
        recording.write_text(disk, changed.as_bytes(), 8192, PRECOMMITTED);
        assert!(matches!(recording.group(), Err(NeedsReport::Precommitted(_))));
        let disks = recording.read().expect("readable");
        assert!(disks[disk].areas[0].precommitted);
        assert_eq!(disks[disk].areas[0].text, disks[2].areas[0].text, "the old text is valid");
    }
    for disk in 0..3 {
        recording.write_text(disk, changed.as_bytes(), 8192, COMMITTED);
        recording.change_header(disk, |header| header[PRECOMMITTED..PRECOMMITTED + 24].fill(0));
        if disk < 2 {
            assert!(recording.group().is_err(), "only {disk} disks have it");
        }
    }
    assert_eq!(recording.group().expect("readable"), VolumeGroup { seqno: 15, ..before });
}

#[test]
fn one_stale_copy_needs_the_report() {
    for disk in 0..3 {
        let recording = linear();
        let changed = next(&recording.text());
        recording.write_text(disk, changed.as_bytes(), 8192, COMMITTED);
        let why = recording.group().expect_err("copies differ");
        assert!(matches!(why, NeedsReport::CopiesDiffer { .. }), "{why}");
    }
    // The second copy on one disk, which is at its end.
    let recording = Recording::load("bookworm", "two-areas");
    let changed = recording.text().replacen("seqno = 2", "seqno = 1", 1);
    recording.write_text(0, changed.as_bytes(), 8192, COMMITTED);
    assert!(matches!(recording.group(), Err(NeedsReport::CopiesDiffer { .. })));
}

#[test]
fn a_text_may_begin_anywhere_in_its_area() {
    let recording = linear();
    let (before, text) = (recording.group().expect("readable"), recording.text());
    let (size, length) = (recording.area_size(0), text.len() as u64);
    for offset in [512, 5120, size - length, size - length + 1, size - 4096, size - 512, size - 1] {
        for disk in 0..3 {
            recording.write_text(disk, text.as_bytes(), offset, COMMITTED);
        }
        assert_eq!(recording.group().unwrap_or_else(|why| panic!("at {offset}: {why}")), before, "at {offset}");
    }
    for (offset, length) in [(511, 10), (size, 10), (size + 1, 10), (512, size - 511), (512, 0), (u64::MAX, u64::MAX)] {
        recording.change_header(1, |header| {
            header[COMMITTED..COMMITTED + 8].copy_from_slice(&offset.to_le_bytes());
            header[COMMITTED + 8..COMMITTED + 16].copy_from_slice(&length.to_le_bytes());
        });
        assert_eq!(problem(&recording), DiskProblem::TextPlace, "{length} bytes at {offset}");
    }
}

fn problem(recording: &Recording) -> DiskProblem {
    match recording.group() {
        Err(NeedsReport::Disk { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn damage_is_found_by_checksums() {
    // The UUID in the label, the position in the header, and a digit of the text.
    let text = u64::from_le_bytes(linear().read_at(1, AREA + COMMITTED as u64, 8).try_into().expect("8 bytes"));
    for (offset, found) in [
        (512 + 40, DiskProblem::LabelChecksum),
        (AREA + 41, DiskProblem::AreaChecksum),
        (AREA + text + 100, DiskProblem::TextChecksum),
        (512, DiskProblem::Label),
    ] {
        let recording = linear();
        let byte = recording.read_at(1, offset, 1)[0];
        recording.open(1).write_all_at(&[byte ^ 1], offset).expect("write");
        assert_eq!(problem(&recording), found, "at {offset}");
    }
    // A second label, an area with another magic number, another version, or another flag.
    let recording = linear();
    let label = recording.read_at(1, 512, 512);
    recording.open(1).write_all_at(&label, 1024).expect("write");
    assert_eq!(problem(&recording), DiskProblem::Label);
    for at in [5, 20, 24, 32, 60] {
        let recording = linear();
        recording.change_header(1, |header| header[at] ^= 2);
        assert_eq!(problem(&recording), DiskProblem::AreaHeader, "at {at}");
    }
}

#[test]
fn a_change_after_reading_is_noticed() {
    let recording = linear();
    let mut disk = read_disk(&recording.disks[0].0).expect("readable");
    assert!(disk.is_unchanged().expect("readable"));
    recording.write_text(0, next(&recording.text()).as_bytes(), 8192, COMMITTED);
    assert!(!disk.is_unchanged().expect("readable"));
    disk.device = "/dev/quarry-no-such-disk".into();
    assert!(disk.is_unchanged().is_err());
    assert!(matches!(read_disk(&disk.device), Err(NeedsReport::Unreadable { .. })));
}

#[test]
fn all_disks_of_the_group_are_needed_and_no_others() {
    let recording = linear();
    let disks = recording.read().expect("readable");
    let read =
        |disks: &[Disk]| volume_group(disks, &recording.devices()).expect_err("not the disks of the group").label();
    assert_eq!(read(&disks[1..]), "missing");
    assert_eq!(read(&[]), "no-metadata");
    let again = Disk { device: "/dev/vdx".into(), ..disks[0].clone() };
    assert_eq!(read(&[disks.as_slice(), std::slice::from_ref(&again)].concat()), "duplicate");
    let foreign = Disk { uuid: "0".repeat(32).parse().expect("a UUID"), areas: Vec::new(), ..again };
    assert_eq!(read(&[disks.as_slice(), &[foreign]].concat()), "foreign");
}

#[test]
fn anything_unknown_needs_the_report() {
    for (from, to, label) in [
        ("\"ALLOCATABLE\"", "\"ALLOCATABLE\", \"NEW\"", "unknown"),
        ("flags = []", "flags = [\"NEW\"]", "unknown"),
        ("\"RESIZEABLE\"", "\"RESIZEABLE\", \"CLUSTERED\"", "unknown"),
        ("status = [\"ALLOCATABLE\"]", "status = [\"ALLOCATABLE\", \"MISSING\"]", "missing"),
        ("type = \"striped\"", "type = \"striped+NEW\"", "unknown"),
        ("type = \"striped\"", "type = \"vdo-pool\"", "unknown"),
        ("max_pv = 0", "max_pv = 0\npr = [\"require\"]", "unknown"),
        ("max_pv = 0", "max_pv = 0\nlock_type = \"sanlock\"", "unknown"),
        ("pe_count = 274", "pe_count = 274\nnew = 1", "unknown"),
        ("segment_count = 1", "segment_count = 1\nnew = 1", "unknown"),
        ("stripe_count = 1", "stripe_count = 1\nnew = 1", "unknown"),
        ("contents = ", "new = 1\ncontents = ", "unknown"),
        ("\"pv0\", 0", "\"pvmove0\", 0", "unknown"),
        ("version = 1", "version = 2", "inconsistent"),
        ("extent_size = 8192", "extent_size = 0", "inconsistent"),
        ("extent_size = 8192", "extent_size = -8192", "inconsistent"),
        ("pe_count = 274", "pe_count = 2", "inconsistent"),
        ("pe_count = 274", "pe_count = 4294967296", "inconsistent"),
        ("segment_count = 1", "segment_count = 2", "inconsistent"),
        ("start_extent = 0", "start_extent = 1", "inconsistent"),
        ("stripe_count = 1", "stripe_count = 2", "inconsistent"),
        ("\"pv0\", 3", "\"pv0\", 2", "inconsistent"),
        ("\"VISIBLE\"", "\"READ\"", "inconsistent"),
        ("seqno = 14", "seqno = \"14\"", "inconsistent"),
        ("seqno = 14", "seqno = 14 seqno = 15", "syntax"),
        ("seqno = 14", "seqno = ", "syntax"),
    ] {
        let recording = linear();
        recording.replace(from, to);
        match recording.group() {
            Err(why) => assert_eq!(why.label(), label, "{to}: {why}"),
            Ok(group) => panic!("{to}: {group:?}"),
        }
    }
    for (name, from, to) in [
        ("thin", "thin_pool = \"pool\"", "thin_pool = \"a-snap\""),
        ("thin", "origin = \"a-1\"", "origin = \"gone\""),
        ("thin", "pool = \"pool_tdata\"", "pool = \"empty_tdata\""),
        ("raid1", "\"a_rmeta_1\", \"a_rimage_1\"", "\"a_rmeta_1\", \"gone\""),
        ("raid1", "\"a_rmeta_1\", \"a_rimage_1\"", "\"a_rimage_1\""),
        ("raid1", "device_count = 2", "device_count = 3"),
        ("snapshots", "cow_store = \"s\"", "cow_store = \"theirs\""),
    ] {
        let recording = Recording::load("bookworm", name);
        recording.replace(from, to);
        let why = recording.group().expect_err(to);
        assert!(matches!(why, NeedsReport::Inconsistent { .. }), "{to}: {why}");
    }
}

#[test]
fn a_raid_is_as_healthy_as_the_kernel_says() {
    let healths = |status: &str| {
        let mut recording = Recording::load("bookworm", "raid1");
        let group = recording.group().expect("readable");
        recording.device(&group, "a", "").1.status = Some(("raid".to_owned(), status.to_owned()));
        let group = recording.group()?;
        let health = |name: &str| group.logical_volume(name).expect(name).health.clone();
        Ok::<_, NeedsReport>(["a", "a_rimage_0", "a_rmeta_0", "a_rimage_1", "a_rmeta_1"].map(health))
    };
    let failed = healths("raid1 2 AD 4/4 idle 0 0 -").expect("readable");
    assert_eq!(failed, ["refresh needed", "", "", "refresh needed", "refresh needed"]);
    assert_eq!(healths("raid1 2 AA 4/4 idle 8 0 -").expect("readable"), ["mismatches exist", "", "", "", ""]);
    assert_eq!(healths("raid1 2 Aa 1/4 recover 0 0 -").expect("readable"), [""; 5]);
    for status in ["raid1 3 AAA 4/4 idle 0 0 -", "raid1 2", ""] {
        assert!(matches!(healths(status), Err(NeedsReport::Other(_))), "{status}");
    }
    // Newer versions of lvm mark the devices of images.
    let mut recording = Recording::load("bookworm", "raid1");
    let before = recording.group().expect("readable");
    for part in ["a_rimage_0", "a_rmeta_1"] {
        recording.device(&before, part, "").0.push_str("-real");
    }
    assert_eq!(recording.group().expect("readable"), before);
}

#[test]
fn a_thin_pool_is_active_without_its_volumes() {
    let pool = |status: Option<&str>, top: bool| {
        let mut recording = Recording::load("bookworm", "thin");
        let group = recording.group().expect("readable");
        if let Some(status) = status {
            recording.device(&group, "pool", "-tpool").1.status = Some(("thin-pool".to_owned(), status.to_owned()));
        }
        if !top {
            recording.device(&group, "pool", "-pool").0.clear();
        }
        let pool = recording.group()?.logical_volume("pool").expect("pool").clone();
        Ok::<_, NeedsReport>((pool.active, pool.device_number, pool.open, pool.health))
    };
    let number = Some((253, 5));
    assert_eq!(pool(None, true).expect("readable"), (Some(true), number, Some(true), String::new()));
    // Only volumes of it are active.
    assert_eq!(pool(None, false).expect("readable"), (Some(false), None, None, String::new()));
    assert_eq!(pool(Some("Fail"), true).expect("readable"), (Some(true), number, Some(true), "failed".to_owned()));
    let broken = "5 9/1024 0/1280 - ro discard_passdown queue_if_no_space needs_check 256";
    assert_eq!(pool(Some(broken), true).expect("readable").3, "metadata_read_only");
    assert!(matches!(pool(Some(broken), false), Err(NeedsReport::Other(_))));
    assert!(matches!(pool(Some("?"), true), Err(NeedsReport::Other(_))));
}

#[test]
fn layers_that_nothing_uses_need_the_report() {
    let mut recording = linear();
    let group = recording.group().expect("readable");
    recording.device(&group, "a-b--c", "").0.push_str("-real");
    assert!(matches!(recording.group(), Err(NeedsReport::Other(_))));
    let mut recording = Recording::load("bookworm", "thin");
    let group = recording.group().expect("readable");
    recording.device(&group, "pool", "-tpool").0.clear();
    assert!(matches!(recording.group(), Err(NeedsReport::Other(_))));
}

#[test]
fn segments_that_lvm_joins_are_joined() {
    let recording = linear();
    let before = recording.group().expect("readable");
    let segment = |number: u64, start: u64, extents: u64, first: u64| {
        format!(
            "segment{number} {{\nstart_extent = {start}\nextent_count = {extents}\n\ntype = \"striped\"\n\
             stripe_count = 1\n\nstripes = [\n\"pv0\", {first}\n]\n}}\n"
        )
    };
    let whole = "segment_count = 1\n\nsegment1 {\nstart_extent = 0\nextent_count = 3\n\ntype = \"striped\"\n\
                 stripe_count = 1\t# linear\n\nstripes = [\n\"pv0\", 0\n]\n}\n";
    let whole = if recording.text().contains(whole) { whole.to_owned() } else { whole.replace("\t# linear", "") };
    recording.replace(&whole, &format!("segment_count = 2\n\n{}{}", segment(1, 0, 1, 0), segment(2, 1, 2, 1)));
    assert_eq!(recording.group().expect("readable"), before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever byte of label, header or text a disk returns wrongly, the result is not another group.
    #[test]
    fn no_wrong_byte_leads_to_another_group(disk in 0_usize..3, part in 0_u8..3, at in any::<prop::sample::Index>(), bits in 1_u8..) {
        let recording = linear();
        let before = recording.group().expect("readable");
        let header = recording.read_at(disk, AREA + COMMITTED as u64, 16);
        let field = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        let (start, length) = match part {
            0 => (512, 512),
            1 => (AREA, 512),
            _ => (AREA + field(0), usize::try_from(field(8)).expect("a length")),
        };
        let offset = start + at.index(length) as u64;
        let byte = recording.read_at(disk, offset, 1)[0];
        recording.open(disk).write_all_at(&[byte ^ bits], offset).expect("write");
        match recording.group() {
            Ok(group) => prop_assert_eq!(group, before),
            Err(why) => prop_assert_ne!(why.to_string(), ""),
        }
    }

    /// Texts with right checksums that lvm did not write.
    #[test]
    fn no_text_makes_the_reader_panic(name in prop::sample::select(SAME.to_vec()), from in any::<prop::sample::Index>(), length in 0_usize..200, into in any::<prop::sample::Index>()) {
        let recording = Recording::load("bookworm", name);
        let disks = recording.read().expect("readable");
        let mut text = recording.text().into_bytes();
        // Moves some lines to another place.
        let from = from.index(text.len());
        let moved: Vec<u8> = text.drain(from..(from + length).min(text.len())).collect();
        let into = into.index(text.len().max(1));
        text.splice(into..into, moved);
        let changed = |mut disk: Disk| {
            for area in &mut disk.areas {
                area.text = Some(text.clone());
            }
            disk
        };
        let disks: Vec<Disk> = disks.into_iter().map(changed).collect();
        if let Err(why) = volume_group(&disks, &recording.devices()) {
            prop_assert_ne!(why.to_string(), "");
        }
    }
}
