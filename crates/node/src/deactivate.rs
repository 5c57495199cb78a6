//! Deactivates a volume after it was unstaged, so that nothing on the host (udev, a nested volume group, a
//! shutdown) uses a device that no pod uses. No caller waits for this; if it fails, the volume stays active.

use std::time::Instant;

use quarry_volume::VolumeId;

use crate::errors;
use crate::host::Host;

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
        let (pools, wanted) = (self.pools().to_vec(), id.clone());
        let may_be_active = move || Ok(pools.iter().any(|pool| pool.may_be_active(&wanted.storage, &wanted.volume)));
        if !errors::blocking(may_be_active).await.unwrap_or_default() {
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
}
