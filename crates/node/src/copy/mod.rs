//! The copy engine: copies all bytes of a block device to a device of a new volume, for a restore, a clone or a full
//! copy.
//!
//! Its two ends are a [`Source`], which reads ranges, and a [`Target`], which writes them. Both block, and each has a
//! thread of its own, so reads and writes overlap. A connection to another node can be put between them.
//!
//! The engine keeps no state. The caller stores the progress in the record of the new volume, and that record says
//! that the volume is incomplete until the copy is done.

mod device;
mod error;
mod pace;
mod pipeline;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use quarry_volume::{Gib, Result};

use crate::errors::{blocking, dropped};
use crate::tasks::Handle;
use crate::zero::Progress;

pub(crate) use device::{DeviceSource, DeviceTarget};
pub(crate) use error::Error;
pub(crate) use pace::{Meter, Rate};
use pipeline::Pipeline;

/// How much is copied between two updates of the stored progress. Each update is a flush and a commit of metadata.
const STORE_EVERY: u64 = 16 << 30;
/// How much is zeroed by one call. The job can be stopped between two calls.
const ZERO_AT_ONCE: u64 = 1 << 30;

/// What is read, in ranges. It must not change while it is copied: a snapshot, or a device that is not in use.
pub(crate) trait Source: Send {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// The size of its logical sectors, in bytes.
    fn sector_size(&self) -> u32;

    /// Reads these bytes. Blocks.
    ///
    /// # Errors
    /// [`Error::Read`].
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), Error>;
}

/// What is written, in ranges.
pub(crate) trait Target: Send {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// The size of its logical sectors, in bytes.
    fn sector_size(&self) -> u32;

    /// Writes these bytes, which are aligned in memory as direct I/O requires. Not flushed. Blocks.
    ///
    /// # Errors
    /// [`Error::Write`].
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error>;

    /// Makes these bytes read as zeros. Not flushed. Blocks.
    ///
    /// # Errors
    /// [`Error::Zero`].
    fn zero(&mut self, bytes: Range<u64>) -> Result<(), Error>;

    /// Zeroes what a probe could recognize from this offset to the end of the target: the places where signatures
    /// can be. Not flushed. Blocks.
    ///
    /// # Errors
    /// [`Error::Zero`].
    fn wipe_signatures(&mut self, from: u64) -> Result<(), Error>;

    /// Returns when everything that was written is on the disk.
    ///
    /// # Errors
    /// [`Error::Flush`].
    fn flush(&mut self) -> Result<(), Error>;
}

/// Changes the bytes that were read at an offset before they are written: see `quarry_filesystem::edit_copied`. Chunks
/// begin at multiples of 4 MiB.
pub(crate) type Edit = Arc<dyn Fn(u64, &mut [u8]) -> Result<(), quarry_filesystem::Error> + Send + Sync>;

/// What becomes of the target's bytes beyond the end of the source. They can be a former tenant's. [`Job::run`] does
/// it, after the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// They are zeroed, to the last byte: for a volume that can be shown raw.
    Zero,
    /// Only signatures are wiped, as for a new volume: for a volume that is only used through its filesystem.
    WipeSignatures,
}

/// One copy.
pub(crate) struct Job {
    /// The size in bytes that the source must have.
    pub(crate) source_size: u64,
    /// How much is copied (or zeroed, in the tail) and flushed already. It counts only if the source is the same and
    /// nothing else has written to the target: after a journal was replayed on the copy or the change of its UUID
    /// began, a repeated copy begins at 0.
    pub(crate) start: Gib,
    /// What becomes of the rest of the target.
    pub(crate) tail: Tail,
    /// Whether the target reads as zeros wherever this copy has not written yet. Then zeros in the source are skipped.
    /// Only true for thin space that was never written, and not for a copy that is repeated from its beginning.
    /// Otherwise zeros are written.
    pub(crate) zeroed_target: bool,
    /// Changes to make on the way.
    pub(crate) edit: Option<Edit>,
    /// The limits of its speed. Copies can share them.
    pub(crate) rates: Vec<Rate>,
    /// How far it is, for others to read.
    pub(crate) meter: Meter,
}

