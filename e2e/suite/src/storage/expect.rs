//! The expected content of a node's storage.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Stored, listed};
use crate::csi::Made;
use crate::node::{FAULTS, Node};

impl Node {
    /// The content of the storage, as the host's own tools report it.
    pub async fn found(&self) -> Result<Vec<Stored>> {
        let mut found = self.storage.read(&self.vm.sh(self.storage.look()).await?)?;
        found.retain(|found| !self.foreign.contains(&found.text));
        Ok(found)
    }

    /// The current content of the storage is foreign: as long as it looks the same, it is ignored.
    pub async fn ignore_existing_content(&mut self) -> Result<()> {
        self.foreign = self.found().await?.into_iter().map(|found| found.text).collect();
        Ok(())
    }

    /// The same, a line each. Empty: nothing at all.
    pub async fn contents(&self) -> Result<String> {
        Ok(listed(&self.found().await?))
    }

    /// Fails unless this volume is on the storage, with the expected size, and nothing but its parts.
    pub async fn expect_only(&self, made: &Made) -> Result<()> {
        let found = self.found().await?;
        let (volumes, parts): (Vec<&Stored>, Vec<&Stored>) = found.iter().partition(|found| found.volume.is_some());
        let is_it = |found: &&Stored| {
            found.volume.as_ref().is_some_and(|volume| volume.size == made.size + made.ask.overhead())
        };
        let layout = made.ask.parameters.get("layout").map_or("linear", String::as_str);
        let whole = volumes.len() == 1 && volumes.iter().all(is_it) && parts.len() == self.storage.parts(layout);
        ensure!(whole, "{} of {} bytes should be the only content, not:\n{}", made.id, made.size, listed(&found));
        Ok(())
    }

    /// Fails if a volume is on the storage, or anything else for longer than the storage needs to become
    /// stable.
    pub async fn expect_nothing_stored(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            let found = self.found().await?;
            if found.is_empty() {
                return Ok(());
            }
            let volume = found.iter().any(|found| found.volume.is_some());
            ensure!(
                !volume && began.elapsed() < self.storage.cleanup_time(),
                "something is left behind:\n{}\n{}",
                listed(&found),
                self.log_tail().await
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Fails unless nothing is left: nothing on the storage, no mount, no device, nothing under the kubelet's folders.
    pub async fn expect_empty(&self) -> Result<()> {
        let left = self
            .vm
            .sh(format!(
                "grep -E ' /var/lib/kubelet/.' /proc/self/mountinfo || true; \
                 ls /sys/block | while read b; do grep -s . /sys/block/$b/dm/name || true; done | grep -vxE '{}' || true; \
                 find /var/lib/kubelet -path '*/volumes/kubernetes.io~csi/*/mount' -o -path '*/volumeDevices/publish/*/*'; \
                 ls -A {FAULTS} 2>/dev/null | grep -vxE 'log|killed|notes' || true",
                self.storage.own_devices()
            ))
            .await?;
        ensure!(left.trim().is_empty(), "something is left behind:\n{left}\n{}", self.log_tail().await);
        self.expect_nothing_stored().await
    }
}
