//! Thin pools: how they are created, the life of their volumes, and what happens when they are full.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use quarry_vm::{Config, Disk, PowerCut, Vm};
use tonic::Code;

use crate::csi::{Ask, MIB, Made, refused, retry};
use crate::node::{GROUP, Node};
use crate::scenario::{Context, Passed};
use crate::scenarios::expand::fills_device;
use crate::scenarios::kill::{Kill, KillResult, Step, call_with_kill};
use crate::scenarios::snapshot::contents::{Contents, contents, fill};
use crate::scenarios::snapshot::{Source, source};
use crate::scenarios::steps::{close, open, until};

const DISK: u64 = 3 << 30;
/// The size of the pool `thin`.
const POOL: i64 = 800 * MIB;
/// How many times the size of a pool its volumes may have.
const RATIO: i64 = 4;
/// A pool is looked at every ten seconds, and a failed step is repeated after a minute. Beside other guests, seven pools
/// take two minutes.
const MADE: Duration = Duration::from_secs(300);

/// Pools: how they are created, how much they hold, and what happens when they are full.
pub async fn pools(_context: Context) -> Passed {
    let mut node = start(
        "thin-pools",
        &[
            format!("thin, create: true, size: {POOL}, overprovision: {RATIO}"),
            // Full pools, with each behaviour.
            format!("fails, create: true, size: 64Mi, overprovision: {RATIO}, errorWhenFull: true"),
            format!("waits, create: true, size: 64Mi, overprovision: {RATIO}"),
            format!("grows, create: true, size: 64Mi, overprovision: {RATIO}, extend: {{at: 60, by: 100}}"),
            "striped, create: true, size: 64Mi, layout: striped".to_owned(),
            "mirrored, create: true, size: 64Mi, layout: raid1".to_owned(),
            "foreign, create: true, size: 64Mi".to_owned(),
        ],
    )
    .await?;
    half_made(&node).await?;
    node.serve().await?;
    made(&node).await.context("creation of the pools")?;
    ratio(&node).await.context("the ratio of virtual to real space")?;
    let seen = full(&node).await.context("a full pool")?;
    full_of_copies(&node).await.context("a copy that fills its pool")?;
    extended(&node).await.context("a pool that is extended")?;
    deactivated(&node).await.context("a pool that is deactivated before it is extended")?;
    metadata(&node).await.context("a pool whose metadata is extended")?;
    nothing_left(&node).await?;
    Ok(format!("6 pools created, 2 of them half made before; {seen}"))
}

/// The life of volumes.
pub async fn volumes(context: Context) -> Passed {
    let pool = format!("thin, create: true, size: {POOL}, overprovision: {RATIO}");
    let mut node = start("thin-volumes", &[pool]).await?;
    node.serve().await?;
    usable(&node).await?;
    let kinds: Vec<Ask> = Ask::each_filesystem("pvc-").into_iter().chain([Ask::block("pvc-block")]).collect();
    let mut random = context.random();
    // A soak has all of them.
    let (chosen, depth) = if context.settings.soak { (kinds.len(), 10) } else { (2, 3) };
    let mut copies = 0;
    for index in random.sample(chosen, kinds.len()) {
        let ask = kinds[index].clone();
        let what = ask.name.clone();
        copies += life(&mut node, ask.parameter("pool", "thin")).await.with_context(|| what.clone())?;
        context.say(format_args!("{what}: done"));
    }
    generations(&node, depth).await.context("copies of copies")?;
    let (used, kills) = interrupted(&mut node).await.context("a copy that is interrupted")?;
    nothing_left(&node).await?;
    Ok(format!(
        "{copies} volumes restored or cloned, {depth} generations of copies; {used} MiB used by a copy of 16 MiB in a \
         volume of {} MiB, which was interrupted {kills} times",
        SPARSE / MIB
    ))
}

