//! Wiping the bytes of a deleted volume before its disk is free.
//!
//! How far it has come is noted in the record of the claim that is being released, so that a restart goes on from there.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use quarry_disk::claim::{self, Claim};
use quarry_filesystem::signature_places;
use quarry_volume::{Error, Result, Wipe, show_size};

use super::disks::{Any, Held};
use super::release::Progress;
use super::{Inner, blocking};
use crate::Record;
use crate::record::Tag;

const GIB: u64 = 1 << 30;
/// The largest range that is wiped at once: between two, the process can end.
const CHUNK: u64 = GIB;
/// How much is wiped between two notes in the record. Each is two flushed writes.
const NOTE_EVERY: u64 = 64 * GIB;

impl Inner {
    /// The way in which a volume with this record is wiped: its class's, or else the pool's.
    pub(super) fn way(&self, record: Option<&Record>) -> Wipe {
        record.and_then(|record| record.wipe).unwrap_or(self.wipe)
    }

    /// Wipes the volume's bytes, flushes that, and returns the claim as it stands on the disk then.
    pub(super) async fn wipe(
        self: &Arc<Self>,
        held: &Arc<dyn Held>,
        mut claim: Claim,
        progress: &Progress,
    ) -> Result<Claim> {
        // A record that this version cannot read (it was begun by another one) says nothing: then the pool's way, from the
        // beginning.
        let record = match std::str::from_utf8(&claim.record).map(Record::parse) {
            Ok(Tag::Record(record)) => Some(*record),
            _ => None,
        };
        let way = self.way(record.as_ref());
        if way != Wipe::None {
            let mut discard = way == Wipe::Discard;
            // Of a volume whose creation was given up, these are the bytes that it zeroed; nobody has used it. One that was
            // zeroed to its end may have been given a filesystem since, of which its record does not tell.
            let zeroed = record.as_ref().map_or(0, |record| record.zeroed.saturating_mul(GIB));
            let mut done = if zeroed < claim.length { zeroed } else { 0 };
            let mut noted = done;
            progress.total.store(claim.length, Ordering::Relaxed);
            progress.done.store(done, Ordering::Relaxed);
            while done < claim.length {
                let (offset, length) = (claim.offset + done, CHUNK.min(claim.length - done));
                let device = Arc::clone(held);
                let discarded = blocking(move || match discard && device.discard(offset, length)? {
                    true => Ok(true),
                    // The way is a promise: what cannot be discarded is zeroed.
                    false => device.zero(offset, length).map(|()| false),
                });
                discard = discarded.await?;
                done += length;
                progress.done.store(done, Ordering::Relaxed);
                // That a range was discarded is not noted: the way may be another after a restart.
                if let Some(record) = &record
                    && way == Wipe::Zero
                    && done - noted >= NOTE_EVERY
                    && done < claim.length
                {
                    let text = record.zeroed(done / GIB).to_string();
                    let (inner, device) = (Arc::clone(self), Arc::clone(held));
                    claim = blocking(move || {
                        flush(&*device, done)?;
                        let noted = claim::set_record(&Any(&*device), &claim, text.as_bytes());
                        noted.map_err(|error| inner.explain(&error))
                    })
                    .await?;
                    noted = done;
                }
            }
        }
        let (device, length) = (Arc::clone(held), claim.length);
        blocking(move || {
            // Where a disk may still show what lay there, a signature would keep it from being free.
            if way != Wipe::Zero {
                for (at, length) in signature_places(length) {
                    device.zero(super::carve::VOLUME_OFFSET + at, length)?;
                }
            }
            flush(&*device, length)
        })
        .await?;
        Ok(claim)
    }
}

/// Flushes the disk. `done`: so many bytes were wiped.
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
