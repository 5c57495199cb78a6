//! Runs the case scripts.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use quarry_vm::{Command, Config, Disk, Vm};

use crate::node::{BINARY, GROUP, binary};
use crate::scenario::{Context, Passed, Scenario};

/// Each of a guest's three disks: as large as the cases expect. All are equal, since the kernel names them in any
/// order.
const DISK: u64 = 1 << 30;
/// For how long a case may run.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// The start of every script.
const PRELUDE: &str = include_str!("cases/prelude.sh");

macro_rules! cases {
    ($($number:literal: $about:literal),* $(,)?) => {
        /// The scripts by the scenario's name.
        const SCRIPTS: &[(&str, &str)] =
            &[$((concat!("case-", $number), include_str!(concat!("cases/", $number, ".sh")))),*];

        /// All of them.
        pub fn all() -> Vec<Scenario> {
            vec![$(Scenario {
                name: concat!("case-", $number),
                about: $about,
                limit: LIMIT,
                run: |context| Box::pin(run(context)),
            }),*]
        }
    };
}

cases! {
    "01": "a file whose bytes look like a RAID signature does not stop the volume from being staged",
    "02": "a tenant's volume group with the pool's name, inside a raw block volume, changes nothing",
    "02b": "a tenant's volume group that the host activated does not stop the deletion of its volume without a reason",
    "03": "a volume that an operator renamed is neither missing nor deleted",
    "04": "a raid1 leg that failed for a moment is shown, with the command that repairs it",
    "05": "a delete does not take an operator's snapshot with it",
    "06": "a disk that hangs does not stop another pool, and calls leave no threads behind",
    "08": "a new volume on extents that hold an md or LVM superblock is created and deleted",
    "09": "the copies of a raid1 volume are on different disks",
    "10": "a copy of a physical volume: no room is offered, and both disks are named",
    "11": "lines in the host's lvm.conf change nothing",
    "12": "bad sectors under a new volume: nothing is left behind",
    "13": "lvm's archive of metadata stays bounded, and a full one does not look like a full pool",
    "21": "a physical volume that grew, and one that shrank",
    "22": "pvmove, lvconvert, a write cache and vgsplit by an operator",
    "90": "a disk that failed for some seconds is found again",
}

async fn run(context: Context) -> Passed {
    let script = SCRIPTS.iter().find(|(name, _)| *name == context.name).context("a script of this name")?.1;
    let config = ["d1", "d2", "d3"]
        .iter()
        .fold(Config::new(context.name), |config, serial| config.disk(Disk::new(*serial, DISK)));
    let vm = Vm::start(config).await?;
    vm.push(binary().await?, BINARY, 0o755).await?;
    vm.sh(format!("vgcreate -qq {GROUP} /dev/vdb /dev/vdc")).await?;
    let script = format!("{PRELUDE}{script}");
    let output = vm.exec(Command::new(["bash", "-c", &script]).timeout(LIMIT)).await?;
    let said = format!("{}{}", output.text(), output.error_text());
    let wrong = said.lines().filter(|line| line.starts_with("WRONG")).count();
    ensure!(output.exit.success() && wrong == 0, "{wrong} things were wrong:\n{said}");
    if context.settings.soak {
        context.say(&said);
    }
    Ok(String::new())
}
