//! `make demo`: the complete life of volumes in a temporary virtual node, step by step.
//!
//! It changes nothing on the host except the build and cache folders. The output is real: each `quarry csi`
//! line is a real call to a real driver on real LVM, and the demo fails if any of them fails.

use std::io::Write as _;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use quarry_vm::{Build, Command, Config, Disk, Vm, build_static, install_tools};

const GIB: u64 = 1 << 30;
const MINUTE: Duration = Duration::from_secs(60);
/// Names a quarry for the guest that was built before.
const GIVEN: &str = "QUARRY_E2E_BINARY";
const POOLS: &str = "pools:\n  - name: fast\n    lvm:\n      volumeGroup: demo\n";

#[tokio::main]
async fn main() -> ExitCode {
    match demo().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "\ndemo: it failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demo() -> Result<()> {
    let began = Instant::now();
    say("Quarry makes Kubernetes volumes from local disks. This demo does so in a virtual machine.");
    install_tools().await?;

    heading("Preparing (the first time 5 to 15 minutes; later, seconds)");
    let step = Step::begin("build quarry for the guest");
    let binary = match std::env::var_os(GIVEN) {
        Some(given) => PathBuf::from(given),
        None => {
            let build = Build { package: "quarry", bins: &["quarry"], features: &[], profile: "e2e" };
            step.wait(build_static(&build)).await?.remove("quarry").context("cargo built no quarry")?
        }
    };
    step.done("");
    let step = Step::begin("start a virtual node with two empty disks of 1 GiB");
    let vm = Vm::start(Config::new("node-1").disk(Disk::new("d1", GIB)).disk(Disk::new("d2", GIB))).await?;
    step.done(&format!("(under {})", vm.accelerator()));
    vm.push(&binary, "/usr/local/bin/quarry", 0o755).await?;

    let demo = Demo { vm };
    heading("On the node");
    demo.run("vgcreate demo /dev/disk/by-id/virtio-d1 /dev/disk/by-id/virtio-d2").await?;
    let empty = demo.free().await?;
    demo.vm.sh("mkdir -p /etc/quarry /run/quarry /var/lib/kubelet").await?;
    demo.vm.write("/etc/quarry/pools.yaml", POOLS.as_bytes(), 0o644).await?;
    demo.run("cat /etc/quarry/pools.yaml").await?;
    let server = "quarry standalone --config /etc/quarry/pools.yaml";
    say(&format!("  $ {server} &"));
    let command = Command::sh(format!("exec {server} >/var/log/quarry.log 2>&1")).timeout(Duration::from_secs(3600));
    let _server = demo.vm.spawn(command).await?;
    demo.vm.wait_paths(vec!["/run/quarry/csi.sock".to_owned()], true, Duration::from_secs(60)).await?;
    demo.run("quarry csi identity").await?;
    demo.run("quarry csi capacity --param pool=fast").await?;

    for kind in ["ext4", "xfs", "block"] {
        demo.life(kind).await.with_context(|| format!("the life of the {kind} volume"))?;
    }

    heading("And the volume group is as it was");
    demo.run("lvs demo; vgs demo").await?;
    let left = demo.free().await?;
    ensure!(left == empty, "the volume group had {empty} free, and has {left} now");
    demo.vm.shutdown().await?;
    say(&format!(
        "\nThree volumes were created, staged, published, written, found again and deleted, in {:.0} s in all.\nThe \
         virtual node is gone. What was built stays in target/ and in the cache, ~/.cache/quarry. Next: README.md, docs/.",
        began.elapsed().as_secs_f64()
    ));
    Ok(())
}

struct Demo {
    vm: Vm,
}

