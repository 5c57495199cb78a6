//! States that occurred in real clusters, each from a public report about a similar driver, LVM, udev or
//! kubelet: hung and failing disks, bytes that tenants write, changes that operators make by hand, settings
//! of the host.
//!
//! The cases are shell scripts (`cases/`), so that you can run one by hand in a guest. Cases that need the
//! machine's monitor, several pools or many calls are written in Rust, one file per subject.

mod cases;
mod filesystems;
mod host_settings;
mod hung;
mod identity;
mod idle;
mod killed;
mod room;
mod systemd;
mod under_lock;
mod whole_disks;

use crate::scenario::Scenario;

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
        under_lock::all(),
        whole_disks::all(),
    ];
    subjects.into_iter().flatten().collect()
}
