//! Creates a logical volume. Before lvcreate runs, nothing is created. Afterwards, no error is final unless
//! the volume is gone again.

use quarry_lvm::commands::{self, CreateLv};
use quarry_lvm::{VolumeGroup, capacity};
use quarry_volume::{ContentSource, Error, Extents, Layout, Reason, Result, VolumeSpec, safe_name};

use super::{LvmPool, device, name, volume};
use crate::key::VolumeKey;
use crate::pool::unsupported;
use crate::record::Tag;
use crate::{Health, PoolVolume, Record, Recorded};

/// Rejects what a pool with that name can never do: see [`crate::Pool::supports`]. Whether the volume group
/// has enough disks for a layout is a matter of space.
pub(super) fn supports(pool: &str, spec: &VolumeSpec) -> Result<()> {
    match spec.class.wipe {
        None => Ok(()),
        Some(wipe) => Err(unsupported(format!(
            "pool {pool} has logical volumes, but \"wipe: {wipe}\" is only for pools of whole disks: remove it from \
             the StorageClass"
        ))),
    }
}

impl LvmPool {
    /// The size that volumes of this layout are a multiple of, in bytes.
    pub(super) fn unit(group: &VolumeGroup, layout: &Layout) -> u64 {
        group.extent_size.bytes(Extents(u64::from(layout.stripes())))
    }

    /// Creates the volume. The caller holds the pool lock.
    pub(super) async fn create_volume(&self, spec: &VolumeSpec) -> Result<PoolVolume> {
        let group = self.group().await?;
        let name = safe_name(&spec.name);
        name::check_free_for_volume(&self.name, &volume::storage_of(group.uuid), &group, &name)?;
        let size = spec.size.choose(Self::unit(&group, &spec.class.layout))?;
        let extents = group.extent_size.whole_in(size);
        let source = match &spec.source {
            Some(ContentSource::Volume(id)) => group
                .volumes()
                .find(|logical| volume::from_logical(&group, logical).is_some_and(|found| found.name == id.volume)),
            _ => None,
        };
        let Some(pvs) = capacity::choose(&group, &spec.class.layout, extents, self.config.reserve, source) else {
            return Err(self.no_space(&group, spec, size, &capacity::withheld(&group)));
        };
        let record = Record::new(spec, size);
        let request =
            CreateLv { name: name.clone(), extents, layout: spec.class.layout, tags: vec![record.to_string()], pvs };
        let made = commands::create(&group, &request).await;
        self.commit_new(&group, &name, &record.to_string(), made).await?;
        if let Some(volume) = created_volume(&group, &name, &record) {
            return Ok(volume);
        }
        let after = self.group().await.map_err(Error::not_final)?;
        let found = after.logical_volume(&name);
        let made = found.and_then(|found| volume::from_logical(&after, found)).ok_or_else(|| {
            Error::unavailable(format!("{}/{name} was created, but was removed in the meantime; retry", after.name))
        })?;
        let shared = found.map(|found| after.shared_by_images(found)).unwrap_or_default();
        if shared.is_empty() {
            return Ok(made);
        }
        // Losing that disk would lose all copies.
        let why = format!(
            "lvm would place several copies on one disk ({}), because the disks' free space is fragmented",
            shared.join(", ")
        );
        let error = self.no_space(&group, spec, size, &[why]);
        Err(self.undo_new(&name, &record.to_string(), error).await)
    }

    /// The error for a volume that does not fit, with additional reasons.
    fn no_space(&self, group: &VolumeGroup, spec: &VolumeSpec, size: u64, more: &[String]) -> Error {
        let largest = capacity::largest(group, &spec.class.layout, self.config.reserve);
        let why = largest.reason.iter().chain(more).map(|why| format!("; {why}")).collect::<String>();
        Error::new(
            Reason::NoSpace,
            format!(
                "pool {} cannot hold {size} bytes ({}): the largest volume of this layout that it can create now has \
                 {} bytes{why}",
                self.name, spec.class.layout, largest.bytes
            ),
        )
    }
}

/// The volume that lvcreate has just created, if no report is needed to describe it: these layouts take a
/// single commit of lvm, and the kernel has the complete device. The next call makes a report.
fn created_volume(group: &VolumeGroup, name: &str, record: &Record) -> Option<PoolVolume> {
    if !matches!(record.layout, Layout::Linear | Layout::Striped { .. }) {
        return None;
    }
    let volume = device::uuid_of(group, name, record.size)?;
    let Tag::Record(record) = Record::parse(&record.to_string()) else { return None };
    Some(PoolVolume {
        name: name.to_owned(),
        stored_as: name.to_owned(),
        storage: volume::storage_of(group.uuid),
        key: VolumeKey::Logical { group: group.uuid, volume },
        size: record.size,
        record: Recorded::Here(record),
        health: Health::Whole,
    })
}

#[cfg(test)]
mod tests {
    use quarry_volume::Wipe;

    use super::*;
    use crate::lvm::CAPABILITIES;

    #[test]
    fn every_layout_is_supported_but_no_wipe() {
        let plain = VolumeSpec::block("a", 1 << 30);
        for layout in [Layout::Linear, Layout::Striped { stripes: 2, stripe_size: 65536 }, Layout::Raid1 { mirrors: 1 }]
        {
            supports("p", &plain.clone().with_layout(layout)).unwrap();
        }
        for wipe in Wipe::ALL {
            let mut spec = plain.clone();
            spec.class.wipe = Some(wipe);
            assert_eq!(supports("p", &spec).is_ok(), CAPABILITIES.wipe, "what it reports agrees");
            let error = supports("p", &spec).unwrap_err();
            assert_eq!(error.reason, Reason::NoSpace);
            assert_eq!(
                error.message,
                format!(
                    "pool p has logical volumes, but \"wipe: {wipe}\" is only for pools of whole disks: remove it from \
                     the StorageClass"
                )
            );
        }
    }
}