/// A node with an ordinary pool `main`, and these thin pools in the same volume group. Quarry does not run yet.
async fn start(name: &str, pools: &[String]) -> Result<Node> {
    let config = Config::new(name).disk(Disk::new("d1", DISK)).disk(Disk::new("d2", DISK));
    let node = Node::with_vm(Vm::start(config).await?, 2).await?;
    let mut yaml = format!("pools:\n  - name: main\n    lvm: {{volumeGroup: {GROUP}}}\n");
    for pool in pools {
        let name = pool.split(',').next().unwrap_or_default();
        yaml += &format!("  - name: {name}\n    lvm: {{volumeGroup: {GROUP}, thinPool: {{name: {pool}}}}}\n");
    }
    node.configure(&yaml).await?;
    Ok(node)
}

/// Waits until the pool `thin` takes volumes.
async fn usable(node: &Node) -> Result<()> {
    let thin = class("thin").parameters;
    until("the thin pool", MADE, || async { Ok(node.csi.capacity(&thin).await?.0 > 0) }).await.map(drop)
}

/// What a power cut leaves of pools that are being created, and a volume that is not Quarry's.
async fn half_made(node: &Node) -> Result<()> {
    let tag = |part: &str, pool: &str| format!("--addtag quarry2/k=thin-pool/p={part}/n={pool}");
    let make = "lvcreate -qq -y -an -Wn -Zn";
    let script = format!(
        "{make} -L 64M -n fails {} {GROUP}; {make} -L 64M -n waits {} {GROUP}; {make} -L 4M -n quarry_metadata_waits {} \
         {GROUP}; {make} -L 64M -n foreign {GROUP}",
        tag("data", "fails"),
        tag("data", "waits"),
        tag("metadata", "waits")
    );
    node.vm.sh(script).await.map(drop)
}

fn class(pool: &str) -> Ask {
    Ask::block("x").parameter("pool", pool)
}

/// The pools are there, as the configuration says.
async fn made(node: &Node) -> Result<()> {
    for pool in ["thin", "fails", "waits", "grows", "striped", "mirrored"] {
        let class = class(pool).parameters;
        until(&format!("pool {pool}"), MADE, || async { Ok(node.csi.capacity(&class).await?.0 > 0) }).await?;
    }
    let (free, largest) = node.csi.capacity(&class("thin").parameters).await?;
    ensure!((free, largest) == (RATIO * POOL, RATIO * POOL), "{free} bytes, {largest} at most");
    let report = node
        .vm
        .sh(format!(
            "lvs -a --noheadings --units m --nosuffix -o lv_name,lv_layout,lv_when_full,zero,lv_size {GROUP} | tr -s ' '"
        ))
        .await?;
    let has = |words: &str| report.lines().any(|line| line.trim().starts_with(words));
    for words in ["thin thin,pool queue zero 800", "fails thin,pool error zero 64", "waits thin,pool queue zero 64"] {
        ensure!(has(words), "no {words:?} in\n{report}");
    }
    ensure!(has("[striped_tdata] striped") && has("[mirrored_tdata] raid,raid1"), "{report}");
    ensure!(has("[mirrored_tmeta] raid,raid1") && report.contains("_pmspare]"), "{report}");
    // Not Quarry's: it stays as it is, and the pool says why it cannot be used.
    ensure!(has("foreign linear"), "{report}");
    let answer = node.csi.create(&class("foreign")).await;
    refused("a volume in a pool whose name is taken", answer, Code::Unavailable, "is not a thin pool")?;
    let (main, _) = node.csi.capacity(&class("main").parameters).await?;
    ensure!(main > 0, "the ordinary pool beside them is full");
    Ok(())
}

