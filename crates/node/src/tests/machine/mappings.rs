//! Read-only mappings on the machine, which are made in the kernel's steps: create, load, resume.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use quarry_mount::{Attempt, Device, Entry, Error, Mapping};

use super::{MAPPER, Process, State};

/// A read-only mapping.
#[derive(Clone)]
pub(super) struct Mapped {
    pub(super) number: Device,
    /// The device that its table maps, and which it claims. sysfs does not show a mapping without a table.
    table: Option<Device>,
    /// How many bytes of it the table maps: it does not change when the device grows.
    size: u64,
    /// Whether the table is in effect. Before that, the mapping has a size of 0.
    resumed: bool,
    /// Whether a program has it open. A mount of its node does not open it.
    open: bool,
}

/// The node of the mapping with that number.
fn node_of(number: Device) -> PathBuf {
    PathBuf::from(format!("/dev/dm-{}", number.minor))
}

impl State {
    /// Whether there is any read-only mapping, even one without a table.
    pub(in crate::tests) fn has_mappings(&self) -> bool {
        !self.mappings.is_empty()
    }

    /// Whether sysfs shows any read-only mapping.
    pub(in crate::tests) fn is_mapped(&self) -> bool {
        self.mappings.values().any(|mapped| mapped.table.is_some())
    }

    /// Whether a mapping has claimed the device.
    pub(super) fn is_loaded(&self, device: Device) -> bool {
        self.mappings.values().any(|mapped| mapped.table == Some(device))
    }

    /// The device that a mapping shows.
    pub(in crate::tests) fn mapped(&self, mapping: Device) -> Option<Device> {
        self.mappings.values().find(|mapped| mapped.resumed && mapped.number == mapping)?.table
    }

    /// How many bytes a mapping shows.
    pub(in crate::tests) fn mapped_size(&self, mapping: Device) -> Option<u64> {
        Some(self.mappings.values().find(|mapped| mapped.resumed && mapped.number == mapping)?.size)
    }

    /// The number of the mapping with that node.
    pub(super) fn mapping_at(&self, node: &Path) -> Option<Device> {
        let mut shown = self.mappings.values().filter(|mapped| mapped.table.is_some());
        shown.find(|mapped| node_of(mapped.number) == node).map(|mapped| mapped.number)
    }

    /// The mappings that sysfs shows whose keys start with `key`.
    pub(super) fn mappings_of(&self, key: &str) -> Vec<Mapping> {
        let shown = self.mappings.iter().filter(|(other, mapped)| mapped.table.is_some() && other.starts_with(key));
        shown.map(|(key, mapped)| Mapping { key: key.clone(), device: mapped.number }).collect()
    }

    /// A program opens or closes all mappings.
    pub(in crate::tests) fn set_mappings_open(&mut self, open: bool) {
        self.mappings.values_mut().for_each(|mapped| mapped.open = open);
    }
}

impl Process {
    fn mapping(&self, key: &str) -> Option<Mapped> {
        self.read(|state| state.mappings.get(key).cloned())
    }

    pub(super) fn map(&self, device: Device, key: &str) -> Result<PathBuf, Error> {
        if let Some(found) = self.mapping(key).filter(|found| found.resumed) {
            if found.table == Some(device) && self.read(|state| state.size_of(device)) == Some(found.size) {
                return Ok(node_of(found.number));
            }
            let of_mapping = |state: &State, entry: &Entry| state.node_device(entry) == Some(found.number);
            let published = |state: &State| state.mounts.iter().find(|entry| of_mapping(state, entry)).cloned();
            if let Some(Entry { target, .. }) = self.read(published) {
                return Err(Error::Published { device, mapping: found.number, target });
            }
            self.unmap(key)?;
        }
        if self.mapping(key).is_none() {
            self.effect("create mapping", |state| {
                let number = Device { major: MAPPER, minor: state.next() };
                let mapped = Mapped { number, table: None, size: 0, resumed: false, open: false };
                state.mappings.insert(key.to_owned(), mapped);
            });
        }
        let loaded = self.effect("load mapping", |state| {
            // Other mappings claim the device too: all of them are device-mapper's.
            if state.disk(device).is_some_and(|disk| state.is_claimed_by_program(disk) || state.is_mounted(disk)) {
                return Err(Error::Claimed { device });
            }
            let size = state.size_of(device).unwrap_or_default();
            if let Some(mapped) = state.mappings.get_mut(key) {
                (mapped.table, mapped.size) = (Some(device), size);
            }
            Ok(())
        });
        loaded.inspect_err(|_| {
            let _ = self.unmap(key);
        })?;
        self.effect("resume mapping", |state| {
            if let Some(mapped) = state.mappings.get_mut(key) {
                mapped.resumed = true;
            }
        });
        match self.mapping(key) {
            Some(made) if made.table == Some(device) => Ok(node_of(made.number)),
            _ => {
                let (attempted, on) = (Attempt::Other("find the node of the read-only mapping"), PathBuf::from(key));
                Err(Error::Syscall { attempted, on, source: Errno::ENOENT })
            }
        }
    }

    /// The kernel removes a mapping unless it is open, even if its node is mounted.
    pub(super) fn unmap(&self, key: &str) -> Result<(), Error> {
        let Some(mapped) = self.mapping(key) else { return Ok(()) };
        if mapped.open {
            let (target, holders) = (PathBuf::from(key), " by a program that has it open".to_owned());
            return Err(Error::Busy { attempted: "remove the read-only mapping", target, holders });
        }
        self.effect("remove mapping", |state| {
            if state.mounts.iter().any(|entry| state.node_device(entry) == Some(mapped.number)) {
                state.violation("removed a read-only mapping that is published");
            }
            state.mappings.remove(key);
        });
        Ok(())
    }
}
