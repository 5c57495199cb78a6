//! Runs cryptsetup. Errors are recognized by its exit codes (cryptsetup(8), "RETURN CODES").
//!
//! * The passphrase is its standard input, and nowhere else.
//! * Deriving a key from a passphrase needs much memory, so only one cryptsetup that does so runs at a time.
//! * cryptsetup does not wait for udev (`DM_DISABLE_UDEV`): a udevd in another IPC namespace would never answer. libdevmapper
//!   then makes the nodes under `/dev/mapper` itself. Quarry uses the kernel's own nodes.
//! * The key is in the table of the dm-crypt device and not in a keyring (`--disable-keyring`): so a resize needs no
//!   passphrase, and the key does not belong to a process or a session.
//! * A cryptsetup that outlives the Quarry process that started it holds the lock of the pool's device, like an mkfs.

use std::path::Path;
use std::time::Duration;

use quarry_exec::{Command, Output, Secret};
use quarry_filesystem::{Exclusive, Locked, Probe, lock, on_own_thread, probe};
use quarry_mount::remove_unfinished_mapping;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::header::{self, Header};
use crate::{Error, HEADER_SIZE, Layer, METADATA_SIZE};

/// The program, and the package that contains it.
pub const TOOL: (&str, &str) = ("cryptsetup", "cryptsetup-bin");

/// A passphrase of this length or more, in bytes, counts as a random key, which nobody can guess: deriving a key from it
/// need not be expensive. 32 bytes, or their base64 or hexadecimal digits.
const RANDOM_KEY: usize = 32;
/// How the key is derived from a random key.
const FOR_RANDOM_KEY: [&str; 4] = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "100000"];
/// How the key is derived from a passphrase: not below the second recommended option of RFC 9106 (64 MiB, 3 iterations,
/// 4 lanes). The memory is fixed, so that a header that was made on one host can be opened on another one, and in a
/// container with a memory limit. The numbers are fixed, so that no benchmark runs.
const FOR_PASSPHRASE: [&str; 8] =
    ["--pbkdf", "argon2id", "--pbkdf-memory", "65536", "--pbkdf-force-iterations", "4", "--pbkdf-parallel", "4"];

/// When a command that derives a key is reported as overdue.
const DEADLINE: Duration = Duration::from_secs(120);

/// The cryptsetup that derives a key. Each needs 64 MiB, and a host can open hundreds of volumes after a boot.
static DERIVING: Semaphore = Semaphore::const_new(1);
/// How long the next one waits for it: deriving a key takes a second or two, so it hangs, on a disk that does not respond.
const TURN: Duration = Duration::from_secs(30);

/// Exit codes of cryptsetup. The first one means a wrong key only when a device is opened.
pub(crate) const NO_PERMISSION: i32 = 2;
const BUSY: i32 = 5;

pub(crate) fn command(action: &'static str) -> Command {
    Command::mutation(TOOL.0)
        .subcommand(action)
        .arg("--batch-mode")
        .environment("DM_DISABLE_UDEV", "1")
        .deadline(DEADLINE)
}

/// Holds the device of a pool exclusively, after [`remove_unfinished`]. Blocks.
///
/// # Errors
/// `Busy` of [`Error::Device`] if it is in use, also by an earlier cryptsetup, or as the open dm-crypt device.
pub fn hold(device: &Path, name: &str) -> Result<Exclusive, Error> {
    Ok(remove_unfinished(device, name)?.claim()?)
}

/// Removes what a cryptsetup that was killed left on the device of a pool: an unfinished dm-crypt device with that name,
/// which would hold the device forever. Succeeds if nothing is left. Blocks.
///
/// # Errors
/// `Busy` of [`Error::Device`] while an earlier cryptsetup works on the device.
pub fn remove_unfinished(device: &Path, name: &str) -> Result<Locked, Error> {
    let locked = lock(device)?;
    remove_unfinished_mapping(name).map_err(|source| Error::Mapping { name: name.to_owned(), source })?;
    Ok(locked)
}

/// Writes a LUKS2 header with that UUID and one key slot to a blank device, and returns when it is flushed. One with this
/// UUID that an interrupted call left is written again. `name`: that of the dm-crypt device.
///
/// Only a volume that was never used may be passed: what is on the device cannot be read any more.
///
/// # Errors
/// [`Error::NotBlank`] if the device contains anything else; `Busy` of [`Error::Device`] if it is in use, also by an
/// earlier cryptsetup.
pub async fn format(device: &Path, uuid: Uuid, name: &str, passphrase: &Secret) -> Result<(), Error> {
    check(passphrase)?;
    let attempted = "write a LUKS2 header to";
    let (node, layer) = (device.to_owned(), name.to_owned());
    let (held, found) = blocking(device, move || Ok((hold(&node, &layer)?, header::read(&node)?))).await?;
    let found = match found {
        Header::Unfinished { uuid: found } if found == uuid => None,
        Header::None => match probe(device).await? {
            Probe::Blank => None,
            found => Some(found.description()),
        },
        found => Some(found.description()),
    };
    if let Some(found) = found {
        return Err(Error::NotBlank { device: device.to_owned(), found });
    }
    let command = command("luksFormat")
        .args(["--type", "luks2", "--key-file=-", "--uuid"])
        .arg(uuid.to_string())
        .args(["--cipher", "aes-xts-plain64", "--key-size", "512", "--hash", "sha256"])
        .args(["--luks2-metadata-size", &METADATA_SIZE.to_string(), "--offset", &(HEADER_SIZE / 512).to_string()])
        .args(derivation(passphrase))
        .arg(device)
        .on(device.display().to_string())
        .input(passphrase.clone());
    done(derive(command, held).await, attempted, device)?;
    require_header(device, uuid).await
}