/// The life of a volume. Returns how often it was copied.
async fn life(node: &mut Node, ask: Ask) -> Result<usize> {
    let Source { made: source, before, taken, after } = source(node, &ask).await?;

    node.vm.sh("sync -f /etc/quarry; sync -f /var/lib/kubelet").await?;
    node.vm.power_cut_with(PowerCut::LoseAll).await?;
    node.lost_power();
    node.vm.boot_again().await?;
    node.serve().await.context("after a power cut")?;
    let thin = class("thin").parameters;
    usable(node).await.context("after a power cut")?;
    open(node, &source).await.context("after a power cut")?;
    after.check(node, &source).await.context("the source after a power cut")?;

    let id = &taken.snapshot_id;
    let at_once = ask.name != "pvc-btrfs";
    let larger = ask.clone().named("pvc-larger").size((source.size + 64 * MIB).max(256 * MIB));
    copy(node, larger.filled_from_snapshot(id), &before, at_once).await.context("restored")?;
    copy(node, ask.clone().named("pvc-clone").filled_from_volume(&source), &after, at_once).await.context("cloned")?;
    let thick = ask.clone().named("pvc-thick").parameter("pool", "main");
    copy(node, thick.clone().filled_from_snapshot(id), &before, false)
        .await
        .context("restored in the ordinary pool")?;

    // From the ordinary pool to the thin one.
    let thick = thick.filled_from_volume(&source);
    let thick = retry(|| node.csi.create(&thick)).await.context("cloned to the other pool")?;
    let back = ask.clone().named("pvc-back").filled_from_volume(&thick);
    copy(node, back, &after, false).await.context("cloned back")?;
    retry(|| node.csi.delete(&thick.id)).await?;

    grow(node, &source).await?;
    after.check(node, &source).await.context("the source after it became larger")?;
    // The snapshot does not depend on it.
    close(node, &source).await?;
    retry(|| node.csi.delete(&source.id)).await.context("deletion of the source")?;
    let restored = ask.clone().named("pvc-after").filled_from_snapshot(id);
    copy(node, restored, &before, at_once).await.context("restored after the deletion of the source")?;
    retry(|| node.csi.delete_snapshot(id)).await.context("DeleteSnapshot")?;
    let (free, _) = node.csi.capacity(&thin).await?;
    ensure!(free == RATIO * POOL, "{free} bytes are free");
    Ok(5)
}

