//! The source of a volume: finds it, and makes sure that it does not change while it is copied.

use std::sync::Arc;

use quarry_pool::{
    Contents, ContentsOf, CopiedFilesystem, Pool, PoolSnapshot, PoolVolume, SnapshotHealth, SnapshotKind,
    SnapshotRecord, State,
};
use quarry_volume::{
    AccessTypes, ContentSource, CowSize, Encryption, Error, Filesystem, Gib, Reason, Result, VolumeSpec,
};

use super::Failure;
use crate::copies::Running;
use crate::device;
use crate::host::{Host, Located};
use crate::prepare::update_record;
use crate::snapshot::{LocatedSnapshot, record_of};
use crate::sources::snapshot_for_clone;

/// What a volume is filled with.
pub(super) struct Content {
    /// The pool that it is in.
    pub(super) pool: Arc<dyn Pool>,
    pub(super) origin: Origin,
    /// What it contains: the record of the snapshot, or the one that a snapshot of the volume would have.
    pub(super) record: SnapshotRecord,
    /// Its size in bytes, with the header if it is encrypted.
    pub(super) size: u64,
}

/// Where contents are copied from.
pub(super) enum Origin {
    /// A snapshot, which does not change.
    Snapshot(PoolSnapshot),
    /// A volume. A snapshot of it is copied.
    Volume(PoolVolume),
    /// A volume whose pool cannot take snapshots. It is copied while nothing uses it.
    Offline(PoolVolume),
}

impl Content {
    fn of_snapshot(pool: Arc<dyn Pool>, snapshot: PoolSnapshot) -> Self {
        let (record, size) = (snapshot.record.clone(), snapshot.size);
        Self { pool, origin: Origin::Snapshot(snapshot), record, size }
    }

    /// Whether it contains nothing, because the source was never used.
    pub(super) fn is_empty(&self) -> bool {
        self.record.empty
    }

    /// The size that its user had, in bytes.
    pub(super) fn usable_size(&self) -> u64 {
        self.size.saturating_sub(self.record.overhead())
    }

    /// What the pool can create a volume with, if this is in the same pool. `None` if it must be copied.
    ///
    /// A btrfs is copied: until its UUID is changed, the kernel must not see both of them, and it changes while it is
    /// copied. So is a volume that was used raw or with a filesystem: only the copy shows which. (Of an encrypted one,
    /// nothing shows it, and nothing has to be changed.)
    pub(super) fn shared_with(&self, pool: &Arc<dyn Pool>) -> Option<Contents<'_>> {
        let copied = self.is_empty()
            || self.record.filesystem == Some(Filesystem::Btrfs)
            || self.record.access == AccessTypes::Both && self.record.encryption.is_none()
            || self.pool.name() != pool.name();
        let of = match &self.origin {
            Origin::Snapshot(snapshot) => ContentsOf::Snapshot(snapshot),
            Origin::Volume(volume) => ContentsOf::Volume(volume),
            Origin::Offline(_) => return None,
        };
        let uuid = self.record.filesystem.and(self.record.filesystem_uuid);
        let filesystem = uuid.map(|uuid| match self.record.encryption {
            Some(_) => CopiedFilesystem::Keeps(uuid),
            None => CopiedFilesystem::GetsNewUuid,
        });
        (!copied).then_some(Contents { of, filesystem })
    }

    /// Checks that a volume of that spec and size can be filled with it.
    pub(super) fn check(&self, spec: &VolumeSpec, size: u64) -> Result<()> {
        let name = |kind: Option<Filesystem>| kind.map_or("no filesystem", Filesystem::as_str);
        if self.record.access != spec.access {
            return Err(Error::invalid(format!(
                "its source was created for use as {}, and the volume is requested for use as {}: request the same",
                self.record.access, spec.access
            )));
        }
        if self.record.filesystem != spec.filesystem {
            return Err(Error::invalid(format!(
                "its source has {}, and the volume is requested with {}: request the same",
                name(self.record.filesystem),
                name(spec.filesystem)
            )));
        }
        if self.record.encryption != spec.class.encryption {
            let kind = |encryption: Option<Encryption>| {
                encryption.map_or_else(|| "not encrypted".to_owned(), |kind| format!("encrypted ({kind})"))
            };
            return Err(Error::invalid(format!(
                "its source is {}, and the volume is requested {}: request the same, because encrypted bytes are copied \
                 as they are",
                kind(self.record.encryption),
                kind(spec.class.encryption)
            )));
        }
        let least = self.usable_size();
        if size < least {
            return Err(Error::new(
                Reason::SizeOutOfRange,
                format!("its source has {least} bytes, and the volume would have {size}: request at least those"),
            ));
        }
        Ok(())
    }
}

