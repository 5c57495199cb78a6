//! The syntax of LVM's text metadata, as described in lvm.conf(5): `key = value` and `key { … }`, where a value is a
//! string, a number or an array of them, and `#` begins a comment.
//!
//! The text comes from a disk, so the parser trusts nothing: the size of the text, the depth of sections and the
//! number of nodes have limits, and sections are kept on a stack of its own instead of the thread's.

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
pub enum Value {
    /// A string. Bytes that are not UTF-8 are replaced, as in a report.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Float(f64),
    /// An array, which does not contain arrays.
    Array(Vec<Value>),
}

/// What a key stands for.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// `key = value`
    Value(Value),
    /// `key { … }`
    Section(Section),
}

/// The contents of a section, in the order of the text. No key is there twice.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Section(Vec<(String, Node)>);

impl Section {
    /// The keys with what they stand for.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(key, node)| (key.as_str(), node))
    }

    /// What a key stands for.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.0.iter().find(|(found, _)| found == key).map(|(_, node)| node)
    }
}

/// Writes the section so that [`parse`] reads the same again.
impl fmt::Display for Section {
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

impl fmt::Display for Value {
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
pub fn parse(text: &[u8]) -> Result<Section, SyntaxError> {
    let length = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1));
    let mut parser = Parser { rest: text.get(..length).unwrap_or_default(), line: 1, nodes_left: MOST_NODES };
    match length > LARGEST {
        true => parser.wrong("a shorter text"),
        false => parser.document(),
    }
}

struct Parser<'a> {
    rest: &'a [u8],
    line: usize,
    /// How many more keys and values may follow.
    nodes_left: usize,
}

