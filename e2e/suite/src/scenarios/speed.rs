//! The cost of a volume compared with the plain `lvcreate` that creates it, and of quarry when idle. The
//! figures are for people: only absurd values fail.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Build, Command, Config, Disk, Shape, Vm, build_static};

use crate::csi::Ask;
use crate::node::Node;
use crate::random::Random;
use crate::scenario::{Context, Passed};
use crate::scenarios::processes::started;
use crate::scenarios::steps::offered;

/// How often CreateVolume and `lvcreate` are compared.
const PAIRS: usize = 15;
/// How long quarry is idle.
const IDLE: Duration = Duration::from_secs(60);
/// How often the metrics are scraped meanwhile.
const SCRAPE: Duration = Duration::from_secs(12);
/// Wraps lvm and records its arguments.
const WRAPPER: &str = "#!/bin/sh\nprintf '%s\\n' \"$@\" > /run/arguments-$1\nexec /usr/sbin/lvm \"$@\"\n";

pub async fn run(context: Context) -> Passed {
    // Two processors: on a host, udev and quarry need not wait for each other.
    let machine = Config::new("speed").disk(Disk::new("d1", 1 << 30)).shape(Shape { cpus: 2, ..Shape::default() });
    let mut node = Node::with_vm(Vm::start(machine).await?, 1).await?;
    node.without_comparisons();
    let bare = arguments(&mut node).await.context("the arguments of lvcreate")?;
    node.serve().await?;
    let fresh = resident(&node).await?;
    let pairs = pairs(&node, &bare, context.random()).await?;
    let (scrapes, idle) = idle(&node).await?;
    let used = resident(&node).await?;
    let mut figures = format!(
        "CreateVolume {:.0} ms, bare lvcreate {:.0} ms, median ratio {:.2} of {PAIRS} pairs; {} process(es) a create ({}); \
         {idle} processes in an idle minute with {scrapes} scrapes; resident {fresh:.1} MiB at the start, {used:.1} MiB \
         after (build for tests)",
        pairs.create * 1e3,
        pairs.bare * 1e3,
        pairs.ratio,
        pairs.processes.len(),
        pairs.processes.join(", "),
    );
    if context.settings.soak {
        node.stop().await?;
        let build = Build { package: "quarry", bins: &["quarry"], features: &[], profile: "release" };
        let built = build_static(&build).await?.remove("quarry").context("cargo built no quarry")?;
        node.vm.push(&built, "/usr/local/bin/quarry", 0o755).await?;
        node.serve().await?;
        let release = resident(&node).await?;
        figures.push_str(&format!(", {release:.1} MiB (release build)"));
    }
    Ok(figures)
}

/// The arguments with which quarry calls `lvm` to create a volume named `volume`.
async fn arguments(node: &mut Node) -> Result<Vec<String>> {
    node.vm.write("/opt/shadow/lvm", WRAPPER.as_bytes(), 0o755).await?;
    node.shadow_programs("/opt/shadow");
    node.serve().await?;
    let made = node.csi.create(&Ask::mount("volume", "ext4")).await?;
    let recorded = node.vm.sh("cat /run/arguments-lvcreate").await?;
    node.csi.delete(&made.id).await?;
    node.stop().await?;
    // An empty folder hides nothing.
    node.vm.sh("rm /opt/shadow/lvm").await?;
    let words: Vec<String> = recorded.lines().map(str::to_owned).collect();
    ensure!(words.iter().filter(|word| *word == "volume").count() == 1, "the arguments of lvcreate are {words:?}");
    Ok(words)
}

struct Pairs {
    /// Medians, in seconds.
    create: f64,
    bare: f64,
    /// The median of the pairs' ratios.
    ratio: f64,
    /// What one CreateVolume started.
    processes: Vec<String>,
}

/// Alternates both in random order, so that other load on the machine affects both alike.
async fn pairs(node: &Node, bare: &[String], mut random: Random) -> Result<Pairs> {
    let (mut creates, mut bares, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut processes = Vec::new();
    let (free, _) = node.csi.capacity(&Default::default()).await?;
    for number in 0..PAIRS {
        let name = format!("volume-{number}");
        let by_hand: Vec<String> = std::iter::once("lvm".to_owned())
            .chain(bare.iter().map(|word| if word == "volume" { format!("bare-{number}") } else { word.clone() }))
            .collect();
        let first = random.below(2);
        let (mut create, mut lvcreate) = (0.0, 0.0);
        for turn in 0..2 {
            if turn == first {
                // Changes by hand are detected first: on a host only quarry changes anything.
                let taken = if turn == 0 { 0 } else { Ask::mount(&name, "ext4").required };
                offered(node, free - taken).await?;
                started(node).await?;
                let began = Instant::now();
                node.csi.create(&Ask::mount(&name, "ext4")).await?;
                create = began.elapsed().as_secs_f64();
                let labels = started(node).await?;
                ensure!(labels.iter().any(|label| label == "lvm lvcreate"), "a create started {labels:?}");
                processes.push(labels);
            } else {
                let began = Instant::now();
                node.vm.check(Command::new(by_hand.clone()).env("LC_ALL", "C")).await?;
                lvcreate = began.elapsed().as_secs_f64();
            }
        }
        creates.push(create);
        bares.push(lvcreate);
        ratios.push(create / lvcreate);
        node.vm.sh(format!("lvremove -qq -y vg0/bare-{number} vg0/{name}")).await?;
    }
    processes.sort_by_key(Vec::len);
    let processes = processes.swap_remove(PAIRS / 2);
    let pairs = Pairs { create: median(creates), bare: median(bares), ratio: median(ratios), processes };
    ensure!(pairs.processes == ["lvm lvcreate"], "a create started {:?}", pairs.processes);
    ensure!(pairs.ratio < 4.0, "a create takes {:.1} times as long as lvcreate", pairs.ratio);
    Ok(pairs)
}

/// The median of some figures.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// How many scrapes an idle minute had, and how many processes quarry started in it.
async fn idle(node: &Node) -> Result<(usize, usize)> {
    // The last change is seen, and udev has said all it has to say about it.
    node.vm.sh("udevadm settle").await?;
    node.csi.capacity(&Default::default()).await?;
    let before = node.metric("quarry_commands_total").await?;
    ensure!(before > PAIRS as f64, "the counter of started programs is {before}");
    started(node).await?;
    let began = Instant::now();
    let mut scrapes = 0;
    while began.elapsed() < IDLE {
        tokio::time::sleep(SCRAPE).await;
        let (status, text) = node.http("/metrics").await?;
        ensure!(status == 200 && text.contains("quarry_pool_free_bytes{pool=\"main\"}"), "{status}: {text}");
        scrapes += 1;
    }
    let new = started(node).await?;
    ensure!(new.is_empty(), "an idle quarry started {new:?}");
    let counted = node.metric("quarry_commands_total").await? - before;
    ensure!(counted == 0.0, "an idle quarry counts {counted} programs started");
    Ok((scrapes, new.len()))
}

/// Resident memory, in MiB.
async fn resident(node: &Node) -> Result<f64> {
    node.vm.sh("sleep 2").await?;
    let kib = node.vm.sh(format!("sed -n 's/^VmRSS:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/{}/status", node.pid()?)).await?;
    Ok(kib.trim().parse::<f64>().context("VmRSS")? / 1024.0)
}
