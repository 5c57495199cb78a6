//! A virtual node with the real quarry on it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use quarry_vm::{Build, Command, Config, Disk, Guest, Process, Vm, build_static};
use tokio::sync::OnceCell;

use crate::csi::{Csi, Made};
use crate::notes::Notes;
use crate::storage::{Group, Storage, ThinPool, WholeDisks};

pub use crate::storage::GROUP;

/// Where quarry serves CSI in the guest.
pub const SOCKET: &str = "/run/quarry/csi.sock";
/// What quarry keeps over a boot.
pub const STATE: &str = "/var/lib/quarry";
/// Where fault points are steered; see crates/fault.
pub const FAULTS: &str = "/run/quarry-faults";
/// The path of the program in a guest.
pub const BINARY: &str = "/usr/local/bin/quarry";
/// The path in a guest of the script that shows a program what its container would show.
const IN_POD: &str = "/usr/local/bin/in-pod";
/// What a node's quarry logs.
pub const LOG: &str = "/var/log/quarry.log";
/// The folder of a cluster node's certificate, like a Secret that kubelet mounted.
pub const TLS: &str = "/etc/quarry/tls";
/// The port of a node's agent.
pub const AGENT: u16 = 9810;
/// How long quarry may take to start in an emulated guest.
const START: Duration = Duration::from_secs(60);

/// Names a program for the guests that was built before (static, with fault points), to be used as it is.
const GIVEN: &str = "QUARRY_E2E_BINARY";

static BUILT: OnceCell<PathBuf> = OnceCell::const_new();

/// Builds the quarry that runs in the guests, with fault points.
pub async fn prepare() -> Result<()> {
    binary().await.map(drop)
}

/// The program for the guests.
pub async fn binary() -> Result<&'static Path> {
    let path = BUILT
        .get_or_try_init(|| async {
            if let Some(given) = std::env::var_os(GIVEN) {
                return Ok(PathBuf::from(given));
            }
            println!("building quarry for the guests …");
            let build = Build { package: "quarry", bins: &["quarry"], features: &["fault-points"], profile: "e2e" };
            build_static(&build).await?.remove("quarry").context("cargo built no quarry")
        })
        .await?;
    Ok(path)
}

/// A virtual node with the real quarry on it.
pub struct Node {
    // First, so that it is dropped before the machine, whose console it reads.
    notes: Option<Notes>,
    pub vm: Vm,
    pub csi: Csi,
    /// The storage of pool `main`.
    pub storage: &'static dyn Storage,
    /// Foreign content of the storage: see [`Node::ignore_existing_content`].
    pub foreign: Vec<String>,
    quarry: Option<Process>,
    /// The arguments of quarry besides the defaults; see [`Node::configure`].
    path: String,
    /// The subcommand, with its own arguments.
    role: String,
    /// A prefix of quarry's command line, such as `unshare`.
    starter: &'static str,
    /// More arguments of quarry.
    arguments: &'static str,
    /// What quarry logs.
    level: &'static str,
}

impl Node {
    /// A node whose disks `d1`, `d2`… of these sizes (bytes) make up the volume group [`GROUP`], the storage of pool
    /// `main`. Quarry does not run yet.
    pub async fn bare(name: &str, sizes: &[u64]) -> Result<Self> {
        let mut config = Config::new(name);
        for (index, size) in sizes.iter().enumerate() {
            config = config.disk(Disk::new(format!("d{}", index + 1), *size));
        }
        Self::with_vm(Vm::start(config).await?, sizes.len()).await
    }

    /// As [`Node::bare`], on a machine whose first `disks` disks are named `d1`, `d2`…
    pub async fn with_vm(vm: Vm, disks: usize) -> Result<Self> {
        let devices: Vec<String> = (1..=disks).map(|index| device(&format!("d{index}"))).collect();
        Self::on(vm, &Group, &devices).await
    }

