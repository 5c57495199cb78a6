//! Snapshots, volumes that are restored from them, and clones.

mod broken;
pub mod contents;
mod frozen;
pub mod full_copy;
pub mod lost_disk;
pub mod many;
pub mod power;
pub mod speed;

use anyhow::{Context as _, Result, ensure};
use quarry_proto::csi::v1 as csi;
use quarry_vm::{Bus, Config, Disk, PowerCut, Vm};
use tonic::Code;

use self::contents::{Contents, changed, contents, fill};
use crate::csi::{Ask, MIB, Made, Use, refused, retry};
use crate::node::{GROUP, Node};
use crate::scenario::{Context, Passed};
use crate::scenarios::expand::{fills_device, laid_out};
use crate::scenarios::steps::{close, open};

const DISK: u64 = 2 << 30;
/// A whole disk, which every volume of the tests fits on.
const WHOLE: u64 = 420 << 20;
/// How much larger than its source a restored volume is.
const MORE: i64 = 64 * MIB;
/// The kernel makes no btrfs larger that is smaller than this afterwards.
const BTRFS: i64 = 256 * MIB;

/// A volume group, with more settings of its pool, and a whole disk.
fn pools(more: &str) -> String {
    format!(
        "pools:\n  - name: main\n    {more}\n    lvm: {{volumeGroup: {GROUP}}}\n  - name: whole\n    \
         disk: {{select: {{transports: [scsi]}}, wipe: none}}\n"
    )
}

/// A node with both pools.
async fn start(name: &str) -> Result<Node> {
    let config = Config::new(name)
        .disk(Disk::new("d1", DISK))
        .disk(Disk::new("d2", DISK))
        .disk(Disk::new("whole", WHOLE).bus(Bus::Scsi));
    let mut node = Node::with_vm(Vm::start(config).await?, 2).await?;
    node.configure(&pools("")).await?;
    node.serve().await?;
    Ok(node)
}

/// The free space of the volume group, and the largest volume.
async fn free(node: &Node) -> Result<(i64, i64)> {
    Ok(node.csi.capacity(&Ask::block("x").parameter("pool", "main").parameters).await?)
}

pub async fn run(context: Context) -> Passed {
    let mut node = start("snapshot").await?;
    let kinds: Vec<Ask> = Ask::each_filesystem("pvc-").into_iter().chain([Ask::block("pvc-block")]).collect();
    let before = free(&node).await?;
    let mut random = context.random();
    let mut copies = 0;
    // A soak has all of them.
    let chosen = if context.settings.soak { kinds.len() } else { 3 };
    for index in random.sample(chosen, kinds.len()) {
        let ask = kinds[index].clone();
        let layout = ["linear", "striped", "raid1"][usize::try_from(random.below(3))?];
        let ask = laid_out(ask, layout);
        let what = format!("{} on {layout}", ask.name);
        copies += life(&mut node, ask).await.with_context(|| what.clone())?;
        node.expect_empty().await.with_context(|| format!("after {what}"))?;
        let now = free(&node).await?;
        ensure!(now == before, "after {what}, {now:?} is free of {before:?}");
        context.say(format_args!("{what}: done"));
    }
    never_used(&node).await.context("a source that was never used")?;
    overflow(&node).await.context("a snapshot that becomes full")?;
    whole_disk(&node).await.context("a clone of a whole disk")?;
    broken::variants(&node).await.context("copies onto a former owner's bytes")?;
    node.expect_empty().await?;
    Ok(format!("{copies} volumes restored or cloned, each with the bytes of its source; 2 broken variants, 2 caught"))
}

/// A volume in use with a snapshot.
pub struct Source {
    pub made: Made,
    /// What the snapshot contains.
    pub before: Contents,
    pub taken: csi::Snapshot,
    /// What was written afterwards.
    pub after: Contents,
}

/// Creates a volume, writes to it, takes the snapshot `snap-1`, and writes to it again.
pub async fn source(node: &Node, ask: &Ask) -> Result<Source> {
    let made = retry(|| node.csi.create(ask)).await?;
    open(node, &made).await?;
    fill(node, &made, "first").await?;
    let before = contents(node, &made).await?;
    let taken = retry(|| node.csi.snapshot("snap-1", &made.id)).await.context("CreateSnapshot")?;
    ensure!(taken.ready_to_use && taken.size_bytes == made.size, "{taken:?}");
    ensure!(taken.source_volume_id == made.id && taken.creation_time.is_some(), "{taken:?}");
    fill(node, &made, "second").await?;
    let after = contents(node, &made).await?;
    ensure!(changed(&before, &after), "the test writes nothing else");
    Ok(Source { made, before, taken, after })
}

