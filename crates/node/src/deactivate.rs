//! Deactivates a volume after it was unstaged, or after a snapshot of it was removed, so that nothing on the host (udev,
//! a nested volume group, a shutdown) uses a device that no pod uses. If this fails, the volume stays active.

use std::time::{Duration, Instant};

use quarry_volume::VolumeId;

use crate::agent::within;
use crate::host::{Host, Located};
use crate::{device, errors};

/// How long a raw block volume may be staged before it is published: until then, nothing shows that it is in use.
const UNPUBLISHED: Duration = Duration::from_secs(10 * 60);
/// How long a caller waits for the deactivation of the source of a snapshot. It continues.
const WAIT: Duration = Duration::from_secs(10);

impl Host {
    /// Deactivates a volume in the background, unless it is staged again first. `unused_since`: when the
    /// unstage began.
    pub(crate) fn deactivate_later(&self, id: &str, unused_since: Instant) {
        let Ok(id) = id.parse::<VolumeId>() else { return };
        let host = self.clone();
        tokio::spawn(async move { host.deactivate_now(&id, unused_since).await });
    }

    pub(crate) async fn deactivate_now(&self, id: &VolumeId, unused_since: Instant) {
        // Check this first: a pool that may hang is not asked about a volume without a device.
        if !self.may_be_active(id).await {
            return;
        }
        let result = match self.locate(id).await {
            Ok(Some(located)) => located.pool.deactivate(&located.volume, unused_since).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::info!(volume = %id, %error, "cannot deactivate an unstaged volume; it stays active");
        }
    }

    /// Whether a pool may have a device of the volume. Asks no storage.
    pub(crate) async fn may_be_active(&self, id: &VolumeId) -> bool {
        let (pools, wanted) = (self.pools().to_vec(), id.clone());
        let may_be_active = move || Ok(pools.iter().any(|pool| pool.may_be_active(&wanted.storage, &wanted.volume)));
        errors::blocking(may_be_active).await.unwrap_or_default()
    }

    /// Deactivates a volume that nothing uses, after a snapshot of it was removed: taking or reading a snapshot activates
    /// its source, and a pool does not deactivate a volume that has snapshots.
    pub(crate) async fn deactivate_if_unused(&self, id: &VolumeId) {
        let (host, wanted) = (self.clone(), id.clone());
        let work = |_| async move {
            let Some(since) = Instant::now().checked_sub(UNPUBLISHED) else { return Ok(()) };
            // A pod must be able to end while its disk hangs, and its calls wait for this.
            let located = within(WAIT, host.locate(&wanted)).await?;
            let Some(Located { pool, volume }) = located else { return Ok(()) };
            let Some(device) = device::active(&**host.kernel(), &pool, &volume)? else { return Ok(()) };
            host.require_unused(&wanted, device).await?;
            pool.deactivate(&volume, since).await
        };
        // Nothing stages or publishes it meanwhile.
        match self.tasks().run_in_background(&id.volume, "deactivate", WAIT, work).await {
            Ok(()) => {}
            Err(error) => tracing::debug!(volume = %id, %error, "a source of a snapshot stays active"),
        }
    }
}
