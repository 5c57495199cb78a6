//! Text in messages: lists, durations, counts, the causes of an error, and text from others.

use std::time::Duration;

/// The first few of these names for a sentence, and the number of the others: `a, b and 17 more`. Keeps a
/// message readable with any number of names.
pub fn some_of<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    const MOST: usize = 5;
    let all: Vec<S> = names.into_iter().collect();
    let some: Vec<&str> = all.iter().take(MOST).map(AsRef::as_ref).collect();
    match all.len().saturating_sub(MOST) {
        0 => some.join(", "),
        more => format!("{} and {more} more", some.join(", ")),
    }
}

/// A duration for people: `42 s`, `5 min`, `3 h`, `12 days`.
#[must_use]
pub fn human_duration(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}

/// A count for people: `1 node`, `2 nodes`; also of what cannot be counted: `? nodes`.
#[must_use]
pub fn plural(count: impl std::fmt::Display, what: &str) -> String {
    let count = count.to_string();
    if count == "1" { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// An error with all its causes in one line. Libraries hide the reason inside: the outermost message of hyper is
/// "client error". A cause that the message before it already ends with is not repeated.
#[must_use]
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        let why = cause.to_string();
        if !text.ends_with(&why) {
            text.push_str(": ");
            text.push_str(&why);
        }
        below = cause.source();
    }
    text
}

/// Text from others with its control characters escaped, so that it cannot steer the terminal, break lines, or change the
/// order in which a line is shown.
#[must_use]
pub fn printable(text: &str) -> String {
    let shown = |c: char| if is_invisible(c) { c.escape_unicode().to_string() } else { c.to_string() };
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { shown(c) }).collect()
}

/// Like [`printable`], for a text of several lines.
#[must_use]
pub fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// Marks of the direction of writing, separators of lines, and characters without a width.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_counts_are_for_people() {
        let spoken = [0, 119, 120, 7199, 7200, 172_799, 172_800].map(|s| human_duration(Duration::from_secs(s)));
        assert_eq!(spoken, ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 days"]);
        assert_eq!([0, 1, 2].map(|count| plural(count, "node")), ["0 nodes", "1 node", "2 nodes"]);
    }

    #[test]
    fn many_names_are_counted() {
        assert_eq!(some_of::<&str>([]), "");
        assert_eq!(some_of(["a", "b"]), "a, b");
        assert_eq!(some_of(["a", "b", "c", "d", "e"]), "a, b, c, d, e");
        assert_eq!(some_of((0..52).map(|n| n.to_string())), "0, 1, 2, 3, 4 and 47 more");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn causes_follow_the_message_once() {
        let layer = |text, below| Layer(text, Some(Box::new(below)));
        let error = layer("transport error", layer("cannot connect: refused", layer("refused", Layer("port 1", None))));
        assert_eq!(with_causes(&error), "transport error: cannot connect: refused: port 1");
        assert_eq!(with_causes(&Layer("alone", None)), "alone");
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("ä x\u{1b}[2J\ny"), "ä x\\u{1b}[2J\\ny");
        assert_eq!(printable_lines("a\u{1b}\nb\r"), "a\\u{1b}\nb\\r");
        // It would show the size before the name.
        assert_eq!(printable("data\u{202e}iT1"), "data\\u{202e}iT1");
        assert_eq!(printable("\u{feff}\u{200b}\u{2028}\u{2069}"), "\\u{feff}\\u{200b}\\u{2028}\\u{2069}");
        assert_eq!(printable("\u{61c}\u{ad}\u{180e}"), "\\u{61c}\\u{ad}\\u{180e}");
        assert_eq!(printable("日本 \u{a0}é"), "日本 \u{a0}é");
    }
}
