//! Tables for people, without borders, printed page by page.

use std::borrow::Cow;

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Width, presets};

/// The number of spaces between two columns.
const GAP: u16 = 2;

/// A column of a table.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    title: Cow<'static, str>,
    number: bool,
}

impl Column {
    /// A column of text, aligned left.
    pub(crate) const fn words(title: &'static str) -> Self {
        Self { title: Cow::Borrowed(title), number: false }
    }

    /// A column of figures, aligned right.
    pub(crate) const fn figures(title: &'static str) -> Self {
        Self { title: Cow::Borrowed(title), number: true }
    }

    /// A column of text whose title is known only when the program runs.
    pub(crate) fn named(title: String) -> Self {
        Self { title: Cow::Owned(title), number: false }
    }
}

/// A table that is printed in parts.
pub(crate) struct Table {
    columns: Vec<Column>,
    /// The width of each column so far, its gap included. A later page is never narrower, so the columns stay
    /// aligned unless a longer cell comes.
    widths: Vec<u16>,
}

impl Table {
    pub(crate) fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), widths: Vec::new() }
    }

    /// Whether nothing has been printed yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.widths.is_empty()
    }

    /// The next rows; each line ends with a newline. The titles come first, before the first row.
    pub(crate) fn page(&mut self, rows: impl Iterator<Item = Vec<String>>) -> String {
        let mut rows = rows.peekable();
        if rows.peek().is_none() {
            return String::new();
        }
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if self.is_empty() {
            // Titles are laid out like a row: aligned as the cells below them, figures to the right.
            table.add_row(self.columns.iter().map(|column| column.title.as_ref()));
        }
        table.add_rows(rows.map(printable));
        for (index, column) in self.columns.iter().enumerate() {
            let Some(shown) = table.column_mut(index) else { continue };
            shown.set_padding((0, GAP));
            if column.number {
                shown.set_cell_alignment(CellAlignment::Right);
            }
            if let Some(width) = self.widths.get(index) {
                shown.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(*width)));
            }
        }
        let now = table.column_max_content_widths();
        let before = std::mem::take(&mut self.widths);
        self.widths = now
            .into_iter()
            .enumerate()
            .map(|(index, width)| width.saturating_add(GAP).max(before.get(index).copied().unwrap_or_default()))
            .collect();
        let mut text = table.trim_fmt();
        text.push('\n');
        text
    }
}

fn printable(row: Vec<String>) -> Vec<String> {
    row.into_iter().map(|cell| quarry_volume::printable(&cell)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[[&str; 2]]) -> impl Iterator<Item = Vec<String>> {
        rows.iter().map(|row| row.map(str::to_owned).to_vec()).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn pages_are_one_table() {
        let mut table = Table::new(&[Column::words("NAME"), Column::figures("SIZE")]);
        assert_eq!(table.page(rows(&[])), "");
        assert!(table.is_empty());
        assert_eq!(
            table.page(rows(&[["longest", "1Gi"], ["b", "100Gi"]])),
            "NAME      SIZE\nlongest    1Gi\nb        100Gi\n"
        );
        assert_eq!(table.page(rows(&[["c", "2Gi"]])), "c          2Gi\n");
        assert_eq!(table.page(rows(&[["longer than that", "2Gi"]])), "longer than that    2Gi\n");
        assert_eq!(table.page(rows(&[["d", "2Gi"]])), "d                   2Gi\n");
        assert_eq!(table.page(rows(&[])), "");
        assert!(!table.is_empty());
    }

    #[test]
    fn a_cell_is_one_line_without_control_characters() {
        let mut table = Table::new(&[Column::words("A"), Column::words("B")]);
        assert_eq!(table.page(rows(&[["x\u{1b}[2J\ny", "z"]])), "A              B\nx\\u{1b}[2J\\ny  z\n");
    }
}
