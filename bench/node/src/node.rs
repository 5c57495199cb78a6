//! The virtual node that is measured: its disks, its pools, and Quarry as a host runs it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use quarry_vm::{Build, Command, Config, Disk, Process, Shape, Throttle, Vm, build_static};

use crate::PATIENCE;

/// Names a static quarry for the guest that was built before, to be used as it is.
const GIVEN: &str = "QUARRY_BENCH_BINARY";
/// Where it logs.
pub const LOG: &str = "/var/log/quarry.log";

const GIB: u64 = 1 << 30;
/// The disks of pool `whole`.
pub const WHOLE: usize = 4;
/// Slow disks: what two hard disks do.
const SLOW: Throttle = Throttle { bytes_per_second: 100 << 20, operations_per_second: 200 };

/// The volume groups: their names, and the serial numbers of their disks.
const GROUPS: [(&str, &[&str]); 3] = [("fast", &["f1", "f2"]), ("thin", &["t1"]), ("slow", &["s1"])];

/// The pools, named as their volume groups.
const POOLS: &str = r#"
pools:
  - name: fast
    lvm: {volumeGroup: fast}
  - name: thin
    lvm: {volumeGroup: thin, thinPool: {name: pool, size: 20Gi, create: true}}
  - name: slow
    lvm: {volumeGroup: slow}
  - name: whole
    disk: {select: {byId: ["virtio-w*"]}}
"#;

/// A virtual node on which Quarry runs.
pub struct Node {
    pub vm: Vm,
    quarry: Option<Process>,
}

impl Node {
    /// Starts the guest, creates the volume groups, and starts Quarry.
    pub async fn start() -> Result<Self> {
        let binary = match std::env::var_os(GIVEN) {
            Some(given) => PathBuf::from(given),
            None => {
                let build = Build { package: "quarry", bins: &["quarry"], features: &[], profile: "release" };
                build_static(&build).await?.remove("quarry").context("cargo built no quarry")?
            }
        };
        let mut config = Config::new("bench").shape(Shape { cpus: 2, memory: 1536, ..Shape::default() });
        for serial in ["f1", "f2", "t1"] {
            config = config.disk(Disk::new(serial, 40 * GIB));
        }
        config = config.disk(Disk::new("s1", 8 * GIB).throttle(SLOW));
        for number in 1..=WHOLE {
            config = config.disk(Disk::new(format!("w{number}"), GIB));
        }
        config = config.disk(Disk::new("bare", 4 * GIB));
        let vm = Vm::start(config).await?;
        vm.push(&binary, "/usr/local/bin/quarry", 0o755).await?;
        for (group, serials) in GROUPS {
            let disks: Vec<String> = serials.iter().map(|serial| device(serial)).collect();
            vm.sh(format!("vgcreate -qq {group} {}", disks.join(" "))).await?;
        }
        vm.sh("mkdir -p /etc/quarry /run/quarry /var/lib/kubelet/plugins").await?;
        vm.write("/etc/quarry/pools.yaml", POOLS.as_bytes(), 0o644).await?;
        let mut node = Self { vm, quarry: None };
        node.serve("info").await?;
        Ok(node)
    }

    /// Starts Quarry, or starts it again, with this level of its log.
    pub async fn serve(&mut self, level: &str) -> Result<()> {
        if let Some(mut quarry) = self.quarry.take() {
            quarry.signal(15).await?;
            quarry.wait().await?;
        }
        let script = format!(
            "rm -f /run/quarry/csi.sock; exec quarry standalone --log {level} --config /etc/quarry/pools.yaml \
             --http 127.0.0.1:9808 >>{LOG} 2>&1"
        );
        self.quarry = Some(self.vm.spawn(Command::sh(script).detach().timeout(24 * PATIENCE)).await?);
        let up = "for i in $(seq 300); do quarry csi identity >/dev/null 2>&1 && exit 0; sleep 0.2; done; exit 1";
        self.vm.sh(up).await.context("quarry does not answer in the guest")?;
        Ok(())
    }

    /// Quarry's process ID in the guest.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.quarry.as_ref().context("quarry was not started")?.pid())
    }

    /// Runs a script of the shell, and returns what it printed.
    pub async fn sh(&self, script: impl Into<String>) -> Result<String> {
        self.vm.check(Command::sh(script).timeout(PATIENCE)).await
    }

    /// As [`Node::sh`], without a success code being required: the output says what went wrong.
    pub async fn output(&self, script: impl Into<String>) -> Result<quarry_vm::Output> {
        self.vm.exec(Command::sh(script).timeout(PATIENCE)).await
    }

    /// Waits until a background work of the last calls is over.
    pub async fn settle(&self) -> Result<()> {
        self.sh("udevadm settle; sync").await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(())
    }
}

/// The path of a disk in the guest.
pub fn device(serial: &str) -> String {
    format!("/dev/disk/by-id/virtio-{serial}")
}
