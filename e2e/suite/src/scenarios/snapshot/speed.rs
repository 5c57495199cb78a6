//! The time of a copy, compared with `dd` of the same bytes in the same run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Bus, Command, Config, Disk, Shape, Vm};

use crate::csi::{Ask, MIB, Made, retry};
use crate::node::{GROUP, Node};
use crate::scenario::{Context, Passed};
use crate::scenarios::expand::laid_out;
use crate::scenarios::speed::median;
use crate::scenarios::steps::{close, open, until};

/// The difference between two sizes shows the time of the bytes alone, without that of lvm.
const SIZES: [i64; 2] = [64 * MIB, 832 * MIB];
/// Outside a soak. So few bytes, copied once beside other scenarios, say nothing about the speed.
const SMALL: [i64; 2] = [64 * MIB, 320 * MIB];
/// How long one command may take in an emulated guest.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often each size is copied by each in a soak.
const ROUNDS: usize = 3;
/// A median ratio that is absurd, also on an emulated processor that is busy with other guests.
const ABSURD: f64 = 3.0;
/// What Quarry adds to a volume on a whole disk: docs/disk-format.md.
const CLAIM: i64 = 3 * MIB;
const KINDS: [&str; 5] = ["linear", "striped", "raid1", "thin", "whole disk"];
/// How long the creation of the thin pool may take.
const CREATED: Duration = Duration::from_secs(120);

/// What a source contains.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Filling {
    /// Random bytes everywhere.
    Full,
    /// One MiB in eight.
    Eighth,
}

/// Medians, in seconds per GiB.
struct Times {
    quarry: f64,
    dd: f64,
}

pub async fn run(context: Context) -> Passed {
    let soak = context.settings.soak;
    let sizes = if soak { SIZES } else { SMALL };
    let mut config = Config::new("copy-speed").disk(Disk::new("d1", 6 << 30)).disk(Disk::new("d2", 6 << 30));
    // Two processors: reading and writing need not wait for each other.
    config = config.shape(Shape { cpus: 2, ..Shape::default() });
    for (index, size) in sizes.into_iter().chain(sizes).enumerate() {
        config = config.disk(Disk::new(format!("whole{index}"), (size + CLAIM).unsigned_abs()).bus(Bus::Scsi));
    }
    let mut node = Node::with_vm(Vm::start(config).await?, 2).await?;
    node.configure(&format!(
        "pools:\n  - name: main\n    lvm: {{volumeGroup: {GROUP}}}\n  - name: thin\n    lvm: {{volumeGroup: {GROUP}, \
         thinPool: {{name: thin, create: true, size: 2Gi}}}}\n  - name: whole\n    \
         disk: {{select: {{transports: [scsi]}}, wipe: none}}\n"
    ))
    .await?;
    node.serve().await?;
    let thin = ask("x", "thin", MIB).parameters;
    until("the thin pool", CREATED, || async { Ok(node.csi.capacity(&thin).await?.0 > 0) }).await?;

    let pairs: Vec<_> = KINDS.iter().flat_map(|source| KINDS.iter().map(move |target| (*source, *target))).collect();
    // A slice of a soak has its part of them. Otherwise one shows that the clone has the bytes.
    let chosen = if soak { pairs.len() } else { 1 };
    let fillings = if soak { &[Filling::Full, Filling::Eighth][..] } else { &[Filling::Full] };
    let mut figures = Vec::new();
    for index in context.random().sample(chosen, pairs.len()) {
        if soak && !context.settings.slice.has(index) {
            continue;
        }
        let (source, target) = pairs[index];
        for filling in fillings {
            let what = format!("{source} to {target}, {filling:?}");
            let rounds = if soak { ROUNDS } else { 1 };
            let times =
                compare(&node, source, target, *filling, (sizes, rounds)).await.with_context(|| what.clone())?;
            if !soak {
                figures.push(format!("{what}: the clone has the bytes of its source"));
                continue;
            }
            let Times { quarry, dd } = times;
            let ratio = quarry / dd;
            context.say(format_args!("{what}: {quarry:.2} s per GiB, dd {dd:.2} s per GiB, ratio {ratio:.2}"));
            ensure!(ratio < ABSURD, "{what} takes {ratio:.2} times as long as dd");
            figures.push(format!("{what}: {ratio:.2} times as long as dd"));
        }
    }
    Ok(figures.join("; "))
}

