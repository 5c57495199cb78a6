//! Power cuts, on disks whose cache loses unflushed writes: everything that was answered OK, or fsynced, is
//! there.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Bus, Config, Disk, PowerCut, Vm};

use crate::csi::{Ask, FILESYSTEMS, MIB, Made, retry};
use crate::node::{FAULTS, Node, device};
use crate::random::Random;
use crate::scenario::{Context, Passed};
use crate::scenarios::encrypted::KEY;
use crate::scenarios::expand::fills_device;
use crate::scenarios::kill::expand::opened_size;
use crate::scenarios::kill::expanded;
use crate::scenarios::steps::{close, open, read, write};

/// When the power goes.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// While CreateVolume is under way.
    Create,
    /// As soon as its OK has arrived.
    Answered,
    /// While NodeStageVolume is under way.
    Stage,
    /// While its mkfs runs.
    Mkfs,
    /// After bytes were fsynced.
    Synced,
    /// While ControllerExpandVolume is under way.
    Expand,
    /// As soon as its OK has arrived.
    Expanded,
    /// As soon as the OK of DeleteVolume has arrived.
    Deleted,
}

/// The volumes of a scenario.
struct Volumes {
    /// What is created, expanded and deleted.
    creates: Vec<Ask>,
    /// What is staged and written to: one with each filesystem.
    filesystems: Vec<Ask>,
    /// Interrupted work may also meet a disk that keeps some of it. So it is on whole disks, whose volumes keep their size.
    picks: bool,
}

impl Volumes {
    fn on_lvm(creates: Vec<Ask>) -> Self {
        Self { creates, filesystems: Ask::each_filesystem(""), picks: false }
    }

    fn on_disks(creates: Vec<Ask>) -> Self {
        Self { picks: true, ..Self::on_lvm(creates) }
    }

    /// The same, encrypted.
    fn encrypted(self) -> Self {
        let all = |asks: Vec<Ask>| asks.into_iter().map(|ask| ask.encrypted(KEY)).collect();
        Self { creates: all(self.creates), filesystems: all(self.filesystems), ..self }
    }
}

/// How many calls were cut off, and how many had been answered already.
#[derive(Default)]
struct Figures {
    cut: usize,
    answered: usize,
}

impl Figures {
    fn summary(&self) -> String {
        format!(
            "{} power cuts, {} after the answer, 0 violations; without our flush what was answered OK was undone",
            self.cut, self.answered
        )
    }
}

pub async fn run(context: Context) -> Passed {
    let mut node = start("power-cut").await?;
    let raid1 = Ask::mount("raid1", "ext4").parameter("layout", "raid1");
    let volumes = Volumes::on_lvm(vec![Ask::mount("ext4", "ext4"), Ask::block("block"), raid1]);
    // lvm writes its metadata and then the header that points to it, with no flush between: a disk that keeps
    // the second and loses the first corrupts the volume group, whichever program called lvm. So interrupted
    // work loses all unflushed writes, and only answered, and therefore flushed, work meets a disk that keeps
    // some.
    let figures = cuts(&context, &mut node, &volumes).await?;
    let expanded = Ask::mount("unflushed-expansion", "ext4");
    without_flush(&mut node, Some(&expanded), &["flush"]).await.context("with the flush disabled")?;
    Ok(figures.summary())
}

/// A node with a volume group on two disks, whose volumes stay active.
async fn start(name: &str) -> Result<Node> {
    // Linear volumes are allocated on the smaller disk.
    let config = Config::new(name).disk(Disk::new("d1", 400 << 20)).disk(Disk::new("d2", 512 << 20));
    let mut node = Node::with_vm(Vm::start(config).await?, 2).await?;
    node.keep_active().await?;
    // The guest's own disk is not under test: its content stays. Nor is vgcreate, which flushes nothing.
    node.vm.sh(format!("sync; sync {} {}", device("d1"), device("d2"))).await?;
    node.serve().await?;
    Ok(node)
}

