//! Block devices and mounts of the machine. Each function does what its counterpart in the crate `mount`
//! documents, in the same steps.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use quarry_encryption::Layer;
use quarry_mount::{Attempt, Device, Entry, Error, Mapping, READ_ONLY_UUID, check_context, context_in};
use quarry_volume::{Filesystem, Result, VolumeId};

use super::{ANONYMOUS, Content, Kind, MAPPER, Process, State, node};
use crate::errors;
use crate::kernel::Mounts;

impl State {
    pub(super) fn number(&self, path: &Path) -> Option<Device> {
        if let Some(entry) = self.at(path).first() {
            return self.node_device(entry);
        }
        let disk = self.disks.get(path).filter(|disk| disk.active);
        disk.map(|disk| disk.number).or_else(|| self.mapping_at(path)).or_else(|| self.encrypted_at(path))
    }

    /// Checks a target before something is mounted there; returns whether it exists.
    fn target(&self, target: &Path, wanted: Kind) -> Result<bool, Error> {
        let parent = target.parent().and_then(|parent| self.paths.get(parent));
        if parent != Some(&Kind::Directory) {
            return Err(Error::NoParent { target: target.to_owned() });
        }
        match self.paths.get(target) {
            None => Ok(false),
            Some(found) if *found == wanted => Ok(true),
            Some(_) => {
                let (wanted, found) = match wanted {
                    Kind::Directory => ("a directory", "an empty file"),
                    Kind::File => ("an empty file", "a directory"),
                };
                Err(Error::WrongKind { target: target.to_owned(), wanted, found })
            }
        }
    }
}

fn foreign(attempted: &'static str, target: &Path, found: &Entry) -> Error {
    Error::Foreign { attempted, target: target.to_owned(), found: found.to_string() }
}

fn failed(attempted: Attempt, on: &Path, source: Errno) -> Error {
    Error::Syscall { attempted, on: on.to_owned(), source }
}

fn set_read_only(entry: &mut Entry) {
    entry.options = vec!["ro".to_owned()];
}

impl Process {
    /// Makes the directory or file of a target; returns whether it was missing.
    fn make_target(&self, target: &Path, kind: Kind) -> Result<bool, Error> {
        if self.read(|state| state.target(target, kind))? {
            return Ok(false);
        }
        self.effect("make target", |state| state.paths.insert(target.to_owned(), kind));
        Ok(true)
    }

    fn remove(&self, target: &Path) -> Result<(), Error> {
        if let Some(entry) = self.read(|state| state.at(target)).first() {
            let holders = format!(" by a mount of {entry}");
            return Err(Error::Busy { attempted: "remove the target", target: target.to_owned(), holders });
        }
        let inside = |state: &State| state.paths.keys().any(|path| path.parent() == Some(target));
        match self.read(|state| (state.paths.get(target).copied(), inside(state))) {
            (None, _) => Ok(()),
            (Some(_), true) => Err(Error::NotEmpty { target: target.to_owned(), holds: "the directory has entries" }),
            (Some(_), false) => {
                self.effect("remove target", |state| state.paths.remove(target));
                Ok(())
            }
        }
    }

    fn mount(&self, device: &Path, target: &Path, kind: Filesystem, options: &[String]) -> Result<(), Error> {
        let attempted = "mount the volume";
        let number = self.read(|state| state.number(device));
        let number = number.ok_or_else(|| failed(Attempt::Other("find the block device"), device, Errno::ENOTBLK))?;
        let read_only = options.iter().any(|option| option == "ro");
        let check = |entry: &Entry| {
            if !self.read(|state| state.is_of(entry, number)) || entry.fstype != kind.as_str() {
                return Err(foreign(attempted, target, entry));
            }
            let word = |read_only: bool| if read_only { "ro" } else { "rw" }.to_owned();
            if entry.read_only() != read_only {
                let (asked, found) = (word(read_only), word(entry.read_only()));
                return Err(Error::Different { target: target.to_owned(), asked, found });
            }
            Ok(())
        };
        if let Some(entry) = self.read(|state| state.at(target)).first() {
            check(entry)?;
            return check_context(entry, context_in(options));
        }
        let made = self.make_target(target, Kind::Directory)?;
        let mounted = self.effect("mount", |state| {
            let Some(disk) = state.disks.get(device) else { return Err(Errno::ENOENT) };
            if state.is_claimed_by_program(disk) || state.is_loaded(number) {
                return Err(Errno::EBUSY);
            }
            if state.refuses_mounts {
                return Err(Errno::ENOMEM);
            }
            let violation = match &disk.bytes.content {
                Content::Filesystem { kind: found, in_progress: false, .. } if *found == kind => None,
                Content::Damaged { kind: found, .. } if *found == kind => Some("mounted a damaged filesystem"),
                _ => return Err(Errno::EINVAL),
            };
            let not_ready = (!disk.ready).then_some("mounted while the record still allows mkfs");
            let own_uuid = state.has_own_uuid(device);
            let shared = (!own_uuid).then_some("mounted a filesystem whose UUID another mounted one has");
            let twice = (!state.at(target).is_empty()).then_some("mounted twice at one target");
            violation.into_iter().chain(not_ready).chain(shared).chain(twice).for_each(|what| state.violation(what));
            let elsewhere = state.mounts.iter().find(|entry| state.is_of(entry, number)).cloned();
            if let Some(disk) = state.disks.get_mut(device) {
                // The first mount recovers a filesystem that was shut down or made read-only.
                disk.shut_down &= elsewhere.is_some();
                disk.made_read_only &= elsewhere.is_some();
            }
            let shown = match (kind, elsewhere) {
                // Its device number is anonymous.
                (Filesystem::Btrfs, None) => Device { major: 0, minor: ANONYMOUS + state.next() },
                (_, None) => number,
                (_, Some(entry)) => entry.device,
            };
            state.mount(target, shown, "/", kind.as_str(), device);
            if let Some(entry) = state.mounts.last_mut() {
                entry.super_options.extend_from_slice(options);
                if read_only {
                    set_read_only(entry);
                }
            }
            Ok(())
        });
        if made && mounted.is_err() {
            let _ = self.remove(target);
        }
        mounted.map_err(|errno| match errno {
            Errno::EBUSY => Error::DeviceBusy { device: device.to_owned(), target: target.to_owned() },
            source => failed(Attempt::Mount, device, source),
        })
    }

