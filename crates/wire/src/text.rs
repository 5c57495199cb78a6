//! Texts for people, in messages.

/// The maximum length of a text in a message, in bytes: longer texts belong in a log, and messages are
/// limited.
pub const MAX_TEXT: usize = 2048;

/// Truncates a text for people to [`MAX_TEXT`].
pub(crate) fn truncated(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
