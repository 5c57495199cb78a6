//! SELinux contexts of mounts (the mount option `context=`): the label that all files of the mount have.

use std::collections::BTreeSet;

/// The context in these mount options, without its quotes.
#[must_use]
pub fn context_in(options: &[String]) -> Option<&str> {
    options.iter().find_map(|option| option.strip_prefix("context=")).map(|context| context.trim_matches('"'))
}

/// Whether two contexts have the same level, which is what differs between pods. The kernel shows a context in its own
/// spelling: with sorted categories, `c1.c3` for three or more in a row, one level for a range from that level to itself,
/// and the type itself for one of its aliases. So types are not compared.
#[must_use]
pub fn is_same_context(one: &str, other: &str) -> bool {
    match (Range::parse(one), Range::parse(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

/// The level in USER:ROLE:TYPE:LEVEL, as a range.
#[derive(PartialEq, Eq)]
struct Range<'a> {
    low: Level<'a>,
    high: Level<'a>,
}

/// SENSITIVITY:CATEGORIES.
#[derive(PartialEq, Eq)]
struct Level<'a> {
    sensitivity: &'a str,
    categories: BTreeSet<u16>,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let range = text.splitn(4, ':').nth(3)?;
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        Some(Self { low: Level::parse(low)?, high: Level::parse(high)? })
    }
}

impl<'a> Level<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let number = |text: &str| text.strip_prefix('c')?.parse::<u16>().ok();
        let (sensitivity, all) = text.split_once(':').map_or((text, None), |(first, all)| (first, Some(all)));
        let mut categories = BTreeSet::new();
        for part in all.into_iter().flat_map(|all| all.split(',')) {
            let (first, last) = part.split_once('.').unwrap_or((part, part));
            categories.extend(number(first)?..=number(last)?);
        }
        Some(Self { sensitivity, categories })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_spelling_of_a_context_is_the_same_context() {
        for (one, other) in [
            ("a:b:c:s0:c2,c1", "a:b:c:s0:c1,c2"),
            ("a:b:c:s0:c1,c2,c3,c9", "a:b:c:s0:c1.c3,c9"),
            ("a:b:c:s0-s0", "a:b:c:s0"),
            ("a:b:c:s0-s0:c0.c1023", "a:b:c:s0-s0:c0.c511,c512.c1023"),
            // An alias, as far as this code can know.
            ("a:b:svirt_sandbox_file_t:s0", "a:b:container_file_t:s0"),
            ("not a context", "not a context"),
        ] {
            assert!(is_same_context(one, other) && is_same_context(other, one), "{one} and {other}");
        }
        for (one, other) in [
            ("a:b:c:s0:c1,c2", "a:b:c:s0:c1,c3"),
            ("a:b:c:s0:c1,c2", "a:b:c:s0"),
            ("a:b:c:s0", "a:b:c:s1"),
            ("a:b:c:s0-s0:c1", "a:b:c:s0"),
            ("a:b:c", "a:b:c:s0"),
            ("a:b:c:s0:c1.c70000", "a:b:c:s0:c1"),
            ("", "a:b:c:s0"),
        ] {
            assert!(!is_same_context(one, other) && !is_same_context(other, one), "{one} and {other}");
        }
    }

    #[test]
    fn the_context_in_options_has_no_quotes() {
        let options = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        assert_eq!(context_in(&options(&["rw", "context=\"a:b:c:s0:c1,c2\""])), Some("a:b:c:s0:c1,c2"));
        assert_eq!(context_in(&options(&["context=a:b:c:s0", "noatime"])), Some("a:b:c:s0"));
        assert_eq!(context_in(&options(&["rw", "seclabel", "fscontext=a"])), None);
    }
}
