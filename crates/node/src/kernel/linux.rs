//! The real host: calls the crates `mount` and `filesystem`.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quarry_encryption::{self as encryption, Header, Layer};
use quarry_exec::Secret;
use quarry_filesystem::{
    self as filesystem, Coverage, Exclusive, Mounted, Probe, Superblock, Trimmed, Trouble, Usage, UuidStep,
};
use quarry_mount::{self as mount, Device, Entry, Mapping};
use quarry_volume::{Filesystem, MakeOptions, Reason, Result, VolumeId};
use uuid::Uuid;

use super::{DeviceCopy, Encryptions, Filesystems, HeldDevice, Mounts};
use crate::copy::{DeviceSource, DeviceTarget, Edit, Job};
use crate::errors;
use crate::tasks::Handle;
use crate::zero::Progress;

/// The kernel that this process runs on.
pub(crate) struct Linux;

impl Mounts for Linux {
    fn number(&self, node: &Path) -> Option<Device> {
        Device::of_node(node)
    }

    fn limited_device(&self, device: Device) -> Device {
        device.disk()
    }

    fn mapper_uuid(&self, device: Device) -> Option<String> {
        std::fs::read_to_string(format!("/sys/dev/block/{device}/dm/uuid")).ok()
    }

    fn active_volume(&self, id: &VolumeId) -> Option<PathBuf> {
        quarry_pool::device_in_kernel(&id.storage, &id.volume).ok().flatten()
    }

    fn layer_on(&self, raw: &Path) -> Option<Layer> {
        encryption::on(raw)
    }

    fn layer_named(&self, name: &str) -> Option<Layer> {
        encryption::named(name)
    }

    fn held_by(&self, device: &Path) -> String {
        errors::held_by(device)
    }

    fn all_at(&self, target: &Path) -> Result<Vec<Entry>> {
        mount::all_at(target).map_err(errors::mount)
    }

    fn mounts_of_device(&self, device: Device) -> Result<Vec<Entry>> {
        mount::mounts_of_device(device).map_err(errors::mount)
    }

    fn publications_of_block(&self, device: Device) -> Result<Vec<Entry>> {
        mount::publications_of_block(device).map_err(errors::mount)
    }

    fn is_of_device(&self, entry: &Entry, device: Device) -> bool {
        entry.is_of_device(device)
    }

    fn node_device(&self, entry: &Entry) -> Option<Device> {
        entry.node_device()
    }

    fn could_be_volume(&self, entry: &Entry) -> bool {
        quarry_pool::could_be_volume(entry)
    }

    fn is_device_gone(&self, entry: &Entry) -> bool {
        entry.is_device_gone()
    }

    fn check_target(&self, target: &Path) -> Result<()> {
        mount::check_target(target).map_err(errors::mount)
    }

    fn mount_filesystem(&self, device: &Path, target: &Path, kind: Filesystem, options: &[String]) -> Result<()> {
        mount::mount_filesystem(device, target, kind.as_str(), options).map_err(errors::mount)
    }

    fn bind(&self, source: &Path, target: &Path, read_only: bool) -> Result<()> {
        mount::bind(source, target, read_only).map_err(errors::mount)
    }

    fn bind_device(&self, device: &Path, target: &Path) -> Result<()> {
        mount::bind_device(device, target).map_err(errors::mount)
    }

    fn unmount(&self, target: &Path, seen: &[Entry]) -> Result<()> {
        mount::unmount_seen(target, seen).map_err(errors::mount)
    }

    fn remove_target(&self, target: &Path) -> Result<()> {
        mount::remove_target(target).map_err(errors::mount)
    }

    fn read_only_mappings(&self, key: &str) -> Result<Vec<Mapping>> {
        mount::read_only_mappings(key).map_err(errors::mount)
    }

    fn is_read_only_mapping_of(&self, mapping: Device, device: Device) -> bool {
        mount::is_read_only_mapping_of(mapping, device)
    }

    fn map_read_only(&self, device: Device, key: &str) -> Result<PathBuf> {
        mount::map_read_only(device, key).map_err(errors::mount)
    }

    fn unmap_read_only(&self, key: &str) -> Result<()> {
        mount::unmap_read_only(key).map_err(errors::mount)
    }
}

#[async_trait::async_trait]
impl Encryptions for Linux {
    fn header(&self, raw: &Path) -> Result<Header> {
        encryption::header(raw).map_err(errors::encryption)
    }

    async fn format_encrypted(&self, raw: &Path, uuid: Uuid, name: &str, passphrase: &Secret) -> Result<()> {
        encryption::format(raw, uuid, name, passphrase).await.map_err(errors::encryption)
    }

    async fn set_header_uuid(&self, raw: &Path, uuid: Uuid, name: &str) -> Result<()> {
        encryption::set_uuid(raw, uuid, name).await.map_err(errors::encryption)
    }

    async fn open_encrypted(&self, raw: &Path, name: &str, passphrase: &Secret, discards: bool) -> Result<()> {
        encryption::open(raw, name, passphrase, discards).await.map_err(errors::encryption)
    }

    async fn resize_encrypted(&self, raw: &Path, name: &str) -> Result<()> {
        encryption::resize(raw, name).await.map_err(errors::encryption)
    }

