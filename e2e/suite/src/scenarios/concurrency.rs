//! Many concurrent callers: every volume exists once, and every caller gets an answer.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use quarry_vm::{Config, Disk, Shape, Vm};
use tonic::{Code, Status};

use crate::csi::{Ask, MIB, Made, is_passing, retry};
use crate::node::{GROUP, Node};
use crate::random::Random;
use crate::scenario::{Context, Passed};

const GIB: u64 = 1 << 30;
/// How many volumes are created and deleted at a time.
const MANY: usize = 50;
/// How many callers ask for the same name.
const CALLERS: usize = 10;

pub async fn run(context: Context) -> Passed {
    let mut random = context.random();
    // Two processors, unlike in other scenarios: concurrent calls really run in parallel.
    let machine = Config::new("concurrency").disk(Disk::new("d1", GIB)).shape(Shape { cpus: 2, ..Shape::default() });
    let mut node = Node::with_vm(Vm::start(machine).await?, 1).await?;
    node.serve().await?;
    many(&context, &node).await?;
    same_name(&node).await?;
    let races = if context.settings.soak { 40 } else { 4 };
    let existed = create_against_delete(&node, &mut random, races).await?;
    context.say("deadlines");
    let late = deadlines(&node, &mut random).await?;
    node.expect_empty().await?;
    Ok(format!(
        "{MANY} creates and deletes at once, one name from {CALLERS} callers, {races} races of create and delete \
         ({existed} ended with the volume), {late} callers too late"
    ))
}

/// [`MANY`] creates at a time, then as many deletes.
async fn many(context: &Context, node: &Node) -> Result<()> {
    let (free, _) = node.csi.capacity(&Default::default()).await?;
    let asks: Vec<Ask> = (0..MANY).map(|index| Ask::mount(&format!("many-{index}"), "ext4").size(16 * MIB)).collect();
    let made = join_all(asks.iter().map(|ask| retry(|| node.csi.create(ask)))).await;
    let made: Vec<Made> = made.into_iter().collect::<Result<_, Status>>().context("one of many creates")?;
    context.say(format_args!("{MANY} made"));
    let ids: BTreeSet<&str> = made.iter().map(|made| made.id.as_str()).collect();
    ensure!(ids.len() == MANY, "{} identifiers for {MANY} volumes", ids.len());
    let listed: BTreeSet<String> = node.csi.list().await?.into_iter().map(|volume| volume.volume_id).collect();
    ensure!(ids.iter().copied().eq(listed.iter().map(String::as_str)), "made {ids:?}, listed {listed:?}");
    let lines = node.contents().await?;
    ensure!(lines.lines().count() == MANY, "{MANY} volumes were asked for; lvm has\n{lines}");
    // Every byte is accounted for: nothing was allocated twice and dropped.
    let (left, _) = node.csi.capacity(&Default::default()).await?;
    let used: i64 = made.iter().map(|made| made.size).sum();
    ensure!(free - left == used, "{used} bytes were allocated, and the free space fell from {free} to {left}");

    let deleted = join_all(made.iter().map(|made| retry(|| node.csi.delete(&made.id)))).await;
    for (made, result) in made.iter().zip(deleted) {
        result.with_context(|| format!("deleting {} among many", made.id))?;
    }
    let (left, _) = node.csi.capacity(&Default::default()).await?;
    ensure!(left == free, "{free} bytes were free; after all were deleted, {left} are");
    node.expect_empty().await
}

/// One name from several callers: all of them end with the same, only volume.
async fn same_name(node: &Node) -> Result<()> {
    let ask = Ask::mount("same", "ext4");
    let first = join_all((0..CALLERS).map(|_| node.csi.create(&ask))).await;
    for result in &first {
        if let Err(status) = result {
            ensure!(is_passing(status), "a caller of a name that others ask for got {status:?}");
        }
    }
    let all = join_all((0..CALLERS).map(|_| retry(|| node.csi.create(&ask)))).await;
    let mut ids = BTreeSet::new();
    for result in first.into_iter().filter(Result::is_ok).chain(all) {
        ids.insert(result.context("asking again for the same name")?.id);
    }
    ensure!(ids.len() == 1, "one name gave several volumes: {ids:?}");
    expect_one(node, "same").await?;
    // All callers delete it, too.
    let id = ids.pop_first().unwrap_or_default();
    for result in join_all((0..CALLERS).map(|_| retry(|| node.csi.delete(&id)))).await {
        result.context("deleting what others delete")?;
    }
    node.expect_empty().await
}

