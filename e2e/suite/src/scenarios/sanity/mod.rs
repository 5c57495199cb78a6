//! csi-sanity, the conformance tests of the CSI community, against the real quarry in a guest.
//!
//! Every spec must pass, or be skipped for a reason that is listed here with the number of specs: a lost
//! capability or a silently skipped spec fails the scenario.

mod install;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use quarry_vm::{Bus, Command, Disk};
use serde_json::Value;

use crate::cluster::{self, CERTIFICATES};
use crate::controller::Controller;
use crate::node::{AGENT, Node, SOCKET, TLS};
use crate::scenario::{Context, Passed};

const GIB: u64 = 1 << 30;
const PROGRAM: &str = "/usr/local/bin/csi-sanity";
const REPORT: &str = "/run/csi-sanity.json";
/// What the specs change about a volume.
const MUTABLE: &str = "/run/mutable-parameters.yaml";
/// For all specs in an emulated guest on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(1200);

/// How many specs of csi-sanity pass.
const PASSED: usize = 85;
/// Specs that are skipped because Quarry lacks the feature: csi-sanity's reason, and how many.
const SKIPPED: &[(&str, usize)] = &[
    // A local volume needs no attachment.
    ("Controller Publish, UnpublishVolume not supported", 2),
    ("ControllerPublishVolume not supported", 7),
    ("ControllerUnpublishVolume not supported", 1),
    // A snapshot is on its own node, which no field of a request names.
    ("SNAPSHOT_ACCESSIBILITY_CONSTRAINTS not supported", 1),
    // No snapshots of several volumes at one instant.
    ("GroupControllerService not supported", 6),
];
/// Those that csi-sanity itself has put off.
const PENDING: usize = 1;
/// The specs that take a snapshot, as a regular expression of ginkgo. They are skipped on whole disks, which have none.
const OF_SNAPSHOTS: &str = "DeleteSnapshot .*should return appropriate values|ListSnapshots .*(match the specified|new \
     snapshots|next token)|GetSnapshot .*match the specified|existing source snapshot|CreateSnapshot .*(already existing \
     name|maximum-length name)";
/// How many those are.
const SNAPSHOTS: usize = 10;

pub async fn mount(context: Context) -> Passed {
    together(context, "mount").await
}

pub async fn block(context: Context) -> Passed {
    together(context, "block").await
}

/// The size that the other specs name.
const VOLUME: u64 = 32 << 20;
/// The size that volumes are expanded to, in whole extents: the answer must be exactly this.
const EXPANDED: u64 = 2 * VOLUME;
/// The specs that name no size get the default one, 1 GiB.
const DISKS: [u64; 2] = [3 * GIB, 3 * GIB];

async fn together(context: Context, access: &str) -> Passed {
    // Built on the host while nothing else waits for it.
    install::csi_sanity().await?;
    let node = Node::start(&format!("sanity-{access}"), &DISKS).await?;
    run(&context, &node, access, EXPANDED, true, None).await
}

pub async fn disk_mount(context: Context) -> Passed {
    on_disks(context, "mount", Bus::Nvme, 4096).await
}

pub async fn disk_block(context: Context) -> Passed {
    on_disks(context, "block", Bus::Scsi, 512).await
}

/// On whole disks of which each becomes a volume of either size that the specs ask for: by name, or by default.
async fn on_disks(context: Context, access: &str, bus: Bus, sector: u32) -> Passed {
    const RESERVED: u64 = 3 << 20;
    install::csi_sanity().await?;
    let disks = (0..12).map(|index| {
        let size = if index % 2 == 0 { VOLUME } else { GIB };
        Disk::new(format!("d{index}"), size + RESERVED).bus(bus).block_size(sector)
    });
    let mut node = Node::on_disks(&format!("disk-sanity-{access}"), disks.collect()).await?;
    node.serve().await?;
    // A whole disk has one size: the specs ask for the one that it has.
    run(&context, &node, access, VOLUME, false, None).await
}

pub async fn mount_apart(context: Context) -> Passed {
    apart(context, "mount").await
}

pub async fn block_apart(context: Context) -> Passed {
    apart(context, "block").await
}

/// Controller and node are processes of their own, with mutual TLS between them.
async fn apart(context: Context, access: &str) -> Passed {
    install::csi_sanity().await?;
    let mut node = Node::bare(&format!("sanity-{access}-apart"), &DISKS).await?;
    cluster::certificates(&node.vm, "issue").await?;
    // The directory in which they are issued may serve as it is where node and controller share a host.
    node.vm.sh(format!("ln -s {CERTIFICATES}/node {TLS}")).await?;
    let name = node.vm.sh("hostname").await?;
    cluster::list_agents(&node.vm, &[(name, format!("127.0.0.1:{AGENT}"))]).await?;
    node.in_cluster();
    node.serve().await?;
    let mut controller = Controller::start(node.vm.guest(), 1, "").await?;
    controller.connected(1).await?;
    let passed = run(&context, &node, access, EXPANDED, true, Some(&controller)).await?;
    controller.stop().await?;
    Ok(passed)
}