    /// A node whose pool `main` allocates these disks, whole. Quarry does not run yet.
    pub async fn on_disks(name: &str, disks: Vec<Disk>) -> Result<Self> {
        let config = disks.into_iter().fold(Config::new(name), Config::disk);
        Self::on(Vm::start(config).await?, &WholeDisks, &[]).await
    }

    /// A node with these disks, which hold nothing, for a pool `main` that makes the volume group [`GROUP`] of them. Its
    /// configuration is not there yet, and quarry does not run yet.
    pub async fn on_blank_disks(name: &str, disks: Vec<Disk>) -> Result<Self> {
        let config = disks.into_iter().fold(Config::new(name), Config::disk);
        Self::on(Vm::start(config).await?, &Group, &[]).await
    }

    /// A node whose pool `main` is a thin pool, in a volume group on disks `d1`, `d2`… of these sizes (bytes), with quarry
    /// serving.
    pub async fn on_thin_pool(name: &str, sizes: &[u64]) -> Result<Self> {
        let disks: Vec<Disk> =
            sizes.iter().enumerate().map(|(index, size)| Disk::new(format!("d{}", index + 1), *size)).collect();
        let devices: Vec<String> = disks.iter().map(Disk::path).collect();
        let config = disks.into_iter().fold(Config::new(name), Config::disk);
        let mut node = Self::on(Vm::start(config).await?, &ThinPool, &devices).await?;
        node.serve().await?;
        Ok(node)
    }

    /// A node with this storage, created on these devices. Quarry does not run yet.
    async fn on(vm: Vm, storage: &'static dyn Storage, devices: &[String]) -> Result<Self> {
        vm.push(binary().await?, BINARY, 0o755).await?;
        vm.sh(storage.make(devices)).await?;
        let csi = Csi::new(vm.guest(), SOCKET);
        let (path, role) = (String::new(), "standalone".to_owned());
        let notes = Some(Notes::on(vm.console_log()));
        let node = Self {
            notes,
            vm,
            csi,
            storage,
            foreign: Vec::new(),
            quarry: None,
            path,
            role,
            starter: "",
            arguments: "",
            level: "debug",
        };
        node.configure(&format!("pools:\n  - name: main\n    {}\n", storage.section())).await?;
        Ok(node)
    }

    /// A node as [`Node::bare`] with quarry serving.
    pub async fn start(name: &str, sizes: &[u64]) -> Result<Self> {
        let mut node = Self::bare(name, sizes).await?;
        node.serve().await?;
        Ok(node)
    }

    /// Replaces the configuration of the pools; takes effect at the next start of quarry.
    pub async fn configure(&self, yaml: &str) -> Result<()> {
        self.vm.sh("mkdir -p /etc/quarry").await?;
        self.vm.write("/etc/quarry/pools.yaml", yaml.as_bytes(), 0o644).await
    }

    /// Keeps volumes active while they are unstaged, from the next start on: for tests that read their
    /// devices then.
    pub async fn keep_active(&self) -> Result<()> {
        let section = format!("lvm: {{volumeGroup: {GROUP}, deactivate: false}}");
        self.configure(&format!("pools:\n  - name: main\n    {section}\n")).await
    }

    /// Puts a folder in front of quarry's PATH, from its next start on: programs in it hide the real ones.
    pub fn shadow_programs(&mut self, folder: &str) {
        self.path = format!("{folder}:");
    }

    /// Makes quarry the first process of a container, from its next start on: when it exits, all its children
    /// are killed.
    pub fn first_process(&mut self, first: bool) {
        self.starter = if first { "unshare --pid --fork" } else { "" };
    }

    /// Runs quarry and what it starts in the cgroup `/sys/fs/cgroup/quarry`, from its next start on.
    pub fn in_cgroup(&mut self) {
        self.starter = "sh -c 'echo 0 >/sys/fs/cgroup/quarry/cgroup.procs && exec \"$0\" \"$@\"'";
    }

