//! Commands in texts that are wrapped: what a user copies must be on one line.

use textwrap::{Options, WordSeparator, WordSplitter};

/// A space where no line is broken.
const NO_BREAK: char = '\u{a0}';

/// The lines of a text that is at most `width` columns wide (`None`: no limit). A command is on one line, and so is any
/// other word, even if that line is longer.
pub(crate) fn lines(text: &str, width: Option<u16>) -> Vec<String> {
    let width = width.map_or(usize::MAX, usize::from);
    let options = Options::new(width)
        .break_words(false)
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation);
    let kept = keep_commands(text);
    textwrap::wrap(&kept, options).into_iter().map(|line| line.replace(NO_BREAK, " ")).collect()
}

/// The text with spaces where no line is broken in each command, which is between two backticks.
fn keep_commands(text: &str) -> String {
    // After the last backtick of an odd number, no command begins.
    let commands = text.matches('`').count() / 2;
    let parts = text.split('`').enumerate().map(|(number, part)| match number % 2 == 1 && number / 2 < commands {
        false => part.to_owned(),
        true => part.replace(' ', &NO_BREAK.to_string()),
    });
    parts.collect::<Vec<_>>().join("`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_commands_are_kept_together() {
        let text = "run `lvs -a vg`, or `vgs`; then look";
        assert_eq!(lines(text, Some(8)), ["run", "`lvs -a vg`,", "or", "`vgs`;", "then", "look"]);
        assert_eq!(lines(text, Some(20)), ["run `lvs -a vg`, or", "`vgs`; then look"]);
        assert_eq!(lines(text, None), [text]);
        // The last one does not end.
        assert_eq!(lines("`a b` a `b c", Some(5)), ["`a b`", "a `b", "c"]);
        assert_eq!(lines("two\nlines", Some(80)), ["two", "lines"]);
        assert_eq!(lines("", Some(80)), [""]);
    }
}
