//! An lvm that is killed from outside: by the out-of-memory killer, or by an operator.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::csi::Ask;
use crate::node::{GROUP, Node};
use crate::scenario::{Context, Passed, Scenario};
use crate::scenarios::steps;

const DISK: u64 = 256 << 20;

/// Dies of a signal in an activation, once `/run/strike` is there. The device of another volume stays suspended, as
/// after an lvm that was killed between suspending and resuming.
const WRAPPER: &str = r#"#!/bin/sh
case "$1 $*" in
    "lvchange "*"--activate y"*)
        if rm /run/strike 2>/dev/null; then
            dmsetup suspend --noflush --nolockfs vg0-pvc--other
            kill -9 $$
        fi ;;
esac
exec /usr/sbin/lvm "$@"
"#;

/// The scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![Scenario {
        name: "killed-activation",
        about: "an lvm that is killed while it activates a volume leaves no device of another volume suspended",
        limit: Duration::from_secs(600),
        run: |context| Box::pin(activation(context)),
    }]
}

async fn activation(_context: Context) -> Passed {
    let mut node = Node::bare("killed-activation", &[DISK]).await?;
    node.vm.write("/opt/shadow/lvm", WRAPPER.as_bytes(), 0o755).await?;
    node.shadow_programs("/opt/shadow");
    node.serve().await?;
    let other = node.csi.create(&Ask::mount("pvc-other", "ext4")).await?;
    steps::open(&node, &other).await?;
    steps::write(&node, &other).await?;
    let made = node.csi.create(&Ask::mount("pvc-1", "ext4")).await?;
    node.vm.sh(format!("lvchange -an {GROUP}/pvc-1; udevadm settle; touch /run/strike")).await?;
    node.kubelet_folders(&made).await?;

    let refused = node.csi.stage(&made).await.err().context("the stage was answered OK although its lvm was killed")?;
    ensure!(refused.message().contains("signal"), "{refused}");
    nothing_suspended(&node).await.context("after the rejected stage")?;
    steps::read(&node, &other).await.context("the volume next to it")?;

    steps::open(&node, &made).await?;
    for volume in [&made, &other] {
        steps::close(&node, volume).await?;
        node.csi.delete(&volume.id).await?;
    }
    node.expect_empty().await?;
    Ok("1 activation killed, 1 suspended device resumed".to_owned())
}

async fn nothing_suspended(node: &Node) -> Result<()> {
    let suspended = node.vm.sh("grep -l 1 /sys/block/dm-*/dm/suspended 2>/dev/null || true").await?;
    ensure!(suspended.is_empty(), "left suspended: {suspended}\n{}", node.log_tail().await);
    Ok(())
}