    /// Runs quarry with what the chart shows to its container of `/run/udev`, from its next start on: udev's
    /// database, and no socket of udevd. Mounts are the host's own.
    pub async fn in_pod(&mut self) -> Result<()> {
        self.vm.write(IN_POD, include_bytes!("in-pod.sh"), 0o755).await?;
        self.starter = "unshare --mount --propagation unchanged in-pod";
        Ok(())
    }

    /// Makes the node one of a cluster, from its next start on: no controller of its own, but an agent for others.
    pub fn in_cluster(&mut self) {
        self.role = format!("node --listen 0.0.0.0:{AGENT} --tls {TLS}");
    }

    /// Gives quarry more arguments, from its next start on.
    pub fn with_arguments(&mut self, arguments: &'static str) {
        self.arguments = arguments;
    }

    /// From the next start on, quarry and the crates that it uses log everything.
    pub fn log_everything(&mut self) {
        self.level = "trace";
    }

    /// From the next start on, quarry does not compare what it reads without lvm with lvm's report: for tests that count
    /// what it starts.
    pub fn without_comparisons(&mut self) {
        self.notes = None;
    }

    /// Starts quarry and waits until it serves. Killing its process group spares its children, as `kill -9 PID` does.
    pub async fn serve(&mut self) -> Result<()> {
        let notes = if self.notes.is_some() { "ln -sf /dev/console" } else { "rm -f" };
        let script = format!(
            "mkdir -p /run/quarry {FAULTS} && {notes} {FAULTS}/notes && export PATH={}$PATH QUARRY_FAULT_DIR={FAULTS} && \
             exec {} {BINARY} --log {} {} --config /etc/quarry/pools.yaml --endpoint unix://{SOCKET} --state {STATE} \
             --http 127.0.0.1:9808 {} >>{LOG} 2>&1",
            self.path, self.starter, self.level, self.role, self.arguments
        );
        self.quarry = Some(self.vm.spawn(Command::sh(script).detach().timeout(Duration::from_secs(24 * 3600))).await?);
        if let Err(error) = serving(&self.csi).await {
            bail!("{error:#}\n{}", self.log_tail().await);
        }
        Ok(())
    }

