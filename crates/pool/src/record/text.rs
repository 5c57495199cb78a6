//! The record of a volume as text: parses and writes it. What snapshots have in common with it is here, too.

use std::fmt;

use data_encoding::BASE32_NOPAD;
use quarry_volume::{AccessTypes, Gib, IoLimits, Layout};
use uuid::Uuid;

use super::{
    ENCRYPTED_FILLING_VERSION, ENCRYPTED_VERSION, ExpansionProgress, MARK, NotVolume, Record, ScratchRecord,
    SnapshotRecord, State, Tag, ThinPoolRecord, VERSION,
};

/// The beginning of the field with the kind of the object, in a record of a higher version that is not of a
/// volume.
const KIND: &str = "k=";

impl Record {
    /// Parses one tag.
    #[must_use]
    pub fn parse(tag: &str) -> Tag {
        let Some(rest) = tag.strip_prefix(MARK) else { return Tag::Foreign };
        let (version, fields) = rest.split_once('/').unwrap_or((rest, ""));
        if version.is_empty() || !version.bytes().all(|byte| byte.is_ascii_digit()) {
            return Tag::Foreign;
        }
        match version.parse::<u32>() {
            Ok(VERSION) => match Self::read(fields) {
                Ok(record) => Tag::Record(Box::new(record)),
                Err(why) => Tag::Broken { why },
            },
            Ok(0) => Tag::Foreign,
            Ok(version) => Self::newer(version, fields),
            Err(_) => Self::newer(u32::MAX, fields),
        }
    }

    /// Whether the tag can be the record of anything but a volume. Much faster than to parse it.
    pub(crate) fn has_kind(tag: &str) -> bool {
        tag.starts_with(MARK) && tag.split('/').skip(1).any(|field| field.starts_with(KIND))
    }

    /// A record of a higher version. If this code does not know it, only its kind is read.
    fn newer(version: u32, fields: &str) -> Tag {
        if let Some(scratch) = ScratchRecord::read(version, fields) {
            return Tag::Scratch(scratch);
        }
        if let Some(snapshot) = SnapshotRecord::read(version, fields) {
            return Tag::Snapshot(Box::new(snapshot));
        }
        if let Some(part) = ThinPoolRecord::read(version, fields) {
            return Tag::ThinPool(part);
        }
        if let Some(record) = Self::read_filling(version, fields).or_else(|| Self::read_encrypted(version, fields)) {
            return Tag::Record(Box::new(record));
        }
        match fields.split('/').find_map(|field| field.strip_prefix(KIND)) {
            Some(kind) => Tag::NotVolume(NotVolume { version, kind: kind.to_owned() }),
            None => Tag::Newer { version },
        }
    }

    /// The record of a volume that is being filled. `None` if it is of anything else, or of a newer format: only what
    /// this code would write in exactly this form is one.
    fn read_filling(version: u32, fields: &str) -> Option<Self> {
        if version != FILLING_VERSION {
            return None;
        }
        let record = Self::read(fields).ok().filter(|record| record.state == State::New && record.source.is_some())?;
        let record = Self { filling: true, ..record };
        is_written_as(&record, version, fields).then_some(record)
    }

    /// The record of an encrypted volume. `None` if it is of anything else, or of a newer format: only what this code
    /// would write in exactly this form is one.
    fn read_encrypted(version: u32, fields: &str) -> Option<Self> {
        let filling = match version {
            ENCRYPTED_VERSION => false,
            ENCRYPTED_FILLING_VERSION => true,
            _ => return None,
        };
        if fields.split('/').any(|field| field.starts_with(KIND)) {
            return None;
        }
        let record = Self::read_any(fields).ok().filter(|record| record.encryption.is_some())?;
        let is_complete = !filling || (record.state == State::New && record.source.is_some());
        let record = Self { filling, ..record };
        (is_complete && is_written_as(&record, version, fields)).then_some(record)
    }

    /// Reads the fields of a record of a volume that is not encrypted.
    fn read(fields: &str) -> Result<Self, String> {
        match Self::read_any(fields)? {
            // A Quarry that does not know the key would use it as a plain one.
            Self { encryption: Some(_), .. } => Err(format!("key {ENCRYPTION:?} needs version {ENCRYPTED_VERSION}")),
            record => Ok(record),
        }
    }

