//! Commands in texts that are wrapped: what a user copies must be on one line.

/// A space where no line is broken.
const NO_BREAK: char = '\u{a0}';

/// The text with spaces where no line is broken in each command, which is between two backticks.
pub(crate) fn keep_commands(text: &str) -> String {
    let parts = text.split('`').enumerate().map(|(number, part)| match number % 2 {
        0 => part.to_owned(),
        _ => part.replace(' ', &NO_BREAK.to_string()),
    });
    parts.collect::<Vec<_>>().join("`")
}

/// The text with ordinary spaces again, after it was wrapped.
pub(crate) fn break_commands(text: &str) -> String {
    text.replace(NO_BREAK, " ")
}

/// The width of the longest part that is not broken, in columns.
pub(crate) fn longest_word(text: &str) -> u16 {
    text.split([' ', '\n']).map(super::width).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_commands_are_kept_together() {
        let text = "run `lvs -a vg`, or `vgs`; then look";
        let kept = keep_commands(text);
        assert_eq!(kept, "run `lvs\u{a0}-a\u{a0}vg`, or `vgs`; then look");
        assert_eq!(break_commands(&kept), text);
        assert_eq!((longest_word(text), longest_word(&kept)), (6, 12));
        // The last one does not end.
        assert_eq!(break_commands(&keep_commands("a `b c")), "a `b c");
        assert_eq!(longest_word(""), 0);
    }
}