/// The same with encrypted volumes: the keys of a volume whose deletion was answered OK are gone, too.
pub async fn encrypted(context: Context) -> Passed {
    let mut node = start("power-cut-encrypted").await?;
    let volumes = Volumes::on_lvm(vec![Ask::mount("ext4", "ext4"), Ask::block("block")]).encrypted();
    let figures = cuts(&context, &mut node, &volumes).await?;
    let ask = Ask::mount("unflushed", "ext4").encrypted(KEY);
    let deleted = delete_and_cut(&mut node, &ask, PowerCut::LoseAll, None, &["flush", "erase-flush"]).await?;
    ensure!(keys_left(&node, &deleted).await? > 0, "the keys were flushed by something else: this test could not fail");
    Ok(figures.summary())
}

/// The same with encrypted volumes on whole disks.
pub async fn encrypted_on_disks(context: Context) -> Passed {
    let disks = vec![
        Disk::new("d1", 68 << 20).bus(Bus::Scsi).block_size(4096),
        Disk::new("d2", 84 << 20).bus(Bus::Nvme),
        Disk::new("d3", 330 << 20),
    ];
    let mut node = Node::on_disks("power-cut-encrypted-disks", disks).await?;
    node.vm.sh("sync").await?;
    node.serve().await?;
    let creates = [Ask::mount("ext4", "ext4"), Ask::block("block").size(50 * MIB)];
    // The keys are erased before the wipe, or without one.
    let creates = creates.map(|ask| ask.parameter("wipe", "none")).into();
    cuts(&context, &mut node, &Volumes::on_disks(creates).encrypted()).await.map(|figures| figures.summary())
}

/// The same on whole disks, where every write is ordered: they may lose any unflushed writes at any time.
pub async fn on_disks(context: Context) -> Passed {
    // No filesystem on NVMe: the emulated controller treats a write with FUA (on disk when it completes) like
    // any other, but the guest relies on it, so a journal's commit is lost although it was fsynced.
    let disks = vec![
        Disk::new("d1", 48 << 20).bus(Bus::Scsi).block_size(4096),
        Disk::new("d2", 64 << 20).bus(Bus::Nvme),
        Disk::new("d3", 310 << 20),
    ];
    let mut node = Node::on_disks("disk-power-cut", disks).await?;
    node.vm.sh("sync").await?;
    node.serve().await?;
    // The smallest disk that fits is used: the filesystem is on the first, the raw volume on the second.
    let volumes = Volumes::on_disks(vec![Ask::mount("ext4", "ext4"), Ask::block("block").size(50 * MIB)]);
    let figures = cuts(&context, &mut node, &volumes).await?;
    // The least that a deletion flushes.
    let section = node.storage.section().replace("select", "wipe: none, select");
    node.configure(&format!("pools:\n  - name: main\n    {section}\n")).await?;
    node.stop().await?;
    node.vm.sh("sync").await?;
    node.serve().await?;
    without_flush(&mut node, None, &["claim-flush", "claim-flush-before", "wipe-flush"])
        .await
        .context("with the flushes disabled")?;
    Ok(figures.summary())
}

/// Cuts the power at many moments.
async fn cuts(context: &Context, node: &mut Node, volumes: &Volumes) -> Result<Figures> {
    let mut random = context.random();
    let mut figures = Figures::default();
    let rounds = if context.settings.soak { 12 } else { 1 };
    for round in 0..rounds {
        let mut moments = plan(context, volumes, &mut random);
        moments.retain(|(moment, _)| !volumes.picks || !matches!(moment, Moment::Expand | Moment::Expanded));
        for (index, (moment, ask)) in moments.into_iter().enumerate() {
            // Turned by one in each round, or a slice would have the same few moments in all of them.
            if !context.settings.slice.has(index + round) {
                continue;
            }
            let half_way = matches!(moment, Moment::Create | Moment::Stage | Moment::Mkfs | Moment::Expand);
            let picks = (volumes.picks || !half_way) && random.below(2) == 0;
            let loss = if picks { PowerCut::LoseSome(random.next()) } else { PowerCut::LoseAll };
            let what = format!("{moment:?} of {}, {loss:?}", ask.name);
            let began = Instant::now();
            let now = one(node, moment, &ask, loss, &mut random).await.with_context(|| what.clone())?;
            context.say(format!("round {round}: {what}: {now} ({:.0} s)", began.elapsed().as_secs_f64()));
            figures.cut += 1;
            context.count("power cuts", 1);
            figures.answered += usize::from(now == ANSWERED);
        }
    }
    Ok(figures)
}