/// Creates the copy, uses it, checks its contents, and deletes it.
async fn copy(node: &Node, ask: Ask, expected: &Contents, at_once: bool) -> Result<()> {
    let made = retry(|| node.csi.create(&ask)).await.context("CreateVolume")?;
    let again = node.csi.create(&ask).await.context("CreateVolume again")?;
    ensure!(again.id == made.id && again.size == made.size, "{again:?} instead of {made:?}");
    let origin = node.vm.sh(format!("lvs --noheadings -o origin {GROUP}/{}", ask.name)).await?;
    ensure!(origin.trim().is_empty() != at_once, "{} has the origin {origin:?}", ask.name);
    open(node, &made).await?;
    expected.check(node, &made).await.context("the copy's contents")?;
    if !ask.is_block() {
        fills_device(node, &made).await?;
    }
    fill(node, &made, "third").await?;
    close(node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await.map_err(Into::into)
}

/// Copies of copies: each is restored from a snapshot of the one before, and shows its contents, also after all that is
/// older is deleted.
async fn generations(node: &Node, depth: usize) -> Result<()> {
    let mut ask = Ask::mount("pvc-0", "xfs").parameter("pool", "thin");
    let mut made = retry(|| node.csi.create(&ask)).await?;
    for generation in 1..=depth {
        open(node, &made).await?;
        fill(node, &made, &format!("of-{generation}")).await?;
        let expected = contents(node, &made).await?;
        let name = format!("snap-{generation}");
        let taken = retry(|| node.csi.snapshot(&name, &made.id)).await?;
        close(node, &made).await?;
        retry(|| node.csi.delete(&made.id)).await?;
        ask = ask.named(&format!("pvc-{generation}")).filled_from_snapshot(&taken.snapshot_id);
        made = retry(|| node.csi.create(&ask)).await.with_context(|| format!("generation {generation}"))?;
        retry(|| node.csi.delete_snapshot(&taken.snapshot_id)).await?;
        open(node, &made).await?;
        expected.check(node, &made).await.with_context(|| format!("generation {generation}"))?;
        close(node, &made).await?;
    }
    retry(|| node.csi.delete(&made.id)).await.map_err(Into::into)
}

/// The size of a volume that contains 8 MiB at its beginning and at its end.
const SPARSE: i64 = 512 * MIB;

/// Zeros of a source take no space, also if the copy of it is killed, which has written before. What it has written is
/// discarded: a kill there does no harm, nor does the discard to an operator's volume in the same thin pool. Returns the
/// MiB that the copy uses, and the number of kills.
async fn interrupted(node: &mut Node) -> Result<(i64, u64)> {
    let theirs = format!("/dev/{GROUP}/theirs");
    let sum = |path: String| format!("dd if='{path}' bs=1M iflag=direct status=none | md5sum");
    let written = "yes theirs | head -c 16M | dd bs=1M iflag=fullblock oflag=direct status=none";
    node.vm.sh(format!("lvcreate -qq -y -V 16M -n theirs --thinpool thin {GROUP}; {written} of={theirs}")).await?;
    let untouched = node.vm.sh(sum(theirs.clone())).await?;

    let ask = Ask::block("pvc-sparse").parameter("pool", "main").size(SPARSE);
    let made = retry(|| node.csi.create(&ask)).await?;
    open(node, &made).await?;
    let bytes = "yes sparse | head -c 8M | dd bs=1M iflag=fullblock oflag=direct conv=notrunc status=none";
    let target = made.target();
    node.vm.sh(format!("for at in 0 {}; do {bytes} of='{target}' seek=$at; done", SPARSE / MIB - 8)).await?;
    let expected = node.vm.sh(sum(target)).await?;
    close(node, &made).await?;

    let ask = Ask::block("pvc-copied").parameter("pool", "thin").size(SPARSE).filled_from_volume(&made);
    let (csi, asked) = (node.csi.clone(), ask.clone());
    let call = tokio::spawn(async move { csi.create(&asked).await });
    // The number of mapped sectors.
    let mapped = format!("$(dmsetup status {GROUP}-pvc--copied 2>/dev/null | cut -d' ' -f4)");
    node.kill_tree_when(&format!("for i in $(seq 600); do [ 0{mapped} -gt 0 ] && break; sleep 0.05; done")).await?;
    ensure!(call.await?.is_err(), "the copy was complete before the kill: this test could not fail");
    node.serve().await?;
    let kills = 1 + killed_until_discarded(node, &ask).await?;
    usable(node).await?;
    let copied = retry(|| node.csi.create(&ask)).await?;
    open(node, &copied).await?;
    let found = node.vm.sh(sum(copied.target())).await?;
    ensure!(found == expected, "the copy has other contents");
    let used = node.vm.sh(format!("echo {mapped}")).await?.trim().parse::<i64>()? * 512 / MIB;
    ensure!((16..32).contains(&used), "the copy uses {used} MiB");
    close(node, &copied).await?;
    for made in [copied, made] {
        retry(|| node.csi.delete(&made.id)).await?;
    }
    let found = node.vm.sh(format!("{}; lvremove -qq -y {GROUP}/theirs", sum(theirs.clone()))).await?;
    ensure!(found == untouched, "an operator's volume in the thin pool was {untouched}, and is {found}");
    Ok((used, kills))
}

/// Repeats the copy and kills it at each point, until the last kill came right after the discard. Returns the number of
/// kills.
async fn killed_until_discarded(node: &mut Node, ask: &Ask) -> Result<u64> {
    let mut before = false;
    for at in 1..=50 {
        usable(node).await?;
        match call_with_kill(node, Step::Create, ask, None, &Kill::Point(at)).await? {
            KillResult::Killed { points } => match points.last().map(String::as_str) {
                Some("disk:discard:before") => before = true,
                Some("disk:discard:after") => {
                    ensure!(before, "it was not killed before the discard: {points:?}");
                    return Ok(at);
                }
                _ => {}
            },
            KillResult::Missed { points } => bail!("the copy was completed without a discard: {points:?}"),
        }
    }
    bail!("50 kills, and none after a discard")
}

/// Makes a volume in use larger, and back in use after it became larger offline.
async fn grow(node: &Node, made: &Made) -> Result<()> {
    let mut made = made.clone();
    for step in 1..=2 {
        let size = made.size.max(256 * MIB) + 32 * MIB;
        if step == 2 {
            close(node, &made).await?;
        }
        let grown = retry(|| node.csi.expand(&made, size)).await.context("ControllerExpandVolume")?;
        ensure!(grown.size == size && grown.on_node != made.ask.is_block(), "{grown:?}");
        made.size = grown.size;
        match step {
            2 => open(node, &made).await?,
            _ if made.ask.is_block() => {}
            _ => {
                node.csi.node_expand(&made, &made.target()).await.context("NodeExpandVolume")?;
            }
        }
        if !made.ask.is_block() {
            fills_device(node, &made).await?;
        }
    }
    Ok(())
}

/// Sizes are limited by the ratio, snapshots count, and nothing larger is possible.
async fn ratio(node: &Node) -> Result<()> {
    let thin = class("thin").parameters;
    let huge = Ask::block("pvc-huge").parameter("pool", "thin").size(RATIO * POOL + 1);
    refused("more than the ratio", node.csi.create(&huge).await, Code::ResourceExhausted, "400 %")?;
    let half = huge.clone().size(2 * POOL);
    let made = retry(|| node.csi.create(&half)).await?;
    ensure!(node.csi.capacity(&thin).await?.0 == 2 * POOL, "half of it is left");
    refused("growth beyond it", node.csi.expand(&made, RATIO * POOL + 1).await, Code::OutOfRange, "the largest size")?;
    let taken = retry(|| node.csi.snapshot("snap-huge", &made.id)).await?;
    ensure!(node.csi.capacity(&thin).await?.0 == 0, "nothing is left");
    let more = node.csi.snapshot("snap-more", &made.id).await;
    refused("a snapshot beyond it", more, Code::ResourceExhausted, "400 %")?;
    refused(
        "a layout",
        node.csi.create(&class("thin").parameter("layout", "raid1")).await,
        Code::ResourceExhausted,
        "thin",
    )?;
    retry(|| node.csi.delete(&made.id)).await?;
    retry(|| node.csi.delete_snapshot(&taken.snapshot_id)).await?;

    // Two at once, for which there is room for one.
    let [one, other] = ["pvc-one", "pvc-other"].map(|name| class("thin").named(name).size(100 * MIB));
    let (one, other) = (retry(|| node.csi.create(&one)).await?, retry(|| node.csi.create(&other)).await?);
    let size = RATIO * POOL - 200 * MIB;
    let grown = tokio::join!(node.csi.expand(&one, size), node.csi.expand(&other, size));
    let refusal = match grown {
        (Ok(_), Err(status)) | (Err(status), Ok(_)) => status,
        both => bail!("one of two expansions fits: {both:?}"),
    };
    ensure!(refusal.code() == Code::OutOfRange, "{refusal:?}");
    for made in [one, other] {
        retry(|| node.csi.delete(&made.id)).await?;
    }
    Ok(())
}

/// Fills pools to their end.
async fn full(node: &Node) -> Result<String> {
    let mut seen = Vec::new();
    for pool in ["fails", "waits"] {
        let ask = Ask::block("pvc-full").parameter("pool", pool).size(128 * MIB);
        let made = retry(|| node.csi.create(&ask)).await?;
        open(node, &made).await?;
        ensure!(node.csi.health(&made.id).await?.is_empty(), "a new volume in an empty pool has a problem");
        let target = made.target();
        let dd = format!("dd if=/dev/zero of='{target}' bs=1M oflag=direct conv=notrunc");
        node.vm.sh(format!("{dd} count=60 status=none")).await.context("writing what fits")?;
        let began = Instant::now();
        node.vm
            .sh(format!(
                "(code=0; {dd} seek=60 count=40 >/run/dd.log 2>&1 || code=1; echo ended $code >>/run/dd.log) \
                 >/dev/null 2>&1 </dev/null &"
            ))
            .await?;
        let log = || async { node.vm.sh("cat /run/dd.log").await };
        if pool == "fails" {
            until("the write fails", Duration::from_secs(30), || async { Ok(log().await?.contains("ended 1")) })
                .await?;
            ensure!(log().await?.contains("No space left on device"), "{}", log().await?);
        }
        let id = &made.id;
        until("the volume shows it", Duration::from_secs(40), || async {
            let health = node.csi.health(id).await?;
            Ok(health.iter().any(|entry| format!("{entry:?}").contains("is full")))
        })
        .await?;
        let more = node.csi.create(&Ask::block("pvc-more").parameter("pool", pool)).await;
        refused("another volume", more, Code::ResourceExhausted, "is full")?;
        if pool == "waits" {
            ensure!(!log().await?.contains("ended"), "the write did not wait: {}", log().await?);
        }
        // The operator extends it.
        node.vm.sh(format!("lvextend -qq --size +64M {GROUP}/{pool}")).await?;
        if pool == "waits" {
            until("the write ends", Duration::from_secs(30), || async { Ok(log().await?.contains("ended 0")) }).await?;
            seen.push(format!("a write waited {} s for space", began.elapsed().as_secs()));
        } else {
            seen.push("a write failed at once".to_owned());
        }
        until("the problem is gone", Duration::from_secs(40), || async { Ok(node.csi.health(id).await?.is_empty()) })
            .await?;
        close(node, &made).await?;
        retry(|| node.csi.delete(&made.id)).await?;
    }
    Ok(seen.join(", "))
}

/// A copy that fills its pool ends, is not left behind, and what it has written is free again. The pools have 128 MiB.
async fn full_of_copies(node: &Node) -> Result<()> {
    let ask = Ask::block("pvc-large").parameter("pool", "main").size(160 * MIB);
    let source = retry(|| node.csi.create(&ask)).await?;
    open(node, &source).await?;
    let write = "dd bs=1M iflag=fullblock oflag=direct conv=notrunc status=none";
    node.vm.sh(format!("yes large | head -c {} | {write} of='{}'", ask.required, source.target())).await?;
    close(node, &source).await?;
    for pool in ["fails", "waits"] {
        let copy = ask.clone().named("pvc-copy").parameter("pool", pool).filled_from_volume(&source);
        let answer = retry(|| node.csi.create(&copy)).await;
        refused("a copy that fills its pool", answer, Code::ResourceExhausted, "created volume was removed")?;
        let used = node.vm.sh(format!("lvs --noheadings -o data_percent {GROUP}/{pool}")).await?;
        ensure!(used.trim().parse::<f64>()? < 1.0, "{used} % of pool {pool} are used");
    }
    retry(|| node.csi.delete(&source.id)).await.map_err(Into::into)
}

/// A pool that is extended in time.
async fn extended(node: &Node) -> Result<()> {
    let ask = Ask::block("pvc-grows").parameter("pool", "grows").size(128 * MIB);
    let made = retry(|| node.csi.create(&ask)).await?;
    open(node, &made).await?;
    let script =
        format!("dd if=/dev/zero of='{}' bs=1M count=120 oflag=direct conv=notrunc status=none", made.target());
    node.vm.sh(script).await.context("writing more than the pool had")?;
    let size = node.vm.sh(format!("lvs --noheadings --units m --nosuffix -o lv_size {GROUP}/grows")).await?;
    ensure!(size.trim().parse::<f64>()? >= 120.0, "the pool has {size} MiB");
    close(node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await.map_err(Into::into)
}

/// An operator deactivates a pool that has to be extended: it stays as it is until it is active again.
async fn deactivated(node: &Node) -> Result<()> {
    let pool = format!("{GROUP}/grows");
    let size = async || node.vm.sh(format!("lvs --noheadings --units m --nosuffix -o lv_size {pool}")).await;
    let active = async || node.vm.sh(format!("lvs --noheadings -o lv_active {pool}")).await;
    let before = size().await?;
    // Quarry sees nothing of it until the pool is inactive.
    let script = format!(
        "lvcreate -qq -y -V 1G -n filler --thinpool grows {GROUP}; pkill -STOP -x quarry; \
         dd if=/dev/zero of=/dev/{GROUP}/filler bs=1M count=$(({} * 3 / 4)) oflag=direct status=none; \
         lvs --noheadings -o data_percent {pool}; lvchange -qq -an {GROUP}/filler; lvchange -qq -an {pool}; \
         pkill -CONT -x quarry",
        before.trim().split('.').next().unwrap_or_default()
    );
    let percent: f64 = node.vm.sh(script).await?.trim().parse()?;
    ensure!(percent > 70.0, "only {percent} % of the pool are used");
    // Two looks.
    tokio::time::sleep(Duration::from_secs(25)).await;
    ensure!(size().await? == before, "an inactive pool of {before} MiB was extended to {} MiB", size().await?);
    ensure!(!active().await?.contains("active"), "it was activated");
    node.vm.sh(format!("lvchange -qq -ay {pool}")).await?;
    until("it is extended", Duration::from_secs(120), async || Ok(size().await? != before)).await.map(drop)
}

/// Many snapshots, here without lvm, need more metadata than the pool has: it is extended, too. The operator's volume from
/// before is removed afterwards.
async fn metadata(node: &Node) -> Result<()> {
    let (pool, device) = (format!("{GROUP}/grows"), format!("{GROUP}-grows-tpool"));
    let size = async || node.vm.sh(format!("lvs --noheadings --units m --nosuffix -o lv_metadata_size {pool}")).await;
    let before = size().await?;
    // Each snapshot keeps its own part of the tree of mapped blocks when a block is written afterwards.
    let script = format!(
        "lvchange -qq -ay {GROUP}/filler; thin=$(($(lvs --noheadings -o thin_id {GROUP}/filler))); id=5000; \
         while [ $id -lt 6000 ]; do for i in $(seq 40); do id=$((id + 1)); \
         dmsetup message {device} 0 \"create_snap $id $thin\"; \
         dd if=/dev/zero of=/dev/{GROUP}/filler bs=64k count=1 oflag=direct conv=notrunc status=none; done; \
         dmsetup status {device} | awk '{{ split($5, part, \"/\"); exit !(part[2] == 1024 && part[1] < 768) }}' || break; \
         done; echo $id"
    );
    let last = node.vm.sh(script).await?;
    let extended = async || Ok(size().await? != before);
    let extended = until("the metadata is extended", Duration::from_secs(120), extended).await;
    extended.with_context(|| format!("after snapshot {last}"))?;
    let delete = format!("for id in $(seq 5001 {last}); do dmsetup message {device} 0 \"delete $id\"; done");
    node.vm.sh(format!("{delete}; lvremove -qq -y {GROUP}/filler")).await.map(drop)
}

/// Only the pools, and what was there before, are left.
async fn nothing_left(node: &Node) -> Result<()> {
    let left = node
        .vm
        .sh(format!(
            "lvs --noheadings -o lv_name,lv_tags {GROUP} | grep -E 'quarry[12]/' | grep -v k=thin-pool || true"
        ))
        .await?;
    ensure!(left.trim().is_empty(), "something is left:\n{left}");
    let mounts = node.vm.sh("grep -E ' /var/lib/kubelet/.' /proc/self/mountinfo || true").await?;
    ensure!(mounts.trim().is_empty(), "mounts are left:\n{mounts}");
    Ok(())
}
