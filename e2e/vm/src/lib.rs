//! Virtual nodes: small guests with real LVM, for the demo and the tests.
//!
//! Real storage tests need device-mapper, disks that can be removed and power that can be cut, which you do
//! not want on your own machine. [`Vm::start`] starts a new guest within about a second: a small Debian is
//! built once from its packages, booted once, and its saved state is restored for every test. Disks are
//! plugged in while it runs. Nothing needs root, and only the cache folder of the host is used.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use quarry_vm::{Config, Disk, Vm};
//!
//! let vm = Vm::start(Config::new("node-1").disk(Disk::new("d1", 1 << 30))).await?;
//! vm.sh("vgcreate pool /dev/disk/by-id/virtio-d1 && lvcreate -L 64M -n a pool").await?;
//! vm.shutdown().await
//! # }
//! ```

mod agent;
mod cpio;
mod daemon;
mod disk;
mod forward;
mod host;
mod image;
mod machine;
mod nbd;
mod network;
mod preparation;
pub mod protocol;
mod qmp;
mod rundir;
mod state;
mod static_build;
mod system;
mod vm;
mod write_cache;

pub use agent::{Command, Event, Guest, Output, Process};
pub use daemon::{Daemon, run};
pub use disk::{Bus, Disk, Throttle};
pub use forward::Forward;
pub use host::{install_tools, missing_tools};
pub use image::busybox;
pub use machine::{Accelerator, Shape};
pub use nbd::Fault;
pub use network::{HOST, Network};
pub use preparation::Preparation;
pub use protocol::Exit;
pub use static_build::{Build, build_static, build_static_in, build_static_tests};
pub use system::System;
pub use vm::{Config, PowerCut, SpareDisk, Vm};