const ANSWERED: &str = "it had been answered";
const UNANSWERED: &str = "it had not been answered";

/// The power cuts of one round: all of them in a soak, otherwise a selection.
fn plan(context: &Context, volumes: &Volumes, random: &mut Random) -> Vec<(Moment, Ask)> {
    let Volumes { creates, filesystems, .. } = volumes;
    let blocks = creates.iter().filter(|ask| ask.is_block()).cloned();
    let synced: Vec<Ask> = filesystems.iter().cloned().chain(blocks).collect();
    let both = |asks: &[Ask], moments: [Moment; 2]| -> Vec<(Moment, Ask)> {
        asks.iter().flat_map(|ask| moments.map(|moment| (moment, ask.clone()))).collect()
    };
    if context.settings.soak {
        let synced = synced.into_iter().map(|ask| (Moment::Synced, ask));
        let mut all = both(creates, [Moment::Create, Moment::Answered]);
        all.extend(both(creates, [Moment::Expand, Moment::Expanded]));
        all.extend(both(filesystems, [Moment::Stage, Moment::Mkfs]));
        all.extend(synced);
        all.extend(creates.iter().map(|ask| (Moment::Deleted, ask.clone())));
        return all;
    }
    let mut pick = |asks: &[Ask]| asks[usize::try_from(random.below(asks.len() as u64)).expect("an index")].clone();
    let moments = [Moment::Create, Moment::Answered, Moment::Expand, Moment::Expanded];
    let mut chosen: Vec<(Moment, Ask)> = moments.map(|moment| (moment, pick(creates))).to_vec();
    let (synced, deleted) = (pick(&synced), pick(creates));
    for index in random.sample(2, filesystems.len()) {
        let moment = if random.below(3) == 0 { Moment::Stage } else { Moment::Mkfs };
        chosen.push((moment, filesystems[index].clone()));
    }
    chosen.extend([(Moment::Synced, synced), (Moment::Deleted, deleted)]);
    chosen
}

