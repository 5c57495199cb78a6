//! Zeroes a device from end to end, in chunks, with progress that survives a restart.

use quarry_volume::{Error, Gib, Reason, Result};

use crate::bytes::Bytes;
use crate::tasks::Handle;

const GIB: u64 = 1 << 30;
/// The largest range that one ioctl zeroes. The task can be stopped between two ranges.
const CHUNK: u64 = GIB;
/// How much is zeroed between two updates of the stored progress.
const STORE_EVERY: u64 = 64 * GIB;

/// Where the progress is stored.
#[async_trait::async_trait]
pub(crate) trait Progress: Send {
    /// Stores that so much, from the beginning of the device, is zeroed and flushed.
    async fn store(&mut self, zeroed: Gib) -> Result<()>;
}

/// Zeroes the device from `zeroed` to its end at `size`, and flushes it. `retry`: the call that continues it if it
/// is stopped. The caller stores the end of it.
///
/// # Errors
/// `UnderWay` if the task was asked to stop.
pub(crate) async fn zero_all(
    bytes: &Bytes,
    size: u64,
    zeroed: Gib,
    handle: &Handle,
    retry: &str,
    progress: &mut dyn Progress,
) -> Result<()> {
    let mut offset = zeroed.bytes().min(size);
    let mut stored = offset;
    let report = |offset: u64| {
        #[allow(clippy::cast_precision_loss, reason = "for people")]
        let gib = |bytes: u64| bytes as f64 / GIB as f64;
        handle.progress(format!("zeroed {:.1} of {:.1} GiB", gib(offset), gib(size)));
    };
    report(offset);
    while offset < size {
        if handle.cancel.is_cancelled() {
            return Err(Error::new(Reason::UnderWay, format!("zeroing was stopped; a retry of {retry} continues it")));
        }
        let end = offset.saturating_add(CHUNK).min(size);
        bytes.zero(offset..end).await?;
        offset = end;
        report(offset);
        if offset - stored >= STORE_EVERY && offset < size {
            bytes.flush().await?;
            progress.store(Gib::whole_in(offset)).await?;
            stored = offset;
        }
    }
    bytes.flush().await
}
