//! The complete life of a volume, for every filesystem, raw block and every layout.

use anyhow::{Context as _, Result, ensure};

use crate::csi::{Ask, Made, retry};
use crate::node::Node;
use crate::scenario::{Context, Passed};

const GIB: u64 = 1 << 30;

pub async fn run(context: Context) -> Passed {
    let node = Node::start("lifecycle", &[GIB, GIB]).await?;
    let mut lives = 0;
    let others = [
        Ask::mount("pvc-default", ""),
        Ask::block("pvc-block"),
        Ask::mount("pvc-striped", "ext4").parameter("layout", "striped").parameter("stripes", "2"),
        Ask::mount("pvc-raid1", "ext4").parameter("layout", "raid1"),
        Ask::mount("pvc-mkfs", "ext4").parameter("mkfsOptions", "-m 0 -N 1024"),
        Ask::mount(&"long name, with spaces/slashes ünd more".repeat(3), "ext4"),
    ];
    for ask in Ask::each_filesystem("pvc-").into_iter().chain(others) {
        let name = ask.name.clone();
        live(&node, ask).await.with_context(|| format!("volume {name:?}"))?;
        node.expect_empty().await.with_context(|| format!("after volume {name:?}"))?;
        lives += 1;
    }
    context.say("done");
    Ok(format!("{lives} lives"))
}

/// Create, stage, publish, write, unpublish, unstage; stage and publish again: the bytes are there; delete.
pub async fn live(node: &Node, ask: Ask) -> Result<()> {
    let made = retry(|| node.csi.create(&ask)).await?;
    ensure!(made.size >= ask.required, "smaller than asked: {}", made.size);
    let again = node.csi.create(&ask).await?;
    ensure!(again.id == made.id, "the same name gave another volume: {} and {}", made.id, again.id);
    for round in 0..2 {
        node.kubelet_folders(&made).await?;
        // Everything twice: kubelet repeats calls after its restart.
        for _ in 0..2 {
            retry(|| node.csi.stage(&made)).await?;
        }
        for _ in 0..2 {
            node.csi.publish(&made).await?;
        }
        let check = if round == 0 { write(&made) } else { read(&made) };
        node.vm.sh(check).await?;
        for _ in 0..2 {
            node.csi.unpublish(&made).await?;
        }
        for _ in 0..2 {
            node.csi.unstage(&made).await?;
        }
    }
    node.csi.delete(&made.id).await?;
    node.csi.delete(&made.id).await?;
    Ok(())
}

/// Writes bytes that [`read`] finds again.
fn write(made: &Made) -> String {
    let target = made.target();
    if made.ask.is_block() {
        format!("seq 100000 | head -c 65536 | dd of='{target}' bs=64k oflag=direct conv=notrunc status=none")
    } else {
        format!("seq 100000 > '{target}/file' && sync -f '{target}/file'")
    }
}

fn read(made: &Made) -> String {
    let target = made.target();
    if made.ask.is_block() {
        format!("seq 100000 | head -c 65536 | cmp - '{target}' -n 65536")
    } else {
        format!("seq 100000 | cmp - '{target}/file'")
    }
}
