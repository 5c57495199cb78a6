//! The syntax of LVM's text metadata, as described in lvm.conf(5): `key = value` and `key { … }`, where a value is a
//! string, a number or an array of them, and `#` begins a comment.
//!
//! The text comes from a disk, so the parser trusts nothing: the size of the text, the depth of sections and the
//! number of nodes have limits, and sections are kept on a stack of its own instead of the thread's.
//!
//! A group with a thousand volumes has half a MiB of text, which is parsed after each change. So keys and strings are
//! parts of the text instead of copies.

use std::borrow::Cow;
use std::fmt;

/// The largest text, in bytes. lvm's default area holds copies of at most half a MiB.
pub const LARGEST: usize = 32 << 20;
/// The deepest nesting of sections. lvm nests five: group, `logical_volumes`, volume, segment, message.
const DEEPEST: usize = 8;
/// The most keys, sections and values together.
const MOST_NODES: usize = 4 << 20;

/// The text is not LVM's syntax, or exceeds a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: expected {expected}")]
pub struct SyntaxError {
    /// The line, from 1.
    pub line: usize,
    /// What the parser expected there.
    pub expected: &'static str,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// A string. Bytes that are not UTF-8 are replaced, as in a report.
    Text(Cow<'a, str>),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Float(f64),
    /// An array, which does not contain arrays.
    Array(Vec<Value<'a>>),
}

/// What a key stands for.
#[derive(Debug, Clone, PartialEq)]
pub enum Node<'a> {
    /// `key = value`
    Value(Value<'a>),
    /// `key { … }`
    Section(Section<'a>),
}

/// The contents of a section, in the order of the text. No key is there twice.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Section<'a>(Vec<(Cow<'a, str>, Node<'a>)>);

impl<'a> Section<'a> {
    /// The keys with what they stand for.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node<'a>)> {
        self.0.iter().map(|(key, node)| (key.as_ref(), node))
    }

    /// What a key stands for.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node<'a>> {
        self.0.iter().find(|(found, _)| found == key).map(|(_, node)| node)
    }
}

/// Writes the section so that [`parse`] reads the same again.
impl fmt::Display for Section<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, node) in &self.0 {
            match node {
                Node::Value(value) => writeln!(f, "{} = {value}", Quoted(key))?,
                // Sections are never deeper than the parser's limit.
                Node::Section(section) => write!(f, "{} {{\n{section}}}\n", Quoted(key))?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => Quoted(text).fmt(f),
            Self::Integer(number) => write!(f, "{number}"),
            // Never with an exponent, as lvm: only the point tells it from an integer.
            Self::Float(number) => match number.to_string() {
                fraction if fraction.contains('.') => f.write_str(&fraction),
                whole => write!(f, "{whole}.0"),
            },
            Self::Array(values) => {
                f.write_str("[")?;
                for (index, value) in values.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{value}")?;
                }
                f.write_str("]")
            }
        }
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

/// Parses a text. Zero bytes are accepted at its end only: lvm writes one.
///
/// # Errors
/// It is not LVM's syntax, has a key twice in a section, or exceeds a limit.
pub fn parse(text: &[u8]) -> Result<Section<'_>, SyntaxError> {
    let length = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1));
    let text = text.get(..length).unwrap_or_default();
    let mut parser = Parser { text, rest: text, nodes_left: MOST_NODES };
    match length > LARGEST {
        true => parser.wrong("a shorter text"),
        false => parser.document(),
    }
}

struct Parser<'a> {
    text: &'a [u8],
    /// Its end that is not read yet.
    rest: &'a [u8],
    /// How many more keys and values may follow.
    nodes_left: usize,
}

impl<'a> Parser<'a> {
    /// An error in the line that was reached.
    fn wrong<T>(&self, expected: &'static str) -> Result<T, SyntaxError> {
        let read = self.text.len().saturating_sub(self.rest.len());
        let read = self.text.get(..read).unwrap_or_default();
        let lines = read.iter().filter(|byte| **byte == b'\n').count();
        Err(SyntaxError { line: lines.saturating_add(1), expected })
    }

