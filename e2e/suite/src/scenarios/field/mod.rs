//! States that real clusters got into, each from a public report about a driver like this one, about LVM, udev or kubelet:
//! hung and ill disks, bytes that tenants write, changes that operators make by hand, settings of the host.
//!
//! The cases are shell scripts (`cases/`), so that a person can run one by hand in a guest. What needs the machine's
//! monitor, several pools or many calls is written in Rust, in a file for each subject.

mod cases;
mod filesystems;
mod host_settings;
mod hung;
mod identity;
mod idle;
mod killed;
mod room;
mod systemd;
mod whole_disks;

use crate::runner::Scenario;

/// All of them.
pub fn all() -> Vec<Scenario> {
    let subjects = [
        cases::all(),
        filesystems::all(),
        host_settings::all(),
        hung::all(),
        identity::all(),
        killed::all(),
        room::all(),
        systemd::all(),
        whole_disks::all(),
    ];
    subjects.into_iter().flatten().collect()
}
