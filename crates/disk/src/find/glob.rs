//! Patterns of names: `*`, `?` and `[…]`.

use std::fmt;
use std::str::FromStr;

/// A pattern that must match a whole name, including letter case. `*` matches any characters or none, `?` one
/// character, `[a-cx]` one of these, `[!a-c]` or `[^a-c]` any character except these; `[*]` matches a literal
/// star. No other character is special.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Glob {
    text: String,
    pattern: glob::Pattern,
}

/// Why a text is not a valid pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid pattern: {why}")]
pub struct GlobError {
    pub(super) text: String,
    pub(super) why: &'static str,
}

impl FromStr for Glob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        let wrong = |why| GlobError { text: text.to_owned(), why };
        if text.is_empty() {
            return Err(wrong("it is empty; write * to match any name"));
        }
        let pattern = plain(text).map_err(wrong)?;
        let pattern = glob::Pattern::new(&pattern).map_err(|error| wrong(error.msg))?;
        Ok(Self { text: text.to_owned(), pattern })
    }
}

/// The same pattern as the crate `glob` writes it: there, `**` has a meaning of its own, `[^` is not known, and a
/// reversed range matches nothing.
fn plain(text: &str) -> Result<String, &'static str> {
    let mut pattern = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        rest = rest.get(character.len_utf8()..).unwrap_or_default();
        match character {
            '*' if pattern.ends_with('*') => {}
            '[' => {
                let (set, behind) = set(rest)?;
                pattern.push_str(&set);
                rest = behind;
            }
            character => pattern.push(character),
        }
    }
    Ok(pattern)
}

/// Reads a set after its opening bracket. Returns it with its brackets, and what follows it.
fn set(text: &str) -> Result<(String, &str), &'static str> {
    let (negation, inner) = match text.strip_prefix(['!', '^']) {
        Some(inner) => ("!", inner),
        None => ("", text),
    };
    // A closing bracket in the first place is a literal character.
    let end = inner.char_indices().skip(1).find(|(_, letter)| *letter == ']').map(|(end, _)| end);
    let (letters, rest) = end.and_then(|end| inner.split_at_checked(end)).ok_or("a [ has no matching ]")?;
    let mut left: &[char] = &letters.chars().collect::<Vec<_>>();
    while let [first, behind @ ..] = left {
        left = match behind {
            ['-', last, ..] if last < first => return Err("the characters of a range are in the wrong order"),
            ['-', _, behind @ ..] => behind,
            behind => behind,
        };
    }
    Ok((format!("[{negation}{letters}]"), rest.strip_prefix(']').unwrap_or(rest)))
}

