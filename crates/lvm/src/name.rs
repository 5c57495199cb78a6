//! Names that lvm accepts, and a safe form for names that it would reject.

use data_encoding::{Encoding, Specification};

/// The maximum length in bytes of a name that is used unchanged.
const LONGEST: usize = 48;
/// The maximum length of such a name with every hyphen counted twice, as in device-mapper names.
const LONGEST_DOUBLED: usize = 60;
/// The maximum length of a volume group's name with hyphens doubled. Together with a hyphen,
/// [`LONGEST_DOUBLED`] and lvm's own suffixes (such as `_rimage_127`, `-real` and `-cow`, up to 13 bytes), it
/// fits into the 127 bytes of a device-mapper name.
const LONGEST_GROUP_DOUBLED: usize = 53;
/// The length of the safe form: `q` and 26 base32 characters, which are 130 bits of a hash.
const SAFE_LENGTH: usize = 27;

/// Prefixes that lvm2 reserves (2.03: `apply_lvname_restrictions`).
const RESERVED_PREFIXES: [&str; 2] = ["snapshot", "pvmove"];
/// Strings that lvm2 reserves anywhere in a name. Later versions add to the list. A name with an underscore
/// and one of these is rare, so using the safe form for it costs nothing.
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

/// The name of the logical volume for the requested name: that name itself if lvm accepts it, otherwise the
/// safe form, `q` followed by 26 characters of its hash.
///
/// The same request always leads to the same name, and two different requests never to the same one, because
/// a name that looks like a safe form is itself replaced by its safe form.
#[must_use]
pub fn safe_name(asked: &str) -> String {
    if fits(asked) { asked.to_owned() } else { safe_form(asked) }
}

/// Whether any volume name fits in a volume group with this name.
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

/// lvm's rules for any name.
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
    // The alphabet is a constant with 32 distinct characters, so the fallback is never used.
    specification.encoding().unwrap_or(data_encoding::BASE32_NOPAD)
}
