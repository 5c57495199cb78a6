//! Copies onto a former owner's bytes show nothing of them. With a safeguard of quarry disabled, the checks find it.

use anyhow::{Context as _, Result};

use super::contents::{contents, fill};
use super::{MORE, copy};
use crate::csi::{Ask, MIB, retry};
use crate::node::Node;
use crate::scenarios::expand::laid_out;
use crate::scenarios::expand::old_bytes::soil;
use crate::scenarios::kill::broken::{disable, expect_violation};
use crate::scenarios::steps::{close, open, remove_left};

/// As many extents as a source, its snapshot and its clone get. lvm takes the first ones that are free.
const EXTENTS: &str = "128";

/// A larger raw clone without zeros after the end of its source, and an ext4 that keeps the UUID of its source.
pub async fn variants(node: &Node) -> Result<()> {
    let raw = || laid_out(Ask::block("pvc-source").size(64 * MIB), "linear");
    let ext4 = || laid_out(Ask::mount("pvc-source", "ext4").size(64 * MIB), "linear");
    for ask in [raw(), ext4()] {
        clone(node, &ask).await.with_context(|| format!("{:?}, with the safeguards in place", ask.usage))?;
    }
    for (safeguard, ask, words) in
        [("copy-tail", raw(), "after the end of its source"), ("copy-uuid", ext4(), "but the superblock is missing")]
    {
        disable(node, safeguard, true).await?;
        expect_violation(clone(node, &ask).await, words).with_context(|| safeguard.to_owned())?;
        disable(node, safeguard, false).await?;
        remove_left(node, &[ask.clone(), ask.named("pvc-clone")]).await?;
    }
    Ok(())
}

/// Clones a volume into a larger one, and checks the clone.
async fn clone(node: &Node, ask: &Ask) -> Result<()> {
    soil(node, EXTENTS).await?;
    let source = retry(|| node.csi.create(ask)).await?;
    open(node, &source).await?;
    fill(node, &source, "first").await?;
    let expected = contents(node, &source).await?;
    let larger = ask.clone().named("pvc-clone").size(source.size + MORE).filled_from_volume(&source);
    copy(node, &source, larger, &expected).await?;
    close(node, &source).await?;
    retry(|| node.csi.delete(&source.id)).await.map_err(Into::into)
}
