//! Contents that tests write, and find again in copies.

use anyhow::{Context as _, Result, ensure};

use crate::csi::Made;
use crate::node::Node;

/// The contents of a published volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// How many bytes of a raw volume; 0 for a filesystem.
    bytes: i64,
    /// The checksum of the bytes, or of all files with their names.
    sum: String,
}

/// Writes contents that no other call writes, and flushes them: a part of a raw volume, or files.
pub async fn fill(node: &Node, made: &Made, which: &str) -> Result<()> {
    let target = made.target();
    let script = if made.ask.is_block() {
        // Blocks all over it, and others than in another call.
        format!(
            "for at in $(seq 0 2 $(({size} / 1048576 - 1))); do head -c 1M /dev/urandom | \
             dd of='{target}' bs=1M seek=$at iflag=fullblock oflag=direct conv=notrunc,fsync status=none; done",
            size = made.ask.required
        )
    } else {
        format!(
            "mkdir -p '{target}/{which}'; for n in $(seq 20); do head -c 200k /dev/urandom > '{target}/{which}/'$n; done; \
             head -c 3M /dev/urandom > '{target}/random'; rm -f '{target}/{which}/7'; sync -f '{target}'"
        )
    };
    node.vm.sh(script).await.with_context(|| format!("writing to {}", made.id)).map(drop)
}

/// The contents of a published volume.
pub async fn contents(node: &Node, made: &Made) -> Result<Contents> {
    let bytes = if made.ask.is_block() { made.ask.required } else { 0 };
    Ok(Contents { bytes, sum: sum(node, made, bytes).await? })
}

/// Whether they differ.
pub fn changed(before: &Contents, after: &Contents) -> bool {
    before.sum != after.sum
}

impl Contents {
    /// Fails unless the published volume has these contents. A copy may be larger.
    pub async fn check(&self, node: &Node, made: &Made) -> Result<()> {
        let found = sum(node, made, self.bytes).await?;
        ensure!(found == self.sum, "{} has other contents: {found} instead of {}", made.id, self.sum);
        Ok(())
    }
}

async fn sum(node: &Node, made: &Made, bytes: i64) -> Result<String> {
    let target = made.target();
    let script = if made.ask.is_block() {
        format!("blockdev --flushbufs '{target}'; head -c {bytes} '{target}' | md5sum")
    } else {
        format!("cd '{target}'; find . -type f | sort | xargs md5sum | md5sum")
    };
    Ok(node.vm.sh(script).await.with_context(|| format!("reading {}", made.id))?.trim().to_owned())
}