impl Parser<'_> {
    fn wrong<T>(&self, expected: &'static str) -> Result<T, SyntaxError> {
        Err(SyntaxError { line: self.line, expected })
    }

    fn document(&mut self) -> Result<Section, SyntaxError> {
        // The sections that are open, with their keys; and the one that is being read.
        let mut open: Vec<(String, Section)> = Vec::new();
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
    fn finished(&self, section: Section) -> Result<Section, SyntaxError> {
        let mut keys: Vec<&str> = section.0.iter().map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        match keys.array_windows().any(|[one, other]| one == other) {
            true => self.wrong("a section before this line without the same key twice"),
            false => Ok(section),
        }
    }

    fn key(&mut self) -> Result<String, SyntaxError> {
        if self.rest.first() == Some(&b'"') {
            return self.quoted();
        }
        // lvm reads a slash in a key as a path, and writes no such key.
        let part = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.+-@".contains(byte);
        let length = self.rest.iter().position(|byte| !part(byte)).unwrap_or(self.rest.len());
        match length {
            0 => self.wrong("a key"),
            _ => Ok(self.take(length)),
        }
    }

    fn value(&mut self) -> Result<Value, SyntaxError> {
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

    fn scalar(&mut self) -> Result<Value, SyntaxError> {
        self.count()?;
        match self.rest.first() {
            Some(b'"') => self.quoted().map(Value::Text),
            Some(byte) if byte.is_ascii_digit() || b"+-.".contains(byte) => self.number(),
            _ => self.wrong("a string or a number"),
        }
    }

    fn number(&mut self) -> Result<Value, SyntaxError> {
        let part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        let length = self.rest.iter().position(|byte| !part(byte)).unwrap_or(self.rest.len());
        let line = self.line;
        let text = self.take(length);
        let digits = text.trim_start_matches(['+', '-']);
        // lvm would read a leading zero as octal, but writes no such number.
        let octal = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
        let number = match text.contains('.') {
            _ if octal => None,
            true => text.parse().ok().filter(|number: &f64| number.is_finite()).map(Value::Float),
            false => text.parse().ok().map(Value::Integer),
        };
        number.ok_or(SyntaxError { line, expected: "a number" })
    }

    /// A string in quotes, where a backslash keeps the next quote or backslash.
    fn quoted(&mut self) -> Result<String, SyntaxError> {
        self.advance(1);
        let mut bytes = Vec::new();
        loop {
            match self.rest {
                [b'\\', next @ (b'"' | b'\\'), ..] => {
                    bytes.push(*next);
                    self.advance(2);
                }
                [b'"', ..] => {
                    self.advance(1);
                    return Ok(String::from_utf8_lossy(&bytes).into_owned());
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
            match self.rest.first() {
                Some(b'#') => {
                    let line = self.rest.iter().position(|byte| *byte == b'\n').unwrap_or(self.rest.len());
                    self.rest = self.rest.get(line..).unwrap_or_default();
                }
                Some(byte) if byte.is_ascii_whitespace() => self.advance(1),
                _ => return,
            }
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

    fn take(&mut self, length: usize) -> String {
        let text = self.rest.get(..length).unwrap_or_default();
        let text = String::from_utf8_lossy(text).into_owned();
        self.advance(length);
        text
    }

    fn advance(&mut self, length: usize) {
        let (passed, rest) = self.rest.split_at_checked(length).unwrap_or((self.rest, &[]));
        self.line = self.line.saturating_add(passed.iter().filter(|byte| **byte == b'\n').count());
        self.rest = rest;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Section {
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
        assert_eq!(group.get("id"), Some(&Node::Value(Value::Text("a\"b\\c".to_owned()))));
        let numbers = Value::Array(vec![Value::Integer(-1), Value::Float(2.5), Value::Integer(3)]);
        assert_eq!(group.get("numbers"), Some(&Node::Value(numbers)));
        assert_eq!(group.get("none"), Some(&Node::Value(Value::Array(Vec::new()))));
        let Some(Node::Section(inner)) = group.get("inner") else { panic!("{group:?}") };
        assert_eq!(inner.iter().collect::<Vec<_>>(), [("x", &Node::Value(Value::Integer(7)))]);
        assert_eq!(tree.get("odd key!"), Some(&Node::Value(Value::Text(String::new()))));
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
        let with = |nodes_left| Parser { rest: b"a = [1, 2] b { c = 3 }", line: 1, nodes_left }.document();
        assert!(with(6).is_ok());
        assert_eq!(with(5).expect_err("too many").expected, "fewer keys and values");
    }

    fn value() -> impl Strategy<Value = Value> {
        let scalar = || {
            // Large and tiny ones as well.
            let float =
                (any::<i32>(), -300..300).prop_map(|(number, power)| f64::from(number) / 8.0 * 10_f64.powi(power));
            let float = float.prop_map(Value::Float);
            prop_oneof!["[^\0]*".prop_map(Value::Text), any::<i64>().prop_map(Value::Integer), float]
        };
        prop_oneof![scalar(), prop::collection::vec(scalar(), 0..4).prop_map(Value::Array)]
    }

    fn section() -> impl Strategy<Value = Section> {
        let leaf = prop::collection::btree_map("[^\0]+", value().prop_map(Node::Value), 0..5);
        let leaf = leaf.prop_map(|entries| Section(entries.into_iter().collect()));
        leaf.prop_recursive(4, 32, 4, |inner| {
            let node = prop_oneof![value().prop_map(Node::Value), inner.prop_map(Node::Section)];
            prop::collection::btree_map("[^\0]+", node, 0..4).prop_map(|entries| Section(entries.into_iter().collect()))
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_again(tree in section()) {
            prop_assert_eq!(parse(tree.to_string().as_bytes()), Ok(tree));
        }

        #[test]
        fn no_text_makes_it_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            text in "[a-z{}=\\[\\]\",#\\\\0-9. \n]*",
        ) {
            let _ = parse(&bytes);
            if let Ok(tree) = parse(text.as_bytes()) {
                prop_assert_eq!(parse(tree.to_string().as_bytes()), Ok(tree));
            }
        }
    }
}