    fn document(&mut self) -> Result<Section<'a>, SyntaxError> {
        // The sections that are open, with their keys; and the one that is being read.
        let mut open: Vec<(Cow<'a, str>, Section<'a>)> = Vec::new();
        let mut current = Section::default();
        loop {
            self.skip_space();
            match self.rest.first() {
                None if open.is_empty() => return self.finished(current),
                None => return self.wrong("`}` before the end of the text"),
                Some(b'}') => {
                    self.advance(1);
                    let Some((key, mut outer)) = open.pop() else { return self.wrong("a key instead of `}`") };
                    let section = self.finished(current)?;
                    outer.0.push((key, Node::Section(section)));
                    current = outer;
                }
                Some(_) => {
                    self.count()?;
                    let key = self.key()?;
                    self.skip_space();
                    match self.rest.first() {
                        Some(b'{') if open.len() < DEEPEST => {
                            self.advance(1);
                            open.push((key, std::mem::take(&mut current)));
                        }
                        Some(b'{') => return self.wrong("fewer sections inside each other"),
                        Some(b'=') => {
                            self.advance(1);
                            let value = self.value()?;
                            current.0.push((key, Node::Value(value)));
                        }
                        _ => return self.wrong("`=` or `{` after a key"),
                    }
                }
            }
        }
    }

    /// A section whose keys are all different.
    fn finished(&self, section: Section<'a>) -> Result<Section<'a>, SyntaxError> {
        let mut keys: Vec<&str> = section.0.iter().map(|(key, _)| key.as_ref()).collect();
        keys.sort_unstable();
        match keys.array_windows().any(|[one, other]| one == other) {
            true => self.wrong("a section before this line without the same key twice"),
            false => Ok(section),
        }
    }

    fn key(&mut self) -> Result<Cow<'a, str>, SyntaxError> {
        if self.rest.first() == Some(&b'"') {
            return self.quoted();
        }
        // lvm reads a slash in a key as a path, and writes no such key.
        let key = self.take_while(|byte| byte.is_ascii_alphanumeric() || b"_.+-@".contains(&byte));
        if key.is_empty() { self.wrong("a key") } else { Ok(key) }
    }

    fn value(&mut self) -> Result<Value<'a>, SyntaxError> {
        self.skip_space();
        if self.rest.first() != Some(&b'[') {
            return self.scalar();
        }
        self.advance(1);
        let mut values = Vec::new();
        loop {
            self.skip_space();
            if self.rest.first() == Some(&b']') {
                self.advance(1);
                return Ok(Value::Array(values));
            }
            values.push(self.scalar()?);
            self.skip_space();
            match self.rest.first() {
                Some(b',') => self.advance(1),
                Some(b']') => {}
                _ => return self.wrong("`,` or `]` in an array"),
            }
        }
    }

    fn scalar(&mut self) -> Result<Value<'a>, SyntaxError> {
        self.count()?;
        match self.rest.first() {
            Some(b'"') => self.quoted().map(Value::Text),
            Some(byte) if byte.is_ascii_digit() || b"+-.".contains(byte) => self.number(),
            _ => self.wrong("a string or a number"),
        }
    }

    fn number(&mut self) -> Result<Value<'a>, SyntaxError> {
        let text = self.take_while(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let digits = text.trim_start_matches(['+', '-']);
        // lvm would read a leading zero as octal, but writes no such number.
        let octal = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
        let number = match text.contains('.') {
            _ if octal => None,
            true => text.parse().ok().filter(|number: &f64| number.is_finite()).map(Value::Float),
            false => text.parse().ok().map(Value::Integer),
        };
        number.map_or_else(|| self.wrong("a number"), Ok)
    }

    /// A string in quotes, where a backslash keeps the next quote or backslash.
    fn quoted(&mut self) -> Result<Cow<'a, str>, SyntaxError> {
        self.advance(1);
        // Almost no string has a backslash.
        let plain = self.rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0)).unwrap_or(self.rest.len());
        if self.rest.get(plain) == Some(&b'"') {
            let text = self.rest.get(..plain).unwrap_or_default();
            self.advance(plain.saturating_add(1));
            return Ok(String::from_utf8_lossy(text));
        }
        let mut bytes = Vec::new();
        loop {
            match self.rest {
                [b'\\', next @ (b'"' | b'\\'), ..] => {
                    bytes.push(*next);
                    self.advance(2);
                }
                [b'"', ..] => {
                    self.advance(1);
                    return Ok(Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()));
                }
                [0, ..] | [] => return self.wrong("a quote at the end of a string"),
                [byte, ..] => {
                    bytes.push(*byte);
                    self.advance(1);
                }
            }
        }
    }

    fn skip_space(&mut self) {
        loop {
            let space = self.rest.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(self.rest.len());
            self.advance(space);
            if self.rest.first() != Some(&b'#') {
                return;
            }
            let line = self.rest.iter().position(|byte| *byte == b'\n').unwrap_or(self.rest.len());
            self.advance(line);
        }
    }

    /// Counts a node.
    fn count(&mut self) -> Result<(), SyntaxError> {
        match self.nodes_left.checked_sub(1) {
            Some(left) => {
                self.nodes_left = left;
                Ok(())
            }
            None => self.wrong("fewer keys and values"),
        }
    }

    /// The bytes from here on for which `part` is true.
    fn take_while(&mut self, part: impl Fn(u8) -> bool) -> Cow<'a, str> {
        let length = self.rest.iter().position(|byte| !part(*byte)).unwrap_or(self.rest.len());
        let text = self.rest.get(..length).unwrap_or_default();
        self.advance(length);
        String::from_utf8_lossy(text)
    }

    fn advance(&mut self, length: usize) {
        self.rest = self.rest.get(length..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Section<'_> {
        parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    fn wrong(text: &str) -> SyntaxError {
        parse(text.as_bytes()).expect_err(text)
    }

    #[test]
    fn every_kind_of_value_is_read() {
        let text = "# of a group\nvg-0 {\n\tid = \"a\\\"b\\\\c\" # its ID\n\tnumbers=[-1, 2.5,\n3,]\n\tnone = []\n\
                    \tinner {\n\t\tx = +7\n\t}\n}\n\n\"odd key!\" = \"\"\n\0\0";
        let tree = read(text);
        let Some(Node::Section(group)) = tree.get("vg-0") else { panic!("{tree:?}") };
        assert_eq!(group.get("id"), Some(&Node::Value(Value::Text("a\"b\\c".into()))));
        let numbers = Value::Array(vec![Value::Integer(-1), Value::Float(2.5), Value::Integer(3)]);
        assert_eq!(group.get("numbers"), Some(&Node::Value(numbers)));
        assert_eq!(group.get("none"), Some(&Node::Value(Value::Array(Vec::new()))));
        let Some(Node::Section(inner)) = group.get("inner") else { panic!("{group:?}") };
        assert_eq!(inner.iter().collect::<Vec<_>>(), [("x", &Node::Value(Value::Integer(7)))]);
        assert_eq!(tree.get("odd key!"), Some(&Node::Value(Value::Text("".into()))));
        assert_eq!(tree.get("x"), None, "it is in an inner section");
        assert_eq!(read(&tree.to_string()), tree);
    }

    #[test]
    fn an_error_names_the_line() {
        for (text, line, expected) in [
            ("a = 1\nb {\n c = 2\n", 4, "`}` before the end of the text"),
            ("a = 1\n}\n", 2, "a key instead of `}`"),
            ("\n\na 1", 3, "`=` or `{` after a key"),
            ("a = [1\n\n2]", 3, "`,` or `]` in an array"),
            ("a = [[1]]", 1, "a string or a number"),
            ("a = \n", 2, "a string or a number"),
            ("a = yes", 1, "a string or a number"),
            ("a = \"x\n", 2, "a quote at the end of a string"),
            ("a = \"x\0y\"", 1, "a quote at the end of a string"),
            ("a = 012", 1, "a number"),
            ("a = 0x12", 1, "a number"),
            ("a = 1..2\n", 1, "a number"),
            ("a = 9223372036854775808\n", 1, "a number"),
            ("a/b = 1", 1, "`=` or `{` after a key"),
            ("= 1", 1, "a key"),
            ("a\0b = 1", 1, "`=` or `{` after a key"),
            ("a {\nb = 1\nb = 2\n}\nc = 1", 4, "a section before this line without the same key twice"),
        ] {
            assert_eq!(wrong(text), SyntaxError { line, expected }, "{text:?}");
        }
        assert_eq!(wrong("a\nb").to_string(), "line 2: expected `=` or `{` after a key");
    }

    #[test]
    fn depth_and_size_have_limits() {
        let nested = |depth: usize| format!("{}{}", "a {".repeat(depth), "}".repeat(depth));
        read(&nested(DEEPEST));
        assert_eq!(wrong(&nested(DEEPEST + 1)).expected, "fewer sections inside each other");
        // A parser that calls itself for each section would end the process.
        assert_eq!(wrong(&"a {".repeat(1 << 20)).expected, "fewer sections inside each other");
        assert_eq!(wrong(&"#".repeat(LARGEST + 1)).expected, "a shorter text");
        let with = |nodes_left| {
            let text = b"a = [1, 2] b { c = 3 }";
            Parser { text, rest: text, nodes_left }.document()
        };
        assert!(with(6).is_ok());
        assert_eq!(with(5).expect_err("too many").expected, "fewer keys and values");
    }

    fn value() -> impl Strategy<Value = Value<'static>> {
        let scalar = || {
            // Large and tiny ones as well.
            let float =
                (any::<i32>(), -300..300).prop_map(|(number, power)| f64::from(number) / 8.0 * 10_f64.powi(power));
            let float = float.prop_map(Value::Float);
            prop_oneof![
                "[^\0]*".prop_map(|text| Value::Text(text.into())),
                any::<i64>().prop_map(Value::Integer),
                float
            ]
        };
        prop_oneof![scalar(), prop::collection::vec(scalar(), 0..4).prop_map(Value::Array)]
    }

    fn of(entries: BTreeMap<String, Node<'static>>) -> Section<'static> {
        Section(entries.into_iter().map(|(key, node)| (key.into(), node)).collect())
    }

    fn section() -> impl Strategy<Value = Section<'static>> {
        let leaf = prop::collection::btree_map("[^\0]+", value().prop_map(Node::Value), 0..5);
        let leaf = leaf.prop_map(of);
        leaf.prop_recursive(4, 32, 4, |inner| {
            let node = prop_oneof![value().prop_map(Node::Value), inner.prop_map(Node::Section)];
            prop::collection::btree_map("[^\0]+", node, 0..4).prop_map(of)
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_again(tree in section()) {
            let text = tree.to_string();
            prop_assert_eq!(parse(text.as_bytes()), Ok(tree));
        }

        #[test]
        fn no_text_makes_it_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            text in "[a-z{}=\\[\\]\",#\\\\0-9. \n]*",
        ) {
            let _ = parse(&bytes);
            if let Ok(tree) = parse(text.as_bytes()) {
                let again = tree.to_string();
                prop_assert_eq!(parse(again.as_bytes()), Ok(tree));
            }
        }
    }
}
