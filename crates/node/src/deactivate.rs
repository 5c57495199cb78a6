//! Deactivates a volume after it was unstaged, so that nothing on the host (udev, a nested volume group, a
//! shutdown) uses a device that no pod uses. No caller waits for this; if it fails, the volume stays active.

use std::sync::Arc;
use std::time::Instant;

use quarry_volume::VolumeId;

use crate::host::Host;
use crate::{device, errors};

impl Host {
    /// Deactivates a volume in the background, unless it is staged again first. `unused_since`: when the
    /// unstage began.
    pub(crate) fn deactivate_later(&self, id: &str, unused_since: Instant) {
        let Ok(id) = id.parse::<VolumeId>() else { return };
        let host = self.clone();
        tokio::spawn(async move {
            // Check the kernel first: a volume group that may hang is not asked about a volume without a
            // device. A pool of whole disks knows from memory which partitions it has open.
            let on_disks = host.pools().iter().any(|pool| quarry_pool::is_of_disks(pool.name(), &id.storage));
            let (kernel, kernel_id) = (Arc::clone(host.kernel()), id.clone());
            // Whether the pool's own device exists, whatever is on top of it.
            let active = move || Ok(device::active_in_kernel(&*kernel, &kernel_id).is_some());
            if !on_disks && !errors::blocking(active).await.unwrap_or_default() {
                return;
            }
            let result = match host.locate(&id).await {
                Ok(Some(located)) => located.pool.deactivate(&located.volume, unused_since).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                tracing::info!(volume = %id, %error, "cannot deactivate an unstaged volume; it stays active");
            }
        });
    }
}
