//! Colours of cells.

use anstyle::{AnsiColor, Style};
use unicode_width::UnicodeWidthChar as _;

use super::GAP;

/// The style of what needs someone's attention now.
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
/// The style of what someone should know.
pub(crate) const NOTABLE: Style = AnsiColor::Yellow.on_default();

/// A line of a table with the style of each column. `widths`: of the columns, without the gaps.
pub(super) fn line(line: &str, widths: &[u16], styles: &[Style]) -> String {
    if styles.iter().all(|style| style.is_plain()) {
        return line.to_owned();
    }
    let mut painted = String::with_capacity(line.len() + 16);
    let mut rest = line;
    for (width, style) in widths.iter().zip(styles) {
        let (cell, after) = split_at_column(rest, usize::from(*width));
        push(&mut painted, cell, *style);
        let (gap, after) = split_at_column(after, usize::from(GAP));
        painted.push_str(gap);
        rest = after;
    }
    painted + rest
}

/// Appends a cell; the spaces around its text have no style.
fn push(painted: &mut String, cell: &str, style: Style) {
    let text = cell.trim();
    match cell.split_once(text) {
        Some((before, after)) if !text.is_empty() && !style.is_plain() => {
            // Writing to a String cannot fail.
            painted.push_str(before);
            painted.push_str(&format!("{style}{text}{style:#}"));
            painted.push_str(after);
        }
        _ => painted.push_str(cell),
    }
}

/// Splits a text after this many columns of a terminal.
fn split_at_column(text: &str, columns: usize) -> (&str, &str) {
    let mut before = 0;
    let end = text.char_indices().find(|(_, character)| {
        before += character.width().unwrap_or_default();
        before > columns
    });
    text.split_at(end.map_or(text.len(), |(index, _)| index))
}

/// The text with the style on what is before the first space of it.
pub(crate) fn paint_start(text: &str, style: Style) -> String {
    let (word, rest) = text.split_at(text.find(' ').unwrap_or(text.len()));
    if style.is_plain() { text.to_owned() } else { format!("{style}{word}{style:#}{rest}") }
}
