//! Encrypted volumes: a LUKS2 header at the beginning of the pool's device, and a dm-crypt device on it.
//!
//! cryptsetup writes headers and derives keys. What a header says is read from the header itself, and which devices are
//! open is read from sysfs: neither depends on the messages of a program.
//!
//! A dm-crypt device is identified by its name and its device-mapper UUID, which contain a hash of the volume's
//! identifier. So the kernel alone shows which volume a mounted device belongs to, and nothing has to be stored.

mod cryptsetup;
mod error;
mod header;
mod layer;
mod rekey;

pub use cryptsetup::{TOOL, close, format, hold, open, remove_unfinished, resize, set_uuid};
pub use error::Error;
pub use header::{Header, read as header};
pub use layer::{Layer, is_of, layer_name, named, on};
use quarry_volume::Encryption;
pub use rekey::{Rekeyed, rekey};

/// How many bytes at the beginning of the pool's device are not available to the user, because they belong to the
/// header: its two copies and the key slots. This is cryptsetup's default.
pub const HEADER_SIZE: u64 = Encryption::Luks2.overhead();

/// The size of each of the two copies of a header. The key slots follow them.
const METADATA_SIZE: u64 = 16 << 10;

/// The bytes of a device to overwrite, in this order, and each flushed before the next one, so that nothing on it can be
/// decrypted any more: first the key slots, then what shows that it is a header. So an interrupted erasure is noticed.
pub const ERASURE: [std::ops::Range<u64>; 2] = [2 * METADATA_SIZE..HEADER_SIZE, 0..2 * METADATA_SIZE];

/// The namespace of the UUIDs of headers.
const NAMESPACE: uuid::Uuid = uuid::uuid!("6f0f5b0e-52b8-4f2c-9c53-1d3a0b6c7e94");

/// The UUID of the header on a volume, derived from the volume's own identity (an LV's UUID). A header with this UUID was
/// made for that volume, by any attempt. It is not the UUID of the filesystem in it. UUID version 5.
#[must_use]
pub fn header_uuid(seed: &str) -> uuid::Uuid {
    uuid::Uuid::new_v5(&NAMESPACE, seed.as_bytes())
}
