//! The same kills in a thin pool.

use super::Course;
use super::sweep::sweep;
use crate::csi::{Ask, MIB};
use crate::node::Node;
use crate::scenario::{Context, Passed};

const DISK: u64 = 700 << 20;

/// At every fault point.
pub async fn points(context: Context) -> Passed {
    let mut node = Node::on_thin_pool("kill-thin", &[DISK, DISK]).await?;
    let kinds = [
        (Ask::mount("pvc-ext4", "ext4"), Course::Whole, 1),
        (Ask::mount("pvc-xfs", "xfs"), Course::Copied, 2),
        (Ask::block("pvc-block").size(8 * MIB), Course::Copied, 2),
        (Ask::block("pvc-block").size(8 * MIB), Course::Expanded, 1),
        (Ask::mount("pvc-btrfs", "btrfs"), Course::Copied, 1),
    ];
    sweep(&context, &mut node, kinds).await
}
