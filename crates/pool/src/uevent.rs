//! Kernel uevents: news of block devices, heard from netlink without asking anybody.
//!
//! They make a cached report look again before its time. Nothing depends on them alone: where the socket cannot be had,
//! or a message is lost, the comparison of the disks' metadata headers finds the change within four seconds of a question.

use std::collections::HashMap;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

/// The multicast group on which the kernel itself speaks; udevd's own words are in another.
const KERNEL_GROUP: u32 = 1;

/// How many events of block devices were heard, and how many of them were disks or partitions that came or went.
pub type Heard = (u64, u64);

/// Counts of what was heard since the start. Cheap to clone; all clones count together.
#[derive(Clone, Debug, Default)]
pub struct Uevents {
    heard: Arc<watch::Sender<Heard>>,
    disks: Arc<Mutex<Disks>>,
}

/// What was heard of each disk.
#[derive(Debug, Default)]
struct Disks {
    /// How often anything may have happened to any of them.
    any: u64,
    /// How often something happened to a disk of that name, or to a partition of it.
    each: HashMap<String, u64>,
}

impl Uevents {
    /// Begins to listen, on a thread of its own. Where that cannot be done, nothing is ever heard, and a warning says so.
    #[must_use]
    pub fn listen() -> Self {
        let events = Self::default();
        let heard = events.clone();
        let started = open().and_then(|socket| {
            std::thread::Builder::new()
                .name("uevents".to_owned())
                .spawn(move || heard.run(&socket))
                .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))
        });
        if let Err(error) = started {
            tracing::warn!(%error, "no kernel uevents: changes made by hand are noticed a few seconds later");
        }
        events
    }

    /// How many events of block devices were heard, and how many of them were disks that came or went.
    #[must_use]
    pub fn heard(&self) -> Heard {
        *self.heard.borrow()
    }

    /// Waits until more was heard than `heard`.
    pub async fn beyond(&self, heard: Heard) {
        let mut now = self.heard.subscribe();
        // The sender lives as long as `self`: this cannot fail.
        let _ = now.wait_for(|now| *now != heard).await;
    }

    /// Counts an event of a device that is no disk, or of a disk.
    pub(crate) fn count(&self, disk: bool) {
        self.heard.send_modify(|(any, disks)| {
            *any += 1;
            *disks += u64::from(disk);
        });
    }

    /// Stands for what was heard of the disk of that name and of its partitions: another number when there was more.
    pub(crate) fn of_disk(&self, name: &str) -> u64 {
        let disks = self.disks();
        disks.any + disks.each.get(name).copied().unwrap_or_default()
    }

    /// Notes that something happened to the disk of that name.
    pub(crate) fn touch(&self, name: &str) {
        *self.disks().each.entry(name.to_owned()).or_default() += 1;
    }

    fn disks(&self) -> MutexGuard<'_, Disks> {
        self.disks.lock()
    }

    fn run(&self, socket: &OwnedFd) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => self.note(buffer.get(..length).unwrap_or_default()),
                // Messages were lost: anything may have happened.
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

    fn note(&self, message: &[u8]) {
        let fields: Vec<&[u8]> = message.split(|byte| *byte == 0).collect();
        if !fields.contains(&b"SUBSYSTEM=block".as_slice()) {
            return;
        }
        let came_or_went = fields.iter().any(|field| matches!(*field, b"ACTION=add" | b"ACTION=remove"));
        // First: whoever hears of it asks what happened to which.
        if let Some(disk) = disk_of(&fields) {
            self.touch(&disk);
        }
        let mapped = fields.iter().any(|field| field.starts_with(b"DEVNAME=dm-"));
        self.count(came_or_went && !mapped);
    }
}

/// The name, as in /sys/block, of the disk that an event is of, or on which its partition lies.
fn disk_of(fields: &[&[u8]]) -> Option<String> {
    let value = |key: &str| {
        let value = fields.iter().find_map(|field| field.strip_prefix(key.as_bytes()))?;
        std::str::from_utf8(value).ok()
    };
    match value("DEVTYPE=")? {
        "disk" => Some(value("DEVNAME=")?.replace('/', "!")),
        // Its folder lies in its disk's.
        "partition" => value("DEVPATH=")?.rsplit('/').nth(1).map(str::to_owned),
        _ => None,
    }
}

fn open() -> Result<OwnedFd, Errno> {
    let socket =
        socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkKObjectUEvent)?;
    // A volume group of hundreds of volumes is activated in one burst.
    setsockopt(&socket, sockopt::RcvBuf, &(1 << 20))?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_that_come_and_go_are_told_from_other_events() {
        let events = Uevents::default();
        events.note(b"change@/devices/virtual/block/dm-0\0ACTION=change\0SUBSYSTEM=block\0DEVNAME=dm-0\0");
        assert_eq!(events.heard(), (1, 0));
        events.note(b"add@/devices/virtual/block/dm-1\0ACTION=add\0SUBSYSTEM=block\0DEVNAME=dm-1\0");
        assert_eq!(events.heard(), (2, 0));
        events.note(b"remove@/devices/pci/vdb\0ACTION=remove\0SUBSYSTEM=block\0DEVNAME=vdb\0");
        assert_eq!(events.heard(), (3, 1));
        events.note(b"add@/devices/x\0ACTION=add\0SUBSYSTEM=net\0");
        events.note(b"\xff\0\0");
        assert_eq!(events.heard(), (3, 1));
    }

    #[test]
    fn what_happens_to_a_disk_is_not_taken_for_what_happens_to_another() {
        let events = Uevents::default();
        let told = |names: [&str; 3]| names.map(|name| events.of_disk(name));
        let names = ["vdb", "nvme0n1", "cciss!c0d0"];
        events.note(b"change@/x\0ACTION=change\0DEVPATH=/devices/pci0/virtio1/block/vdb\0SUBSYSTEM=block\0DEVNAME=vdb\0DEVTYPE=disk\0");
        assert_eq!(told(names), [1, 0, 0]);
        events.note(b"add@/x\0ACTION=add\0DEVPATH=/devices/pci0/nvme/nvme0/nvme0n1/nvme0n1p2\0SUBSYSTEM=block\0DEVNAME=nvme0n1p2\0DEVTYPE=partition\0");
        assert_eq!(told(names), [1, 1, 0]);
        events.note(b"add@/x\0ACTION=add\0DEVPATH=/devices/x/block/cciss!c0d0\0SUBSYSTEM=block\0DEVNAME=cciss/c0d0\0DEVTYPE=disk\0");
        assert_eq!(told(names), [1, 1, 1]);
        assert_eq!(events.heard(), (3, 2));
    }

    #[tokio::test]
    async fn one_can_wait_for_what_was_not_heard_yet() {
        let events = Uevents::default();
        let before = events.heard();
        events.count(true);
        // What came in between counts.
        events.beyond(before).await;
        let waiting = tokio::spawn({
            let events = events.clone();
            async move { events.beyond(events.heard()).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        events.count(false);
        waiting.await.unwrap();
    }
}
