//! Creates, activates and extends the thin pool in the background, as its configuration says.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quarry_block::{read_aligned, read_direct};
use quarry_lvm::commands::{self, thin};
use quarry_lvm::{LogicalVolume, VolumeGroup, thin_pool_status};
use quarry_volume::{Error, Result};

use super::super::repeat::repeat;
use super::super::{LvmPool, device};
use super::make::{Step, steps};
use crate::ThinPoolConfig;

/// How often the pool is looked at. A full pool lets writes wait for a minute, unless it was set to fail at once.
const INTERVAL: Duration = Duration::from_secs(10);
/// The same after a step failed, which may have started a program.
const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// More steps than any pool needs at once.
const STEPS: usize = 8;

/// Where the kernel's superblock of a thin pool's metadata has its magic number, and the number (dm-thin-metadata.c).
const MAGIC_OFFSET: usize = 32;
const MAGIC: u64 = 27_022_010;

/// Looks at the thin pool again and again, until the pool is dropped.
pub(in crate::lvm) fn maintain_from_now_on(pool: &Arc<LvmPool>) {
    if pool.config.thin_pool.is_some() {
        repeat(pool, Duration::ZERO, async |pool| pool.maintain().await);
    }
}

impl LvmPool {
    /// Takes the steps that the thin pool needs now, and returns when to look again.
    async fn maintain(&self) -> Duration {
        let Some(config) = &self.config.thin_pool else { return AFTER_FAILURE };
        // What is only not possible now is looked at again soon: it starts no program.
        let mut pause = INTERVAL;
        let problem = self.take_steps(config, &mut pause).await.err().map(|error| error.message);
        let mut known = self.thin.problem.lock();
        if let Some(why) = problem.as_ref().filter(|why| known.as_ref() != Some(*why)) {
            tracing::warn!(pool = self.name, why, "the thin pool needs attention");
        }
        *known = problem;
        pause
    }

    async fn take_steps(&self, config: &ThinPoolConfig, pause: &mut Duration) -> Result<()> {
        // A pool that cannot be read reports that itself.
        let Ok(group) = self.group().await else { return Ok(()) };
        if self.next_step(&group, config, &[]).await?.is_none() {
            return Ok(());
        }
        let _lock = self.lock().await?;
        let mut failed = Vec::new();
        for _ in 0..STEPS {
            let group = self.group().await?;
            let names: Vec<_> = failed.iter().map(|(name, _)| *name).collect();
            let next = self.next_step(&group, config, &names).await;
            let step = match (failed.first(), next) {
                // What has failed does not prevent what is possible, and is reported then.
                (_, Ok(Some(step))) => step,
                (Some(_), _) => break,
                (None, next) => return next.map(drop),
            };
            self.check_complete(&group)?;
            let name = step.what();
            tracing::info!(pool = self.name, step = name, "changing the thin pool");
            quarry_fault::point(|| "thin pool:step:before".to_owned());
            if let Err(error) = self.take_step(&group, step).await {
                failed.push((name, error));
                *pause = AFTER_FAILURE;
            }
            quarry_fault::point(|| "thin pool:step:after".to_owned());
        }
        *pause = AFTER_FAILURE;
        let again =
            || Error::unavailable(format!("pool {}: the thin pool needs the same step again and again", self.name));
        Err(failed.into_iter().next().map_or_else(again, |(_, error)| error))
    }

