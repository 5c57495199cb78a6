//! `quarry-cluster`: starts a real Kubernetes on virtual nodes, with Quarry installed from its chart, and
//! stops it.
#![allow(clippy::disallowed_types)] // quarry-exec ends what it starts; the cluster outlives the command that asks for it.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use quarry_cache::Cache;
use quarry_cluster::binaries::Binaries;
use quarry_cluster::conformance::{self, Batch, Selection, Suite};
use quarry_cluster::objects::BUSYBOX;
use quarry_cluster::scenarios::{self, Tally};
use quarry_cluster::{Cluster, Plan, binaries, fresh_folder, images, install};
use quarry_vm::{Build, Disk, System, build_static};
use tokio::signal::unix::{SignalKind, signal};

/// A Kubernetes cluster on virtual nodes of this machine.
#[derive(Debug, Parser)]
enum Action {
    /// Bring the cluster up, in the background, and wait until the example's pods run.
    Up {
        /// How many nodes, each with one empty disk of 10 GiB.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
        nodes: u8,
    },
    /// End the cluster and remove all its files.
    Down,
    /// Run the scenarios on a new cluster whose nodes have two disks each.
    Test {
        /// How many nodes. Without KVM each takes most of a processor.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=9))]
        nodes: u8,
        /// Only scenarios whose name contains one of these.
        only: Vec<String>,
        /// How many minutes after the start the run ends. Scenarios that have not ended then are left out and named.
        #[arg(long)]
        within: Option<u64>,
        /// The minor version of Kubernetes, such as 1.33, instead of the usual one.
        #[arg(long, value_name = "MINOR")]
        kubernetes: Option<String>,
        /// Say what there is.
        #[arg(long)]
        list: bool,
    },
    /// Run Kubernetes' own storage suite on a new cluster.
    Conformance {
        /// Only this part of the specs, such as 1/6: the first of six.
        #[arg(long, default_value = "1/1")]
        batch: Batch,
        /// How many minutes after the start the run ends. Specs that have not ended then count as not run.
        #[arg(long)]
        within: Option<u64>,
        /// Say which specs there are, and run none.
        #[arg(long)]
        list: bool,
        /// Print what the batches of this commit add up to, and run none.
        #[arg(long)]
        sums: bool,
        /// Only specs whose text contains one of these.
        only: Vec<String>,
    },
    /// Run the cluster until SIGTERM: what `up` starts.
    #[command(hide = true)]
    Serve {
        /// As for `up`.
        #[arg(long)]
        nodes: u8,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let cache = Cache::open()?;
    let folder = cache.root().join("cluster");
    match Action::parse() {
        Action::Up { nodes } => up(&folder, nodes).await,
        Action::Down => down(&folder).await,
        Action::Test { list: true, .. } => {
            scenarios::list();
            Ok(())
        }
        Action::Test { nodes, only, within, kubernetes, .. } => {
            test(&cache, nodes, &only, end(within), kubernetes.as_deref()).await
        }
        Action::Conformance { sums: true, .. } => match conformance::sums(&cache).await? {
            0 => Ok(()),
            failed => bail!("{failed} specs failed"),
        },
        Action::Conformance { batch, only, within, list, .. } => {
            conformance(&cache, &Selection { batch, only, end: end(within) }, list).await
        }
        Action::Serve { nodes } => serve(&cache, &folder, nodes).await,
    }
}

/// When a run ends that began now and may take this many minutes.
fn end(within: Option<u64>) -> Option<Instant> {
    within.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes))
}

/// A running cluster holds the lock of this file, which contains its process ID.
fn pid_file(folder: &Path) -> PathBuf {
    folder.with_extension("pid")
}

/// The process of the running cluster.
fn running(folder: &Path) -> Option<Pid> {
    let file = fs::File::open(pid_file(folder)).ok()?;
    if file.try_lock().is_ok() {
        // It is not locked: the cluster was killed.
        return None;
    }
    fs::read_to_string(pid_file(folder)).ok()?.trim().parse().ok().map(Pid::from_raw)
}