impl Demo {
    /// One volume, from create to delete.
    async fn life(&self, kind: &str) -> Result<()> {
        let (usage, size) = match kind {
            "block" => ("--block".to_owned(), "64Mi"),
            "xfs" => ("--fs xfs".to_owned(), "300Mi"),
            other => (format!("--fs {other}"), "64Mi"),
        };
        let name = format!("pvc-{kind}");
        heading(&format!("A volume for {}", if kind == "block" { "raw block use" } else { kind }));

        let created =
            self.run(&format!("quarry csi create {name} --size {size} {usage} --param pool=fast -o json")).await?;
        let id = volume_id(&created)?;
        let staging = if kind == "block" {
            format!("/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/staging/{name}")
        } else {
            format!("/var/lib/kubelet/plugins/kubernetes.io/csi/local.csi.quarry.dev/{name}/globalmount")
        };
        let target = |pod: &str| match kind {
            "block" => format!("/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/{name}/{pod}"),
            _ => format!("/var/lib/kubelet/pods/{pod}/volumes/kubernetes.io~csi/{name}/mount"),
        };
        // Kubelet creates these folders before it calls a driver.
        let folders = format!("mkdir -p {staging} $(dirname {}) $(dirname {})", target("pod-a"), target("pod-b"));
        self.vm.sh(folders).await?;

        for pod in ["pod-a", "pod-b"] {
            let target = target(pod);
            self.run(&format!("quarry csi stage {id} {usage} --staging-path {staging}")).await?;
            self.run(&format!("quarry csi publish {id} {usage} --staging-path {staging} --target-path {target}"))
                .await?;
            let file = if kind == "block" { target.clone() } else { format!("{target}/letter") };
            if pod == "pod-a" {
                let conv = if kind == "block" { "conv=notrunc,fsync" } else { "conv=fsync" };
                self.run(&format!("echo 'written by pod-a' | dd of={file} {conv} status=none")).await?;
                self.run(&format!("quarry csi stats {id} --path {target}")).await?;
            } else {
                let found = self.run(&format!("head -n 1 {file}")).await?;
                ensure!(found.trim() == "written by pod-a", "pod-b found {found:?}");
            }
            self.run(&format!("quarry csi unpublish {id} --target-path {target}")).await?;
            self.run(&format!("quarry csi unstage {id} --staging-path {staging}")).await?;
        }
        self.run(&format!("quarry csi delete {id}")).await?;
        Ok(())
    }

    /// Shows a command, runs it in the guest, and shows its output and duration.
    async fn run(&self, script: &str) -> Result<String> {
        say(&format!("  $ {script}"));
        let began = Instant::now();
        let output = self.vm.exec(Command::sh(script)).await?;
        let took = began.elapsed();
        for line in output.text().lines().chain(output.error_text().lines()) {
            say(&format!("      {line}"));
        }
        if !output.exit.success() {
            let log = self.vm.sh("tail -n 20 /var/log/quarry.log").await.unwrap_or_default();
            bail!("`{script}` failed\n{log}");
        }
        say(&format!("    {:.2} s", took.as_secs_f64()));
        Ok(output.text())
    }

    /// The free bytes of the volume group.
    async fn free(&self) -> Result<String> {
        let free = self.vm.sh("vgs --noheadings --units b -o vg_free demo").await?;
        Ok(free.trim().to_owned())
    }
}

/// The volume's identifier in what `quarry csi create -o json` answers.
fn volume_id(answer: &str) -> Result<String> {
    let json: serde_json::Value = serde_json::from_str(answer).with_context(|| format!("no JSON: {answer}"))?;
    let id = json.pointer("/volume/volume_id").or_else(|| json.pointer("/volume_id"));
    Ok(id.and_then(serde_json::Value::as_str).with_context(|| format!("no volume_id in {answer}"))?.to_owned())
}

/// A step whose end is awaited.
struct Step {
    began: Instant,
}

impl Step {
    fn begin(what: &str) -> Self {
        let mut out = std::io::stdout();
        let _ = write!(out, "  {what} … ");
        let _ = out.flush();
        Self { began: Instant::now() }
    }

    /// Waits for the step, and shows every minute that it goes on.
    async fn wait<T>(&self, step: impl Future<Output = T>) -> T {
        let mut step = pin!(step);
        loop {
            match tokio::time::timeout(MINUTE, step.as_mut()).await {
                Ok(ended) => return ended,
                Err(_) => {
                    let mut out = std::io::stdout();
                    let _ = write!(out, "{} min … ", self.began.elapsed().as_secs() / 60);
                    let _ = out.flush();
                }
            }
        }
    }

    fn done(self, note: &str) {
        say(&format!("{:.1} s {note}", self.began.elapsed().as_secs_f64()));
    }
}

fn heading(text: &str) {
    say(&format!("\n== {text}"));
}

fn say(text: &str) {
    // The reader may have closed its end.
    let _ = writeln!(std::io::stdout(), "{text}");
}
