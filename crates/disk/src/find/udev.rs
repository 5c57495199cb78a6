//! udev's database: one text file per device, read without udev.

use std::collections::HashMap;
use std::fs;

use quarry_mount::Device;

use super::Roots;

/// udev's entry for one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Links below `/dev`: `disk/by-id/…`.
    links: Vec<String>,
    properties: HashMap<String, String>,
}

/// What the database has about a disk.
#[derive(Debug)]
pub(super) enum Record {
    /// No entry of any device: there is no udev.
    None,
    /// No entry, but there are some of other devices: udev has not handled this disk yet.
    Awaited,
    /// An entry of another disk that had this number before: udev has not handled this disk yet, and its
    /// links in `/dev` are the other disk's too. Holds the mismatch.
    Stale(String),
    /// An entry of this disk.
    Entry(Entry),
}

/// The kernel's facts that distinguish a disk from others.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The kernel's sequence number of the disk.
    pub(super) sequence: Option<u64>,
    /// The serial number.
    pub(super) serial: Option<String>,
    /// Whether the disk has not answered the request for its serial number.
    pub(super) is_serial_unknown: bool,
    /// The world-wide name.
    pub(super) wwid: Option<String>,
    /// Whether it is a virtio disk: for those, udev has no facts that the kernel does not expose.
    pub(super) is_virtio: bool,
}

/// Reads the entry of the disk with that number. It must agree with the kernel's facts: a udev that missed a
/// disk exchange keeps the old disk's name.
pub(super) fn read(roots: &Roots, number: Device, kernel: &Facts) -> Record {
    let folder = roots.run.join("udev/data");
    let Ok(text) = fs::read(folder.join(format!("b{number}"))) else {
        // Entries of network interfaces, for example, can be left from the start of the host.
        let is_of_block_device = |entry: fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b"b");
        let has_entries = fs::read_dir(folder).is_ok_and(|entries| entries.flatten().any(is_of_block_device));
        return if has_entries { Record::Awaited } else { Record::None };
    };
    let entry = parse(&text);
    match entry.disagreement(kernel) {
        Some(why) => Record::Stale(why),
        None => Record::Entry(entry),
    }
}

/// Parses an entry. Ignores kinds of lines that are not needed, and invalid lines.
fn parse(text: &[u8]) -> Entry {
    let mut entry = Entry::default();
    for line in String::from_utf8_lossy(text).lines() {
        match line.split_once(':') {
            Some(("S", link)) => entry.links.push(link.to_owned()),
            Some(("E", property)) => {
                if let Some((key, value)) = property.split_once('=') {
                    entry.properties.insert(key.to_owned(), value.to_owned());
                }
            }
            _ => {}
        }
    }
    entry
}

