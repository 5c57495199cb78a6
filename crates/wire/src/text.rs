//! Texts for people, in messages.

/// The maximum length of a text in a message, in bytes: longer texts belong in a log, and messages are
/// limited.
pub const MAX_TEXT: usize = 2048;

/// Truncates a text for people to [`MAX_TEXT`].
pub(crate) fn truncated(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push('…');
    }
    text
}
