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
use quarry_filesystem::{Probe, exclusive, on_own_thread, probe};
use quarry_mount::remove_mapping_without_table;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::header::{self, Header};
use crate::{Error, HEADER_SIZE, METADATA_SIZE, layer};

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

/// Exit codes of cryptsetup.
const WRONG_KEY: i32 = 2;
const WRONG_DEVICE: i32 = 4;
const BUSY: i32 = 5;

fn command(action: &'static str) -> Command {
    Command::mutation(TOOL.0)
        .subcommand(action)
        .arg("--batch-mode")
        .environment("DM_DISABLE_UDEV", "1")
        .deadline(DEADLINE)
}

/// Writes a LUKS2 header with that UUID and one key slot to a blank device, and returns when it is flushed. One with this
/// UUID that an interrupted call left is written again.
///
/// Only a volume that was never used may be passed: what is on the device cannot be read any more.
///
/// # Errors
/// [`Error::NotBlank`] if the device contains anything else; `Busy` of [`Error::Device`] if it is in use, also by an
/// earlier cryptsetup.
pub async fn format(device: &Path, uuid: Uuid, passphrase: &Secret) -> Result<(), Error> {
    check(passphrase)?;
    let attempted = "write a LUKS2 header to";
    let one = DERIVING.acquire().await;
    let node = device.to_owned();
    let (held, found) = blocking(device, move || Ok((exclusive(&node)?, header::read(&node)?))).await?;
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
    let derivation: &[&str] = if passphrase.len() < RANDOM_KEY { &FOR_PASSPHRASE } else { &FOR_RANDOM_KEY };
    let command = command("luksFormat")
        .args(["--type", "luks2", "--key-file=-", "--uuid"])
        .arg(uuid.to_string())
        .args(["--cipher", "aes-xts-plain64", "--key-size", "512", "--hash", "sha256"])
        .args(["--luks2-metadata-size", &METADATA_SIZE.to_string(), "--offset", &(HEADER_SIZE / 512).to_string()])
        .args(derivation)
        .arg(device)
        .on(device.display().to_string())
        .input(passphrase.clone())
        .holding(held.release_claim());
    done(command.run().await, attempted, device)?;
    drop(one);
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

/// Opens the device as a dm-crypt device with that name. `uuid`: that of its header. `discards`: whether discards on the
/// dm-crypt device reach the device below, which shows where nothing is stored.
///
/// # Errors
/// [`Error::WrongKey`]; `Busy` of [`Error::Device`] if the device is in use, or open already.
pub async fn open(device: &Path, uuid: Uuid, name: &str, passphrase: &Secret, discards: bool) -> Result<(), Error> {
    check(passphrase)?;
    let attempted = "open the encrypted device";
    let one = DERIVING.acquire().await;
    let (node, mapper_uuid) = (device.to_owned(), layer::mapper_uuid(uuid, name));
    let held = blocking(device, move || {
        let held = exclusive(&node)?;
        // A cryptsetup that was killed left it. Nothing can use it.
        let removed = remove_mapping_without_table(&mapper_uuid);
        removed.map_err(|error| Error::io("remove the unfinished mapping of", &node, std::io::Error::other(error)))?;
        Ok(held)
    })
    .await?;
    let command = command("open")
        .args(["--type", "luks2", "--key-file=-", "--disable-keyring"])
        .args(discards.then_some("--allow-discards"))
        .arg(device)
        .arg(name)
        .on(device.display().to_string())
        .input(passphrase.clone())
        .holding(held.release_claim());
    let opened = done(command.run().await, attempted, device);
    drop(one);
    opened
}

/// Gives the dm-crypt device with that name the size that its device below allows.
///
/// # Errors
/// cryptsetup fails.
pub async fn resize(name: &str) -> Result<(), Error> {
    let command = command("resize").arg(name).on(name);
    done(command.run().await, "resize the encrypted device", Path::new(name))
}

/// Closes the dm-crypt device with that name. Succeeds if it does not exist.
///
/// # Errors
/// [`Error::Busy`] while something has it open.
pub async fn close(name: &str) -> Result<(), Error> {
    let command = command("close").arg(name).on(name);
    match command.run().await {
        Ok(Output { code: WRONG_DEVICE, .. }) if layer::named(name).is_none() => Ok(()),
        other => done(other, "close the encrypted device", Path::new(name)),
    }
}

fn check(passphrase: &Secret) -> Result<(), Error> {
    match passphrase.len() {
        1..=Secret::MAX => Ok(()),
        length => Err(Error::Passphrase { length }),
    }
}

/// The result of a cryptsetup that has ended.
fn done(result: Result<Output, quarry_exec::Error>, attempted: &'static str, on: &Path) -> Result<(), Error> {
    let failed = |source| Error::Command { attempted, on: on.to_owned(), source };
    let output = result.map_err(failed)?;
    match output.code {
        WRONG_KEY => Err(Error::WrongKey { device: on.to_owned() }),
        BUSY => Err(Error::Busy { attempted, on: on.to_owned() }),
        _ => output.require_success().map(drop).map_err(failed),
    }
}

async fn blocking<T: Send + 'static>(
    device: &Path,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let failed = |source| Error::io("use", device, source);
    on_own_thread(work).await.map_err(failed)?
}
