//! Patterns of names: `*`, `?` and `[…]`.

use std::fmt;
use std::str::FromStr;

/// A pattern that must match a whole name, including letter case. `*` matches any characters or none, `?` one
/// character, `[a-cx]` one of these, `[!a-c]` or `[^a-c]` any character except these; `[*]` matches a literal
/// star.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Glob {
    text: String,
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Token {
    Letter(char),
    AnyLetter,
    Letters { negated: bool, ranges: Vec<(char, char)> },
    Star,
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
        let mut letters = text.chars();
        let mut tokens = Vec::new();
        while let Some(letter) = letters.next() {
            tokens.push(match letter {
                '*' => Token::Star,
                '?' => Token::AnyLetter,
                '[' => {
                    let (token, rest) = set(letters.as_str()).map_err(wrong)?;
                    letters = rest.chars();
                    token
                }
                letter => Token::Letter(letter),
            });
        }
        if tokens.is_empty() {
            return Err(wrong("it is empty; write * to match any name"));
        }
        Ok(Self { text: text.to_owned(), tokens })
    }
}

/// Reads a set after its opening bracket, and returns what follows.
fn set(text: &str) -> Result<(Token, &str), &'static str> {
    let (negated, inner) = match text.strip_prefix(['!', '^']) {
        Some(inner) => (true, inner),
        None => (false, text),
    };
    // A closing bracket in the first place is a literal character.
    let end = inner.char_indices().skip(1).find(|(_, letter)| *letter == ']').map(|(end, _)| end);
    let (letters, rest) = end.and_then(|end| inner.split_at_checked(end)).ok_or("a [ has no matching ]")?;
    let mut ranges = Vec::new();
    let mut letters = letters.chars().peekable();
    while let Some(first) = letters.next() {
        let mut ahead = letters.clone();
        let last = match (ahead.next(), ahead.next()) {
            (Some('-'), Some(last)) => {
                letters = ahead;
                last
            }
            _ => first,
        };
        if last < first {
            return Err("the characters of a range are in the wrong order");
        }
        ranges.push((first, last));
    }
    Ok((Token::Letters { negated, ranges }, rest.strip_prefix(']').unwrap_or(rest)))
}

impl Token {
    fn matches(&self, letter: char) -> bool {
        match self {
            Self::Letter(own) => *own == letter,
            Self::AnyLetter | Self::Star => true,
            Self::Letters { negated, ranges } => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&letter)) != *negated
            }
        }
    }
}

impl Glob {
    /// Whether the whole name matches. The time is at most proportional to the product of both lengths.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let mut tokens = self.tokens.as_slice();
        let mut letters = name.chars();
        // After the last star that was passed: the tokens after it, and where in the name to continue.
        let mut retry: Option<(&[Token], std::str::Chars<'_>)> = None;
        loop {
            match (tokens.split_first(), letters.clone().next()) {
                (Some((Token::Star, behind)), _) => {
                    tokens = behind;
                    retry = Some((behind, letters.clone()));
                }
                (Some((token, behind)), Some(letter)) if token.matches(letter) => {
                    tokens = behind;
                    letters.next();
                }
                (None, None) => return true,
                // The last star has to match one more character; extending an earlier star could not help.
                _ => {
                    let Some((behind, from)) = &mut retry else { return false };
                    if from.next().is_none() {
                        return false;
                    }
                    tokens = behind;
                    letters = from.clone();
                }
            }
        }
    }

    /// The name itself, if the pattern has no wildcards.
    pub(super) fn literal(&self) -> Option<&str> {
        self.tokens.iter().all(|token| matches!(token, Token::Letter(_))).then_some(self.text.as_str())
    }

    /// Whether the pattern starts with a literal dot.
    pub(super) fn begins_with_dot(&self) -> bool {
        matches!(self.tokens.first(), Some(Token::Letter('.')))
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

    /// The same, as a simple recursive search.
    fn matches_naively(tokens: &[Token], name: &[char]) -> bool {
        match (tokens, name) {
            ([], []) => true,
            ([Token::Star, behind @ ..], _) => {
                matches_naively(behind, name)
                    || name.split_first().is_some_and(|(_, rest)| matches_naively(tokens, rest))
            }
            ([token, behind @ ..], [letter, rest @ ..]) => token.matches(*letter) && matches_naively(behind, rest),
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
        fn matching_agrees_with_a_naive_search(text in "[ab*?]{1,9}", name in "[ab]{0,9}") {
            let glob: Glob = text.parse().unwrap();
            let letters: Vec<char> = name.chars().collect();
            prop_assert_eq!(glob.matches(&name), matches_naively(&glob.tokens, &letters));
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