fn ask(name: &str, kind: &str, size: i64) -> Ask {
    let ask = Ask::block(name).size(size);
    match kind {
        "whole disk" => ask.parameter("pool", "whole"),
        "thin" => ask.parameter("pool", "thin"),
        layout => laid_out(ask, layout),
    }
}

async fn compare(
    node: &Node,
    source: &str,
    target: &str,
    filling: Filling,
    (sizes, rounds): ([i64; 2], usize),
) -> Result<Times> {
    let mut medians = BTreeMap::new();
    for size in sizes {
        let (mut quarry, mut dd) = (Vec::new(), Vec::new());
        let ask = ask("pvc-source", source, size);
        let made = retry(|| node.csi.create(&ask)).await?;
        ensure!(made.size == size, "{} bytes instead of {size}", made.size);
        open(node, &made).await?;
        fill(node, &made, filling).await?;
        for _ in 0..rounds {
            let (by_quarry, by_dd) = round(node, &made, target).await?;
            quarry.push(by_quarry);
            dd.push(by_dd);
        }
        close(node, &made).await?;
        remove(node, &made).await?;
        medians.insert(size, (median(quarry), median(dd)));
    }
    let [small, large] = sizes.map(|size| medians[&size]);
    let per_gib = (1 << 30) as f64 / (sizes[1] - sizes[0]) as f64;
    Ok(Times { quarry: (large.0 - small.0) * per_gib, dd: (large.1 - small.1) * per_gib })
}

/// Copies the published volume once with each, and returns the seconds.
async fn round(node: &Node, source: &Made, target: &str) -> Result<(f64, f64)> {
    let offline = source.ask.parameters.get("pool").is_some_and(|pool| pool == "whole");
    if offline {
        close(node, source).await?;
    }
    let ask = ask("pvc-clone", target, source.size).filled_from_volume(source);
    let began = Instant::now();
    let clone = retry(|| node.csi.create(&ask)).await?;
    let quarry = began.elapsed().as_secs_f64();
    if offline {
        open(node, source).await?;
    }
    open(node, &clone).await?;
    let (from, to) = (source.target(), clone.target());
    let compare = format!("cmp -n {} '{from}' '{to}'", source.size);
    node.vm.check(Command::sh(compare).timeout(PATIENCE)).await.context("the clone has other bytes")?;
    // A thin pool has no blocks for the clone before it is written to: neither for Quarry nor for dd.
    let empty = if target == "thin" { format!("blkdiscard '{to}'; ") } else { String::new() };
    let printed = node
        .vm
        .check(Command::sh(format!(
            "{empty}sync; began=$(date +%s%N); dd if='{from}' of='{to}' bs=4M iflag=direct oflag=direct conv=notrunc,fsync \
             status=none; echo $(($(date +%s%N) - began))"
        )).timeout(PATIENCE))
        .await?;
    let dd = printed.trim().parse::<f64>().context("the time of dd")? / 1e9;
    close(node, &clone).await?;
    remove(node, &clone).await?;
    Ok((quarry, dd))
}

/// Deletes a volume, and waits until a disk of it is free again.
async fn remove(node: &Node, made: &Made) -> Result<()> {
    retry(|| node.csi.delete(&made.id)).await?;
    let gone = || async { Ok(!node.found().await?.iter().any(|found| found.text.contains(&made.ask.name))) };
    until("its space is free again", Duration::from_secs(60), gone).await.map(drop)
}

async fn fill(node: &Node, made: &Made, filling: Filling) -> Result<()> {
    let (size, target) = (made.size / MIB, made.target());
    let script = match filling {
        Filling::Full => format!(
            "for n in $(seq {parts}); do cat /run/random; done | dd of='{target}' bs=4M iflag=fullblock oflag=direct \
             conv=notrunc status=none",
            parts = size / 16
        ),
        Filling::Eighth => format!(
            "for at in $(seq 0 8 $(({size} - 1))); do dd if=/run/random of='{target}' bs=1M count=1 seek=$at oflag=direct \
             conv=notrunc status=none; done"
        ),
    };
    let script = format!("[ -e /run/random ] || head -c 16M /dev/urandom > /run/random; {script}");
    node.vm.check(Command::sh(script).timeout(PATIENCE)).await.context("filling the source").map(drop)
}