    /// quarry's process id in the guest.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.quarry.as_ref().context("quarry was not started")?.pid())
    }

    /// `kill -9` of only quarry: its children keep running.
    pub async fn kill(&mut self) -> Result<()> {
        let mut quarry = self.quarry.take().context("quarry was not started")?;
        quarry.signal(9).await?;
        quarry.wait().await.map(drop)
    }

    /// `kill -9` of quarry and of everything that it started.
    pub async fn kill_tree(&mut self) -> Result<()> {
        self.kill_tree_when("true").await
    }

    /// As [`Node::kill_tree`], once a shell script in the guest has finished.
    pub async fn kill_tree_when(&mut self, script: &str) -> Result<()> {
        let pid = self.pid()?;
        // Stopped first, so that it starts nothing while its children are looked for.
        let script = format!(
            "{script}; kill -STOP {pid} 2>/dev/null || true; tree() {{ for c in $(cat /proc/$1/task/*/children \
             2>/dev/null); do tree $c; echo $c; done; }}; kill -9 $(tree {pid}) {pid} 2>/dev/null || true"
        );
        self.vm.sh(script).await?;
        let mut quarry = self.quarry.take().context("quarry was not started")?;
        quarry.wait().await.map(drop)
    }

    /// Waits until quarry has exited by itself, for example at a fault point.
    pub async fn wait_for_end(&mut self) -> Result<()> {
        let mut quarry = self.quarry.take().context("quarry was not started")?;
        tokio::time::timeout(START, quarry.wait()).await.context("quarry did not end")?.map(drop)
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(quarry) = &mut self.quarry {
            quarry.signal(15).await?;
        }
        self.wait_for_end().await
    }

    /// Sends SIGTERM and waits for the exit: returns how long it took, and the exit status.
    pub async fn terminate(&mut self) -> Result<(Duration, quarry_vm::Exit)> {
        let mut quarry = self.quarry.take().context("quarry was not started")?;
        let began = Instant::now();
        quarry.signal(15).await?;
        let output = tokio::time::timeout(2 * START, quarry.wait()).await.context("quarry did not end")??;
        Ok((began.elapsed(), output.exit))
    }

    /// The response of quarry's HTTP port: the status and the text.
    pub async fn http(&self, path: &str) -> Result<(u16, String)> {
        http(&self.vm, 9808, path).await
    }

    /// The sum of the samples of `/metrics` whose lines start with this.
    pub async fn metric(&self, begins: &str) -> Result<f64> {
        metric(&self.vm, 9808, begins).await
    }

    /// The programs that quarry started since it began, and how often: `lvm lvcreate`, `mkfs.ext4`…
    pub async fn commands_started(&self) -> Result<BTreeMap<String, u64>> {
        let (_, text) = self.http("/metrics").await?;
        let sample = |line: &str| {
            let (program, count) = line.strip_prefix("quarry_commands_total{program=\"")?.split_once("\"} ")?;
            Some((program.to_owned(), count.parse::<f64>().ok()?.round() as u64))
        };
        Ok(text.lines().filter_map(sample).collect())
    }

    /// Forgets the process after a power cut.
    pub fn lost_power(&mut self) {
        self.quarry = None;
    }

    /// The end of quarry's log.
    pub async fn log_tail(&self) -> String {
        self.vm.sh(format!("tail -n 60 {LOG}")).await.unwrap_or_else(|error| format!("no log: {error:#}"))
    }

    /// Creates the folders that kubelet creates before its calls: the staging path, and the target's parent.
    pub async fn kubelet_folders(&self, made: &Made) -> Result<()> {
        self.vm.sh(format!("mkdir -p '{}' \"$(dirname '{}')\"", made.staging(), made.target())).await.map(drop)
    }
}

/// Waits until quarry answers there.
pub async fn serving(csi: &Csi) -> Result<()> {
    let began = Instant::now();
    loop {
        let mut identity = csi.identity();
        let probe = identity.get_plugin_info(quarry_proto::csi::v1::GetPluginInfoRequest::default());
        match tokio::time::timeout(Duration::from_secs(5), probe).await {
            Ok(Ok(_)) => return Ok(()),
            _ if began.elapsed() < START => tokio::time::sleep(Duration::from_millis(50)).await,
            other => bail!("quarry does not serve: {other:?}"),
        }
    }
}

/// The response of a quarry's HTTP port: the status and the text.
pub async fn http(guest: &Guest, port: u16, path: &str) -> Result<(u16, String)> {
    // Bash keeps its end open until the answer is there.
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET {path} HTTP/1.0\\r\\nHost: node\\r\\n\\r\\n' >&3; cat <&3"
    );
    let answer = guest.check(["bash".to_owned(), "-c".to_owned(), script]).await?;
    let (head, text) = answer.split_once("\r\n\r\n").with_context(|| format!("{path} answered {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.with_context(|| format!("{path} answered {head:?}"))?, text.to_owned()))
}

/// The sum of the samples of `/metrics` at this port whose lines start with this.
pub async fn metric(guest: &Guest, port: u16, begins: &str) -> Result<f64> {
    let (status, text) = http(guest, port, "/metrics").await?;
    ensure!(status == 200, "/metrics answered {status}: {text}");
    let values = text.lines().filter(|line| line.starts_with(begins));
    Ok(values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

/// The path of the disk with that serial number, which stays the same whatever its kernel name.
pub fn device(serial: &str) -> String {
    format!("/dev/disk/by-id/virtio-{serial}")
}