/// `expanded`: the size that the specs expand volumes to. `snapshots`: whether the pool has snapshots.
async fn run(
    context: &Context,
    node: &Node,
    access: &str,
    expanded: u64,
    snapshots: bool,
    controller: Option<&Controller>,
) -> Passed {
    let program = install::csi_sanity().await?;
    node.vm.push(&program, PROGRAM, 0o755).await?;
    node.vm.sh("mkdir -p /var/lib/kubelet/pods /var/lib/kubelet/plugins").await?;
    node.vm.write(MUTABLE, b"{readIops: 500, writeBytesPerSecond: 64Mi}\n", 0o644).await?;
    let mut arguments = vec![
        PROGRAM.to_owned(),
        format!("-csi.endpoint=unix://{SOCKET}"),
        "-csi.mountdir=/var/lib/kubelet/pods/sanity".to_owned(),
        "-csi.stagingdir=/var/lib/kubelet/plugins/sanity".to_owned(),
        format!("-csi.testvolumeaccesstype={access}"),
        format!("-csi.testvolumesize={VOLUME}"),
        format!("-csi.testvolumeexpandsize={expanded}"),
        format!("-csi.testvolumemutableparameters={MUTABLE}"),
        format!("-ginkgo.seed={}", context.settings.seed % 1_000_000),
        format!("-ginkgo.json-report={REPORT}"),
        "-ginkgo.no-color".to_owned(),
        "-ginkgo.timeout=20m".to_owned(),
    ];
    if !snapshots {
        arguments.push(format!("-ginkgo.skip={OF_SNAPSHOTS}"));
    }
    if let Some(controller) = controller {
        arguments.push(format!("-csi.controllerendpoint=unix://{}", controller.socket()));
    }
    let output = node.vm.exec(Command::new(arguments).timeout(PATIENCE)).await?;
    let report = node.vm.read(REPORT).await.with_context(|| {
        format!("csi-sanity left no report: {}\n{}\n{}", output.exit, output.text(), output.error_text())
    })?;
    let specs = Specs::read(&report)?;
    if !specs.failed.is_empty() || !output.exit.success() {
        bail!("csi-sanity on {access}: {}\nfailed: {}\n{}", specs, specs.failed.join("\n"), node.log_tail().await);
    }
    specs.check(snapshots)?;
    // csi-sanity removes what it created; this checks what it does not see.
    node.expect_empty().await?;
    Ok(specs.to_string())
}

/// The results of a run's specs.
#[derive(Debug, Default)]
struct Specs {
    passed: usize,
    pending: usize,
    /// By reason.
    skipped: BTreeMap<String, usize>,
    /// Each with its reason.
    failed: Vec<String>,
}

impl Specs {
    fn read(report: &[u8]) -> Result<Self> {
        let report: Value = serde_json::from_slice(report).context("csi-sanity's report is not JSON")?;
        let mut specs = Self::default();
        let suites = report.as_array().context("csi-sanity's report is not a list")?;
        for spec in suites.iter().filter_map(|suite| suite["SpecReports"].as_array()).flatten() {
            let text = |path: &str| spec.pointer(path).and_then(Value::as_str).unwrap_or_default();
            // Nodes before or after the suite are not specs; they count if they fail.
            let is_spec = text("/LeafNodeType") == "It";
            match text("/State") {
                "passed" if is_spec => specs.passed += 1,
                "pending" if is_spec => specs.pending += 1,
                "skipped" if is_spec => {
                    *specs.skipped.entry(text("/Failure/Message").to_owned()).or_default() += 1;
                }
                "passed" | "skipped" | "pending" => {}
                state => {
                    let parents = spec["ContainerHierarchyTexts"].as_array().map(Vec::as_slice).unwrap_or_default();
                    let name: Vec<&str> =
                        parents.iter().filter_map(Value::as_str).chain([text("/LeafNodeText")]).collect();
                    specs.failed.push(format!("{} ({state}): {}", name.join(" / "), text("/Failure/Message")));
                }
            }
        }
        Ok(specs)
    }

    /// Fails unless exactly the expected specs ran.
    fn check(&self, snapshots: bool) -> Result<()> {
        let mut expected: BTreeMap<String, usize> =
            SKIPPED.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        let mut passed = PASSED;
        if !snapshots {
            // ginkgo gives no reason for what it was told to skip.
            expected.insert(String::new(), SNAPSHOTS);
            passed -= SNAPSHOTS;
        }
        ensure!(
            self.passed == passed && self.pending == PENDING && self.skipped == expected,
            "other specs ran than expected (a capability lost or won?): {passed} should pass, {PENDING} be pending, \
             and be skipped: {expected:#?}; what happened: {self:#?}"
        );
        Ok(())
    }
}

impl std::fmt::Display for Specs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let skipped: usize = self.skipped.values().sum();
        write!(f, "{} specs passed, {} failed, {skipped} skipped for known reasons", self.passed, self.failed.len())?;
        write!(f, ", {} pending upstream", self.pending)
    }
}
