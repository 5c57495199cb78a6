//! The tests of crates that mount and format loop devices. They need root, so they run in a virtual node and
//! not on a developer's machine.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use quarry_vm::{Command, Config, Disk, Vm, build_static_tests};

use crate::scenario::{Context, Passed};

/// The packages with such tests, all in `tests/as_root.rs`.
const PACKAGES: [&str; 2] = ["quarry-mount", "quarry-filesystem"];
/// The end of the names of tests that only a soak runs.
const ONLY_IN_A_SOAK: &str = "with_all_options";
/// How long the tests of one package may take.
const DEADLINE: Duration = Duration::from_secs(1800);

pub async fn run(context: Context) -> Passed {
    let vm = Vm::start(Config::new("as-root").disk(Disk::new("room", 4 << 30))).await?;
    // The images of the loop devices are on a disk of their own.
    vm.sh(
        "mkfs.ext4 -q /dev/disk/by-id/virtio-room; mkdir /room; mount /dev/disk/by-id/virtio-room /room; modprobe loop",
    )
    .await?;
    let mut ran = 0;
    for package in PACKAGES {
        let passed = tests_of(&vm, package, context.settings.soak)
            .await
            .with_context(|| format!("the tests of {package} that need root"))?;
        context.say(format_args!("{package}: {passed} tests"));
        ran += passed;
    }
    Ok(format!("{ran} tests"))
}

/// Runs a package's tests that need root, and says how many that were.
async fn tests_of(vm: &Vm, package: &str, soak: bool) -> Result<usize> {
    let program = build_static_tests(package, "as_root").await?;
    let path = format!("/room/{package}");
    vm.push(&program, &path, 0o755).await?;
    // One at a time: some count the mounts of the whole machine.
    let skip = if soak { String::new() } else { format!("--skip {ONLY_IN_A_SOAK}") };
    let run = format!("cd /room && TMPDIR=/room RUST_BACKTRACE=0 {path} --ignored --test-threads 1 {skip} 2>&1");
    let output = vm.exec(Command::sh(run).timeout(DEADLINE)).await?;
    let text = output.text();
    ensure!(output.exit.code == Some(0), "they failed:\n{text}");
    let passed = text.lines().filter(|line| line.starts_with("test ") && line.ends_with(" ... ok")).count();
    ensure!(passed > 0, "none was run:\n{text}");
    Ok(passed)
}