    /// Makes an existing bind read-only if needed.
    fn ensure_mode(&self, target: &Path, found: &Entry, read_only: bool) -> Result<(), Error> {
        let different = |asked: &str, found: &str| {
            let (asked, found) = (asked.to_owned(), found.to_owned());
            Err(Error::Different { target: target.to_owned(), asked, found })
        };
        match (read_only, found.read_only()) {
            (false, true) => different("writable", "read-only"),
            (true, false) if self.read(|state| state.busy.contains(target)) => {
                different("read-only", "writable, and files on it are open for writing")
            }
            (true, false) => {
                self.effect("remount read-only", |state| {
                    if let Some(entry) = state.mounts.iter_mut().find(|entry| entry.id == found.id) {
                        set_read_only(entry);
                    }
                });
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn bind_mount(&self, source: &Path, target: &Path, read_only: bool) -> Result<(), Error> {
        let from = self.read(|state| state.at(source)).into_iter().next();
        let Some(from) = from else { return Err(Error::NotMounted { volume: source.to_owned() }) };
        let wanted = read_only || from.read_only();
        match self.read(|state| state.at(target)).first() {
            Some(entry) if entry.device == from.device => self.ensure_mode(target, entry, wanted),
            Some(entry) => Err(foreign("publish the volume", target, entry)),
            None => {
                self.make_target(target, Kind::Directory)?;
                let entry = self.effect("bind", |state| {
                    let entry = state.mount(target, from.device, "/", &from.fstype, &from.source);
                    if let Some(entry) = state.mounts.last_mut() {
                        entry.options.clone_from(&from.options);
                    }
                    Entry { options: from.options.clone(), ..entry }
                });
                self.ensure_mode(target, &entry, wanted)
            }
        }
    }

    fn bind_node(&self, device: &Path, target: &Path) -> Result<(), Error> {
        let attempted = "publish the device";
        let number = self.read(|state| state.number(device));
        let number =
            number.ok_or_else(|| failed(Attempt::Other("publish as a block device"), device, Errno::ENOTBLK))?;
        if let Some(entry) = self.read(|state| state.at(target)).first() {
            let here = self.read(|state| state.node_device(entry));
            return if here == Some(number) { Ok(()) } else { Err(foreign(attempted, target, entry)) };
        }
        let made = self.make_target(target, Kind::File)?;
        let bound = self.effect("bind device", |state| {
            if state.fails.take_if(|fails| *fails == "bind device").is_some() {
                return Err(failed(Attempt::Bind, target, Errno::ENOMEM));
            }
            let ready = state.disk(number).is_none_or(|disk| disk.ready);
            if !ready {
                state.violation("published as a device while the record still allows a wipe");
            }
            let (devtmpfs, root) = (Device { major: 0, minor: 5 }, format!("/dm-{}", number.minor));
            state.mount(target, devtmpfs, &root, "devtmpfs", Path::new("udev"));
            Ok(())
        });
        if made && bound.is_err() {
            let _ = self.remove(target);
        }
        bound
    }

    fn unmount_all(&self, target: &Path, seen: &[Entry]) -> Result<(), Error> {
        let stack = self.read(|state| state.at(target));
        if let Some(other) = stack.iter().find(|entry| !seen.iter().any(|seen| seen.id == entry.id)) {
            return Err(foreign("unmount the volume", target, other));
        }
        while let Some(entry) = self.read(|state| state.at(target)).first() {
            if self.read(|state| state.busy.contains(target)) {
                let holders = " by a program".to_owned();
                return Err(Error::Busy { attempted: "unmount what is", target: target.to_owned(), holders });
            }
            self.effect("unmount", |state| state.mounts.retain(|other| other.id != entry.id));
        }
        Ok(())
    }
}

impl Mounts for Process {
    fn number(&self, node: &Path) -> Option<Device> {
        self.read(|state| state.number(node))
    }

    fn limited_device(&self, device: Device) -> Device {
        device
    }

    fn mapper_uuid(&self, device: Device) -> Option<String> {
        let key = |state: &State| {
            let mut shown = state.mappings_of("").into_iter();
            shown.find(|mapping| mapping.device == device).map(|mapping| mapping.key)
        };
        let mapping = self.read(key).map(|key| format!("{READ_ONLY_UUID}{key}"));
        mapping.or_else(|| {
            self.read(|state| state.layers().find(|(number, _)| *number == device)).map(|(_, layer)| layer.uuid)
        })
    }

    fn active_volume(&self, id: &VolumeId) -> Option<PathBuf> {
        let node = node(&id.volume);
        let shown = |state: &State| state.sysfs_names_volumes && state.disks.get(&node).is_some_and(|disk| disk.active);
        self.read(shown).then_some(node)
    }

    fn layer_on(&self, raw: &Path) -> Option<Layer> {
        self.read(|state| state.layer_on(raw))
    }

    fn layer_named(&self, name: &str) -> Option<Layer> {
        self.read(|state| state.layers().map(|(_, layer)| layer).find(|layer| layer.name == name))
    }

    fn held_by(&self, _device: &Path) -> String {
        String::new()
    }

    fn all_at(&self, target: &Path) -> Result<Vec<Entry>> {
        Ok(self.read(|state| state.at(target)))
    }

    fn mounts_of_device(&self, device: Device) -> Result<Vec<Entry>> {
        Ok(self.read(|state| state.mounts.iter().filter(|entry| state.is_of(entry, device)).cloned().collect()))
    }

    fn publications_of_block(&self, device: Device) -> Result<Vec<Entry>> {
        let published = |state: &State| {
            let of = |entry: &&Entry| state.node_device(entry) == Some(device);
            state.mounts.iter().filter(of).cloned().collect()
        };
        Ok(self.read(published))
    }

    fn is_of_device(&self, entry: &Entry, device: Device) -> bool {
        self.read(|state| state.is_of(entry, device))
    }

    fn node_device(&self, entry: &Entry) -> Option<Device> {
        self.read(|state| state.node_device(entry))
    }

    fn could_be_volume(&self, entry: &Entry) -> bool {
        // A btrfs mount has an anonymous device number, so its source counts.
        entry.device.major == MAPPER || self.number(&entry.source).or_else(|| self.node_device(entry)).is_some()
    }

    fn is_device_gone(&self, entry: &Entry) -> bool {
        self.read(|state| match (entry.fstype.as_str(), entry.device.major) {
            ("devtmpfs", _) => entry.root.as_os_str().as_encoded_bytes().ends_with(b"//deleted"),
            (_, 0) => state.number(&entry.source).is_none(),
            (_, MAPPER) => state.disk(entry.device).is_none(),
            _ => false,
        })
    }

    fn check_target(&self, target: &Path) -> Result<()> {
        self.read(|state| state.target(target, Kind::Directory)).map(drop).map_err(errors::mount)
    }

    fn mount_filesystem(&self, device: &Path, target: &Path, kind: Filesystem, options: &[String]) -> Result<()> {
        self.mount(device, target, kind, options).map_err(errors::mount)
    }

    fn bind(&self, source: &Path, target: &Path, read_only: bool) -> Result<()> {
        self.bind_mount(source, target, read_only).map_err(errors::mount)
    }

    fn bind_device(&self, device: &Path, target: &Path) -> Result<()> {
        self.bind_node(device, target).map_err(errors::mount)
    }

    fn unmount(&self, target: &Path, seen: &[Entry]) -> Result<()> {
        self.unmount_all(target, seen).map_err(errors::mount)
    }

    fn remove_target(&self, target: &Path) -> Result<()> {
        self.remove(target).map_err(errors::mount)
    }

    fn read_only_mappings(&self, key: &str) -> Result<Vec<Mapping>> {
        Ok(self.read(|state| state.mappings_of(key)))
    }

    fn is_read_only_mapping_of(&self, mapping: Device, device: Device) -> bool {
        self.read(|state| state.mapped(mapping) == Some(device))
    }

    fn map_read_only(&self, device: Device, key: &str) -> Result<PathBuf> {
        self.map(device, key).map_err(errors::mount)
    }

    fn unmap_read_only(&self, key: &str) -> Result<()> {
        self.unmap(key).map_err(errors::mount)
    }
}