impl Job {
    /// Copies, cleans the tail, and flushes. `retry`: the call that continues the copy if it is stopped, for messages.
    /// The caller stores the end of it.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the task was asked to stop: the progress is stored. [`Error::SourceSize`],
    /// [`Error::TargetTooSmall`] and [`Error::SectorSize`] before anything is written. Otherwise the error of one of the
    /// ends, of `edit` or of `progress`: a retry continues from the progress that was stored last.
    pub(crate) async fn run(
        self,
        source: Box<dyn Source>,
        target: Box<dyn Target>,
        handle: &Handle,
        retry: &str,
        progress: &mut dyn Progress,
    ) -> Result<(), Error> {
        if let Err(error) = self.check(&*source, &*target) {
            dropped((source, target)).await;
            return Err(error);
        }
        let (from, to) = (source.size(), target.size());
        let total = match self.tail {
            Tail::Zero => to,
            Tail::WipeSignatures => from,
        };
        let start = self.start.bytes().min(total);
        self.meter.begin(start, total);
        let ends = Ends { from, to, total, tail: self.tail };
        let pipeline = Arc::new(Pipeline {
            source: Mutex::new(source),
            target: Mutex::new(target),
            skip_zeros: self.zeroed_target,
            edit: self.edit,
            rates: self.rates,
            meter: self.meter,
            handle: handle.clone(),
        });
        let copied = run_parts(&pipeline, start, ends, retry, progress).await;
        // Both devices are closed when this returns.
        dropped(pipeline).await;
        copied
    }

    /// Checks the two ends before anything is written.
    fn check(&self, source: &dyn Source, target: &dyn Target) -> Result<(), Error> {
        let (from, to) = (source.size(), target.size());
        if from != self.source_size {
            return Err(Error::SourceSize { expected: self.source_size, found: from });
        }
        if to < from {
            return Err(Error::TargetTooSmall { source: from, target: to });
        }
        let (from_sector, to_sector) = (source.sector_size(), target.sector_size());
        if to_sector > from_sector {
            return Err(Error::SectorSize { source: from_sector, target: to_sector });
        }
        Ok(())
    }
}

/// The sizes of the two ends of a copy, in bytes.
#[derive(Clone, Copy)]
struct Ends {
    from: u64,
    to: u64,
    /// How much of the target is written, without signatures that are wiped.
    total: u64,
    tail: Tail,
}

/// Copies the parts from `offset` on, one after the other, cleans the tail, and flushes.
async fn run_parts(
    pipeline: &Arc<Pipeline>,
    mut offset: u64,
    ends: Ends,
    retry: &str,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    let Ends { from, to, total, tail } = ends;
    while offset < total {
        // A part ends where the source ends, so that it is either copied or zeroed.
        let part = offset..if offset < from { from } else { to }.min(offset.saturating_add(STORE_EVERY));
        let reached = {
            let (pipeline, part) = (Arc::clone(pipeline), part.clone());
            run_blocking(move || if part.start < from { pipeline.copy(part) } else { pipeline.zero(part) }).await?
        };
        let stopped = reached < part.end;
        if (reached < total || stopped) && Gib::whole_in(reached) > Gib::whole_in(offset) {
            let pipeline = Arc::clone(pipeline);
            run_blocking(move || pipeline.target.lock().flush()).await?;
            progress.store(Gib::whole_in(reached)).await.map_err(Error::Store)?;
        }
        if stopped {
            return Err(Error::Stopped { retry: retry.to_owned() });
        }
        offset = reached;
    }
    let pipeline = Arc::clone(pipeline);
    run_blocking(move || {
        let mut target = pipeline.target.lock();
        if tail == Tail::WipeSignatures && from < to {
            target.wipe_signatures(from)?;
        }
        target.flush()
    })
    .await
}

/// Runs blocking work on a thread of its own, and keeps its typed error.
async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    blocking(move || Ok(work())).await.map_err(Error::Thread)?
}
