//! Every invalid request gets a clear error with the right code; nothing runs and nothing changes.

mod call;
mod controller;
mod node;
mod snapshots;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use tonic::Code;

use self::call::Call;
use crate::csi::{Ask, Made};
use crate::node::Node;
use crate::scenario::{Context, Passed};

const GIB: u64 = 1 << 30;

/// One bad request, and its allowed answers.
pub struct Case {
    /// The fault in it.
    what: String,
    /// Any of these; [`Code::Ok`] where the request asks for nothing that is not so already.
    codes: &'static [Code],
    call: Call,
}

impl Case {
    fn new(what: impl Into<String>, codes: &'static [Code], call: Call) -> Self {
        Self { what: what.into(), codes, call }
    }
}

/// Texts that are not a valid identifier, parameter or path in any field.
pub fn texts() -> Vec<String> {
    let long = "a".repeat(10_000);
    let texts = [
        "",
        long.as_str(),
        "/",
        "..",
        "../../etc/passwd",
        "a\nb",
        "a\0b",
        "'",
        "\"",
        "`reboot`",
        "$(reboot)",
        "; reboot",
        "-Z y",
        "--help",
        "-",
        "\u{1b}[2J",
        "\u{202e}txt",
        "%s%n",
        " ",
    ];
    texts.map(str::to_owned).to_vec()
}

/// A text as a test's name shows it.
pub fn shown(text: &str) -> String {
    let start: String = text.chars().take(24).collect();
    if start.len() < text.len() { format!("{start:?}… ({} bytes)", text.len()) } else { format!("{start:?}") }
}

/// The parts of the bad requests.
pub struct Base {
    /// An ext4 volume, staged and published.
    pub mount: Made,
    /// A raw block volume, staged.
    pub block: Made,
    /// An ext4 volume that was never staged: a stage could still create its filesystem.
    pub fresh: Made,
}

pub async fn run(_: Context) -> Passed {
    let node = Node::start("bad-input", &[GIB]).await?;
    // A foreign volume, and things of the host that must not change.
    node.vm
        .sh(format!(
            "lvcreate -qq -y -Wn -Zn -L 8M -n foreign {group} && mkdir -p /srv/full /srv/other && echo data > \
             /srv/full/file && mount -t tmpfs none /srv/other && ln -s /srv/other /srv/link",
            group = crate::node::GROUP
        ))
        .await?;
    let base = Base {
        mount: node.csi.create(&Ask::mount("pvc-good", "ext4")).await?,
        block: node.csi.create(&Ask::block("pvc-raw")).await?,
        fresh: node.csi.create(&Ask::mount("pvc-fresh", "ext4")).await?,
    };
    node.kubelet_folders(&base.mount).await?;
    node.kubelet_folders(&base.block).await?;
    node.csi.stage(&base.mount).await?;
    node.csi.stage(&base.block).await?;
    node.csi.publish(&base.mount).await?;

    let before = State::of(&node).await?;
    ensure!(before.commands.contains_key("lvm lvcreate"), "commands are not counted by name: {:?}", before.commands);
    let mut wrong = Vec::new();
    let cases: Vec<Case> = controller::cases(&base).into_iter().chain(node::cases(&base)).collect();
    let total = cases.len();
    for Case { what, codes, call } in cases {
        let (code, message) = match call.send(&node.csi).await {
            Ok(()) => (Code::Ok, String::new()),
            Err(status) => (status.code(), status.message().to_owned()),
        };
        if !codes.contains(&code) {
            wrong.push(format!("{what}: {code:?} instead of {codes:?}: {message}"));
        } else if code != Code::Ok && (message.len() < 10 || message.len() > 2100) {
            wrong.push(format!("{what}: a message of {} bytes is not helpful: {message:?}", message.len()));
        }
    }
    ensure!(wrong.is_empty(), "{} of {total} bad requests went wrong:\n{}", wrong.len(), wrong.join("\n"));
    let after = State::of(&node).await?;
    before.unchanged(&after)?;
    ensure!(!node.vm.sh("cat /var/log/quarry.log").await?.contains("panicked"), "quarry panicked");

    // The same quarry still does its work, on paths that are strange and right.
    let odd = odd_paths(&node, &base).await?;
    let named = odd_names(&node).await?;
    node.csi.unpublish(&base.mount).await?;
    for made in [&base.mount, &base.block, &base.fresh] {
        node.csi.unstage(made).await?;
        node.csi.delete(&made.id).await?;
    }
    node.vm.sh(format!("lvremove -qq -y {}/foreign", crate::node::GROUP)).await?;
    node.expect_empty().await?;
    Ok(format!("{total} bad requests rejected, nothing run; {odd} odd paths and {named} odd names served"))
}