/// Gives the LUKS2 header on a device that UUID, and returns when it is flushed. Its key slots stay as they are. It can be
/// interrupted and repeated: cryptsetup writes one copy of the header after the other. `name`: that of the dm-crypt device.
///
/// Only the device of a volume that is being filled may be passed, with the header of its source on it.
///
/// # Errors
/// [`Error::NoHeader`] if the device does not contain a complete header: nothing was changed. `Busy` of [`Error::Device`]
/// if it is in use, also by an earlier cryptsetup.
pub async fn set_uuid(device: &Path, uuid: Uuid, name: &str) -> Result<(), Error> {
    let (node, layer) = (device.to_owned(), name.to_owned());
    let (held, found) = blocking(device, move || Ok((hold(&node, &layer)?, header::read(&node)?))).await?;
    match found {
        // An interrupted call may not have flushed it.
        Header::Complete { uuid: found } if found == uuid => return require_header(device, uuid).await,
        Header::Complete { .. } => {}
        found => return Err(Error::NoHeader { device: device.to_owned(), found: found.description() }),
    }
    let command = command("luksUUID").arg("--uuid").arg(uuid.to_string()).arg(device);
    let command = command.on(device.display().to_string()).holding(held.release_claim());
    done(command.run().await, "change the UUID of the LUKS2 header on", device)?;
    require_header(device, uuid).await
}

/// Flushes a device, and checks that it contains the complete header with that UUID.
async fn require_header(device: &Path, uuid: Uuid) -> Result<(), Error> {
    let node = device.to_owned();
    let found = blocking(device, move || {
        let failed = |source| Error::io("flush", &node, source);
        std::fs::File::open(&node).and_then(|device| device.sync_all()).map_err(failed)?;
        header::read(&node)
    })
    .await?;
    match found {
        Header::Complete { uuid: found } if found == uuid => Ok(()),
        found => Err(Error::Unverified { device: device.to_owned(), found: found.description() }),
    }
}

/// Opens the device as a dm-crypt device with that name. `discards`: whether discards on the
/// dm-crypt device reach the device below, which shows where nothing is stored.
///
/// # Errors
/// [`Error::WrongKey`]; `Busy` of [`Error::Device`] if the device is in use, or open already.
pub async fn open(device: &Path, name: &str, passphrase: &Secret, discards: bool) -> Result<(), Error> {
    check(passphrase)?;
    let (node, layer) = (device.to_owned(), name.to_owned());
    let held = blocking(device, move || hold(&node, &layer)).await?;
    let command = command("open")
        .args(["--type", "luks2", "--key-file=-", "--disable-keyring"])
        .args(discards.then_some("--allow-discards"))
        .arg(device)
        .arg(name)
        .on(device.display().to_string())
        .input(passphrase.clone());
    match derive(command, held).await {
        Ok(Output { code: NO_PERMISSION, .. }) => Err(Error::WrongKey { device: device.to_owned() }),
        other => done(other, "open the encrypted device", device),
    }
}

/// Runs a cryptsetup that derives a key, when no other one does so. Until then, the device is held.
async fn derive(command: Command, held: Exclusive) -> Result<Output, quarry_exec::Error> {
    let turn = DERIVING.acquire().await;
    let mut running = Box::pin(command.holding(held.release_claim()).run());
    if let Ok(ended) = tokio::time::timeout(TURN, &mut running).await {
        return ended;
    }
    drop(turn);
    running.await
}

/// Gives the dm-crypt device with that name the size that the device below it allows.
///
/// # Errors
/// `Busy` of [`Error::Device`] while an earlier cryptsetup works on the device: it may have read its earlier size.
pub async fn resize(device: &Path, name: &str) -> Result<(), Error> {
    let node = device.to_owned();
    let locked = blocking(device, move || Ok(lock(&node)?)).await?;
    let command = command("resize").arg(name).on(device.display().to_string()).holding(locked.into_lock());
    done(command.run().await, "resize the encrypted device on", device)
}

/// Closes a dm-crypt device: the kernel overwrites its key. Reads nothing from the device below, which may be gone, so
/// cryptsetup is not needed. Succeeds if it does not exist. Blocks.
///
/// # Errors
/// [`Error::Busy`] while something has it open.
pub fn close(layer: &Layer) -> Result<(), Error> {
    quarry_mount::remove_mapping(&layer.uuid, &layer.name).map_err(|error| match error {
        quarry_mount::Error::Busy { .. } => {
            Error::Busy { attempted: "close the encrypted device", on: layer.node.clone() }
        }
        source => Error::Mapping { name: layer.name.clone(), source },
    })
}

/// How a key is derived from the passphrase.
pub(crate) fn derivation(passphrase: &Secret) -> &'static [&'static str] {
    if passphrase.len() < RANDOM_KEY { &FOR_PASSPHRASE } else { &FOR_RANDOM_KEY }
}

pub(crate) fn check(passphrase: &Secret) -> Result<(), Error> {
    match passphrase.len() {
        1..=Secret::MAX => Ok(()),
        length => Err(Error::Passphrase { length }),
    }
}

/// The result of a cryptsetup that has ended.
pub(crate) fn done(
    result: Result<Output, quarry_exec::Error>,
    attempted: &'static str,
    on: &Path,
) -> Result<(), Error> {
    let failed = |source| Error::Command { attempted, on: on.to_owned(), source };
    let output = result.map_err(failed)?;
    match output.code {
        BUSY => Err(Error::Busy { attempted, on: on.to_owned() }),
        _ => output.require_success().map(drop).map_err(failed),
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    device: &Path,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let failed = |source| Error::io("use", device, source);
    on_own_thread(work).await.map_err(failed)?
}
