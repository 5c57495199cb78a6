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

/// Once `/run/hold` is there: after the two reports with which Quarry begins, something else holds the volume group's lock,
/// and reports fail, as long as `/run/held` is there.
const HOLDING: &str = r#"#!/bin/sh
for last; do :; done
[ "$1" = fullreport ] && [ "$last" = vg0 ] || exec /usr/sbin/lvm "$@"
[ -e /run/held ] && { echo "an operator's report fails" >&2; exit 5; }
/usr/sbin/lvm "$@" || exit
if mv /run/hold.next /run/held 2>/dev/null; then
    flock -x /run/lock/lvm/V_vg0 sh -c 'while [ -e /run/held ]; do sleep 0.1; done' </dev/null >/dev/null 2>&1 &
    sleep 0.5
else
    mv /run/hold /run/hold.next 2>/dev/null
fi
exit 0
"#;

/// The scenarios of this file.
pub fn all() -> Vec<Scenario> {
    let limit = Duration::from_secs(600);
    vec![
        Scenario {
            name: "killed-activation",
            about: "an lvm that is killed while it activates a volume leaves no device of another volume suspended",
            limit,
            run: |context| Box::pin(activation(context)),
        },
        Scenario {
            name: "killed-recovery",
            about: "a suspended device that cannot be resumed when Quarry starts: reported, and resumed as soon as possible",
            limit,
            run: |context| Box::pin(recovery(context)),
        },
    ]
}

async fn recovery(_context: Context) -> Passed {
    let mut node = Node::bare("killed-recovery", &[DISK]).await?;
    node.serve().await?;
    let made = node.csi.create(&Ask::mount("pvc-other", "ext4")).await?;
    steps::open(&node, &made).await?;
    steps::write(&node, &made).await?;
    node.stop().await?;
    node.vm.write("/opt/shadow/lvm", HOLDING.as_bytes(), 0o755).await?;
    node.shadow_programs("/opt/shadow");
    node.vm.sh("dmsetup suspend --noflush --nolockfs vg0-pvc--other; touch /run/hold").await?;
    node.serve().await?;
    let problem = async || {
        let storage = node.csi.storage_health().await?;
        Ok(storage.iter().any(|pool| pool.message.contains("an lvm command was killed")))
    };
    steps::until("the pool reports the suspended device", Duration::from_secs(60), problem).await?;
    let suspended = node.vm.sh("cat /sys/block/dm-*/dm/suspended").await?;
    ensure!(suspended.contains('1'), "it was resumed although the volume group could not be read");

    node.vm.sh("rm /run/held").await?;
    let resumed = async || Ok(nothing_suspended(&node).await.is_ok());
    let after = steps::until("the device is resumed", Duration::from_secs(60), resumed).await?;
    let healthy = async || Ok(node.csi.storage_health().await?.iter().all(|pool| pool.message.is_empty()));
    steps::until("the pool reports no problem", Duration::from_secs(60), healthy).await?;
    steps::read(&node, &made).await?;
    steps::close(&node, &made).await?;
    node.csi.delete(&made.id).await?;
    node.expect_empty().await?;
    Ok(format!("resumed {} s after the volume group could be read", after.as_secs()))
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
