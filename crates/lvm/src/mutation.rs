//! Runs commands that change a volume group.

use std::ffi::OsString;
use std::sync::mpsc::Sender;

use quarry_exec::Command;

use crate::error::{could_not_archive, one_line};
use crate::frozen::Watch;
use crate::settings::{Archive, Devices, Discards, Scope};
use crate::{Error, LogicalVolume, VolumeGroup, device_uuid};

/// A command that changes a volume group. Quarry never kills it.
pub(crate) struct Mutation<'a> {
    subcommand: &'static str,
    scope: &'a Scope,
    args: Vec<OsString>,
    devices: Devices,
    discards: Discards,
    started: Option<Sender<u32>>,
}

impl<'a> Mutation<'a> {
    pub(crate) fn new(subcommand: &'static str, group: &'a VolumeGroup) -> Self {
        Self::within(subcommand, &group.scope)
    }

    fn within(subcommand: &'static str, scope: &'a Scope) -> Self {
        Self {
            subcommand,
            scope,
            args: Vec::new(),
            devices: Devices::Change,
            discards: Discards::AsConfigured,
            started: None,
        }
    }

    /// A command that changes which disks are physical volumes. The volume group need not exist.
    pub(crate) fn of_disks(subcommand: &'static str, scope: &'a Scope) -> Self {
        Self { devices: Devices::Disks, ..Self::within(subcommand, scope) }
    }

    /// It only loads new tables into devices that exist.
    pub(crate) fn with_same_devices(self) -> Self {
        Self { devices: Devices::Stay, ..self }
    }

    /// Whether the extents that it frees are discarded.
    pub(crate) fn with_discards(self, discards: Discards) -> Self {
        Self { discards, ..self }
    }

    /// Runs a command that takes a snapshot of this volume, as [`Self::run`] does, and measures how long the volume is
    /// frozen.
    pub(crate) async fn run_freezing(mut self, group: &VolumeGroup, source: &LogicalVolume) -> Result<(), Error> {
        let (watch, started) = Watch::begin(device_uuid(group.uuid, source.uuid));
        self.started = Some(started);
        let result = self.run().await;
        watch.end(&group.name, result.is_ok()).await;
        result
    }

    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn args<I, S>(mut self, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Runs the command to its end; it must succeed.
    ///
    /// lvm first writes the old metadata to its archive, and changes nothing if that fails. A full or
    /// read-only folder must not prevent the deletion of a volume or the start of a pod: the command is run
    /// again without an archive. That costs the operator this one step of undo.
    pub(crate) async fn run(self) -> Result<(), Error> {
        let output = self.command(Archive::Written).run().await?;
        if output.success() {
            return Ok(());
        }
        if !could_not_archive(&output.stderr) {
            return Err(Error::failed(output));
        }
        tracing::warn!(
            command = output.command,
            words = one_line(&output.stderr),
            "lvm cannot write its archive of metadata; changing without an archive"
        );
        succeed(self.command(Archive::Skipped)).await
    }

    #[cfg(test)]
    pub(crate) fn arguments(&self) -> Vec<String> {
        self.args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect()
    }

    #[cfg(test)]
    pub(crate) fn subject(&self) -> &str {
        &self.scope.subject
    }

    #[cfg(test)]
    pub(crate) fn settings(&self) -> String {
        self.scope.settings_for(self.devices, self.discards, Archive::Written).join(" ")
    }

    fn command(&self, archive: Archive) -> Command {
        let settings = self.scope.settings_for(self.devices, self.discards, archive);
        let command = Command::mutation("lvm").subcommand(self.subcommand).hidden_args(settings);
        let command = command.args(self.args.iter().cloned()).on(&self.scope.subject);
        match &self.started {
            Some(started) => command.pid_to(started.clone()),
            None => command,
        }
    }
}

/// Runs a command that must succeed.
pub(crate) async fn succeed(command: Command) -> Result<(), Error> {
    let output = command.run().await?;
    if output.success() { Ok(()) } else { Err(Error::failed(output)) }
}