    async fn close_encrypted(&self, layer: &Layer) -> Result<()> {
        let close = || {
            let layer = layer.clone();
            errors::blocking(move || encryption::close(&layer).map_err(errors::encryption))
        };
        match close().await {
            Err(error) if error.reason == Reason::UnderWay => {
                quarry_pool::release_nested_on(&layer.node).await;
                close().await
            }
            closed => closed,
        }
    }

    fn remove_unfinished(&self, raw: &Path, name: &str) -> Result<()> {
        encryption::remove_unfinished(raw, name).map(drop).map_err(errors::encryption)
    }

    fn hold_encrypted(&self, raw: &Path, name: &str) -> Result<Arc<dyn HeldDevice>> {
        Ok(Arc::new(encryption::hold(raw, name).map_err(errors::encryption)?))
    }
}

#[async_trait::async_trait]
impl Filesystems for Linux {
    async fn superblock(&self, kind: Filesystem, device: &Path) -> Result<Option<Superblock>> {
        filesystem::superblock(kind, device).await.map_err(errors::filesystem)
    }

    async fn probe(&self, device: &Path) -> Result<Probe> {
        filesystem::probe(device).await.map_err(errors::filesystem)
    }

    async fn make(&self, kind: Filesystem, device: &Path, uuid: &str, options: &MakeOptions) -> Result<()> {
        filesystem::make(kind, device, uuid, options).await.map_err(errors::filesystem)
    }

    async fn check_before_adoption(&self, kind: Filesystem, device: &Path) -> Result<()> {
        filesystem::check_before_adoption(kind, device).await.map_err(errors::filesystem)
    }

    fn exclusive(&self, device: &Path) -> Result<Arc<dyn HeldDevice>> {
        Ok(Arc::new(filesystem::exclusive(device).map_err(errors::filesystem)?))
    }

    async fn copy(&self, copy: DeviceCopy, handle: &Handle, progress: &mut dyn Progress) -> Result<()> {
        let DeviceCopy { source, size, offline, target, start, tail, zeroed_target, filesystem, rates, meter, retry } =
            copy;
        let open = move || {
            let held = offline.then(|| filesystem::exclusive(&source)).transpose().map_err(errors::filesystem)?;
            Ok((held, DeviceSource::open(&source)?, DeviceTarget::open(&target)?))
        };
        let (held, source, target) = errors::blocking(open).await?;
        let edit = filesystem.map(|(kind, uuid)| -> Edit {
            Arc::new(move |offset, bytes| filesystem::edit_copied(kind, uuid, offset, bytes))
        });
        let job = Job { source_size: size, start, tail, zeroed_target, edit, rates, meter };
        let copied = job.run(Box::new(source), Box::new(target), handle, retry, progress).await;
        // Until here, nothing else has used the source.
        errors::dropped(held).await;
        Ok(copied?)
    }

    async fn uuid_step(&self, kind: Filesystem, device: &Path, uuid: Uuid) -> Result<UuidStep> {
        filesystem::uuid_step(kind, device, &uuid.to_string()).await.map_err(errors::filesystem)
    }

    async fn recover(&self, kind: Filesystem, device: &Path, options: &'static [&'static str]) -> Result<()> {
        let device = device.to_owned();
        let mount = move || mount::mount_once(&device, kind.as_str(), options).map_err(errors::mount);
        errors::blocking(mount).await
    }

    async fn set_uuid(&self, kind: Filesystem, device: &Path, uuid: Uuid) -> Result<()> {
        filesystem::set_uuid(kind, device, &uuid.to_string()).await.map_err(errors::filesystem)
    }

    fn check_mounted(&self, kind: Filesystem, entry: &Entry) -> Option<Trouble> {
        let device = entry.device.kernel_name();
        filesystem::check_mounted(&Mounted {
            path: &entry.target,
            kind,
            read_only: entry.read_only(),
            super_options: &entry.super_options,
            device: device.as_deref(),
        })
    }

    fn try_write(&self, path: &Path) -> Option<Trouble> {
        filesystem::try_write(path)
    }

    fn usage(&self, path: &Path) -> Result<Usage> {
        filesystem::usage(path).map_err(errors::filesystem)
    }

    fn device_size(&self, device: &Path) -> Result<u64> {
        filesystem::device_size(device).map_err(errors::filesystem)
    }

    fn coverage(&self, kind: Filesystem, device: &Path, mounted: &Path) -> Result<Coverage> {
        filesystem::coverage(kind, device, mounted).map_err(errors::filesystem)
    }

    async fn grow(&self, kind: Filesystem, device: &Path, mounted: &Path) -> Result<Coverage> {
        filesystem::grow(kind, device, mounted).await.map_err(errors::filesystem)
    }

    fn trim(&self, entry: &Entry, bytes: Range<u64>) -> Result<Option<Trimmed>> {
        let Some(directory) = mount::open_mounted(entry).map_err(errors::mount)? else { return Ok(None) };
        filesystem::trim(&directory, &entry.target, bytes).map(Some).map_err(errors::filesystem)
    }
}

impl HeldDevice for Exclusive {
    fn wipe_signatures(&self) -> Result<()> {
        filesystem::wipe_signatures(self).map_err(errors::zeroing)
    }

    fn zero_range(&self, bytes: Range<u64>) -> Result<()> {
        filesystem::zero_range(self, bytes).map_err(errors::zeroing)
    }

    fn flush(&self) -> io::Result<()> {
        quarry_block::flush(self)?;
        quarry_block::drop_clean_pages(self)
    }
}