/// What a bad request must leave as it is.
#[derive(Debug, PartialEq)]
struct State {
    /// Programs that change something, and how often they were started.
    commands: BTreeMap<String, u64>,
    volumes: String,
    mounts: String,
    files: String,
}

impl State {
    async fn of(node: &Node) -> Result<Self> {
        Ok(Self {
            commands: node.commands_started().await.context("reading the metrics")?,
            volumes: node.contents().await?,
            mounts: node.vm.sh("cut -d' ' -f4- /proc/self/mountinfo").await?,
            files: node
                .vm
                .sh("find /srv /var/lib/kubelet /mnt -xdev | sort; cat /srv/full/file; readlink /srv/link; \
                     ls -l /etc/passwd")
                .await?,
        })
    }

    fn unchanged(&self, after: &Self) -> Result<()> {
        let changing = |state: &Self| -> BTreeMap<String, u64> {
            state.commands.iter().filter(|(name, _)| !is_report(name)).map(|(name, n)| (name.clone(), *n)).collect()
        };
        ensure!(changing(self) == changing(after), "bad requests ran programs: {:?}", after.commands);
        ensure!(self.volumes == after.volumes, "the volume group changed:\n{}\n{}", self.volumes, after.volumes);
        ensure!(self.mounts == after.mounts, "mounts changed:\n{}\n{}", self.mounts, after.mounts);
        ensure!(self.files == after.files, "files changed:\n{}\n{}", self.files, after.files);
        Ok(())
    }
}

/// Whether a program only reads.
fn is_report(program: &str) -> bool {
    let words: Vec<&str> = program.split(' ').collect();
    matches!(
        words.as_slice(),
        ["lvm", "fullreport" | "vgs" | "lvs" | "pvs" | "version" | "config" | "lvmconfig"] | ["blkid"]
    )
}

/// Stages and publishes at paths that mountinfo has to escape.
async fn odd_paths(node: &Node, base: &Base) -> Result<usize> {
    let odd = ["with space", "ünïcödé 中文", "tab\tand\nline", "back\\slash \\040", "quote\"'`$(x)", "-o ro,#x"];
    for name in odd {
        let what = || format!("the path {name:?}");
        let (staging, target) =
            (format!("/var/lib/kubelet/odd/{name}/stage"), format!("/var/lib/kubelet/odd/{name}/pod"));
        node.vm.exec(["mkdir", "-p", "--", &staging]).await?;
        for _ in 0..2 {
            node.csi.stage_at(&base.mount, &staging).await.with_context(what)?;
            node.csi.publish_from(&base.mount, &staging, &target, false).await.with_context(what)?;
        }
        let mounted = node.vm.exec(["stat", "-f", "-c", "%T", "--", &target]).await?.text();
        ensure!(mounted.contains("ext"), "{}: {mounted}", what());
        for _ in 0..2 {
            node.csi.unpublish_at(&base.mount, &target).await.with_context(what)?;
            node.csi.unstage_at(&base.mount, &staging).await.with_context(what)?;
        }
        let gone = node.vm.exec(["test", "-e", &target]).await?;
        ensure!(!gone.exit.success(), "{} is still there", what());
    }
    node.vm.sh("rm -r /var/lib/kubelet/odd").await?;
    Ok(odd.len())
}

/// Names that CSI admits and LVM does not.
async fn odd_names(node: &Node) -> Result<usize> {
    let odd = ["..", "-Z y", "a/b", "$(reboot)'\"", "snapshot0", "x_rimage_0", &"ü".repeat(64)];
    for name in odd {
        let what = || format!("the name {}", shown(name));
        let ask = Ask::mount(name, "ext4");
        let made = node.csi.create(&ask).await.with_context(what)?;
        let again = node.csi.create(&ask).await.with_context(what)?;
        ensure!(made.id == again.id && made.id.len() <= 128, "{}: {} and {}", what(), made.id, again.id);
        node.csi.delete(&made.id).await.with_context(what)?;
    }
    Ok(odd.len())
}