impl Entry {
    /// A property that exists and is not blank.
    pub(super) fn property(&self, key: &str) -> Option<&str> {
        self.properties.get(key).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// A property in which udev has escaped spaces and other characters (`\x20`).
    pub(super) fn encoded(&self, key: &str) -> Option<String> {
        self.property(key).map(|value| decode(value).trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// The names of the links in a folder below `/dev`: `disk/by-id`.
    pub(super) fn links_in<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = &'a str> {
        let listed = self.property("DEVLINKS").unwrap_or_default().split_ascii_whitespace();
        let listed = listed.filter_map(|link| link.strip_prefix("/dev/"));
        let all = self.links.iter().map(String::as_str).chain(listed);
        all.filter_map(move |link| link.strip_prefix(folder)?.strip_prefix('/')).filter(|name| !name.contains('/'))
    }

    /// How the entry differs from the kernel's facts. `None` if they match, or have nothing in common.
    fn disagreement(&self, kernel: &Facts) -> Option<String> {
        match (self.sequence(), kernel.sequence) {
            (Some(recorded), Some(now)) if recorded == now => return None,
            (Some(recorded), Some(now)) => {
                return Some(format!(
                    "udev's database describes the disk with sequence number {recorded}, but this disk has {now}"
                ));
            }
            _ => {}
        }
        if kernel.is_serial_unknown {
            return Some(
                "the disk has not answered the request for its serial number, which udev's database may contradict"
                    .to_owned(),
            );
        }
        // For a USB disk, udev has the serial number of the adapter, and the kernel may have the disk's.
        if self.property("ID_BUS") == Some("usb") {
            return None;
        }
        let serials: Vec<&str> = SERIALS.iter().filter_map(|key| self.property(key)).collect();
        let names: Vec<&str> = NAMES.iter().filter_map(|key| self.property(key)).collect();
        let serial_agrees = kernel.serial.as_ref().map(|now| serials.iter().any(|recorded| is_serial(recorded, now)));
        let wwid = kernel.wwid.as_ref().filter(|now| !now.starts_with("t10."));
        let wwid_agrees = wwid.map(|now| serials.iter().chain(&names).any(|recorded| is_name(recorded, now)));
        let has_names = !serials.is_empty() || !names.is_empty();
        let agrees = match (serial_agrees, wwid_agrees) {
            (None, None) => !(has_names && kernel.is_virtio),
            (serial, wwid) => serial == Some(true) || wwid == Some(true),
        };
        let or_none = |text: Option<&str>| text.unwrap_or("none").to_owned();
        (!agrees).then(|| {
            format!(
                "udev's database has the serial number or name {}, but the kernel reports {}",
                or_none(serials.iter().chain(&names).next().copied()),
                or_none(kernel.serial.as_deref().or(wwid.map(String::as_str)))
            )
        })
    }

    /// The kernel's sequence number of the disk that the entry was written for; newer udevs record it in a
    /// link.
    fn sequence(&self) -> Option<u64> {
        self.links_in("disk/by-diskseq").find_map(|name| name.parse().ok())
    }
}

/// The properties with a disk's serial number, the shortest spelling first.
const SERIALS: [&str; 4] = ["ID_SERIAL_SHORT", "ID_SCSI_SERIAL", "SCSI_IDENT_SERIAL", "ID_SERIAL"];
/// The properties with a disk's world-wide name.
const NAMES: [&str; 2] = ["ID_WWN_WITH_EXTENSION", "ID_WWN"];

/// Whether udev's spelling of a serial number, perhaps prefixed with manufacturer and model, matches the
/// kernel's.
fn is_serial(recorded: &str, now: &str) -> bool {
    // udev replaces the characters that must not be in a name of a link.
    let allowed = |letter: char| letter.is_alphanumeric() || "#+-.:=@_/".contains(letter);
    let joined = |text: &str| {
        let joined = text.split_whitespace().collect::<Vec<_>>().join("_");
        joined.chars().map(|letter| if allowed(letter) { letter } else { '_' }).collect::<String>()
    };
    let (recorded, now) = (joined(recorded), joined(now));
    recorded == now || recorded.ends_with(&format!("_{now}"))
}

/// Whether udev's spelling of a world-wide name, `0x5000c500a1b2c3d4` or `35000c500a1b2c3d4`, is the kernel's,
/// `naa.5000c500a1b2c3d4`.
fn is_name(recorded: &str, now: &str) -> bool {
    let now = now.rsplit_once('.').map_or(now, |(_, name)| name);
    let recorded = recorded.rsplit_once('.').map_or(recorded, |(_, name)| name);
    let recorded = recorded.strip_prefix("0x").unwrap_or(recorded);
    recorded.eq_ignore_ascii_case(now)
        || recorded.strip_prefix('3').is_some_and(|recorded| recorded.eq_ignore_ascii_case(now))
}

/// Replaces escapes such as `\x20` by their bytes.
fn decode(text: &str) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let code = match after {
            [b'x', high, low, tail @ ..] if byte == b'\\' => {
                hex(*high).zip(hex(*low)).map(|(high, low)| (high << 4 | low, tail))
            }
            _ => None,
        };
        let (byte, tail) = code.unwrap_or((byte, after));
        plain.push(byte);
        rest = tail;
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SATA: &str = "\
S:disk/by-path/pci-0000:00:1f.2-ata-3
S:disk/by-id/ata-Samsung_SSD_870_EVO_1TB_S5Y1NX0R100001
S:disk/by-id/wwn-0x5002538f00000001
S:disk/by-diskseq/12
L:0
I:5231923
E:ID_ATA=1
E:ID_TYPE=disk
E:ID_BUS=ata
E:ID_MODEL=Samsung_SSD_870_EVO_1TB
E:ID_MODEL_ENC=Samsung\\x20SSD\\x20870\\x20EVO\\x201TB\\x20\\x20\\x20
E:ID_SERIAL_SHORT=S5Y1NX0R100001
E:ID_WWN=0x5002538f00000001
E:ID_FS_LABEL_ENC=a=b:c
E:
G:systemd
Q:systemd
V:1
";

    #[test]
    fn an_entry_is_read() {
        let entry = parse(SATA.as_bytes());
        let links: Vec<_> = entry.links_in("disk/by-id").collect();
        assert_eq!(links, ["ata-Samsung_SSD_870_EVO_1TB_S5Y1NX0R100001", "wwn-0x5002538f00000001"]);
        assert_eq!(entry.links_in("disk/by-path").collect::<Vec<_>>(), ["pci-0000:00:1f.2-ata-3"]);
        assert_eq!(entry.encoded("ID_MODEL_ENC").unwrap(), "Samsung SSD 870 EVO 1TB");
        assert_eq!(entry.property("ID_FS_LABEL_ENC"), Some("a=b:c"), "the first colon and the first equals sign part");
        assert_eq!(entry.property("ID_NOTHING"), None);
        assert_eq!(entry.sequence(), Some(12));
    }

    #[test]
    fn devlinks_count_too() {
        let entry = parse(b"E:DEVLINKS=/dev/disk/by-id/a /dev/disk/by-path/b /elsewhere/disk/by-id/c\n");
        assert_eq!(entry.links_in("disk/by-id").collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn incomplete_escapes_are_kept() {
        assert_eq!(decode(r"a\x2\xzz\x41\"), r"a\x2\xzzA\");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let entry = parse(&text);
            let _ = (entry.sequence(), entry.encoded("ID_MODEL_ENC"), entry.links_in("disk/by-id").count());
        }

        #[test]
        fn one_wrong_byte_does_not_panic(at in 0..SATA.len(), byte: u8) {
            let mut text = SATA.as_bytes().to_vec();
            text[at] = byte;
            let entry = parse(&text);
            let _ = entry.encoded("ID_MODEL_ENC");
            // One wrong byte spoils one line, or joins or splits two.
            prop_assert!((6..=9).contains(&entry.properties.len()), "{:?}", entry.properties);
        }

        #[test]
        fn encoded_values_round_trip(model in "[a-z][ -~]{0,30}[a-z]") {
            let encoded: String = model.bytes().map(|byte| match byte {
                b'a'..=b'z' | b'0'..=b'9' => char::from(byte).to_string(),
                _ => format!("\\x{byte:02x}"),
            }).collect();
            let entry = parse(format!("E:ID_MODEL_ENC={encoded}\n").as_bytes());
            prop_assert_eq!(entry.encoded("ID_MODEL_ENC").unwrap(), model);
        }
    }
}
