//! Kernel uevents: events of block devices, received from netlink.
//!
//! They cause a cached report to be checked early. Nothing depends on them alone: if the socket is not
//! available, or a message is lost, the comparison of the disks' metadata headers finds the change within
//! four seconds of a call.

use std::collections::HashMap;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

/// The multicast group of the kernel's own events; udevd's events are in another group.
const KERNEL_GROUP: u32 = 1;

/// The number of events of block devices since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// All of them.
    pub all: u64,
    /// Those of disks or partitions that appeared or disappeared.
    pub disks: u64,
}

/// Counts the events since the start. Cheap to clone; all clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Uevents {
    counts: Arc<watch::Sender<EventCounts>>,
    disks: Arc<Mutex<Disks>>,
}

/// The events of each disk.
#[derive(Debug, Default)]
struct Disks {
    /// How often anything may have happened to any disk.
    any: u64,
    /// How often something happened to the disk with that name, or to one of its partitions.
    each: HashMap<String, u64>,
}

impl Uevents {
    /// Starts listening in a separate thread. If that is not possible, it logs a warning, and there are no
    /// events.
    #[must_use]
    pub fn listen() -> Self {
        let events = Self::default();
        let listener = events.clone();
        let started = open().and_then(|socket| {
            std::thread::Builder::new()
                .name("uevents".to_owned())
                .spawn(move || listener.run(&socket))
                .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))
        });
        if let Err(error) = started {
            tracing::warn!(%error, "no kernel uevents: changes made by hand are noticed a few seconds later");
        }
        events
    }

    /// The number of events of block devices.
    #[must_use]
    pub fn counts(&self) -> EventCounts {
        *self.counts.borrow()
    }

    /// Waits until the counts differ from `counts`.
    pub async fn changed(&self, counts: EventCounts) {
        let mut now = self.counts.subscribe();
        // The sender lives as long as `self`, so this cannot fail.
        let _ = now.wait_for(|now| *now != counts).await;
    }

    /// Counts an event. `disk`: whether its device is a disk.
    pub(crate) fn count(&self, disk: bool) {
        self.counts.send_modify(|counts| {
            counts.all += 1;
            counts.disks += u64::from(disk);
        });
    }

    /// The number of events of the disk with that name and of its partitions. It changes with every such
    /// event.
    pub(crate) fn count_of_disk(&self, name: &str) -> u64 {
        let disks = self.disks();
        disks.any + disks.each.get(name).copied().unwrap_or_default()
    }

    /// Records an event of the disk with that name.
    pub(crate) fn count_disk(&self, name: &str) {
        *self.disks().each.entry(name.to_owned()).or_default() += 1;
    }

    fn disks(&self) -> MutexGuard<'_, Disks> {
        self.disks.lock()
    }

    fn run(&self, socket: &OwnedFd) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => self.handle(buffer.get(..length).unwrap_or_default()),
                // Messages were lost, so anything may have happened.
                Err(Errno::ENOBUFS) => {
                    self.disks().any += 1;
                    self.count(true);
                }
                Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::warn!(%error, "kernel uevents ended: changes made by hand are noticed a few seconds later");
                    return;
                }
            }
        }
    }

    fn handle(&self, message: &[u8]) {
        let fields: Vec<&[u8]> = message.split(|byte| *byte == 0).collect();
        if !fields.contains(&b"SUBSYSTEM=block".as_slice()) {
            return;
        }
        let came_or_went = fields.iter().any(|field| matches!(*field, b"ACTION=add" | b"ACTION=remove"));
        // This must come first: a receiver of the event then reads the counts of the disks.
        if let Some(disk) = disk_of(&fields) {
            self.count_disk(&disk);
        }
        let mapped = fields.iter().any(|field| field.starts_with(b"DEVNAME=dm-"));
        self.count(came_or_went && !mapped);
    }
}

/// The name, as in /sys/block, of the disk that an event belongs to, directly or through a partition.
fn disk_of(fields: &[&[u8]]) -> Option<String> {
    let value = |key: &str| {
        let value = fields.iter().find_map(|field| field.strip_prefix(key.as_bytes()))?;
        std::str::from_utf8(value).ok()
    };
    match value("DEVTYPE=")? {
        "disk" => Some(value("DEVNAME=")?.replace('/', "!")),
        // Its folder is in the disk's folder.
        "partition" => value("DEVPATH=")?.rsplit('/').nth(1).map(str::to_owned),
        _ => None,
    }
}

fn open() -> Result<OwnedFd, Errno> {
    let socket =
        socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkKObjectUEvent)?;
    // A volume group with hundreds of volumes is activated in one burst.
    setsockopt(&socket, sockopt::RcvBuf, &(1 << 20))?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(all: u64, disks: u64) -> EventCounts {
        EventCounts { all, disks }
    }

    #[test]
    fn disk_events_are_distinguished_from_others() {
        let events = Uevents::default();
        events.handle(b"change@/devices/virtual/block/dm-0\0ACTION=change\0SUBSYSTEM=block\0DEVNAME=dm-0\0");
        assert_eq!(events.counts(), counts(1, 0));
        events.handle(b"add@/devices/virtual/block/dm-1\0ACTION=add\0SUBSYSTEM=block\0DEVNAME=dm-1\0");
        assert_eq!(events.counts(), counts(2, 0));
        events.handle(b"remove@/devices/pci/vdb\0ACTION=remove\0SUBSYSTEM=block\0DEVNAME=vdb\0");
        assert_eq!(events.counts(), counts(3, 1));
        events.handle(b"add@/devices/x\0ACTION=add\0SUBSYSTEM=net\0");
        events.handle(b"\xff\0\0");
        assert_eq!(events.counts(), counts(3, 1));
    }

    #[test]
    fn events_are_counted_for_the_right_disk() {
        let events = Uevents::default();
        let of_disks = |names: [&str; 3]| names.map(|name| events.count_of_disk(name));
        let names = ["vdb", "nvme0n1", "cciss!c0d0"];
        events.handle(b"change@/x\0ACTION=change\0DEVPATH=/devices/pci0/virtio1/block/vdb\0SUBSYSTEM=block\0DEVNAME=vdb\0DEVTYPE=disk\0");
        assert_eq!(of_disks(names), [1, 0, 0]);
        events.handle(b"add@/x\0ACTION=add\0DEVPATH=/devices/pci0/nvme/nvme0/nvme0n1/nvme0n1p2\0SUBSYSTEM=block\0DEVNAME=nvme0n1p2\0DEVTYPE=partition\0");
        assert_eq!(of_disks(names), [1, 1, 0]);
        events.handle(b"add@/x\0ACTION=add\0DEVPATH=/devices/x/block/cciss!c0d0\0SUBSYSTEM=block\0DEVNAME=cciss/c0d0\0DEVTYPE=disk\0");
        assert_eq!(of_disks(names), [1, 1, 1]);
        assert_eq!(events.counts(), counts(3, 2));
    }

    #[tokio::test]
    async fn waiting_ends_with_the_next_event() {
        let events = Uevents::default();
        let before = events.counts();
        events.count(true);
        // Events before the call count.
        events.changed(before).await;
        let waiting = tokio::spawn({
            let events = events.clone();
            async move { events.changed(events.counts()).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        events.count(false);
        waiting.await.unwrap();
    }
}
