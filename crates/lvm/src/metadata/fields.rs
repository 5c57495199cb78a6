//! Typed access to the keys of a section. A key that the reader does not know is an error: it may change what the
//! others mean.

use std::collections::BTreeSet;
use std::str::FromStr;

use quarry_volume::Extents;

use super::reason::{NeedsReport, Unknown};
use super::text::{Node, Section, Value};
use crate::InvalidUuid;

/// The sections from the outermost one to this one, for messages. lvm nests five.
type Place<'a> = [&'a str; 6];

/// A section, with its place.
pub(crate) struct Fields<'a> {
    section: &'a Section<'a>,
    place: Place<'a>,
}

impl<'a> Fields<'a> {
    /// The outermost section, with its name for messages.
    pub(crate) fn new(section: &'a Section<'a>, name: &'a str) -> Self {
        Self { section, place: [name, "", "", "", "", ""] }
    }

    /// A section in this one.
    fn inner(&self, key: &'a str, section: &'a Section<'a>) -> Self {
        let mut place = self.place;
        if let Some(free) = place.iter_mut().find(|name| name.is_empty()) {
            *free = key;
        }
        Self { section, place }
    }

    fn place(&self) -> String {
        let names: Vec<&str> = self.place.into_iter().filter(|name| !name.is_empty()).collect();
        names.join("/")
    }

    /// This section contradicts itself or others, or lacks something.
    pub(crate) fn wrong<T>(&self, problem: &'static str) -> Result<T, NeedsReport> {
        Err(NeedsReport::Inconsistent { place: self.place(), problem })
    }

    pub(crate) fn unknown<T>(&self, kind: Unknown, name: &str) -> Result<T, NeedsReport> {
        Err(NeedsReport::Unknown { kind, name: name.to_owned(), place: self.place() })
    }

    /// Rejects all keys that are in none of these lists.
    pub(crate) fn only(&self, known: &[&[&str]]) -> Result<(), NeedsReport> {
        match self.section.iter().find(|(key, _)| !known.iter().any(|list| list.contains(key))) {
            Some((key, _)) => self.unknown(Unknown::Key, key),
            None => Ok(()),
        }
    }

    /// The sections in this one.
    pub(crate) fn sections(&self) -> impl Iterator<Item = (&'a str, Fields<'a>)> {
        self.section.iter().filter_map(|(key, node)| match node {
            Node::Section(section) => Some((key, self.inner(key, section))),
            Node::Value(_) => None,
        })
    }

    /// The keys with values.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.section.iter().filter_map(|(key, node)| matches!(node, Node::Value(_)).then_some(key))
    }

    /// The section with that name, if there is one.
    pub(crate) fn section(&self, key: &'static str) -> Result<Option<Fields<'a>>, NeedsReport> {
        match self.section.get(key) {
            None => Ok(None),
            Some(Node::Section(section)) => Ok(Some(self.inner(key, section))),
            Some(Node::Value(_)) => self.wrong("a value instead of a section"),
        }
    }

    fn value(&self, key: &str) -> Result<Option<&'a Value<'a>>, NeedsReport> {
        match self.section.get(key) {
            None => Ok(None),
            Some(Node::Value(value)) => Ok(Some(value)),
            Some(Node::Section(_)) => self.wrong("a section instead of a value"),
        }
    }

    pub(crate) fn optional_text(&self, key: &str) -> Result<Option<&'a str>, NeedsReport> {
        match self.value(key)? {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => self.wrong("another value instead of a string"),
        }
    }

    pub(crate) fn text(&self, key: &str) -> Result<&'a str, NeedsReport> {
        self.optional_text(key)?.map_or_else(|| self.wrong("a string is missing"), Ok)
    }

    pub(crate) fn optional_number(&self, key: &str) -> Result<Option<u64>, NeedsReport> {
        match self.value(key)? {
            None => Ok(None),
            Some(Value::Integer(number)) => {
                u64::try_from(*number).map(Some).or_else(|_| self.wrong("a number is negative"))
            }
            Some(_) => self.wrong("another value instead of a number"),
        }
    }

    pub(crate) fn number(&self, key: &str) -> Result<u64, NeedsReport> {
        self.optional_number(key)?.map_or_else(|| self.wrong("a number is missing"), Ok)
    }

    /// A number of extents. lvm stores at most 32 bits, so sums of a few never overflow.
    pub(crate) fn extents(&self, key: &str) -> Result<Extents, NeedsReport> {
        let number = self.number(key)?;
        u32::try_from(number).map_or_else(|_| self.wrong("too many extents"), |number| Ok(Extents(number.into())))
    }

    /// A size that is stored in sectors of 512 bytes, in bytes.
    pub(crate) fn bytes(&self, key: &str) -> Result<u64, NeedsReport> {
        self.number(key)?.checked_mul(512).map_or_else(|| self.wrong("a size is too large"), Ok)
    }

    pub(crate) fn uuid<T: FromStr<Err = InvalidUuid>>(&self, key: &str) -> Result<T, NeedsReport> {
        self.text(key)?.parse().or_else(|_| self.wrong("a UUID is invalid"))
    }

    /// An array; empty if the key is not there.
    pub(crate) fn array(&self, key: &str) -> Result<&'a [Value<'a>], NeedsReport> {
        match self.value(key)? {
            None => Ok(&[]),
            Some(Value::Array(values)) => Ok(values),
            Some(_) => self.wrong("another value instead of an array"),
        }
    }

    pub(crate) fn texts(&self, key: &str) -> Result<Vec<&'a str>, NeedsReport> {
        let text = |value: &'a Value<'a>| match value {
            Value::Text(text) => Ok(text.as_ref()),
            _ => self.wrong("another value instead of a string in an array"),
        };
        self.array(key)?.iter().map(text).collect()
    }

    /// The tags, sorted as in a report.
    pub(crate) fn tags(&self) -> Result<Vec<String>, NeedsReport> {
        let mut tags: Vec<String> = self.texts("tags")?.into_iter().map(str::to_owned).collect();
        tags.sort_unstable();
        Ok(tags)
    }

    /// The flags. `known` has all that the reader evaluates, or that change nothing that it evaluates.
    pub(crate) fn flags(&self, known: &[&str]) -> Result<BTreeSet<&'a str>, NeedsReport> {
        if self.value("status")?.is_none() {
            return self.wrong("the flags are missing");
        }
        let flags: BTreeSet<&str> = self.texts("status")?.into_iter().chain(self.texts("flags")?).collect();
        match flags.iter().find(|flag| !known.contains(flag)) {
            Some(flag) => self.unknown(Unknown::Flag, flag),
            None => Ok(flags),
        }
    }
}