    fn read_any(fields: &str) -> Result<Self, String> {
        let (known, mut unknown) = split(KEYS, fields)?;
        let [
            state,
            name,
            size,
            access,
            filesystem,
            layout,
            parameters,
            zeroed,
            wipe,
            uuid,
            wiped,
            source,
            expansion,
            discard,
            limits,
            encryption,
        ] = known;
        let state = state.ok_or_else(|| missing("s"))?;
        let state = parse_state(state).ok_or_else(|| bad("s", state))?;
        let name = name.ok_or_else(|| missing("n"))?;
        let name = decode(name).ok_or_else(|| bad("n", name))?;
        let size = size.ok_or_else(|| missing("b"))?;
        let size = size.parse().map_err(|_| bad("b", size))?;
        let access = access.ok_or_else(|| missing("a"))?;
        let access = parse_access(access).ok_or_else(|| bad("a", access))?;
        let filesystem = match filesystem {
            None => None,
            Some(name) => Some(name.parse().map_err(|_| bad("f", name))?),
        };
        if filesystem.is_none() && access != AccessTypes::Block {
            return Err(missing("f"));
        }
        let layout = layout.ok_or_else(|| missing("l"))?;
        let (layout, thin) = match layout {
            THIN => (Layout::Linear, true),
            code => (Layout::from_code(code).ok_or_else(|| bad("l", code))?, false),
        };
        let parameters = parameters.ok_or_else(|| missing("p"))?.to_owned();
        let zeroed = match zeroed {
            None => Gib::NONE,
            Some(text) => Gib(text.parse().map_err(|_| bad("z", text))?),
        };
        let wipe = match wipe {
            None => None,
            Some(word) => Some(word.parse().map_err(|_| bad("w", word))?),
        };
        let filesystem_uuid = match uuid {
            None => None,
            Some(digits) => Some(parse_uuid(digits).ok_or_else(|| bad("u", digits))?),
        };
        let wiped = match wiped {
            None => false,
            Some("1") => true,
            Some(other) => return Err(bad("c", other)),
        };
        let expansion = match expansion {
            None => None,
            Some(text) => Some(parse_expansion(text).ok_or_else(|| bad("e", text))?),
        };
        let discard = match discard {
            None => None,
            Some(word) => Some(word.parse().map_err(|_| bad("d", word))?),
        };
        let (limits, requires_limits) = match limits {
            None => (IoLimits::default(), false),
            Some(text) => parse_limits(text).ok_or_else(|| bad("r", text))?,
        };
        let encryption = match encryption {
            None => None,
            Some(word) => Some(word.parse().map_err(|_| bad(ENCRYPTION, word))?),
        };
        let known_source = source.and_then(|text| text.parse().ok());
        if let (Some(text), None) = (source, &known_source) {
            // A source of a later revision. It is the first one, so that it is written in its place.
            unknown.insert(0, format!("i={text}"));
        }
        Ok(Self {
            state,
            name,
            size,
            access,
            filesystem,
            layout,
            thin,
            parameters,
            zeroed,
            wipe,
            filesystem_uuid,
            wiped,
            source: known_source,
            filling: false,
            expansion,
            discard,
            limits,
            requires_limits,
            encryption,
            unknown,
        })
    }
}

/// The keys of version 1, in the order in which they are written: state, name, requested bytes, access types,
/// filesystem, layout, hash of the parameters, zeroed GiB, wipe mode, UUID of the filesystem, wiped, source of the
/// contents, progress of an expansion, discard mode, I/O limits, encryption (only in versions 3 and 4). A key that is added
/// later goes to the end, where a reader that does not know it keeps it.
const KEYS: [&str; 16] = ["s", "n", "b", "a", "f", "l", "p", "z", "w", "u", "c", "i", "e", "d", "r", ENCRYPTION];
/// The key of the encryption.
const ENCRYPTION: &str = "x";
/// The layout of a volume in a thin pool. A Quarry that does not know it lists such a volume, and changes nothing.
const THIN: &str = "t";
/// The version of the record of a volume that is being filled: an older Quarry must not prepare, use or delete it.
const FILLING_VERSION: u32 = 2;

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = match (self.encryption, self.filling) {
            (Some(_), false) => ENCRYPTED_VERSION,
            (Some(_), true) => ENCRYPTED_FILLING_VERSION,
            (None, true) => FILLING_VERSION,
            (None, false) => VERSION,
        };
        let (state, access) = (show_state(self.state), show_access(self.access));
        write!(f, "{MARK}{version}/s={state}/n={}/b={}/a={access}", encode(&self.name), self.size)?;
        if let Some(filesystem) = self.filesystem {
            write!(f, "/f={filesystem}")?;
        }
        let layout = if self.thin { THIN.to_owned() } else { self.layout.code() };
        write!(f, "/l={layout}/p={}", self.parameters)?;
        if self.zeroed > Gib::NONE {
            write!(f, "/z={}", self.zeroed)?;
        }
        if let Some(wipe) = self.wipe {
            write!(f, "/w={wipe}")?;
        }
        if let Some(uuid) = self.filesystem_uuid {
            write!(f, "/u={}", uuid.simple())?;
        }
        if self.wiped {
            f.write_str("/c=1")?;
        }
        let (later_source, unknown) = match self.unknown.split_first() {
            Some((first, rest)) if first.starts_with("i=") => (Some(first), rest),
            _ => (None, self.unknown.as_slice()),
        };
        if let Some(source) = &self.source {
            write!(f, "/i={source}")?;
        } else if let Some(field) = later_source {
            write!(f, "/{field}")?;
        }
        if let Some(ExpansionProgress { size, zeroed }) = self.expansion {
            write!(f, "/e={size}.{zeroed}")?;
        }
        if let Some(discard) = self.discard {
            write!(f, "/d={discard}")?;
        }
        if self.requires_limits || !self.limits.is_none() {
            write!(f, "/r={}", show_limits(self.limits, self.requires_limits))?;
        }
        if let Some(encryption) = self.encryption {
            write!(f, "/{ENCRYPTION}={encryption}")?;
        }
        for field in unknown {
            write!(f, "/{field}")?;
        }
        Ok(())
    }
}

