//! Reads and writes of a volume, of a bare logical volume and of another disk of the same kind, by fio.
#![allow(clippy::disallowed_types)] // quarry-exec belongs to the product.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::node::{Node, device};
use crate::{median, say};

/// Where fio and its libraries are in the guest.
const FIO: &str = "/opt/fio";
/// The size of what is read and written, and how long each measurement takes.
const SIZE: &str = "1Gi";
const SECONDS: u32 = 8;

/// What fio does: the name of the row, its options, and whether bytes or operations count.
const JOBS: [(&str, &str, &str); 4] = [
    ("random reads of 4 KiB, 16 at once, operations/s", "--rw=randread --bs=4k --iodepth=16", "iops"),
    ("random writes of 4 KiB, 16 at once, operations/s", "--rw=randwrite --bs=4k --iodepth=16", "iops"),
    ("sequential reads of 1 MiB, MiB/s", "--rw=read --bs=1M --iodepth=4", "bw"),
    ("sequential writes of 1 MiB, MiB/s", "--rw=write --bs=1M --iodepth=4", "bw"),
];

/// One kind of access: the medians on a disk that has no volumes, on the logical volume, and on the volume.
pub struct Access {
    pub name: &'static str,
    pub disk: f64,
    pub logical: f64,
    pub volume: f64,
}

/// Takes turns between the three, `rounds` times. Nothing if this machine has no fio.
pub async fn measure(node: &Node, rounds: usize) -> Result<Vec<Access>> {
    if !push(node).await? {
        say("fio is not installed here: the data path is left out");
        return Ok(Vec::new());
    }
    let paths = "/var/lib/kubelet/plugins/fio";
    let made = node
        .sh(format!(
            "set -e; mkdir -p {paths}/stage {paths}/pod; lvcreate -qq -y -L 1G -n by-hand fast; \
             quarry csi -o json create fio --size {SIZE} --param pool=fast --block"
        ))
        .await?;
    let made: Value = serde_json::from_str(&made).context("the answer of quarry csi create")?;
    let id = made["volume_id"].as_str().context("the answer of quarry csi create has no volume_id")?;
    node.sh(format!(
        "set -e; quarry csi stage --block --staging-path {paths}/stage {id} >/dev/null; \
         quarry csi publish --block --staging-path {paths}/stage --target-path {paths}/pod/device {id} >/dev/null"
    ))
    .await?;
    let targets = [device("bare"), "/dev/fast/by-hand".to_owned(), format!("{paths}/pod/device")];
    for target in &targets {
        // Sparse files of the host get their space before the first measurement.
        node.sh(format!("dd if=/dev/urandom of={target} bs=1M count=1024 oflag=direct conv=fsync status=none")).await?;
    }
    let mut accesses = Vec::new();
    for (name, options, figure) in JOBS {
        let mut figures = [vec![], vec![], vec![]];
        for round in 0..rounds {
            for turn in 0..targets.len() {
                // Each of them is the first one once.
                let which = (turn + round) % targets.len();
                let (Some(target), Some(figures)) = (targets.get(which), figures.get_mut(which)) else { continue };
                figures.push(fio(node, target, options, figure).await.with_context(|| format!("fio on {target}"))?);
            }
        }
        let [disk, logical, volume] = figures.map(median);
        accesses.push(Access { name, disk, logical, volume });
    }
    node.sh(format!(
        "set -e; quarry csi unpublish --target-path {paths}/pod/device {id} >/dev/null; \
         quarry csi unstage --staging-path {paths}/stage {id} >/dev/null; quarry csi delete {id} >/dev/null; \
         lvremove -qq -y fast/by-hand"
    ))
    .await?;
    Ok(accesses)
}

async fn fio(node: &Node, target: &str, options: &str, figure: &str) -> Result<f64> {
    let script = format!(
        "cd {FIO} && ./ld.so --library-path {FIO} ./fio --output-format=json --name=bench --filename={target} --size=1G \
         --direct=1 --ioengine=libaio --time_based --runtime={SECONDS} {options}"
    );
    let output = node.sh(script).await?;
    let json = output.find('{').and_then(|begin| output.get(begin..)).unwrap_or_default();
    let report: Value = serde_json::from_str(json).with_context(|| format!("fio says {output:?}"))?;
    let job = &report["jobs"][0];
    let sum = |side: &str| job[side][figure].as_f64().unwrap_or_default();
    let found = sum("read") + sum("write");
    ensure!(found > 0.0, "fio measured nothing: {output}");
    // fio counts KiB.
    Ok(if figure == "bw" { found / 1024.0 } else { found })
}

/// Copies this machine's fio into the guest, with its libraries and its loader: the guest's may be older.
async fn push(node: &Node) -> Result<bool> {
    let Some(fio) = ["/usr/bin/fio", "/usr/local/bin/fio"].into_iter().map(Path::new).find(|path| path.exists()) else {
        return Ok(false);
    };
    let listed = tokio::process::Command::new("ldd").arg(fio).output().await.context("cannot run ldd")?;
    ensure!(listed.status.success(), "ldd {} failed", fio.display());
    node.vm.push(fio, &format!("{FIO}/fio"), 0o755).await?;
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        // `libaio.so.1 => /lib/…/libaio.so.1 (0x…)`, or the loader alone.
        let path = line.split_whitespace().find(|word| word.starts_with('/'));
        let Some(path) = path.map(Path::new) else { continue };
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let name = if name.starts_with("ld-linux") { "ld.so" } else { name };
        node.vm.push(path, &format!("{FIO}/{name}"), 0o755).await?;
    }
    Ok(true)
}
