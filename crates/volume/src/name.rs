//! The name that a volume gets on its storage and in its identifier, and a safe form for names that storage would
//! reject. lvm is the strictest kind of storage, so its rules apply to all.

use data_encoding::{Encoding, Specification};

/// A name of at most this many bytes is used unchanged.
const LONGEST: usize = 48;
/// And at most this many with every hyphen counted twice, as device-mapper writes it.
const LONGEST_DOUBLED: usize = 60;
/// Length of the safe form: `q` and 26 base32 characters, 130 bits of a hash.
const SAFE_LENGTH: usize = 27;

/// Beginnings of names that lvm2 reserves (2.03: `apply_lvname_restrictions`).
const RESERVED_PREFIXES: [&str; 2] = ["snapshot", "pvmove"];
/// Parts of names that lvm2 reserves. Later versions add to the list. A name that contains one of these is so rare that
/// its safe form does not matter.
const RESERVED_PARTS: [&str; 20] = [
    "_cdata",
    "_cmeta",
    "_corig",
    "_cpool",
    "_cvol",
    "_wcorig",
    "_iorig",
    "_imeta",
    "_mimage",
    "_mlog",
    "_pmspare",
    "_rimage",
    "_rmeta",
    "_tdata",
    "_tmeta",
    "_tpool",
    "_vdata",
    "_vorigin",
    "_vpool",
    "_extracted",
];

/// The name that a volume gets on its storage if `asked` was requested: the same name if lvm accepts it, else its safe
/// form, `q` followed by 26 characters of its hash.
///
/// The result for a name never changes, and two different names never get the same one: a name that looks like a safe
/// form is replaced by its own safe form.
#[must_use]
pub fn safe_name(asked: &str) -> String {
    if fits(asked) { asked.to_owned() } else { safe_form(asked) }
}

fn fits(name: &str) -> bool {
    is_plain_name(name)
        && name.len() <= LONGEST
        && doubled(name) <= LONGEST_DOUBLED
        && !RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        && !RESERVED_PARTS.iter().any(|part| name.contains(part))
        && !looks_safe(name)
}

/// Whether a name keeps lvm's rules for the characters of any name: letters and digits of ASCII and `+_.-`, no hyphen
/// at the beginning, and not `.` or `..`.
#[must_use]
pub fn is_plain_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte);
    !matches!(name, "" | "." | "..") && !name.starts_with('-') && name.bytes().all(allowed)
}

fn doubled(name: &str) -> usize {
    name.len() + name.bytes().filter(|byte| *byte == b'-').count()
}

fn looks_safe(name: &str) -> bool {
    let base32 = |byte: u8| byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte);
    name.len() == SAFE_LENGTH && name.starts_with('q') && name.bytes().all(base32)
}

/// Frozen: these names are on disks.
fn safe_form(asked: &str) -> String {
    let hash = blake3::hash(asked.as_bytes());
    let mut name = String::from("q");
    name.extend(base32().encode(hash.as_bytes()).chars().take(SAFE_LENGTH - 1));
    name
}

/// Lower-case RFC 4648 base32 without padding.
fn base32() -> Encoding {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    // The alphabet is a constant of 32 distinct characters, so this never takes the other branch.
    specification.encoding().unwrap_or(data_encoding::BASE32_NOPAD)
}
