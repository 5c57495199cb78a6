//! Names that lvm takes, and a safe form for those that it would refuse.

use data_encoding::{Encoding, Specification};

/// A name of at most this many bytes is used as it is.
const LONGEST: usize = 48;
/// And at most this many with every hyphen counted twice, as device-mapper spells them.
const LONGEST_DOUBLED: usize = 60;
/// A volume group's name with hyphens doubled, a hyphen, [`LONGEST_DOUBLED`], and lvm's own suffixes (`_rimage_127`,
/// `-real` and `-cow` among them, up to 13 bytes) fit the 127 bytes of a device-mapper name.
const LONGEST_GROUP_DOUBLED: usize = 53;
/// Length of the safe form: `q` and 26 base32 characters, 130 bits of a hash.
const SAFE_LENGTH: usize = 27;

/// What lvm2 keeps for itself at the beginning of a name (2.03: `apply_lvname_restrictions`).
const RESERVED_PREFIXES: [&str; 2] = ["snapshot", "pvmove"];
/// What lvm2 keeps for itself anywhere in a name. Later versions add to the list; a name with an underscore and one of
/// these is rare enough for the safe form to be no loss.
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

/// The name a logical volume gets when `asked` is wanted: that itself where lvm takes it, else the safe form, `q`
/// followed by 26 characters of its hash.
///
/// The same `asked` gives the same name for ever; two different ones never meet, because a name that looks like a safe
/// form is itself replaced by its safe form.
#[must_use]
pub fn safe_name(asked: &str) -> String {
    if fits(asked) { asked.to_owned() } else { safe_form(asked) }
}

/// Whether volumes can be named freely in a volume group of this name.
#[must_use]
pub fn vg_name_fits(name: &str) -> bool {
    valid_characters(name) && doubled(name) <= LONGEST_GROUP_DOUBLED
}

fn fits(name: &str) -> bool {
    valid_characters(name)
        && name.len() <= LONGEST
        && doubled(name) <= LONGEST_DOUBLED
        && !RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        && !RESERVED_PARTS.iter().any(|part| name.contains(part))
        && !looks_safe(name)
}

/// The rules of lvm for any name.
fn valid_characters(name: &str) -> bool {
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

/// Frozen: these names stand on disks.
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
