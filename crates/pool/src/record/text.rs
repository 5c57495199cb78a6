//! A record as text: parses and writes it.

use std::fmt;

use data_encoding::BASE32_NOPAD;
use quarry_volume::{AccessTypes, Gib, Layout};
use uuid::Uuid;

use super::{ExpansionProgress, MARK, NotVolume, Record, ScratchRecord, State, Tag, VERSION};

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

    /// A record of a higher version. Unless it is of new space for a volume, only its kind is read.
    fn newer(version: u32, fields: &str) -> Tag {
        if let Some(scratch) = ScratchRecord::read(version, fields) {
            return Tag::Scratch(scratch);
        }
        match fields.split('/').find_map(|field| field.strip_prefix(KIND)) {
            Some(kind) => Tag::NotVolume(NotVolume { version, kind: kind.to_owned() }),
            None => Tag::Newer { version },
        }
    }

    fn read(fields: &str) -> Result<Self, String> {
        let mut known = [None; KEYS.len()];
        let mut unknown = Vec::new();
        for field in fields.split('/') {
            let (key, value) = field.split_once('=').ok_or_else(|| format!("field {field:?} has no value"))?;
            match KEYS.iter().position(|candidate| *candidate == key).and_then(|index| known.get_mut(index)) {
                Some(Some(_)) => return Err(format!("key {key:?} appears twice")),
                Some(slot) => *slot = Some(value),
                None => unknown.push(field.to_owned()),
            }
        }
        let [state, name, size, access, filesystem, layout, parameters, zeroed, wipe, uuid, wiped, expansion] = known;
        let missing = |key: &str| format!("key {key:?} is missing");
        let bad = |key: &str, value: &str| format!("key {key:?} has the value {value:?}");
        let state = match state.ok_or_else(|| missing("s"))? {
            "new" => State::New,
            "ready" => State::Ready,
            other => return Err(bad("s", other)),
        };
        let name = name.ok_or_else(|| missing("n"))?;
        let name = decode(name).ok_or_else(|| bad("n", name))?;
        let size = size.ok_or_else(|| missing("b"))?;
        let size = size.parse().map_err(|_| bad("b", size))?;
        let access = match access.ok_or_else(|| missing("a"))? {
            "m" => AccessTypes::Mount,
            "b" => AccessTypes::Block,
            "mb" => AccessTypes::Both,
            other => return Err(bad("a", other)),
        };
        let filesystem = match filesystem {
            None => None,
            Some(name) => Some(name.parse().map_err(|_| bad("f", name))?),
        };
        if filesystem.is_none() && access != AccessTypes::Block {
            return Err(missing("f"));
        }
        let layout = layout.ok_or_else(|| missing("l"))?;
        let layout = Layout::from_code(layout).ok_or_else(|| bad("l", layout))?;
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
        Ok(Self {
            state,
            name,
            size,
            access,
            filesystem,
            layout,
            parameters,
            zeroed,
            wipe,
            filesystem_uuid,
            wiped,
            expansion,
            unknown,
        })
    }
}

/// The keys of version 1, in the order in which they are written: state, name, requested bytes, access types,
/// filesystem, layout, hash of the parameters, zeroed GiB, wipe mode, UUID of the filesystem, wiped, progress of an
/// expansion. A key that is added later goes to the end, where a reader that does not know it keeps it.
const KEYS: [&str; 12] = ["s", "n", "b", "a", "f", "l", "p", "z", "w", "u", "c", "e"];

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::New => "new",
            State::Ready => "ready",
        };
        let access = match self.access {
            AccessTypes::Mount => "m",
            AccessTypes::Block => "b",
            AccessTypes::Both => "mb",
        };
        write!(f, "{MARK}{VERSION}/s={state}/n={}/b={}/a={access}", encode(&self.name), self.size)?;
        if let Some(filesystem) = self.filesystem {
            write!(f, "/f={filesystem}")?;
        }
        write!(f, "/l={}/p={}", self.layout.code(), self.parameters)?;
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
        if let Some(ExpansionProgress { size, zeroed }) = self.expansion {
            write!(f, "/e={size}.{zeroed}")?;
        }
        for field in &self.unknown {
            write!(f, "/{field}")?;
        }
        Ok(())
    }
}

/// Encodes a name for a tag: unchanged if LVM allows all its characters in tags and it cannot be mistaken for
/// syntax, otherwise `!` and its base32.
fn encode(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'+' | b':');
    if !name.is_empty() && name.bytes().all(plain) {
        name.to_owned()
    } else {
        format!("!{}", BASE32_NOPAD.encode(name.as_bytes()))
    }
}

/// Parses a UUID in the only form in which it is written: 32 hexadecimal digits, in lower case.
fn parse_uuid(digits: &str) -> Option<Uuid> {
    Uuid::try_parse(digits).ok().filter(|uuid| uuid.simple().to_string() == digits)
}

/// Parses the progress of an expansion in the only form in which it is written.
fn parse_expansion(text: &str) -> Option<ExpansionProgress> {
    let (size, zeroed) = text.split_once('.')?;
    let expansion = ExpansionProgress { size: size.parse().ok()?, zeroed: Gib(zeroed.parse().ok()?) };
    (format!("{}.{}", expansion.size, expansion.zeroed) == text).then_some(expansion)
}

fn decode(text: &str) -> Option<String> {
    match text.strip_prefix('!') {
        Some(coded) => String::from_utf8(BASE32_NOPAD.decode(coded.as_bytes()).ok()?).ok(),
        None => Some(text.to_owned()),
    }
}