/// A volume whose snapshots are restored, and that is cloned, while it is written to. Returns how often.
async fn life(node: &mut Node, ask: Ask) -> Result<usize> {
    let Source { made: source, before, taken, after } = source(node, &ask).await?;
    listed(node, &source, &taken.snapshot_id).await?;
    bound(node, &source, &taken.snapshot_id).await.context("while it has a snapshot")?;
    wrong(node, &source, &taken.snapshot_id).await.context("requests that do not fit")?;

    // The snapshot keeps its contents while its source changes, and over a power cut.
    // The guest's own disk is not under test.
    node.vm.sh("sync -f /etc/quarry; sync -f /var/lib/kubelet").await?;
    node.vm.power_cut_with(PowerCut::LoseAll).await?;
    node.lost_power();
    node.vm.boot_again().await?;
    node.serve().await.context("after a power cut")?;
    open(node, &source).await.context("after a power cut")?;
    after.check(node, &source).await.context("the source after a power cut")?;

    let id = &taken.snapshot_id;
    let same = ask.clone().named("pvc-same").filled_from_snapshot(id);
    copy(node, &source, same, &before).await.context("restored on the same pool")?;
    let layout = if ask.parameters.contains_key("layout") { "linear" } else { "raid1" };
    let mut larger = laid_out(Ask { parameters: Default::default(), ..ask.clone() }, layout);
    larger = larger.named("pvc-larger").size((source.size + MORE).max(BTRFS)).filled_from_snapshot(id);
    copy(node, &source, larger, &before).await.with_context(|| format!("restored larger on {layout}"))?;
    let mut whole = Ask { parameters: Default::default(), ..ask.clone() }.parameter("pool", "whole");
    whole = whole.named("pvc-whole").filled_from_snapshot(id);
    copy(node, &source, whole, &before).await.context("restored on a whole disk")?;
    let clone = ask.clone().named("pvc-clone").filled_from_volume(&source);
    copy(node, &source, clone, &after).await.context("cloned")?;

    after.check(node, &source).await.context("the source")?;
    close(node, &source).await?;
    retry(|| node.csi.delete_snapshot(id)).await.context("DeleteSnapshot")?;
    node.csi.delete_snapshot(id).await.context("DeleteSnapshot again")?;
    refused("restored after its deletion", restore(node, &ask, id).await, Code::NotFound, "")?;
    retry(|| node.csi.delete(&source.id)).await?;
    Ok(4)
}

async fn restore(node: &Node, ask: &Ask, snapshot: &str) -> Result<Made, tonic::Status> {
    node.csi.create(&ask.clone().named("pvc-restored").filled_from_snapshot(snapshot)).await
}

