//! The command lines of each phase, as an operator would type them.

use std::path::Path;

use quarry_exec::Command;

use super::{Floor, Lv, Use, Volume};
use crate::Phase;

/// How long a command may take before a warning is logged. It is never killed.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(600);

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    program: &'static str,
    args: Vec<String>,
    /// The logical volume that the command writes to. Its device is checked before.
    pub(super) writes: Option<Part>,
    /// The logical volume that the command creates. Its UUID is read afterwards.
    pub(super) creates: Option<Part>,
}

/// The logical volumes of one volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Volume,
    Snapshot,
    Restored,
}

impl Line {
    fn new<const N: usize>(program: &'static str, args: [&str; N]) -> Self {
        Self { program, args: args.map(str::to_owned).to_vec(), writes: None, creates: None }
    }

    pub(super) fn unmount(path: &Path) -> Self {
        Self::new("umount", [&*text(path)])
    }

    fn writes(self, part: Part) -> Self {
        Self { writes: Some(part), ..self }
    }

    fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.args.extend(args.into_iter().map(str::to_owned));
        self
    }

    pub(super) fn command(&self) -> Command {
        Command::mutation(self.program).args(&self.args).deadline(DEADLINE)
    }

    /// As an operator would type it.
    #[cfg(test)]
    pub(super) fn text(&self) -> String {
        std::iter::once(self.program).chain(self.args.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl Floor {
    /// The programs that the phases need.
    pub(super) fn tools(&self) -> Vec<&'static str> {
        let mut tools = vec!["lvm", "mount", "umount", "dd"];
        tools.extend(match self.usage {
            Use::Ext4 => ["mkfs.ext4", "resize2fs", "df"].as_slice(),
            Use::Xfs => &["mkfs.xfs", "xfs_growfs", "df"],
            Use::Btrfs => &["mkfs.btrfs", "btrfs", "df"],
            Use::Raw => &["blockdev"],
        });
        tools
    }

    /// Why a phase has no commands.
    pub(super) fn lacks(&self, phase: Phase) -> Option<&'static str> {
        match phase {
            Phase::Attach | Phase::Detach => Some("a volume on this host is not attached"),
            Phase::Stage if self.usage == Use::Raw => Some("a new raw volume is active already"),
            Phase::Snapshot | Phase::Restore | Phase::DeleteRestored | Phase::DeleteSnapshot
                if self.usage == Use::Btrfs =>
            {
                Some("two btrfs filesystems with the same UUID must not be visible at once")
            }
            _ => None,
        }
    }

    /// The commands of a phase, in order.
    pub(super) fn lines(&self, phase: Phase, volume: &Volume) -> Vec<Line> {
        let (staging, target) = (text(&volume.place.staging()), text(&volume.place.target()));
        match phase {
            Phase::Create => vec![self.create(&volume.lv, Part::Volume, self.size)],
            Phase::Stage => self.mount_new(volume, &staging),
            Phase::Restage => self.mount_again(volume, &staging),
            Phase::Publish if self.stages => self.bind(volume, &staging, &target),
            Phase::Republish if self.stages => self.bind(volume, &staging, &target),
            Phase::Publish => self.mount_new(volume, &target),
            Phase::Republish => self.mount_again(volume, &target),
            Phase::Stats if self.usage == Use::Raw => vec![Line::new("blockdev", ["--getsize64", &target])],
            Phase::Stats => vec![Line::new("df", [&*target])],
            Phase::Expand if self.stages => self.expand(volume, Some(&staging)),
            Phase::Expand => self.expand(volume, self.publishes.then_some(&*target)),
            Phase::Snapshot => vec![self.snapshot(volume)],
            Phase::Restore => self.restore(volume),
            Phase::DeleteRestored => vec![self.remove(&volume.restored)],
            Phase::DeleteSnapshot => vec![self.remove(&volume.snapshot)],
            Phase::Unpublish if self.stages => vec![Line::new("umount", [&*target])],
            Phase::Unpublish => vec![Line::new("umount", [&*target]), self.deactivate(volume)],
            Phase::Unstage if self.usage == Use::Raw => vec![self.deactivate(volume)],
            Phase::Unstage => vec![Line::new("umount", [&*staging]), self.deactivate(volume)],
            Phase::Delete => vec![self.remove(&volume.lv)],
            Phase::Attach | Phase::Detach => Vec::new(),
        }
    }

    pub(super) fn device(&self, lv: &Lv) -> String {
        format!("/dev/{}/{}", self.lvm.volume_group, lv.name)
    }

    fn path(&self, lv: &Lv) -> String {
        format!("{}/{}", self.lvm.volume_group, lv.name)
    }

    fn create(&self, lv: &Lv, part: Part, size: i64) -> Line {
        let size = format!("{size}b");
        let line = Line::new("lvm", ["lvcreate", "--yes", "--name", &lv.name, "--addtag", &self.tag]);
        let line = line.args(self.lvm.lvcreate_options.iter().map(String::as_str));
        let line = match &self.lvm.thin_pool {
            Some(pool) => line.args(["--virtualsize", &size, "--thinpool", pool, &self.lvm.volume_group]),
            None => line.args(["--size", &size, &self.lvm.volume_group]),
        };
        Line { creates: Some(part), ..line }
    }

    /// What turns the device of a new logical volume into a mounted filesystem.
    fn mount_new(&self, volume: &Volume, at: &str) -> Vec<Line> {
        let device = self.device(&volume.lv);
        // Without an option that forces: mkfs itself rejects a device that is in use.
        let mkfs = match self.usage {
            Use::Ext4 => "mkfs.ext4",
            Use::Xfs => "mkfs.xfs",
            Use::Btrfs => "mkfs.btrfs",
            Use::Raw => return vec![Line::new("mount", ["--bind", &device, at])],
        };
        vec![Line::new(mkfs, [&*device]).writes(Part::Volume), self.mount(&device, at)]
    }

    fn mount_again(&self, volume: &Volume, at: &str) -> Vec<Line> {
        let device = self.device(&volume.lv);
        let activate = Line::new("lvm", ["lvchange", "--activate", "y", &self.path(&volume.lv)]);
        let mount = match self.usage {
            // Staged, a raw volume is only active.
            Use::Raw if self.stages => return vec![activate],
            Use::Raw => Line::new("mount", ["--bind", &device, at]),
            Use::Ext4 | Use::Xfs | Use::Btrfs => self.mount(&device, at),
        };
        vec![activate, mount]
    }

    fn mount(&self, device: &str, at: &str) -> Line {
        match self.mount_options.is_empty() {
            true => Line::new("mount", [device, at]),
            false => Line::new("mount", ["--options", &self.mount_options.join(","), device, at]),
        }
    }

    fn bind(&self, volume: &Volume, staging: &str, target: &str) -> Vec<Line> {
        let device = self.device(&volume.lv);
        vec![Line::new("mount", ["--bind", if self.usage == Use::Raw { &device } else { staging }, target])]
    }

    fn deactivate(&self, volume: &Volume) -> Line {
        Line::new("lvm", ["lvchange", "--activate", "n", &self.path(&volume.lv)])
    }

    /// Extends the logical volume, and the filesystem if it is mounted.
    fn expand(&self, volume: &Volume, mounted: Option<&str>) -> Vec<Line> {
        let size = format!("{}b", self.expand_to);
        let extend = Line::new("lvm", ["lvextend", "--size", &size, &self.path(&volume.lv)]);
        let Some(mounted) = mounted else { return vec![extend] };
        let grow = match self.usage {
            Use::Ext4 => Line::new("resize2fs", [&*self.device(&volume.lv)]).writes(Part::Volume),
            Use::Xfs => Line::new("xfs_growfs", [mounted]),
            Use::Btrfs => Line::new("btrfs", ["filesystem", "resize", "max", mounted]),
            Use::Raw => return vec![extend],
        };
        vec![extend, grow]
    }

    /// A snapshot that cannot overflow, or a thin one.
    fn snapshot(&self, volume: &Volume) -> Line {
        let line = Line::new("lvm", ["lvcreate", "--yes", "--snapshot"]);
        let line = match self.lvm.thin_pool {
            Some(_) => line,
            None => line.args(["--extents", "100%ORIGIN"]),
        };
        let (name, path) = (&volume.snapshot.name, self.path(&volume.lv));
        let line = line.args(["--name", name, "--addtag", &self.tag, &path]);
        Line { creates: Some(Part::Snapshot), ..line }
    }

    /// A copy of the snapshot; in a thin pool, another snapshot.
    fn restore(&self, volume: &Volume) -> Vec<Line> {
        if self.lvm.thin_pool.is_some() {
            let (name, path) = (&volume.restored.name, self.path(&volume.snapshot));
            let line = Line::new("lvm", ["lvcreate", "--yes", "--snapshot", "--setactivationskip", "n"]);
            let line = line.args(["--name", name, "--addtag", &self.tag, &path]);
            return vec![Line { creates: Some(Part::Restored), ..line }];
        }
        let (from, to) = (self.device(&volume.snapshot), self.device(&volume.restored));
        let size = if volume.expanded { self.expand_to } else { self.size };
        let copy = Line::new("dd", ["bs=1M", "iflag=direct", "oflag=direct", "conv=nocreat,fsync"]);
        let copy = copy.args([&*format!("if={from}"), &*format!("of={to}")]).writes(Part::Restored);
        vec![self.create(&volume.restored, Part::Restored, size), copy]
    }

    /// Removes one logical volume by name, tag and UUID, and only if nothing depends on it. lvm checks this
    /// under its own lock. Without a UUID, it removes nothing.
    pub(super) fn remove(&self, lv: &Lv) -> Line {
        let uuid = lv.uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
        let select = format!(
            "lv_uuid=\"{uuid}\" && lv_tags=\"{}\" && lv_role!={{\"thickorigin\" || \"extthinorigin\"}} && \
             lv_layout!={{\"cache\" || \"writecache\" || \"pool\" || \"vdo\"}}",
            self.tag
        );
        Line::new("lvm", ["lvremove", "--yes", "--select", &select, &self.path(lv)])
    }
}
