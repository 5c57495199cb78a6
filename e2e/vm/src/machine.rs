//! One QEMU process: describes, starts, watches and kills it.
#![allow(clippy::disallowed_types)] // quarry-exec ends what it starts; a machine lives on between calls.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use std::{fmt, fs};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use quarry_cache::{Cache, key};
use serde_json::json;
use tokio::process::{Child, Command};

use crate::host::{self, Leash};
use crate::image::Image;
use crate::protocol::PORT;
use crate::qmp::Qmp;

/// The emulator for the guest's architecture.
pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// Empty slots that virtio and NVMe disks are plugged into.
pub(crate) const SLOTS: usize = 16;

/// Where the network card of a node with a network is plugged in. No disk takes its place, and a node without a network
/// pays nothing but an empty slot.
pub(crate) const LAN_SLOT: &str = "lan-slot";

/// The guest's kernel command line. Code that is always loaded at the same addresses need not be translated
/// again for each process: under emulation `norandmaps` halves the time of an lvm command. On a busy host, the kernel may
/// see no timer interrupt for so long that it panics, if it checks that.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nowatchdog norandmaps \
                                rcupdate.rcu_expedited=1 no_timer_check";

/// Makes SELinux the security module of the kernel.
const SELINUX: &str = " security=selinux selinux=1 enforcing=0";

fn kernel_arguments(shape: Shape) -> String {
    format!("{KERNEL_ARGUMENTS}{}", if shape.selinux { SELINUX } else { "" })
}

/// How long a guest may take under KVM to say its first word.
const KVM_PROBE: Duration = Duration::from_secs(10);

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// Software emulation: works everywhere, perhaps fifteen times slower.
    Tcg,
}

impl Accelerator {
    fn argument(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg,thread=multi",
        }
    }

    fn cpu(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            // The oldest model with the features in use (AES for TLS). Each further feature only costs: wide
            // registers and five levels of page tables are slow to emulate.
            Self::Tcg => "Westmere",
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "software emulation",
        })
    }
}

/// The file in a machine's folder with the output of its console.
pub(crate) const CONSOLE_LOG: &str = "console.log";

/// How large a machine is. Each shape has its own saved state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Memory in MiB.
    pub memory: u32,
    /// Virtual processors. Under emulation one does more work than two: their communication costs more than
    /// the second one gains.
    pub cpus: u8,
    /// Whether its kernel has SELinux, which permits everything and has no policy yet.
    pub selinux: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self { memory: 768, cpus: 1, selinux: false }
    }
}

/// A description of a machine that is enough to start it.
pub(crate) struct Machine<'a> {
    pub(crate) image: &'a Image,
    pub(crate) accelerator: Accelerator,
    pub(crate) shape: Shape,
}

impl Machine<'_> {
    /// The arguments that decide what the guest sees. A saved state fits only the very same ones.
    fn hardware(&self) -> Vec<String> {
        let mut arguments: Vec<String> = [
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-machine",
            "q35",
            "-accel",
            self.accelerator.argument(),
            "-cpu",
            self.accelerator.cpu(),
            "-smp",
            &self.shape.cpus.to_string(),
            "-m",
            &self.shape.memory.to_string(),
            "-append",
            &kernel_arguments(self.shape),
            "-device",
            "virtio-blk-pci,drive=root,serial=root",
            "-device",
            "virtio-net-pci,netdev=net,mac=52:54:00:12:34:56",
            "-device",
            "virtio-scsi-pci,id=scsi",
        ]
        .map(str::to_owned)
        .into();
        let names = (0..SLOTS).map(|slot| format!("slot{slot}")).chain([LAN_SLOT.to_owned()]);
        for (slot, name) in names.enumerate() {
            // Eight functions to a device: they would not all find a place on the root bus otherwise.
            let (device, function) = (8 + slot / 8, slot % 8);
            let port = format!("pcie-root-port,id={name},chassis={slot},addr={device:x}.{function},multifunction=on");
            arguments.extend(["-device".to_owned(), port]);
        }
        arguments
    }

    /// A hash of everything that a saved state depends on.
    pub(crate) async fn key(&self) -> Result<String> {
        let version = host::run(QEMU, ["--version"], Path::new("/"), Duration::from_secs(30)).await?;
        let mut parts = vec![self.image.key.clone(), version];
        parts.extend(self.hardware());
        if self.accelerator == Accelerator::Kvm {
            // "-cpu host" is another processor on another host.
            let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let model = |line: &&str| line.starts_with("model name") || line.starts_with("flags");
            parts.extend(processor.lines().filter(model).take(2).map(str::to_owned));
        }
        Ok(key(parts.iter().map(String::as_bytes)))
    }

    /// Starts QEMU in `folder`, which contains `root.qcow2`, with the processors stopped. With `restore` it
    /// waits for the saved state in the file `state` there; otherwise it boots when it is continued.
    /// `reach_host` lets the guest connect to the host's loopback interface; it gets no further, because it
    /// has no default route.
    pub(crate) async fn start(&self, folder: &Path, restore: bool, reach_host: bool) -> Result<Qemu> {
        for _ in 1..PORTS {
            match self.start_at(free_port()?, folder, restore, reach_host).await {
                // Another program was quicker.
                Err(error) if format!("{error:#}").contains("host forwarding rule") => {}
                started => return started,
            }
        }
        self.start_at(free_port()?, folder, restore, reach_host).await
    }

    async fn start_at(&self, port: u16, folder: &Path, restore: bool, reach_host: bool) -> Result<Qemu> {
        let restrict = if reach_host { "off" } else { "on" };
        let root = json!({
            "node-name": "root", "driver": "qcow2", "discard": "unmap",
            "file": { "driver": "file", "filename": "root.qcow2", "discard": "unmap" },
        });
        let mut command = Command::new(QEMU);
        command
            .args(self.hardware())
            .arg("-kernel")
            .arg(&self.image.kernel)
            .arg("-initrd")
            .arg(&self.image.initrd)
            .args(["-S", "-qmp", "stdio", "-blockdev", &root.to_string()])
            // Appended, so that it has the output of earlier boots, too.
            .args(["-chardev", &format!("file,id=console,path={CONSOLE_LOG},append=on"), "-serial", "chardev:console"])
            .arg("-netdev")
            .arg(format!("user,id=net,restrict={restrict},hostfwd=tcp:127.0.0.1:{port}-:{PORT}"));
        if restore {
            command.args(["-incoming", "exec:cat state"]);
        }
        Qemu::spawn(command, folder, port).await
    }
}

