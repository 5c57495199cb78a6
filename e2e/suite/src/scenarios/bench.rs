//! `quarry bench` with real LVM beside somebody else's logical volume: it measures both systems, and removes only what it
//! created, also after an interruption. The times do not matter here.

use std::time::Duration;

use anyhow::{Result, ensure};
use quarry_vm::Command;

use crate::node::{BINARY, Node, SOCKET};
use crate::scenario::{Context, Passed};

/// Somebody else's logical volume: its name and its tag look like those of a run.
const FOREIGN: &str = "bench-0-floor-1-1-0000";
/// How long a run may take in an emulated guest.
const PATIENCE: Duration = Duration::from_secs(400);

pub async fn run(_: Context) -> Passed {
    let node = Node::start("bench", &[1 << 30, 1 << 30]).await?;
    node.vm
        .sh(format!(
            "lvcreate -qq -y -L 16M -n {FOREIGN} --addtag quarry-bench-0 vg0 && \
             dd if=/dev/urandom of=/dev/vg0/{FOREIGN} bs=1M count=16 oflag=direct conv=fsync status=none"
        ))
        .await?;
    let foreign = content(&node).await?;

    let measured = Command::sh(bench("--volumes 2 --concurrency 1,2 --json /run/bench.json --plot /run/plots"));
    let output = node.vm.exec(measured.timeout(PATIENCE)).await?;
    let text = output.text();
    ensure!(output.exit.success(), "{}: {text}\n{}", output.exit, String::from_utf8_lossy(&output.stderr));
    for phase in ["create", "stage", "publish", "expand", "snapshot", "restore", "restage", "delete"] {
        let rows = text.lines().filter(|line| line.split_whitespace().nth(1) == Some(phase)).count();
        // Two numbers at once, two systems, and the ratios.
        ensure!(rows >= 4, "{rows} rows of {phase}:\n{text}");
    }
    node.vm.sh("test -s /run/bench.json && test -s /run/plots/time.svg && test -s /run/plots/concurrency.svg").await?;
    only_foreign(&node, &foreign).await?;

    // Interrupted while volumes of both systems exist: it removes them, and says that it is not complete.
    let script = format!(
        "{} & bench=$!; while ! lvs --noheadings -o lv_name vg0 | grep -q 'bench-.*floor.*0002'; do sleep 0.2; done; \
         kill -INT $bench; wait $bench",
        bench("--volumes 3 --concurrency 1 --no-warm-up")
    );
    let output = node.vm.exec(Command::sh(script).timeout(PATIENCE)).await?;
    ensure!(!output.exit.success(), "it was interrupted, and ended with success: {}", output.text());
    only_foreign(&node, &foreign).await?;
    node.vm.sh(format!("lvremove -qq -y vg0/{FOREIGN}")).await?;
    node.expect_empty().await?;
    Ok("both systems measured once, and interrupted once; the foreign logical volume is unchanged".to_owned())
}

/// The command, with small volumes.
fn bench(more: &str) -> String {
    format!(
        "{BINARY} bench --controller unix://{SOCKET} --param pool=main --fs ext4 --size 32Mi --rounds 1 --floor lvm \
         --volume-group vg0 {more} 2>/run/bench.err"
    )
}

async fn content(node: &Node) -> Result<String> {
    node.vm.sh(format!("sha256sum < /dev/vg0/{FOREIGN}; lvs --noheadings -o lv_uuid,lv_tags vg0/{FOREIGN}")).await
}

/// Only the foreign logical volume is there, and it is unchanged.
async fn only_foreign(node: &Node, before: &str) -> Result<()> {
    let names = node.vm.sh("lvs -a --noheadings -o lv_name vg0; cat /run/bench.err >&2").await?;
    ensure!(names.split_whitespace().eq([FOREIGN]), "logical volumes after the run: {names}");
    let now = content(node).await?;
    ensure!(now == before, "the foreign logical volume was {before}, and is {now}");
    Ok(())
}