/// Cuts the power once, and finishes the interrupted work.
async fn one(node: &mut Node, moment: Moment, ask: &Ask, loss: PowerCut, random: &mut Random) -> Result<&'static str> {
    // The guest's own disk is not under test: without this, a target that was removed in the last seconds would be
    // there again after the cut.
    node.vm.sh("sync -f /var/lib/kubelet").await?;
    if is_zeroed(ask) {
        node.vm.sh(node.storage.dirty()).await.context("writing a former tenant's bytes")?;
    }
    let csi = node.csi.clone();
    let mut in_time = true;
    let answered = match moment {
        Moment::Create => {
            let call = tokio::spawn({
                let ask = ask.clone();
                async move { csi.create(&ask).await }
            });
            tokio::time::sleep(Duration::from_millis(random.below(2500))).await;
            node.vm.power_cut_with(loss).await?;
            let answered = call.await?.ok();
            in_time = answered.is_some();
            answered
        }
        Moment::Answered => {
            let made = csi.create(ask).await?;
            node.vm.power_cut_with(loss).await?;
            Some(made)
        }
        Moment::Stage | Moment::Mkfs => {
            let made = csi.create(ask).await?;
            node.kubelet_folders(&made).await?;
            node.vm.sh(format!("rm -f {FAULTS}/log")).await?;
            let call = tokio::spawn({
                let made = made.clone();
                async move { csi.stage(&made).await }
            });
            let instant = if matches!(moment, Moment::Mkfs) {
                // Its fault point reports it, since such a short process is easily missed.
                let wait = format!("for i in $(seq 500); do grep -qs mkfs {FAULTS}/log && exit; done; true");
                node.vm.sh(wait).await?;
                random.below(600)
            } else {
                random.below(2000)
            };
            tokio::time::sleep(Duration::from_millis(instant)).await;
            node.vm.power_cut_with(loss).await?;
            in_time = call.await?.is_ok();
            // The volume itself was promised before.
            Some(made)
        }
        Moment::Synced => {
            let made = csi.create(ask).await?;
            open(node, &made).await?;
            write(node, &made).await?;
            node.vm.power_cut_with(loss).await?;
            Some(made)
        }
        Moment::Expand | Moment::Expanded => {
            let mut made = csi.create(ask).await?;
            open(node, &made).await?;
            write(node, &made).await?;
            if is_zeroed(ask) {
                // Where it becomes larger.
                node.vm.sh(node.storage.dirty()).await.context("writing a former tenant's bytes")?;
            }
            let call = tokio::spawn({
                let (made, size) = (made.clone(), expanded(ask));
                async move { csi.expand(&made, size).await }
            });
            if matches!(moment, Moment::Expand) {
                tokio::time::sleep(Duration::from_millis(random.below(2500))).await;
                node.vm.power_cut_with(loss).await?;
                let answer = call.await?.ok();
                in_time = answer.is_some();
                made.size = answer.map_or(made.size, |answer| answer.size);
            } else {
                made.size = call.await??.size;
                node.vm.power_cut_with(loss).await?;
            }
            Some(made)
        }
        Moment::Deleted => {
            let deleted = delete_and_cut(node, ask, loss, None, &[]).await?;
            let listed = node.csi.list().await?;
            ensure!(listed.is_empty(), "deletion was answered OK, and after the power cut there is: {listed:?}");
            node.expect_empty().await?;
            ensure!(keys_left(node, &deleted).await? == 0, "deletion was answered OK, and its header is on the disks");
            return Ok(ANSWERED);
        }
    };
    boot(node).await?;
    let used = matches!(moment, Moment::Synced | Moment::Expand | Moment::Expanded);
    let mut made = check(node, ask, answered.as_ref(), used).await?;
    if !matches!(moment, Moment::Expand) {
        // An interrupted expansion leaves the new space that it reserved: the repeated call continues with it.
        node.expect_only(&made).await?;
    }
    if matches!(moment, Moment::Expand | Moment::Expanded) {
        let promised = answered.as_ref().map_or(0, |answered| answered.size);
        let sizes = [ask.required, expanded(ask)];
        ensure!(sizes.contains(&made.size) && made.size >= promised, "{} bytes of {sizes:?}", made.size);
        made.size = retry(|| node.csi.expand(&made, expanded(ask))).await.context("after the power cut")?.size;
        node.expect_only(&made).await.context("after the repeated expansion")?;
    }
    open(node, &made).await.context("after the power cut")?;
    if !used {
        write(node, &made).await?;
    }
    read(node, &made).await?;
    if matches!(moment, Moment::Expand | Moment::Expanded) {
        larger(node, &made).await?;
    }
    close(node, &made).await?;
    fsck(node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await?;
    node.expect_empty().await?;
    Ok(if in_time { ANSWERED } else { UNANSWERED })
}

/// An answered volume exists. Otherwise at most one exists, and a retry returns it.
async fn check(node: &Node, ask: &Ask, answered: Option<&Made>, used: bool) -> Result<Made> {
    node.vm.sh(node.storage.check()).await.context("the storage is damaged")?;
    let listed = node.csi.list().await?;
    ensure!(listed.len() <= 1, "listed: {listed:?}");
    if let Some(answered) = answered {
        ensure!(
            listed.first().is_some_and(|volume| volume.volume_id == answered.id),
            "{} was answered OK, and after the power cut there is: {listed:?}\n{}",
            answered.id,
            node.contents().await?
        );
    }
    let made = retry(|| node.csi.create(ask)).await.context("CreateVolume after the power cut")?;
    let before = answered.map(|answered| &answered.id).or(listed.first().map(|volume| &volume.volume_id));
    ensure!(before.is_none_or(|id| *id == made.id), "{} became {}", before.map_or("", String::as_str), made.id);
    let listed = node.csi.list().await?;
    ensure!(listed.len() == 1 && listed[0].volume_id == made.id, "after the retry: {listed:?}");
    if is_zeroed(ask) && !used {
        zero(node, &made).await?;
    }
    Ok(made)
}

/// Whether it shows its pod zeros at first, and where it becomes larger. An encrypted one shows noise.
fn is_zeroed(ask: &Ask) -> bool {
    ask.is_block() && !ask.is_encrypted()
}

async fn zero(node: &Node, made: &Made) -> Result<()> {
    let device = node.storage.device(&made.ask.name);
    let script = format!("udevadm settle; cmp -n {} {device} /dev/zero", made.size);
    node.vm.sh(script).await.context("a former tenant's bytes show").map(drop)
}