impl Host {
    /// Finds the source of a volume.
    ///
    /// # Errors
    /// `NotFound` if it does not exist; `NoSpace` if it is on another node; `Precondition` if it can never be copied.
    /// Otherwise a retry can succeed.
    pub(super) async fn content(&self, source: &ContentSource) -> Result<Content> {
        if source.node() != self.node() {
            return Err(Error::new(
                Reason::NoSpace,
                format!("it is on node {}, and a volume is filled only on the same node", source.node()),
            ));
        }
        match source {
            ContentSource::Snapshot(id) => {
                let LocatedSnapshot { pool, snapshot } =
                    self.locate_snapshot(id).await?.ok_or_else(|| Error::not_found("this snapshot does not exist"))?;
                require_readable(&snapshot)?;
                Ok(Content::of_snapshot(pool, snapshot))
            }
            ContentSource::Volume(id) => {
                let Located { pool, volume } =
                    self.locate(id).await?.ok_or_else(|| Error::not_found("this volume does not exist"))?;
                let record = record_of("", id, &volume)?;
                let size = volume.size;
                let origin = match pool.status().await.capabilities.snapshots {
                    true => Origin::Volume(volume),
                    false => Origin::Offline(volume),
                };
                Ok(Content { pool, origin, record, size })
            }
        }
    }

    /// Makes sure that the source does not change while it is copied: takes a snapshot of a volume, or finds the one
    /// that an earlier call took. If its pool cannot take any, nothing may use the volume before `running` has ended.
    pub(super) async fn stable_source(
        &self,
        content: Content,
        source: &ContentSource,
        pool: &Arc<dyn Pool>,
        target: &mut PoolVolume,
        running: &Running,
    ) -> Result<Content, Failure> {
        match &content.origin {
            Origin::Snapshot(_) => Ok(content),
            Origin::Offline(_) => {
                // A call that makes the source usable, or changes its size, first holds its name, and then looks for
                // copies. So one of the two notices the other.
                running.set_offline();
                self.require_no_change_of(&content.record.source)?;
                if content.record.encryption.is_some() {
                    // Its last unstage may have left it open, and then its storage cannot be held.
                    self.close_encrypted(&content.record.source).await;
                }
                let content = self.content(source).await.map_err(Failure::of_source)?;
                self.require_offline(&content).await.map_err(Failure::of_source)?;
                Ok(content)
            }
            Origin::Volume(source) => {
                let snapshot = self.take_for_clone(&content, source, pool, target).await?;
                Ok(Content::of_snapshot(content.pool, snapshot))
            }
        }
    }

    /// Finds or takes the snapshot of `source` that serves the clone `target`.
    async fn take_for_clone(
        &self,
        content: &Content,
        source: &PoolVolume,
        pool: &Arc<dyn Pool>,
        target: &mut PoolVolume,
    ) -> Result<PoolSnapshot, Failure> {
        let clone = target.record()?.clone();
        if let Some(found) = snapshot_for_clone(&content.pool, &clone.name).await? {
            match (&found.health, found.record.state) {
                (SnapshotHealth::Lost(why), _) => return Err(Error::unavailable(why.clone()).into()),
                (SnapshotHealth::Whole, State::Ready) if found.record.source == content.record.source => {
                    return Ok(found);
                }
                // It may not have the contents of one instant.
                _ => content.pool.remove_snapshot(&found).await?,
            }
        }
        if clone.zeroed != Gib::NONE {
            // What was copied is of another instant.
            update_record(pool, target, &clone.zeroed(Gib::NONE)).await?;
        }
        let id = &content.record.source;
        let mut record = content.record.of_kind(SnapshotKind::ForClone);
        record.name = clone.name;
        quarry_fault::point(|| "clone:take snapshot:before".to_owned());
        let taken = content.pool.take_snapshot(source, &record, CowSize::Whole).await;
        taken.map_err(|error| {
            Failure::of_source(error.context(format_args!("taking a snapshot of volume {id} to clone it")))
        })
    }

    /// Fails if the source is a volume that can be copied only while nothing uses it, and it is in use.
    pub(super) async fn require_offline(&self, content: &Content) -> Result<()> {
        let Origin::Offline(volume) = &content.origin else { return Ok(()) };
        let Some(device) = device::active(&**self.kernel(), &content.pool, volume)? else { return Ok(()) };
        let id = &content.record.source;
        self.require_unused(id, device).await.map_err(|error| match error.reason {
            Reason::InUse => Error::precondition(format!(
                "pool {} has no snapshots, so that volume {id} can be cloned only while no pod uses it: stop its pods, \
                 and retry ({})",
                content.pool.name(),
                error.message
            )),
            _ => error,
        })
    }
}

/// Checks that a snapshot can be copied.
pub(super) fn require_readable(snapshot: &PoolSnapshot) -> Result<()> {
    let name = &snapshot.record.name;
    match (&snapshot.health, snapshot.record.state) {
        (SnapshotHealth::Whole, State::Ready) => Ok(()),
        (SnapshotHealth::Invalid(why), _) => {
            Err(Error::precondition(format!("snapshot {name:?} can no longer be read: {why}")))
        }
        (SnapshotHealth::Lost(why), _) => Err(Error::unavailable(why.clone())),
        (SnapshotHealth::Incomplete(_), _) | (_, State::New) => {
            Err(Error::unavailable(format!("snapshot {name:?} is not complete: retry when it is ready to use")))
        }
    }
}