/// The values of these keys, and the fields with other keys.
///
/// # Errors
/// A field that has no value, or one of these keys twice.
pub(super) fn split<'a, const N: usize>(
    keys: [&str; N],
    fields: &'a str,
) -> Result<([Option<&'a str>; N], Vec<String>), String> {
    let mut known = [None; N];
    let mut unknown = Vec::new();
    for field in fields.split('/') {
        let (key, value) = field.split_once('=').ok_or_else(|| format!("field {field:?} has no value"))?;
        match keys.iter().position(|candidate| *candidate == key).and_then(|index| known.get_mut(index)) {
            Some(Some(_)) => return Err(format!("key {key:?} appears twice")),
            Some(slot) => *slot = Some(value),
            None => unknown.push(field.to_owned()),
        }
    }
    Ok((known, unknown))
}

/// Whether the record is written as exactly these fields. Otherwise, a change would not find the text to replace.
pub(super) fn is_written_as(record: &impl fmt::Display, version: u32, fields: &str) -> bool {
    record.to_string() == format!("{MARK}{version}/{fields}")
}

fn missing(key: &str) -> String {
    format!("key {key:?} is missing")
}

fn bad(key: &str, value: &str) -> String {
    format!("key {key:?} has the value {value:?}")
}

pub(super) fn parse_state(word: &str) -> Option<State> {
    [State::New, State::Ready].into_iter().find(|state| show_state(*state) == word)
}

pub(super) fn show_state(state: State) -> &'static str {
    match state {
        State::New => "new",
        State::Ready => "ready",
    }
}

pub(super) fn parse_access(code: &str) -> Option<AccessTypes> {
    [AccessTypes::Mount, AccessTypes::Block, AccessTypes::Both].into_iter().find(|access| show_access(*access) == code)
}

pub(super) fn show_access(access: AccessTypes) -> &'static str {
    match access {
        AccessTypes::Mount => "m",
        AccessTypes::Block => "b",
        AccessTypes::Both => "mb",
    }
}

/// Encodes a name for a tag: unchanged if LVM allows all its characters in tags and it cannot be mistaken for
/// syntax, otherwise `!` and its base32.
pub(super) fn encode(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'+' | b':');
    if !name.is_empty() && name.bytes().all(plain) {
        name.to_owned()
    } else {
        format!("!{}", BASE32_NOPAD.encode(name.as_bytes()))
    }
}

/// Parses a UUID in the only form in which it is written: 32 hexadecimal digits, in lower case.
pub(super) fn parse_uuid(digits: &str) -> Option<Uuid> {
    Uuid::try_parse(digits).ok().filter(|uuid| uuid.simple().to_string() == digits)
}

/// Parses the progress of an expansion in the only form in which it is written.
fn parse_expansion(text: &str) -> Option<ExpansionProgress> {
    let (size, zeroed) = text.split_once('.')?;
    let expansion = ExpansionProgress { size: size.parse().ok()?, zeroed: Gib(zeroed.parse().ok()?) };
    (format!("{}.{}", expansion.size, expansion.zeroed) == text).then_some(expansion)
}

/// The I/O limits: bytes read, bytes written, reads and writes per second, 0 for no limit; and `!` if they are required.
fn show_limits(limits: IoLimits, required: bool) -> String {
    let values = limits.values().map(|limit| limit.unwrap_or_default().to_string());
    format!("{}{}", values.join("."), if required { "!" } else { "" })
}

/// Parses I/O limits in the only form in which they are written.
fn parse_limits(text: &str) -> Option<(IoLimits, bool)> {
    let (values, required) = text.strip_suffix('!').map_or((text, false), |values| (values, true));
    let mut limits = [None; 4];
    let mut parts = values.split('.');
    for limit in &mut limits {
        *limit = Some(parts.next()?.parse::<u64>().ok()?).filter(|limit| *limit > 0);
    }
    let limits = IoLimits::new(limits);
    (show_limits(limits, required) == text).then_some((limits, required))
}

pub(super) fn decode(text: &str) -> Option<String> {
    match text.strip_prefix('!') {
        Some(coded) => String::from_utf8(BASE32_NOPAD.decode(coded.as_bytes()).ok()?).ok(),
        None => Some(text.to_owned()),
    }
}