/// How many ports are tried.
const PORTS: usize = 5;

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no free port on the loopback interface")?;
    Ok(listener.local_addr().context("no free port on the loopback interface")?.port())
}

/// A running QEMU. It is killed when this value is dropped, and when this whole process is killed.
pub(crate) struct Qemu {
    pub(crate) qmp: Qmp,
    /// The port on the host's loopback interface that leads to the agent.
    pub(crate) port: u16,
    child: Child,
    leash: Option<Leash>,
}

impl Qemu {
    async fn spawn(mut command: Command, folder: &Path, port: u16) -> Result<Self> {
        let log = fs::File::create(folder.join("qemu.log")).context("cannot make QEMU's log")?;
        let mut child = command
            .current_dir(folder)
            .env("PATH", host::path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            // A terminal's Ctrl-C must reach us, not the machine.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {QEMU}"))?;
        let pid = child.id().context("QEMU exited at once")?;
        let leash = Leash::new(pid, Signal::SIGKILL)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("QEMU has no control connection");
        };
        let qmp = Qmp::connect(stdin, stdout).await.with_context(|| {
            let said = fs::read_to_string(folder.join("qemu.log")).unwrap_or_default();
            format!("cannot start {QEMU}: {}", host::tail(&said, 10))
        })?;
        Ok(Self { qmp, port, child, leash: Some(leash) })
    }

    /// Kills the machine at once, like pulling the power cord, and waits until it is gone.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.context("cannot kill QEMU")?;
        self.released();
        Ok(())
    }

    /// The process is gone and reaped.
    fn released(&mut self) {
        if let Some(leash) = self.leash.take() {
            leash.release();
        }
    }

    /// Waits until QEMU has exited by itself.
    pub(crate) async fn wait(&mut self, deadline: Duration) -> Result<()> {
        tokio::time::timeout(deadline, self.child.wait())
            .await
            .with_context(|| format!("the guest did not power off within {deadline:?}"))?
            .context("cannot wait for QEMU")?;
        self.released();
        Ok(())
    }
}

/// The accelerator to use: KVM where a guest really boots under it, else emulation. `QUARRY_VM_ACCEL=kvm|tcg`
/// overrides.
pub(crate) async fn accelerator(cache: &Cache, image: &Image) -> Result<Accelerator> {
    match std::env::var("QUARRY_VM_ACCEL").as_deref() {
        Ok("kvm") => return Ok(Accelerator::Kvm),
        Ok("tcg") => return Ok(Accelerator::Tcg),
        Ok(other) if !other.is_empty() => bail!("QUARRY_VM_ACCEL is kvm or tcg, not {other:?}"),
        _ => {}
    }
    if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accelerator::Tcg);
    }
    // The answer holds until the host boots again: a kernel, a hypervisor or a setting may have changed by then.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let answer_key = key([boot.as_bytes(), image.kernel_key.as_bytes()]);
    let entry = cache
        .entry("accelerator", &answer_key, async |folder: &Path| {
            eprintln!("quarry-vm: trying whether a guest runs under KVM");
            let answer = if kvm_works(image, folder).await { "kvm" } else { "tcg" };
            fs::write(folder.join("answer"), answer).context("cannot write down the accelerator")
        })
        .await?;
    let answer = fs::read_to_string(entry.join("answer")).context("cannot read the accelerator's name")?;
    Ok(if answer == "kvm" { Accelerator::Kvm } else { Accelerator::Tcg })
}

/// Boots the kernel under KVM and waits for our own first line: the existence of /dev/kvm proves nothing.
async fn kvm_works(image: &Image, folder: &Path) -> bool {
    let console = folder.join(CONSOLE_LOG);
    let mut command = Command::new(QEMU);
    command
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35,accel=kvm"])
        .args(["-cpu", "host", "-m", "256", "-append", "console=ttyS0 quarry.probe panic=-1"])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initrd)
        .args(["-serial", &format!("file:{CONSOLE_LOG}")])
        .current_dir(folder)
        .env("PATH", host::path());
    // It may hang, fail, or power off after its line; only the line counts.
    let _ = host::run_command(command, KVM_PROBE).await;
    fs::read_to_string(console).is_ok_and(|text| text.contains("quarry-vm: initrd"))
}

/// The end of the guest's console, for error messages.
pub(crate) fn console_tail(folder: &Path) -> String {
    let path: PathBuf = folder.join(CONSOLE_LOG);
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let tail = host::tail(&text, 20);
    if tail.is_empty() { "(the guest's console is empty)".into() } else { format!("the guest's console ends:\n{tail}") }
}