/// Creates the copy, uses it beside its source, checks its contents, and deletes it.
pub async fn copy(node: &Node, source: &Made, ask: Ask, expected: &Contents) -> Result<()> {
    let made = retry(|| node.csi.create(&ask)).await.context("CreateVolume")?;
    let again = node.csi.create(&ask).await.context("CreateVolume again")?;
    ensure!(again.id == made.id && again.size == made.size, "{again:?} instead of {made:?}");
    // Neither a snapshot that only served to clone, nor a volume that is not complete.
    let unfinished = "! lvs --noheadings -o lv_tags | grep -E 'quarry2/(s=|k=snapshot.*/i=(1|copy)(/|$))'";
    node.vm.sh(unfinished).await.context("after CreateVolume")?;
    open(node, &made).await?;
    expected.check(node, &made).await.context("the copy's contents")?;
    if made.ask.is_block() {
        let script = format!("cmp -n {} -i {}:0 '{}' /dev/zero", made.size - source.size, source.size, made.target());
        node.vm.sh(script).await.context("after the end of its source")?;
    } else if made.ask.parameters.get("pool").is_none_or(|pool| pool == "main") {
        fills_device(node, &made).await?;
        let script = format!(
            "a=$(blkid -p -s UUID -o value /dev/{GROUP}/{}); b=$(blkid -p -s UUID -o value /dev/{GROUP}/{}); \
             echo $a $b; test -n \"$a\" && test -n \"$b\" && test $a != $b",
            source.ask.name, made.ask.name
        );
        node.vm.sh(script).await.context("the copy has the UUID of its source")?;
    }
    // It is a volume like any other.
    fill(node, &made, "third").await?;
    close(node, &made).await?;
    open(node, &made).await?;
    close(node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await.map_err(Into::into)
}

/// Every way to list the snapshot.
async fn listed(node: &Node, source: &Made, id: &str) -> Result<()> {
    for (volume, snapshot) in [("", ""), (source.id.as_str(), ""), ("", id), (source.id.as_str(), id)] {
        let found = node.csi.snapshots_of(volume, snapshot).await?;
        ensure!(found.len() == 1 && found[0].snapshot_id == id && found[0].ready_to_use, "{found:?}");
    }
    for (volume, snapshot) in [("", "0001-0011-other-driver"), ("other", "other")] {
        let found = node.csi.snapshots_of(volume, snapshot).await?;
        ensure!(found.is_empty(), "for {volume:?} and {snapshot:?}: {found:?}");
    }
    let elsewhere = node.csi.snapshots_of("v1:aaaaaaaaaa:elsewhere:pvc", "").await;
    refused("a list for a node that is not known", elsewhere, Code::Unavailable, "elsewhere")?;
    let volumes = node.csi.list().await?;
    ensure!(volumes.len() == 1, "a snapshot is listed as a volume: {volumes:?}");
    Ok(())
}

/// What a volume with a snapshot does not do.
async fn bound(node: &Node, source: &Made, id: &str) -> Result<()> {
    close(node, source).await?;
    refused("deletion of the source", node.csi.delete(&source.id).await, Code::FailedPrecondition, "snap-1")?;
    let larger = source.size + MORE;
    refused("expansion of the source", node.csi.expand(source, larger).await, Code::FailedPrecondition, "snap-1")?;
    open(node, source).await?;
    let again = node.csi.snapshot("snap-1", &source.id).await.context("CreateSnapshot again")?;
    ensure!(again.snapshot_id == id, "{again:?}");
    Ok(())
}

/// Requests that are refused, and change nothing.
async fn wrong(node: &Node, source: &Made, id: &str) -> Result<()> {
    let before = node.contents().await?;
    let ask = source.ask.clone().named("pvc-wrong");
    let from = |ask: Ask| ask.filled_from_snapshot(id);
    let small = from(ask.clone().size(source.size / 2));
    let limited = Ask { limit: source.size / 2, ..small };
    refused("smaller than the snapshot", node.csi.create(&limited).await, Code::OutOfRange, "")?;
    let other = match source.ask.usage {
        Use::Block => Ask { usage: Use::Mount("ext4"), ..from(ask.clone()) },
        Use::Mount(_) => Ask { usage: Use::Block, ..from(ask.clone()) },
    };
    refused("another access type", node.csi.create(&other).await, Code::InvalidArgument, "")?;
    if let Use::Mount(filesystem) = source.ask.usage {
        let other = if filesystem == "ext4" { "xfs" } else { "ext4" };
        let asked = Ask { usage: Use::Mount(other), ..from(ask.clone().size(512 * MIB)) };
        refused("another filesystem", node.csi.create(&asked).await, Code::InvalidArgument, filesystem)?;
    }
    for unknown in [id.replace("snap-1", "snap-x"), "0001-0011-other-driver".to_owned()] {
        let asked = ask.clone().filled_from_snapshot(&unknown);
        refused("an unknown snapshot", node.csi.create(&asked).await, Code::NotFound, "")?;
        node.csi.delete_snapshot(&unknown).await.context("deletion of an unknown snapshot")?;
    }
    let unknown = Made { id: source.id.replace(&source.ask.name, "pvc-x"), ..source.clone() };
    refused("an unknown volume", node.csi.create(&ask.clone().filled_from_volume(&unknown)).await, Code::NotFound, "")?;
    refused("its snapshot", node.csi.snapshot("snap-x", &unknown.id).await, Code::NotFound, "")?;
    let answer = node.csi.snapshot_with("snap-x", &source.id, &[("cow", "1Gi")]).await;
    refused("an unknown parameter", answer, Code::InvalidArgument, "cowSize")?;
    let answer = node.csi.snapshot_with("snap-x", &source.id, &[("method", "magic")]).await;
    refused("an unknown method", answer, Code::InvalidArgument, "copy")?;
    let answer = node.csi.snapshot_with("snap-1", &source.id, &[("method", "copy")]).await;
    refused("another method", answer, Code::AlreadyExists, "cow")?;
    let after = node.contents().await?;
    ensure!(before == after, "requests that were refused changed\n{before}\nto\n{after}");
    Ok(())
}

/// A filesystem that was never staged has nothing to copy: the restored volume is empty, and is used like any other.
async fn never_used(node: &Node) -> Result<()> {
    let ask = laid_out(Ask::mount("pvc-unused", "ext4"), "linear");
    let source = retry(|| node.csi.create(&ask)).await?;
    let taken = retry(|| node.csi.snapshot("snap-unused", &source.id)).await?;
    for asked in [
        ask.clone().named("pvc-restored").filled_from_snapshot(&taken.snapshot_id),
        ask.clone().named("pvc-clone").filled_from_volume(&source),
    ] {
        let made = retry(|| node.csi.create(&asked)).await.with_context(|| asked.name.clone())?;
        open(node, &made).await?;
        node.vm.sh(format!("test -z \"$(ls -A '{}' | grep -vx lost+found)\"", made.target())).await?;
        fill(node, &made, "first").await?;
        close(node, &made).await?;
        retry(|| node.csi.delete(&made.id)).await?;
    }
    retry(|| node.csi.delete_snapshot(&taken.snapshot_id)).await?;
    retry(|| node.csi.delete(&source.id)).await.map_err(Into::into)
}

/// A snapshot with less space than its source becomes full: it is lost, and its source works on.
async fn overflow(node: &Node) -> Result<()> {
    let ask = laid_out(Ask::block("pvc-full").size(64 * MIB), "linear");
    let source = retry(|| node.csi.create(&ask)).await?;
    open(node, &source).await?;
    fill(node, &source, "first").await?;
    let taken = retry(|| node.csi.snapshot_with("snap-full", &source.id, &[("cowSize", "8Mi")])).await?;
    fill(node, &source, "second").await?;
    let after = contents(node, &source).await?;
    after.check(node, &source).await.context("the source of a full snapshot")?;
    let found = node.csi.snapshots_of("", &taken.snapshot_id).await?;
    ensure!(found.len() == 1 && !found[0].ready_to_use, "a full snapshot is listed as {found:?}");
    let answer = node.csi.create(&ask.clone().named("pvc-restored").filled_from_snapshot(&taken.snapshot_id)).await;
    refused("restored from a full snapshot", answer, Code::FailedPrecondition, "full")?;
    close(node, &source).await?;
    retry(|| node.csi.delete_snapshot(&taken.snapshot_id)).await?;
    retry(|| node.csi.delete(&source.id)).await.map_err(Into::into)
}

/// A whole disk is cloned while it is not in use; it has no snapshots.
async fn whole_disk(node: &Node) -> Result<()> {
    let ask = Ask::mount("pvc-disk", "ext4").parameter("pool", "whole");
    let source = retry(|| node.csi.create(&ask)).await?;
    open(node, &source).await?;
    fill(node, &source, "first").await?;
    let before = contents(node, &source).await?;
    refused("a snapshot", node.csi.snapshot("snap-disk", &source.id).await, Code::Unimplemented, "whole")?;
    let clone = laid_out(Ask { parameters: Default::default(), ..ask }, "linear");
    let clone = clone.named("pvc-clone").size(source.size).filled_from_volume(&source);
    let answer = node.csi.create(&clone).await;
    refused("a clone while it is in use", answer, Code::FailedPrecondition, "unstage")?;
    close(node, &source).await?;
    let made = retry(|| node.csi.create(&clone)).await.context("a clone while it is not in use")?;
    open(node, &made).await?;
    before.check(node, &made).await?;
    close(node, &made).await?;
    for made in [made, source] {
        retry(|| node.csi.delete(&made.id)).await?;
    }
    Ok(())
}
