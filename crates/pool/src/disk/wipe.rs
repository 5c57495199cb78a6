//! Wipes the data of a deleted volume before its disk becomes free.
//!
//! The progress is stored in the record of the claim that is being released, so that a restart continues from
//! there.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use quarry_disk::claim::{self, Claim, Identity};
use quarry_filesystem::signature_places;
use quarry_volume::{Error, Gib, Result, Wipe, safe_name, show_size};

use super::create::VOLUME_OFFSET;
use super::disks::{Any, Held};
use super::release::Progress;
use super::{Inner, blocking, view};
use crate::Record;

const GIB: u64 = 1 << 30;
/// The largest range that is wiped at once: the process can end between two of them.
const CHUNK: u64 = GIB;
/// How much is wiped between two updates of the progress on the disk. Each update takes two flushed writes.
const RECORD_EVERY: u64 = 64 * GIB;

impl Inner {
    /// The mode in which a volume with this record is wiped: its class's, otherwise the pool's.
    pub(super) fn wipe_mode(&self, record: &Record) -> Wipe {
        record.wipe.unwrap_or(self.wipe)
    }

    /// Wipes the volume's data, flushes the disk, and returns the current claim on it.
    pub(super) async fn wipe(
        self: &Arc<Self>,
        held: &Arc<dyn Held>,
        mut claim: Claim,
        progress: &Progress,
    ) -> Result<Claim> {
        // The mode that was promised may be in a record that this version cannot read: the release was started
        // by a newer one, or the record is damaged. Then everything is zeroed, from the beginning, because that
        // keeps every promise; the pool's mode may be a weaker one.
        let record = record_of_its_volume(&claim);
        let mode = record.as_ref().map_or(Wipe::Zero, |record| self.wipe_mode(record));
        if mode != Wipe::None {
            let mut discard = mode == Wipe::Discard;
            // If the creation of a volume was given up, these are the bytes that the creation zeroed; the
            // volume was never used. But a volume that was zeroed completely may have a filesystem since,
            // which its record does not show.
            let zeroed = record.as_ref().map_or(0, Record::zeroed_bytes);
            let mut done = if zeroed < claim.length { zeroed } else { 0 };
            let mut recorded = done;
            progress.total.store(claim.length, Ordering::Relaxed);
            progress.done.store(done, Ordering::Relaxed);
            while done < claim.length {
                let end = done.saturating_add(CHUNK).min(claim.length);
                let bytes = claim.offset + done..claim.offset + end;
                let device = Arc::clone(held);
                let discarded = blocking(move || match discard && device.discard(bytes.clone())? {
                    true => Ok(true),
                    // The mode is a promise: what cannot be discarded is zeroed.
                    false => device.zero(bytes).map(|()| false),
                });
                discard = discarded.await?;
                done = end;
                progress.done.store(done, Ordering::Relaxed);
                // Discarded ranges are not recorded, because the mode may differ after a restart.
                if let Some(record) = &record
                    && mode == Wipe::Zero
                    && done - recorded >= RECORD_EVERY
                    && done < claim.length
                {
                    // From now on, the progress is that of the wiping, also if the volume was being filled.
                    let text = record.filled_with_nothing().zeroed(Gib::whole_in(done)).to_string();
                    let (inner, device) = (Arc::clone(self), Arc::clone(held));
                    claim = blocking(move || {
                        flush(&*device, done)?;
                        let recorded = claim::set_record(&Any(&*device), &claim, text.as_bytes());
                        recorded.map_err(|error| inner.explain(&error))
                    })
                    .await?;
                    recorded = done;
                }
            }
        }
        let (device, length) = (Arc::clone(held), claim.length);
        blocking(move || {
            // If the disk still returns the old contents, a signature would keep it from being free.
            if mode != Wipe::Zero {
                for place in signature_places(length) {
                    device.zero(VOLUME_OFFSET + place.start..VOLUME_OFFSET + place.end)?;
                }
            }
            flush(&*device, length)
        })
        .await?;
        Ok(claim)
    }
}

/// The record of a claim, if it can be read and is that of the claim's own volume.
fn record_of_its_volume(claim: &Claim) -> Option<Record> {
    view::record(claim).filter(|record| Identity::of(&safe_name(&record.name)) == claim.identity)
}

/// Flushes the disk. `done`: how many bytes were wiped.
fn flush(device: &dyn Held, done: u64) -> Result<()> {
    if quarry_fault::disabled("wipe-flush") {
        return Ok(());
    }
    device.flush().map_err(|error| {
        Error::host(format!(
            "flushing the disk {} after wiping {} of it: {error}; see the kernel log",
            device.path().display(),
            show_size(done)
        ))
    })
}
