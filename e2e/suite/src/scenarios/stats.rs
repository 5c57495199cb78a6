//! Stage, publish, stats, delete, for the filesystems that csi-sanity never requests: it leaves the
//! filesystem to the driver, so its specs run on the default one. A soak uses every layout and every access
//! mode.

use anyhow::{Context as _, Result, ensure};
use quarry_proto::csi::v1 as csi;
use quarry_proto::csi::v1::volume_capability::access_mode::Mode;
use quarry_proto::csi::v1::volume_usage::Unit;
use tonic::{Code, Status};

use crate::csi::{Ask, MIB, Made, refused, retry};
use crate::node::Node;
use crate::scenario::{Context, Passed};

const GIB: u64 = 1 << 30;
const WRITTEN: i64 = 8 * MIB;

pub async fn run(context: Context) -> Passed {
    let node = Node::start("stats", &[GIB, GIB]).await?;
    let layouts: &[&[(&str, &str)]] = if context.settings.soak {
        &[&[], &[("layout", "striped"), ("stripes", "2")], &[("layout", "raid1")]]
    } else {
        &[&[]]
    };
    let all = [Mode::SingleNodeWriter, Mode::SingleNodeSingleWriter, Mode::SingleNodeMultiWriter];
    let modes = if context.settings.soak { &all[..] } else { &all[..1] };
    let mut count = 0;
    for layout in layouts {
        for mode in modes {
            for ask in Ask::each_filesystem("stats-").into_iter().chain([Ask::block("stats-block")]) {
                let ask = layout.iter().fold(ask.mode(*mode), |ask, (key, value)| ask.parameter(key, value));
                let what = format!("{}, layout {layout:?}, {mode:?}", ask.name);
                live(&node, ask).await.with_context(|| what.clone())?;
                node.expect_empty().await.with_context(|| format!("after {what}"))?;
                count += 1;
            }
        }
    }
    Ok(format!("{count} volumes measured"))
}

/// One volume, measured where it is staged and where it is published.
pub async fn live(node: &Node, ask: Ask) -> Result<()> {
    let made = retry(|| node.csi.create(&ask)).await?;
    node.kubelet_folders(&made).await?;
    let unpublished = stats(node, &made, &made.target()).await;
    refused("stats before publish", unpublished, Code::NotFound, &made.id)?;
    retry(|| node.csi.stage(&made)).await?;
    node.csi.publish(&made).await?;
    if ask.is_block() {
        let usage = stats(node, &made, &made.target()).await?;
        ensure!(usage.len() == 1 && usage[0].unit == Unit::Bytes as i32, "{usage:?}");
        ensure!(usage[0].total == made.size, "the device has {} bytes, stats says {usage:?}", made.size);
    } else {
        measure(node, &made).await?;
    }
    for path in ["/var/lib/kubelet", "/", "/dev/null", "/nonexistent"] {
        refused(path, stats(node, &made, path).await, Code::NotFound, &made.id)?;
    }
    node.csi.unpublish(&made).await?;
    refused("stats after unpublish", stats(node, &made, &made.target()).await, Code::NotFound, &made.id)?;
    node.csi.unstage(&made).await?;
    node.csi.delete(&made.id).await?;
    refused("stats after delete", stats(node, &made, &made.target()).await, Code::NotFound, &made.id)
}

/// The stats of a filesystem match the kernel's, where it is staged and where it is published, and follow
/// writes.
async fn measure(node: &Node, made: &Made) -> Result<()> {
    let target = made.target();
    let before = figures(&stats(node, made, &target).await?)?;
    node.vm.sh(format!("head -c {WRITTEN} /dev/urandom > '{target}/file' && sync -f '{target}/file'")).await?;
    let after = figures(&stats(node, made, &target).await?)?;
    let staged = figures(&stats(node, made, &made.staging()).await?)?;
    let df = node.vm.sh(format!("stat -f -c '%b %S %c' '{target}'")).await?;
    let kernel: Vec<i64> = df.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [blocks, block, inodes] = kernel[..] else { anyhow::bail!("stat says {df:?}") };
    ensure!(after.bytes.total == blocks * block, "the kernel says {df}, stats says {after:?}");
    ensure!(after.inodes.total == inodes, "the kernel says {df}, stats says {after:?}");
    ensure!(after.bytes.total <= made.size && after.bytes.total > made.size / 2, "{after:?} of {}", made.size);
    ensure!(after.bytes.used - before.bytes.used >= WRITTEN, "{WRITTEN} bytes written: {before:?}, then {after:?}");
    ensure!(after.bytes.available < before.bytes.available, "{before:?}, then {after:?}");
    if inodes > 0 {
        ensure!(after.inodes.used == before.inodes.used + 1, "one file made: {before:?}, then {after:?}");
    }
    for usage in [&after.bytes, &after.inodes] {
        ensure!(usage.used >= 0 && usage.available >= 0 && usage.used + usage.available <= usage.total, "{usage:?}");
    }
    ensure!(staged.bytes.total == after.bytes.total, "staged {staged:?}, published {after:?}");
    Ok(())
}

#[derive(Debug)]
struct Figures {
    bytes: csi::VolumeUsage,
    inodes: csi::VolumeUsage,
}

fn figures(usage: &[csi::VolumeUsage]) -> Result<Figures> {
    let of = |unit: Unit| usage.iter().find(|usage| usage.unit == unit as i32).cloned();
    match (of(Unit::Bytes), of(Unit::Inodes)) {
        (Some(bytes), Some(inodes)) if usage.len() == 2 => Ok(Figures { bytes, inodes }),
        _ => anyhow::bail!("bytes and inodes should be reported: {usage:?}"),
    }
}

async fn stats(node: &Node, made: &Made, path: &str) -> Result<Vec<csi::VolumeUsage>, Status> {
    let request = csi::NodeGetVolumeStatsRequest {
        volume_id: made.id.clone(),
        volume_path: path.to_owned(),
        staging_target_path: made.staging(),
    };
    Ok(node.csi.node().node_get_volume_stats(request).await?.into_inner().usage)
}
