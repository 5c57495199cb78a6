//! Recordings of real volume groups, and how tests change them.
//!
//! Each one in `fixtures/metadata` has two files: `NAME.report.json`, the report with Quarry's own options, and
//! `NAME.disks.json`, what was on the disks (label, headers and texts) and in the kernel at that moment. `bookworm` is
//! lvm 2.03.16 on Linux 6.1, `trixie` is lvm 2.03.31 on Linux 6.12.

// Test helpers may panic like tests. Each test uses some of them.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, dead_code, missing_docs, unreachable_pub)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use quarry_lvm::metadata::{Device, Devices, Disk, NeedsReport, read_disk, volume_group};
use quarry_lvm::{VolumeGroup, device_uuid, parse};
use serde_json::Value;

/// A recording.
pub struct Recording {
    pub report: Vec<VolumeGroup>,
    /// Copies of the disks, as sparse files, with the names of their devices.
    pub disks: Vec<(PathBuf, PathBuf)>,
    pub kernel: Vec<(String, Device)>,
    _folder: tempfile::TempDir,
}

pub fn bytes(hex: &str) -> Vec<u8> {
    let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hexadecimal");
    hex.as_bytes().chunks(2).map(digits).collect()
}

pub fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

pub fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

impl Recording {
    pub fn load(guest: &str, name: &str) -> Self {
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

    pub fn read(&self) -> Result<Vec<Disk>, NeedsReport> {
        let read = |(copy, device): &(PathBuf, PathBuf)| Ok(Disk { device: device.clone(), ..read_disk(copy)? });
        self.disks.iter().map(read).collect()
    }

    pub fn devices(&self) -> Devices {
        self.kernel.iter().cloned().collect()
    }

    /// The device with that end of its name or layer.
    pub fn device(&mut self, group: &VolumeGroup, volume: &str, layer: &str) -> &mut (String, Device) {
        let volume = group.logical_volume(volume).expect(volume);
        let uuid = format!("{}{layer}", device_uuid(group.uuid, volume.uuid));
        self.kernel.iter_mut().find(|(found, _)| *found == uuid).expect(&uuid)
    }

    pub fn group(&self) -> Result<VolumeGroup, NeedsReport> {
        volume_group(&self.read()?, &self.devices())
    }
}

pub fn write_part(file: &File, part: &Value, texts: &[String]) {
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

pub fn device(row: &Value) -> (String, Device) {
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

/// LVM's checksum, written bit by bit.
pub fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0xf597_a6cf, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum: u32, _| (sum >> 1) ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

/// Where the first area of all recordings begins, and where its header has the positions of its texts.
pub const AREA: u64 = 4096;
pub const COMMITTED: usize = 40;
pub const PRECOMMITTED: usize = 64;

impl Recording {
    pub fn open(&self, disk: usize) -> File {
        File::options().read(true).write(true).open(&self.disks[disk].0).expect("open")
    }

    pub fn read_at(&self, disk: usize, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.open(disk).read_exact_at(&mut bytes, offset).expect("read");
        bytes
    }

    /// Changes the header of the first area, and makes its checksum right.
    pub fn change_header(&self, disk: usize, change: impl Fn(&mut [u8])) {
        let mut header = self.read_at(disk, AREA, 512);
        change(&mut header);
        let sum = checksum(&header[4..]);
        header[..4].copy_from_slice(&sum.to_le_bytes());
        self.open(disk).write_all_at(&header, AREA).expect("write");
    }

    pub fn area_size(&self, disk: usize) -> u64 {
        u64::from_le_bytes(self.read_at(disk, AREA + 32, 8).try_into().expect("8 bytes"))
    }

    /// Writes a text at that offset of the first area, and its position to that place of the header.
    pub fn write_text(&self, disk: usize, text: &[u8], offset: u64, place: usize) {
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
    pub fn text(&self) -> String {
        let disks = self.read().expect("readable");
        let text = disks.iter().flat_map(|disk| &disk.areas).find_map(|area| area.text.clone());
        String::from_utf8(text.expect("a text")).expect("UTF-8")
    }

    /// Replaces the text on all disks.
    pub fn replace(&self, from: &str, to: &str) {
        let text = self.text();
        assert!(text.contains(from), "{from} is not in {text}");
        let changed = text.replacen(from, to, 1);
        for disk in 0..self.disks.len() {
            self.write_text(disk, changed.as_bytes(), 512, COMMITTED);
        }
    }
}

pub fn linear() -> Recording {
    Recording::load("bookworm", "linear")
}

/// The next change of a group.
pub fn next(text: &str) -> String {
    text.replacen("seqno = 14", "seqno = 15", 1)
}