impl Glob {
    /// Whether the whole name matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.pattern.matches(name)
    }

    /// The name itself, if the pattern has no wildcards.
    pub(super) fn literal(&self) -> Option<&str> {
        (!self.text.contains(['*', '?', '['])).then_some(self.text.as_str())
    }

    /// Whether the pattern starts with a literal dot.
    pub(super) fn begins_with_dot(&self) -> bool {
        self.text.starts_with('.')
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(glob: &str, name: &str) -> bool {
        glob.parse::<Glob>().unwrap().matches(name)
    }

    #[test]
    fn patterns_match_whole_names() {
        for (glob, name) in [
            ("wwn-*", "wwn-0x5000"),
            ("*", ""),
            ("*SSD*870*", "Samsung SSD 870 EVO"),
            ("sd?", "sdb"),
            ("sd[b-d]", "sdc"),
            ("sd[!a]", "sdb"),
            ("sd[^a-c]", "sdd"),
            ("[]]", "]"),
            ("[!]]", "x"),
            ("[a-]", "-"),
            ("[*]", "*"),
            ("ä?", "äö"),
            ("*a*b", "aabab"),
            ("a**b", "ab"),
        ] {
            assert!(matches(glob, name), "{glob} {name}");
        }
        for (glob, name) in [
            ("wwn-*", "xwwn-1"),
            ("sd?", "sd"),
            ("sd?", "sdab"),
            ("sd[b-d]", "sde"),
            ("sd[!a]", "sda"),
            ("sd[!a]", "sd"),
            ("SD?", "sda"),
            ("*a", "ab"),
            ("[*]", "x"),
        ] {
            assert!(!matches(glob, name), "{glob} {name}");
        }
    }

    #[test]
    fn invalid_patterns_are_rejected() {
        for (text, why) in [
            ("", "empty"),
            ("sd[a", "no matching ]"),
            ("[]", "no matching ]"),
            ("[!]", "no matching ]"),
            ("[z-a]", "wrong order"),
        ] {
            let error = text.parse::<Glob>().unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }

    #[test]
    fn many_stars_do_not_take_exponential_time() {
        assert!(!matches(&"*a".repeat(200), &"a".repeat(199)));
        assert!(!matches(&format!("{}b", "*a".repeat(200)), &"a".repeat(5000)));
    }

    /// Crates for patterns differ in these cases. Configurations may rely on each of them.
    #[test]
    fn no_other_character_is_special() {
        for (glob, name) in [
            ("{a,b}", "{a,b}"),
            (r"a\x20*", r"a\x20b"),
            (r"\*", r"\a"),
            ("a/*", "a/b/c"),
            ("a?b", "a/b"),
            ("*", ".hidden"),
            ("?x", ".x"),
            ("**", "a/b"),
            ("a/**/b", "a/x/b"),
            ("a/**/b", "a//b"),
            ("a***b", "a-b"),
            ("a]b", "a]b"),
            ("?", "ä"),
            ("[ä-ü]", "ö"),
            ("[!ä]", "ö"),
            ("[a-b-c]", "-"),
            ("[--0]", "."),
            ("[]-a]", "_"),
            ("[^^]", "a"),
            ("[^!a]", "b"),
            ("[!^a]", "b"),
            ("[a^]", "^"),
            ("[a!]", "!"),
            ("[[]", "["),
            ("[?]", "?"),
            ("*[*]", "a*"),
        ] {
            assert!(matches(glob, name), "{glob} {name}");
        }
        for (glob, name) in [
            ("{a,b}", "a"),
            (r"\*", "*"),
            ("a/**/b", "a/b"),
            ("**/b", "b"),
            ("[a-b-c]", "d"),
            ("[a-c-e]", "d"),
            ("[^^]", "^"),
            ("[^!a]", "!"),
            ("[!^a]", "^"),
            ("[ä]", "\u{c3}"),
            ("[*]*", "ab"),
            ("a", "A"),
            ("[a]", "A"),
        ] {
            assert!(!matches(glob, name), "{glob} {name}");
        }
    }

    /// A plain search for patterns without sets.
    fn search(glob: &[char], name: &[char]) -> bool {
        match (glob, name) {
            ([], []) => true,
            (['*', behind @ ..], _) => {
                search(behind, name) || name.split_first().is_some_and(|(_, rest)| search(glob, rest))
            }
            ([token, behind @ ..], [letter, rest @ ..]) => (*token == '?' || token == letter) && search(behind, rest),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(text in "\\PC{0,30}", name in "\\PC{0,30}") {
            if let Ok(glob) = text.parse::<Glob>() {
                let _ = glob.matches(&name);
            }
        }

        #[test]
        fn stars_are_tried_as_a_plain_search_would(text in "[ab*?]{1,9}", name in "[ab]{0,9}") {
            let [glob, letters] = [&text, &name].map(|text| text.chars().collect::<Vec<_>>());
            prop_assert_eq!(matches(&text, &name), search(&glob, &letters));
        }

        #[test]
        fn a_name_matches_itself_and_its_parts_with_stars(name in "[a-z0-9._:-]{1,20}", at in 0..20_usize) {
            let at = at.min(name.len());
            prop_assert!(matches(&name, &name));
            let starred = format!("{}*{}", &name[..at], &name[at..]);
            prop_assert!(matches(&starred, &name));
            let glob: Glob = name.parse().unwrap();
            prop_assert_eq!(glob.literal(), Some(name.as_str()));
        }
    }
}
