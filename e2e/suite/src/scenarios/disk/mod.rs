//! Scenarios on pools of whole disks.

mod damaged;
pub mod expanded;
pub mod lifecycle;
pub mod pulled;
pub mod refused;
pub mod signatures;
pub mod wiped;

use anyhow::Result;
use quarry_vm::{Bus, Disk};

use crate::node::{BINARY, Node};

const MIB: u64 = 1 << 20;
/// The offset of a volume on its disk: docs/disk-format.md.
const VOLUME: u64 = 2 * MIB;

/// The size of the volume that a disk of `size` bytes becomes: docs/disk-format.md.
fn capacity(size: u64) -> i64 {
    i64::try_from(size / MIB * MIB - 3 * MIB).expect("the size of a disk")
}

/// A disk in a scenario's words.
fn disk(serial: &str, bus: Bus, sector: u32, size: u64) -> Disk {
    Disk::new(serial, size).bus(bus).block_size(sector)
}

/// The kernel's name of a disk at this moment, `vdb`.
pub async fn kernel_name(node: &Node, disk: &Disk) -> Result<String> {
    node.vm.sh(format!("basename $(readlink -f {})", disk.path())).await
}

/// The output of `quarry disks` next to the running quarry. It fails if something could not be read, but
/// still prints the rest.
async fn listed(node: &Node) -> Result<String> {
    node.vm.sh(format!("{BINARY} disks --config /etc/quarry/pools.yaml || true")).await
}

/// The row of the disk with this kernel name, with single spaces. Empty if the disk is not listed.
fn row(table: &str, name: &str) -> String {
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    rows.find(|row| row.starts_with(&format!("{name} "))).unwrap_or_default()
}

/// Fills the space for volumes with a former tenant's bytes. The disk stays blank to every probe.
async fn fill(node: &Node, disk: &Disk) -> Result<()> {
    let length = capacity(disk.size);
    let script = format!(
        "yes 'a former tenant' | head -c {length} | dd of={} bs=1M seek=2 iflag=fullblock conv=notrunc,fsync status=none; \
         udevadm settle",
        disk.path()
    );
    node.vm.sh(script).await.map(drop)
}