/// The volume has its new size, and a raw one that is not encrypted has zeros where it became larger.
async fn larger(node: &Node, made: &Made) -> Result<()> {
    let target = made.target();
    node.csi.node_expand(made, &target).await?;
    if made.ask.is_encrypted() {
        return opened_size(node, made).await;
    }
    fills_device(node, made).await?;
    if made.ask.is_block() {
        let old = made.ask.required;
        let script = format!("cmp -n {} -i {old}:0 '{target}' /dev/zero", made.size - old);
        node.vm.sh(script).await.context("a former tenant's bytes show")?;
    }
    Ok(())
}

/// The filesystem is whole, as its own checker sees it.
async fn fsck(node: &Node, made: &Made) -> Result<()> {
    let device = node.storage.device(&made.ask.name);
    let crate::csi::Use::Mount(name) = made.ask.usage else { return Ok(()) };
    let known = FILESYSTEMS.iter().find(|known| known.name == name).context("an unknown filesystem")?;
    let script = match &made.ask.passphrase {
        None => format!("{} {device}", known.check),
        Some(passphrase) => format!(
            "printf %s '{passphrase}' | cryptsetup open --key-file - {device} checked; result=0; \
             {} /dev/mapper/checked || result=$?; cryptsetup close checked; exit $result",
            known.check
        ),
    };
    node.vm.sh(script).await.context("the filesystem is damaged").map(drop)
}

async fn boot(node: &mut Node) -> Result<()> {
    node.lost_power();
    node.vm.boot_again().await?;
    node.serve().await.context("after the power cut")
}

/// How often the UUIDs of the headers of deleted volumes are on the disks: a line each.
async fn keys_left(node: &Node, uuids: &str) -> Result<u64> {
    if uuids.is_empty() {
        return Ok(0);
    }
    node.vm.write("/run/uuids", uuids.as_bytes(), 0o600).await?;
    super::encrypted::on_disks(node, "/run/uuids").await
}

/// Uses a volume, deletes it without these safeguards, cuts the power when that is answered, and boots. Before that,
/// another volume is expanded without them. Returns the UUID of the volume's LUKS2 header; empty if it has none.
async fn delete_and_cut(
    node: &mut Node,
    ask: &Ask,
    loss: PowerCut,
    expand: Option<&Ask>,
    without: &[&str],
) -> Result<String> {
    let other = match expand {
        Some(ask) => Some(node.csi.create(ask).await?),
        None => None,
    };
    let made = node.csi.create(ask).await?;
    open(node, &made).await?;
    close(node, &made).await?;
    let uuid = if ask.is_encrypted() {
        node.vm.sh(format!("cryptsetup luksUUID {}", node.storage.device(&ask.name))).await?
    } else {
        String::new()
    };
    // The paths of its life are durable now: remnants that reappear later come from the disks.
    node.vm.sh("sync").await?;
    for safeguard in without {
        node.vm.sh(format!("touch {FAULTS}/disable-{safeguard}")).await?;
    }
    if let Some(other) = other {
        node.csi.expand(&other, expanded(&other.ask)).await?;
    }
    node.csi.delete(&made.id).await?;
    node.vm.power_cut_with(loss).await?;
    boot(node).await?;
    Ok(uuid)
}

/// The same with Quarry's flushes after a change of the storage disabled: a deletion that was answered OK, and an
/// expansion if there is one, must be undone, or something else flushes as well and the test proves nothing.
async fn without_flush(node: &mut Node, expand: Option<&Ask>, safeguards: &[&str]) -> Result<()> {
    let ask = Ask::mount("unflushed", "ext4").size(32 * MIB);
    delete_and_cut(node, &ask, PowerCut::LoseAll, expand, safeguards).await?;
    let found = node.csi.list().await?;
    for volume in &found {
        node.csi.delete(&volume.volume_id).await?;
    }
    node.expect_empty().await?;
    let find = |ask: &Ask| {
        let name = format!(":{}", ask.name);
        found.iter().find(|volume| volume.volume_id.ends_with(&name))
    };
    ensure!(find(&ask).is_some(), "no deletion was undone: this test could not fail");
    let undone = |ask: &Ask| find(ask).is_some_and(|volume| volume.capacity_bytes == ask.required);
    ensure!(expand.is_none_or(undone), "no expansion was undone: this test could not fail: {found:?}");
    Ok(())
}