/// Starts the cluster's process and shows its output until it is up.
async fn up(folder: &Path, nodes: u8) -> Result<()> {
    if let Some(pid) = running(folder) {
        bail!("a cluster runs already (process {pid}); `make cluster-down` ends it");
    }
    let log = folder.with_extension("log");
    fs::create_dir_all(folder.parent().unwrap_or(folder)).context("cannot make the cache folder")?;
    let output = fs::File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
    let mut child = Command::new(std::env::current_exe().context("where am I?")?)
        .args(["serve", "--nodes", &nodes.to_string()])
        .stdin(Stdio::null())
        .stdout(output.try_clone().context("cannot open the log twice")?)
        .stderr(output)
        // It lives on when this command and its terminal end.
        .process_group(0)
        .spawn()
        .context("cannot start the cluster's process")?;
    let began = Instant::now();
    let mut shown = 0;
    loop {
        let ended = child.try_wait().context("cannot look at the cluster's process")?;
        let text = fs::read_to_string(&log).unwrap_or_default();
        let new = text.get(shown..).unwrap_or_default();
        // Whole lines only.
        let whole = new.rfind('\n').map_or(0, |end| end + 1);
        let lines = new.get(..whole).unwrap_or_default();
        shown += whole;
        for line in lines.lines().filter(|line| *line != install::UP) {
            show(began, line);
        }
        if lines.lines().any(|line| line == install::UP) {
            return Ok(());
        }
        if let Some(status) = ended {
            bail!("the cluster did not come up ({status}); see {}", log.display());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Prints a line of the cluster's process with the time since the start. Instructions, which are indented, have no time.
fn show(began: Instant, line: &str) {
    if line.is_empty() || line.starts_with(' ') {
        return println!("{line}");
    }
    let line = ["quarry-cluster: ", "quarry-vm: ", "quarry-image: ", "quarry-cache: "]
        .iter()
        .find_map(|part| line.strip_prefix(part))
        .unwrap_or(line);
    let took = began.elapsed().as_secs();
    println!("{:2}:{:02}  {line}", took / 60, took % 60);
}

/// Prints progress with the time since now.
fn progress() -> impl Fn(&str) + Sync {
    let began = Instant::now();
    move |line| println!("      {line} ({:.0} s)", began.elapsed().as_secs_f64())
}

async fn down(folder: &Path) -> Result<()> {
    if let Some(pid) = running(folder) {
        kill(pid, Signal::SIGTERM).with_context(|| format!("cannot end process {pid}"))?;
        let began = Instant::now();
        while running(folder).is_some() {
            if began.elapsed() > Duration::from_secs(60) {
                bail!("process {pid} does not end");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    } else {
        println!("no cluster runs");
    }
    for path in [pid_file(folder), folder.with_extension("log")] {
        // It need not be there.
        let _ = fs::remove_file(path);
    }
    fresh_folder(folder)?;
    fs::remove_dir(folder).context("cannot remove the cluster's folder")
}

async fn serve(cache: &Cache, folder: &Path, nodes: u8) -> Result<()> {
    let path = pid_file(folder);
    let mut lock =
        fs::File::options().create(true).write(true).truncate(false).open(&path).context("cannot open the pid file")?;
    lock.try_lock().context("a cluster runs already")?;
    lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id())).context("cannot write the pid file")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let serving = async {
        fresh_folder(folder)?;
        let say = |line: &str| println!("{line}");
        let quarry = program(&say).await?;
        let (binaries, images) = parts(cache, folder, Some(quarry)).await?;
        let disks = vec![Disk::new("d1", 10 << 30)];
        let systems = vec![System::current()?];
        say(&format!("starting a control plane here, and {nodes} nodes in virtual machines"));
        let cluster = Cluster::start(&binaries, folder, Plan { nodes, disks, systems, images }, &say).await?;
        install::quarry(&cluster, &say).await?;
        install::example(&cluster, &say).await?;
        println!("the cluster is up\n");
        println!("{}\n{}", instructions(&cluster, &binaries)?, install::UP);
        std::future::pending::<Result<()>>().await
    };
    tokio::select! {
        result = serving => result,
        _ = terminate.recv() => Ok(()),
    }
}

/// The program that `QUARRY_E2E_BINARY` names.
fn given() -> Option<PathBuf> {
    std::env::var_os("QUARRY_E2E_BINARY").map(PathBuf::from)
}

/// The program in the image of `make cluster`: the one that `make demo` built, because the released one takes ten minutes
/// to build. `QUARRY_E2E_BINARY` names another one.
async fn program(say: &(dyn Fn(&str) + Sync)) -> Result<PathBuf> {
    if let Some(given) = given() {
        return Ok(given);
    }
    say("building quarry (once, some minutes; `make demo` builds the same)");
    let build = Build { package: "quarry", bins: &["quarry"], features: &[], profile: "e2e" };
    build_static(&build).await?.remove("quarry").context("cargo built no quarry")
}

/// What a user can do with the cluster of `make cluster`.
fn instructions(cluster: &Cluster, binaries: &Binaries) -> Result<String> {
    // kubectl finds `kubectl-quarry` there.
    let plugin = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy"));
    let plugin = plugin.canonicalize().context("cannot find deploy/kubectl-quarry")?;
    let (kubeconfig, kubectl) = (cluster.kubeconfig(), binaries.folder().display().to_string());
    let helm = binaries.helm.parent().context("helm has no folder")?.display();
    Ok(format!(
        "  export KUBECONFIG={}
  export PATH={kubectl}:{}:{helm}:$PATH
  kubectl get pods,pvc,pv -o wide
  kubectl quarry page      # nodes, pools and volumes in a browser

  A shell on a node:
    kubectl debug node/node-1 --profile=sysadmin -it --image={BUSYBOX} -- chroot /host sh
  An image of yours, from an archive, on a node (prints nothing; repeat it for each node):
    kubectl debug node/node-1 --profile=sysadmin -i --quiet --image={BUSYBOX} -- \\
      chroot /host ctr --namespace k8s.io images import - <image.tar
  (kubectl leaves the completed pods of these commands: kubectl delete pod node-debugger-...)
  The end of the cluster:
    make cluster-down
",
        kubeconfig.display(),
        plugin.display()
    ))
}

/// Starts a cluster whose nodes have two disks each, and runs the scenarios until `end`.
/// `minor`: the minor version of Kubernetes, instead of the usual one.
async fn test(cache: &Cache, nodes: u8, only: &[String], end: Option<Instant>, minor: Option<&str>) -> Result<()> {
    let folder = cache.root().join(format!("cluster-test-{}", std::process::id()));
    let mut tally = Tally::new(only)?;
    fresh_folder(&folder)?;
    let disks = vec![Disk::new("d1", 10 << 30), Disk::new("d2", 4 << 30)];
    let systems = systems()?;
    let say = progress();
    let tested = async {
        let binaries = match minor {
            Some(minor) => binaries::build_minor(cache, minor).await?,
            None => binaries::build(cache).await?,
        };
        let images = all_images(cache, &binaries, &folder, given()).await?;
        let mut cluster = Cluster::start(&binaries, &folder, Plan { nodes, disks, systems, images }, &say).await?;
        install::quarry(&cluster, &say).await?;
        tally.run(&mut cluster).await;
        Ok(())
    };
    let tested: Result<()> = match end {
        // Past the end, what has ended counts, and the rest is left out.
        Some(end) => tokio::time::timeout_at(end.into(), tested).await.unwrap_or(Ok(())),
        None => tested.await,
    };
    if std::env::var_os("QUARRY_VM_KEEP").is_none() {
        // Remnants do no harm.
        let _ = fs::remove_dir_all(&folder);
    }
    tested?;
    let failed = tally.print();
    if failed > 0 {
        bail!("{failed} scenarios failed");
    }
    Ok(())
}

/// Starts a cluster of two nodes with a disk each, and runs the selected specs; or only lists them.
async fn conformance(cache: &Cache, selection: &Selection, list: bool) -> Result<()> {
    let folder = cache.root().join(format!("cluster-conformance-{}", std::process::id()));
    fresh_folder(&folder)?;
    let say = progress();
    let ran = async {
        let suite = Suite::build(cache, &folder).await?;
        if list {
            return suite.print(selection);
        }
        let (binaries, mut images) = parts(cache, &folder, given()).await?;
        images.insert(1, suite.images(cache).await?);
        let disks = vec![Disk::new("d1", 10 << 30)];
        let plan = Plan { nodes: 2, disks, systems: systems()?, images };
        let cluster = Cluster::start(&binaries, &folder, plan, &say).await?;
        suite.run(cache, &cluster, &folder, selection).await
    };
    let ran = ran.await;
    if std::env::var_os("QUARRY_VM_KEEP").is_none() {
        // Remnants do no harm.
        let _ = fs::remove_dir_all(&folder);
    }
    ran
}

/// Every other node boots systemd, unless `QUARRY_VM_GUEST` selects one system for all nodes.
fn systems() -> Result<Vec<System>> {
    Ok(System::by_environment()?.map_or_else(|| System::ALL.to_vec(), |system| vec![system]))
}

/// What a cluster consists of: programs and images, built where they are not in the cache.
async fn parts(cache: &Cache, folder: &Path, quarry: Option<PathBuf>) -> Result<(Binaries, Vec<Vec<PathBuf>>)> {
    let binaries = binaries::build(cache).await?;
    let images = all_images(cache, &binaries, folder, quarry).await?;
    Ok((binaries, images))
}

/// The images of a cluster. `quarry`: the program in Quarry's image, instead of the released one.
async fn all_images(
    cache: &Cache,
    binaries: &Binaries,
    folder: &Path,
    quarry: Option<PathBuf>,
) -> Result<Vec<Vec<PathBuf>>> {
    Ok(vec![images::all(cache, binaries).await?, vec![images::quarry(cache, folder, quarry)?]])
}