    /// The first step that is possible now, besides those with these names.
    ///
    /// # Errors
    /// None is, and one is needed; or the kernel does not answer.
    async fn next_step<'a>(
        &self,
        group: &'a VolumeGroup,
        config: &ThinPoolConfig,
        besides: &[&str],
    ) -> Result<Option<Step<'a>>> {
        let pool = group.thin_pool(&config.name).map(|pool| (group.uuid, pool.uuid));
        let status = self.shared.observer.ask_kernel(move || thin_pool_status(pool?.0, pool?.1)).await;
        let status = status.map_err(|disk| Error::unavailable(format!("pool {}: {disk}", self.name)))?.ok().flatten();
        let mut impossible = None;
        for step in steps(group, self.config.reserve, config, status) {
            match step {
                Ok(step) if self.was_activated(&step) || besides.contains(&step.what()) => {}
                Ok(step) => return Ok(Some(step)),
                Err(why) => drop(impossible.get_or_insert(why)),
            }
        }
        match impossible {
            Some(why) => Err(Error::unavailable(format!("pool {}: {why}", self.name))),
            None => Ok(None),
        }
    }

    /// Whether the step activates the pool, and this process has done that before.
    fn was_activated(&self, step: &Step<'_>) -> bool {
        matches!(step, Step::Activate(_)) && self.thin.activated.load(Ordering::Relaxed)
    }

    async fn take_step(&self, group: &VolumeGroup, step: Step<'_>) -> Result<()> {
        let changed = match step {
            Step::Create(part) => commands::create(group, &part).await,
            Step::Remove(part) => {
                tracing::warn!(pool = self.name, part = part.name, "its creation was interrupted; creating it again");
                return self.remove_volume(group, part).await;
            }
            Step::Make(request) => {
                self.require_never_used(group, request.metadata).await?;
                thin::make_pool(group, &request).await
            }
            Step::Activate(pool) => {
                let activated = commands::activate(group, pool).await;
                self.recover_if_killed(group, &activated).await;
                activated.map_err(|error| self.explain(error))?;
                self.thin.activated.store(true, Ordering::Relaxed);
                return Ok(());
            }
            Step::SetErrorWhenFull(pool, fail) => thin::set_error_when_full(group, pool, fail).await,
            Step::ExtendData { pool, layout, size, ranges } => {
                commands::extend(group, pool, &layout, size, &ranges).await
            }
            Step::ExtendMetadata(pool, bytes) => thin::extend_pool_metadata(group, pool, bytes).await,
        };
        self.commit(group, changed).await
    }

    /// Fails if a volume contains the metadata of a thin pool: an operator has restored older metadata of the volume
    /// group, from before lvm made a pool of it.
    async fn require_never_used(&self, group: &VolumeGroup, metadata: &LogicalVolume) -> Result<()> {
        let path = format!("{}/{}", group.name, metadata.name);
        let failed = |why: &dyn std::fmt::Display| Error::host(format!("pool {}: reading {path}: {why}", self.name));
        let find = || device::find(group.uuid, metadata.uuid).map_err(|error| failed(&error));
        if find()?.is_none() {
            let activated = commands::activate(group, metadata).await;
            self.recover_if_killed(group, &activated).await;
            activated.map_err(|error| self.explain(error))?;
        }
        let node = find()?.ok_or_else(|| failed(&"lvm activated it, but the kernel has no device for it"))?;
        let read = move || read_direct(&node, |device| read_aligned(device, 0, 4096));
        let block = self.shared.observer.ask_kernel(read).await.map_err(|disk| failed(&disk))?;
        if is_thin_metadata(&block.flatten().map_err(|error| failed(&error))?) {
            return Err(Error::unavailable(format!(
                "pool {}: {path} contains the metadata of a thin pool that was in use, so that no pool is made of it: was \
                 older metadata of the volume group restored (vgcfgrestore)? Restore the newest, or remove both parts of \
                 the pool by hand if its volumes are not needed",
                self.name
            )));
        }
        Ok(())
    }
}

/// Whether this is the first block of the metadata of a thin pool.
fn is_thin_metadata(block: &[u8]) -> bool {
    let magic = block.get(MAGIC_OFFSET..).and_then(|rest| rest.first_chunk::<8>());
    magic.is_some_and(|magic| u64::from_le_bytes(*magic) == MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_of_a_used_pool_is_recognized() {
        let mut block = vec![0_u8; 4096];
        assert!(!is_thin_metadata(&block) && !is_thin_metadata(&[]));
        block[32..40].copy_from_slice(&[0xba, 0x52, 0x9c, 0x01, 0, 0, 0, 0]);
        assert_eq!(27_022_010_u64.to_le_bytes(), [0xba, 0x52, 0x9c, 0x01, 0, 0, 0, 0]);
        assert!(is_thin_metadata(&block));
    }
}