/// Create and delete of one name at the same time. Whichever is last, there is one complete volume or none.
/// Returns how often there was one.
async fn create_against_delete(node: &Node, random: &mut Random, races: usize) -> Result<usize> {
    let mut existed = 0;
    for race in 0..races {
        let ask = if race % 2 == 0 { Ask::mount("race", "ext4") } else { Ask::block("race").size(8 * MIB) };
        let made = retry(|| node.csi.create(&ask)).await?;
        // Each side in turn gets a head start, so that every order occurs.
        let (before_delete, before_create) = (random.below(2_000), random.below(2_000));
        let delete = async {
            tokio::time::sleep(Duration::from_millis(before_delete)).await;
            retry(|| node.csi.delete(&made.id)).await
        };
        let create = async {
            tokio::time::sleep(Duration::from_millis(before_create)).await;
            retry(|| node.csi.create(&ask)).await
        };
        let what = || format!("race {race}: delete after {before_delete} ms, create after {before_create} ms");
        let (deleted, created) = tokio::join!(delete, create);
        deleted.with_context(what)?;
        created.with_context(what)?;
        let left = node.contents().await?;
        ensure!(left.lines().count() <= 1, "{}: more than one volume:\n{left}", what());
        existed += left.lines().count();
        let again = retry(|| node.csi.create(&ask)).await.with_context(what)?;
        expect_one(node, "race").await.with_context(what)?;
        retry(|| node.csi.delete(&again.id)).await.with_context(what)?;
        node.expect_empty().await.with_context(what)?;
    }
    Ok(existed)
}

/// Callers that give up before the volume exists, by their own deadline or by disconnecting. Returns how many
/// did.
async fn deadlines(node: &Node, random: &mut Random) -> Result<usize> {
    let mut late = 0;
    for (index, patience) in [1, 20, 100, 300, 600].into_iter().enumerate() {
        let patience = Duration::from_millis(patience + random.below(20));
        let name = format!("late-{index}");
        let ask = Ask::mount(&name, "ext4");
        let answer = if index % 2 == 0 {
            node.csi.create_within(&ask, patience).await.map(drop)
        } else {
            // It goes away without a word.
            let gone = tokio::time::timeout(patience, node.csi.create(&ask)).await;
            gone.unwrap_or_else(|_| Err(Status::deadline_exceeded("gone"))).map(drop)
        };
        if let Err(status) = answer {
            late += 1;
            let passing = [Code::DeadlineExceeded, Code::Aborted, Code::Cancelled];
            ensure!(passing.contains(&status.code()), "a caller that waits {patience:?} got {status:?}");
        }
        let made =
            retry(|| node.csi.create(&ask)).await.with_context(|| format!("after a caller waited {patience:?}"))?;
        expect_one(node, &name).await?;
        retry(|| node.csi.delete(&made.id)).await?;
        node.expect_empty().await?;
    }
    // No disk creates and wipes a volume in a millisecond.
    ensure!(late > 0, "no caller was too late: the deadlines prove nothing");
    Ok(late)
}

/// Fails unless the volume group holds exactly this volume.
async fn expect_one(node: &Node, name: &str) -> Result<()> {
    let lines = node.contents().await?;
    let one = lines.lines().count() == 1 && lines.starts_with(&format!("{name} "));
    ensure!(one, "{GROUP} should hold the volume {name} and nothing else:\n{lines}");
    let listed = node.csi.list().await?;
    ensure!(listed.len() == 1, "{name} is listed as {listed:?}");
    Ok(())
}
