//! A contributor's access to a virtual node: a shell, one command, the cache, and a check of the host.

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use quarry_cache::Cache;
use quarry_vm::{Bus, Command, Config, Disk, Event, Shape, System, Vm, install_tools, missing_tools};

/// Starts virtual nodes: small guests with real LVM, gone when you are done.
#[derive(Parser)]
#[command(name = "quarry-vm", version)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start a node and read commands, a line each, for its shell
    Shell(Node),
    /// Start a node, run one command in it, and end with the command's exit code
    Run {
        #[command(flatten)]
        node: Node,
        /// The command and its arguments
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
    /// Show the path and size of the cache, or empty it
    Cache {
        /// Remove everything; running nodes lose their disks
        #[arg(long)]
        clean: bool,
    },
    /// Say what the host lacks, then start a node to see that all works
    Doctor {
        /// Install missing packages with apt-get; needs root
        #[arg(long)]
        install: bool,
    },
}

#[derive(clap::Args)]
struct Node {
    /// Disks as COUNTxSIZE[:BUS], such as 2x1G or 1x10G:nvme (buses: virtio, nvme, scsi); may be repeated
    #[arg(long, value_name = "DISKS")]
    disks: Vec<String>,
    /// The guest: bookworm, or trixie with systemd; QUARRY_VM_GUEST, or else bookworm, when not given
    #[arg(long, value_name = "GUEST")]
    guest: Option<System>,
    /// Memory in MiB
    #[arg(long, default_value_t = Shape::default().memory)]
    memory: u32,
    /// Copy a file into the guest first, as LOCAL:REMOTE; may be repeated
    #[arg(long, value_name = "LOCAL:REMOTE")]
    push: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match act(Arguments::parse().action).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("quarry-vm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn act(action: Action) -> Result<ExitCode> {
    match action {
        Action::Shell(node) => shell(&start(&node).await?).await,
        Action::Run { node, command } => run(&start(&node).await?, Command::new(command)).await,
        Action::Cache { clean } => cache(clean),
        Action::Doctor { install } => doctor(install).await,
    }
}

async fn start(node: &Node) -> Result<Vm> {
    let mut disks = Vec::new();
    for group in &node.disks {
        let (count, size, bus) = parse_disks(group)?;
        for _ in 0..count {
            disks.push(Disk::new(format!("d{}", disks.len() + 1), size).bus(bus));
        }
    }
    let begin = Instant::now();
    let shape = Shape { memory: node.memory, ..Shape::default() };
    let vm = Vm::start(Config { shape, system: node.guest, disks: disks.clone(), ..Config::new("node-1") }).await?;
    for pair in &node.push {
        let (local, remote) = pair.split_once(':').context("--push takes LOCAL:REMOTE")?;
        vm.push(local.as_ref(), remote, 0o755).await?;
    }
    eprintln!("quarry-vm: node ready in {:.1} s", begin.elapsed().as_secs_f32());
    for disk in disks {
        eprintln!("quarry-vm: disk {}", disk.path());
    }
    Ok(vm)
}

async fn run(vm: &Vm, command: Command) -> Result<ExitCode> {
    let day = Duration::from_secs(24 * 3600);
    let exit = vm
        .run(command.timeout(day), |event| {
            // A reader that is gone does not stop the command.
            let _ = match event {
                Event::Stdout(bytes) => std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush()),
                Event::Stderr(bytes) => std::io::stderr().write_all(bytes),
                Event::Exit(_) => Ok(()),
            };
        })
        .await?;
    Ok(exit.code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

async fn shell(vm: &Vm) -> Result<ExitCode> {
    loop {
        eprint!("node-1# ");
        let line = tokio::task::spawn_blocking(|| std::io::stdin().lock().lines().next())
            .await
            .context("cannot read the next line")?;
        let Some(line) = line.transpose().context("cannot read the next line")? else { return Ok(ExitCode::SUCCESS) };
        match line.trim() {
            "" => {}
            "exit" => return Ok(ExitCode::SUCCESS),
            line => {
                if let Err(error) = run(vm, Command::new(["sh", "-c", line])).await {
                    eprintln!("quarry-vm: {error:#}");
                }
            }
        }
    }
}

fn cache(clean: bool) -> Result<ExitCode> {
    let cache = Cache::open()?;
    if clean {
        cache.clean()?;
        println!("removed {}", cache.root().display());
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", cache.root().display());
    let entries = std::fs::read_dir(cache.root()).context("cannot read the cache folder")?;
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        println!("{:>8} MiB  {}", folder_size(&entry.path()) >> 20, entry.file_name().to_string_lossy());
    }
    Ok(ExitCode::SUCCESS)
}

/// Bytes that a folder occupies; its files are sparse.
fn folder_size(folder: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_size(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

async fn doctor(install: bool) -> Result<ExitCode> {
    if install {
        install_tools().await?;
    }
    let missing = missing_tools();
    if !missing.is_empty() {
        bail!(
            "this host lacks packages; install them with\n  sudo apt-get install --no-install-recommends {}",
            missing.join(" ")
        );
    }
    println!("packages: all there");
    let begin = Instant::now();
    let vm = Vm::start(Config::new("doctor").disk(Disk::new("d1", 1 << 30))).await?;
    println!("a node starts in {:.1} s, under {}", begin.elapsed().as_secs_f32(), vm.accelerator());
    let version = vm
        .sh(format!(
            "vgcreate -qq pool {} && lvcreate -qq -Wn -Zn -L 64M -n a pool && lvm version",
            Disk::new("d1", 1 << 30).path()
        ))
        .await?;
    println!("it makes logical volumes:\n{version}");
    vm.shutdown().await?;
    Ok(ExitCode::SUCCESS)
}

/// Reads `2x1G:nvme`: how many, how large, on which bus.
fn parse_disks(text: &str) -> Result<(usize, u64, Bus)> {
    let wrong = || format!("--disks takes COUNTxSIZE[:BUS], such as 2x1G or 1x10G:nvme, not {text:?}");
    let (text, bus) = match text.split_once(':') {
        None => (text, Bus::Virtio),
        Some((text, "virtio")) => (text, Bus::Virtio),
        Some((text, "nvme")) => (text, Bus::Nvme),
        Some((text, "scsi")) => (text, Bus::Scsi),
        Some(_) => bail!("{}", wrong()),
    };
    let (count, size) = text.split_once('x').with_context(wrong)?;
    let digits = size.trim_end_matches(['M', 'G', 'T']);
    let shift = match size.strip_prefix(digits) {
        Some("M") => 20,
        Some("G") => 30,
        Some("T") => 40,
        _ => bail!("{}", wrong()),
    };
    let size = digits.parse::<u64>().with_context(wrong)?.checked_mul(1 << shift).with_context(wrong)?;
    Ok((count.parse().with_context(wrong)?, size, bus))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_read() {
        assert_eq!(parse_disks("2x1G").unwrap(), (2, 1 << 30, Bus::Virtio));
        assert_eq!(parse_disks("1x512M:nvme").unwrap(), (1, 512 << 20, Bus::Nvme));
        for wrong in ["", "2", "2x", "2x1", "2x1K", "xG", "1x1G:floppy", "-1x1G", "1x99999999999T"] {
            assert!(parse_disks(wrong).is_err(), "{wrong}");
        }
    }
}
