//! Whole disks, read by blkid, from /sys, and by `dd` at the documented offsets.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quarry_vm::Guest;

use super::{Storage, Stored, Volume};

/// Every disk of the machine, including its root disk, which Quarry must leave alone.
pub struct WholeDisks;

/// What the selector of the pool means.
pub const SELECT: &str = "select: {transports: [virtio, nvme, scsi]}";

/// The namespace of the GUIDs that follow from names: docs/disk-format.md.
const NAMESPACE: &str = "b5ad58a8-6ed2-47e8-b8b4-795744556627";

/// Goes through all disks but the root disk: `$disk` is the name, `$folder` the folder in sysfs, `$sectors` the size
/// in 512 bytes.
const EACH: &str = r#"
root=$(mountpoint -d /)
for folder in /sys/block/vd* /sys/block/sd* /sys/block/nvme*; do
    [ -e $folder/dev ] || continue
    read number <$folder/dev
    disk=${folder##*/}
    [ "$number" != "$root" ] && [ -b /dev/$disk ] || continue
    read sectors <$folder/size
"#;

/// A line for every disk that is not blank at its ends: name, bytes of the second partition (0: there is
/// none), number of partitions, both copies of the record's slot in hexadecimal, and blkid's output. A partition
/// that vanishes meanwhile is not counted: Quarry deletes in the background, and udev has tables read again.
const LOOK: &str = r#"
    slot() { dd if=/dev/$disk bs=64 skip=$1 count=6 status=none | od -An -v -tx1 | tr -d ' \n'; }
    partitions=0 second=0
    for partition in $folder/$disk*/partition; do
        { read which <$partition && read length <${partition%/*}/size; } 2>/dev/null || continue
        partitions=$((partitions + 1))
        if [ $which = 2 ]; then second=$length; fi
    done
    if [ $partitions = 0 ] && cmp -s -n 2097152 /dev/$disk /dev/zero &&
        cmp -s -n 1048576 -i $((sectors * 512 - 1048576)):0 /dev/$disk /dev/zero; then
        continue
    fi
    blkid=$(blkid -p -o export /dev/$disk | grep -v ^DEVNAME | tr '\n' ' ' || true)
    echo "$disk $((second * 512)) $partitions $(slot 16384) $(slot 24576) $blkid"
done
"#;

/// Fills the volume's place on every disk that is empty. Such a disk stays blank to a probe.
const DIRTY: &str = r#"
    length=$((sectors / 2048 * 1048576 - 3145728))
    if cmp -s -n 1048576 -i 1048576:0 /dev/$disk /dev/zero && ! blkid -p /dev/$disk >/dev/null; then
        yes 'a former tenant' | head -c $length |
            dd of=/dev/$disk bs=1M seek=2 iflag=fullblock conv=notrunc,fsync status=none
    fi
done
udevadm settle
"#;

/// Every partition table that is there is whole.
const CHECK: &str = r#"
    if blkid -p /dev/$disk >/dev/null; then sgdisk --verify /dev/$disk | grep -q 'No problems found'; fi
done
"#;

impl Storage for WholeDisks {
    fn section(&self) -> String {
        format!("disk: {{{SELECT}}}")
    }

    fn make(&self, _devices: &[String]) -> String {
        String::new()
    }

    fn look(&self) -> String {
        format!("{EACH}{LOOK}")
    }

    fn read(&self, printed: &str) -> Result<Vec<Stored>> {
        printed.lines().filter(|line| !line.trim().is_empty()).map(read_disk).collect()
    }

    fn device(&self, name: &str) -> String {
        // Whatever the name, util-linux computes the same GUIDs, and udev links the partition by its own.
        format!("/dev/disk/by-partuuid/$(uuidgen -s -n $(uuidgen -s -n {NAMESPACE} -N '{name}') -N volume)")
    }

    fn dirty(&self) -> String {
        format!("{EACH}{DIRTY}")
    }

    fn check(&self) -> String {
        format!("{EACH}{CHECK}")
    }

    fn cleanup_time(&self) -> Duration {
        Duration::from_secs(120)
    }

    fn keeps_halves(&self) -> bool {
        true
    }

    fn parts(&self, _layout: &str) -> usize {
        0
    }
}

fn read_disk(line: &str) -> Result<Stored> {
    let mut words = line.splitn(6, ' ');
    let mut word = || words.next().with_context(|| format!("the report on the disks has the line {line:?}"));
    let (disk, second, partitions) = (word()?, word()?, word()?);
    let slots = [Slot::read(word()?)?, Slot::read(word()?)?];
    let blkid = word()?.trim();
    let said: Vec<String> = slots.iter().map(|slot| slot.as_ref().map_or("no slot".to_owned(), Slot::words)).collect();
    let text = format!("{disk}: {}; {partitions} partitions; {blkid}", said.join(", "));
    // A volume is unambiguous: both copies of its record, both partitions, a valid table.
    let volume = match &slots {
        [Some(one), Some(other)] if one.is_volume() && one == other => {
            let whole = partitions == "2" && blkid.contains("PTTYPE=gpt");
            whole
                .then(|| Ok::<_, anyhow::Error>(Volume { size: second.parse()?, record: one.record.clone() }))
                .transpose()?
        }
        _ => None,
    };
    Ok(Stored { text, volume })
}

/// A copy of a record's slot.
#[derive(Debug, PartialEq, Eq)]
struct Slot {
    mark: u32,
    sequence: u64,
    record: String,
}

impl Slot {
    /// Reads its first bytes. `None`: it is not one.
    fn read(hexadecimal: &str) -> Result<Option<Self>> {
        let digits =
            (0..hexadecimal.len() / 2).map(|index| u8::from_str_radix(&hexadecimal[2 * index..2 * index + 2], 16));
        let bytes: Vec<u8> =
            digits.collect::<Result<_, _>>().with_context(|| format!("not hexadecimal: {hexadecimal}"))?;
        if !bytes.starts_with(b"QUARRYDK") {
            return Ok(None);
        }
        ensure!(bytes.len() == 384, "{} bytes of a slot", bytes.len());
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let sequence = bytes[16..24].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let record = bytes[64..].get(..number(36) as usize).context("a record that is too long")?;
        Ok(Some(Self { mark: number(12), sequence, record: String::from_utf8_lossy(record).into_owned() }))
    }

    /// Neither abandoned nor unknown.
    fn is_volume(&self) -> bool {
        matches!(self.mark, 1 | 2)
    }

    fn words(&self) -> String {
        let mark = match self.mark {
            1 => "claiming",
            2 => "held",
            3 => "releasing",
            _ => "unknown mark",
        };
        format!("{mark} {}", self.record)
    }
}

/// A partition of a disk, as sgdisk lists it.
#[derive(Debug, PartialEq, Eq)]
pub struct Partition {
    /// Bytes from the start of the disk.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Its type's GUID, in lower case.
    pub kind: String,
}

/// A partition of a disk as sgdisk lists it. `sector`: bytes in a sector of the disk.
pub async fn partition(guest: &Guest, disk: &str, number: u32, sector: u64) -> Result<Partition> {
    let listed = guest.sh(format!("sgdisk --info={number} {disk}")).await?;
    Partition::read(&listed, sector).with_context(|| format!("sgdisk says of partition {number} of {disk}:\n{listed}"))
}

impl Partition {
    fn read(listed: &str, sector: u64) -> Option<Self> {
        let word = |key: &str| listed.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next());
        let sectors = |key: &str| word(key)?.parse::<u64>().ok();
        let (first, last) = (sectors("First sector: ")?, sectors("Last sector: ")?);
        let kind = word("Partition GUID code: ")?.to_lowercase();
        Some(Self { start: first * sector, size: (last + 1 - first) * sector, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_read() {
        let mut bytes = [0_u8; 384];
        assert_eq!(Slot::read(&hexadecimal(&bytes)).unwrap(), None);
        bytes[..8].copy_from_slice(b"QUARRYDK");
        (bytes[12], bytes[16], bytes[17], bytes[36]) = (2, 2, 1, 4);
        bytes[64..69].copy_from_slice(b"r/s=x");
        let slot = Slot::read(&hexadecimal(&bytes)).unwrap();
        assert_eq!(slot, Some(Slot { mark: 2, sequence: 0x0102, record: "r/s=".to_owned() }));
        let line = format!("vdb 1048576 2 {0} {0} PTTYPE=gpt", hexadecimal(&bytes));
        assert_eq!(read_disk(&line).unwrap().volume.unwrap().size, 1 << 20);
        bytes[12] = 3;
        let line = format!("vdb 1048576 2 {0} {0} PTTYPE=gpt", hexadecimal(&bytes));
        let found = read_disk(&line).unwrap();
        assert!(found.volume.is_none() && found.text.contains("releasing"), "{found:?}");
    }

    #[test]
    fn the_output_of_sgdisk_is_parsed() {
        let said = "Partition GUID code: A7953E1B-D10F-418C-AC8A-A0E6AFE8D458 (Unknown)\nPartition unique GUID: X\n\
                    First sector: 256 (at 1024.0 KiB)\nLast sector: 511 (at 2.0 MiB)\nPartition size: 256 sectors\n";
        let kind = "a7953e1b-d10f-418c-ac8a-a0e6afe8d458".to_owned();
        assert_eq!(Partition::read(said, 4096), Some(Partition { start: 1 << 20, size: 1 << 20, kind }));
        assert_eq!(Partition::read("Partition #1 does not exist.\n", 512), None);
    }

    fn hexadecimal(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
