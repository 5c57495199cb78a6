//! Changes the passphrase of an encrypted volume while it is open.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use quarry_exec::{Command, Output, Secret};
use quarry_filesystem::lock;

use crate::cryptsetup::{NO_PERMISSION, blocking, check, command, derivation, done};
use crate::{Error, Header, header, layer_name, named};

/// What [`rekey`] has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rekeyed {
    /// The new passphrase was added; otherwise the volume had it already.
    pub added: bool,
    /// The old passphrase was removed; otherwise it is kept, or the volume did not have it any more.
    pub removed: bool,
}

/// Adds a key slot for the new passphrase to the header of the volume with that identifier, and then removes that of the
/// old one, unless `keep_old` is set. The volume is in use meanwhile, and its data is not encrypted again.
///
/// It can be interrupted and repeated at any point: at every instant, at least one of the two passphrases opens the volume.
/// The old one is removed only after the new one was tried.
///
/// # Errors
/// [`Error::NotOpen`]; [`Error::WrongKey`] if the old passphrase opens no key slot: nothing was changed; `Busy` of
/// [`Error::Device`] while a cryptsetup of another call works on the device.
pub async fn rekey(volume: &str, old: &Secret, new: &Secret, keep_old: bool) -> Result<Rekeyed, Error> {
    for passphrase in [old, new] {
        check(passphrase)?;
        if !passphrase.is_text() {
            return Err(Error::NotText);
        }
    }
    if old == new {
        return Err(Error::SamePassphrase);
    }
    let device = Device::of(volume).await?;
    let added = !device.opens_with(new).await?;
    if added {
        device.add(old, new).await?;
    }
    let mut removed = false;
    // It may have several key slots.
    while !keep_old && device.opens_with(old).await? {
        // What was just added may not have reached the disk as it should.
        if !device.opens_with(new).await? {
            return Err(Error::WrongKey { device: device.node });
        }
        device.remove(old).await?;
        removed = true;
    }
    Ok(Rekeyed { added, removed })
}

/// The device below an open dm-crypt device. No other cryptsetup that Quarry starts works on it.
struct Device {
    node: PathBuf,
    lock: OwnedFd,
}

impl Device {
    async fn of(volume: &str) -> Result<Self, Error> {
        let name = layer_name(volume);
        let not_open = || Error::NotOpen { volume: volume.to_owned() };
        let layer = named(&name).ok_or_else(not_open)?;
        let node = layer.below().ok_or_else(not_open)?;
        let below = node.clone();
        let (lock, found) = blocking(&node, move || Ok((lock(&below)?.into_lock(), header::read(&below)?))).await?;
        match found {
            Header::Complete { uuid } if Some(uuid) == layer.header_uuid() => Ok(Self { node, lock }),
            found => Err(Error::OtherHeader { name, device: node, found: found.description() }),
        }
    }

    fn command(&self, action: &'static str) -> Result<Command, Error> {
        let lock = self.lock.try_clone().map_err(|source| Error::io("lock", &self.node, source))?;
        Ok(command(action).arg("--key-file=-").on(self.node.display().to_string()).holding(lock))
    }

    /// Whether a passphrase opens a key slot. Changes nothing.
    async fn opens_with(&self, passphrase: &Secret) -> Result<bool, Error> {
        let command = self.command("open")?.args(["--type", "luks2", "--test-passphrase"]).arg(&self.node);
        match command.input(passphrase.clone()).run().await {
            Ok(Output { code: NO_PERMISSION, .. }) => Ok(false),
            other => done(other, "try a passphrase of", &self.node).map(|()| true),
        }
    }

    async fn add(&self, old: &Secret, new: &Secret) -> Result<(), Error> {
        let command = self.command("luksAddKey")?.args(derivation(new)).arg(&self.node).input(old.clone());
        let command = command.secret_argument(new).map_err(|source| Error::io("pass a key for", &self.node, source))?;
        self.change(command, "add a passphrase to").await
    }

    async fn remove(&self, old: &Secret) -> Result<(), Error> {
        let command = self.command("luksRemoveKey")?.arg(&self.node).input(old.clone());
        self.change(command, "remove a passphrase from").await
    }

    async fn change(&self, command: Command, attempted: &'static str) -> Result<(), Error> {
        match command.run().await {
            Ok(Output { code: NO_PERMISSION, .. }) => Err(Error::WrongKey { device: self.node.clone() }),
            other => {
                done(other, attempted, &self.node)?;
                flush(&self.node).await
            }
        }
    }
}

async fn flush(device: &Path) -> Result<(), Error> {
    let node = device.to_owned();
    blocking(device, move || {
        let opened = std::fs::File::open(&node).and_then(|device| device.sync_all());
        opened.map_err(|source| Error::io("flush", &node, source))
    })
    .await
}
