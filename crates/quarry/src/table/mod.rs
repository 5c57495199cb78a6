//! Tables for people, without borders, printed page by page. In a terminal they fit its width.

mod commands;
mod fit;
mod paint;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use anstyle::Style;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Width, presets};
use unicode_width::UnicodeWidthStr as _;

pub(crate) use commands::lines;
pub(crate) use paint::{BAD, NOTABLE, paint_start};

use crate::terminal::Terminal;

/// The number of spaces between two columns.
const GAP: u16 = 2;

/// A cell without a value.
pub(crate) const NOTHING: &str = "-";
/// The least width of a cell that is below its row.
const LEAST_BELOW: u16 = 20;

/// What happens to a column in a table that is too wide for the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// Always shown in full: what a user copies is never cut.
    Whole,
    /// Left out, those with the highest number first.
    LeftOut(u8),
    /// Sentences: wrapped, down to this width. If there is no room for that beside the other columns, they are below
    /// their row.
    Text(u16),
    /// A name: wrapped, down to this width, before a column is left out.
    Name(u16),
}

/// A column of a table.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    title: Cow<'static, str>,
    number: bool,
    fit: Fit,
    paint: Option<fn(&str) -> Style>,
}

impl Column {
    /// A column of text, aligned left.
    pub(crate) const fn words(title: &'static str) -> Self {
        Self { title: Cow::Borrowed(title), number: false, fit: Fit::Whole, paint: None }
    }

    /// A column of figures, aligned right.
    pub(crate) const fn figures(title: &'static str) -> Self {
        Self { title: Cow::Borrowed(title), number: true, fit: Fit::Whole, paint: None }
    }

    /// A column of text whose title is known only when the program runs.
    pub(crate) fn named(title: String) -> Self {
        Self { title: Cow::Owned(title), number: false, fit: Fit::Whole, paint: None }
    }

    /// The column is left out if the table is too wide; those with the highest `rank` first.
    pub(crate) const fn left_out(mut self, rank: u8) -> Self {
        self.fit = Fit::LeftOut(rank);
        self
    }

    /// The column is sentences, of which a table has one: they are wrapped if the table is too wide, and below their row
    /// if there is no room for `least` columns of them.
    pub(crate) const fn text(mut self, least: u16) -> Self {
        self.fit = Fit::Text(least);
        self
    }

    /// The column is a name: it is wrapped if the table is too wide, but not to less than `least` columns.
    pub(crate) const fn name(mut self, least: u16) -> Self {
        self.fit = Fit::Name(least);
        self
    }

    /// `paint` gives the style of a cell.
    pub(crate) const fn painted(mut self, paint: fn(&str) -> Style) -> Self {
        self.paint = Some(paint);
        self
    }
}

/// Where a column is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    InRow,
    /// On the lines after the row.
    Below,
    LeftOut,
}

/// A table that is printed in parts.
pub(crate) struct Table {
    columns: Vec<Column>,
    terminal: Terminal,
    /// The width of the longest cell of each column so far. A later page is never narrower, so the columns stay
    /// aligned unless a longer cell comes.
    longest: Vec<u16>,
    /// Where the columns are. The first page decides.
    places: Vec<Place>,
    is_empty: bool,
}

impl Table {
    /// A table for `terminal`.
    pub(crate) fn new(columns: &[Column], terminal: Terminal) -> Self {
        Self {
            columns: columns.to_vec(),
            terminal,
            longest: columns.iter().map(|column| width(&column.title)).collect(),
            places: vec![Place::InRow; columns.len()],
            is_empty: true,
        }
    }

    /// Whether nothing has been printed yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// The next rows; each line ends with a newline. The titles come first, before the first row.
    pub(crate) fn page(&mut self, rows: impl Iterator<Item = Vec<String>>) -> String {
        let rows: Vec<Vec<String>> = rows.map(printable).collect();
        if rows.is_empty() {
            return String::new();
        }
        for row in &rows {
            for (longest, cell) in self.longest.iter_mut().zip(row) {
                *longest = width(cell).max(*longest);
            }
        }
        if let (true, Some(limit)) = (self.is_empty, self.terminal.width) {
            self.places = fit::places(&self.columns, &self.longest, limit);
        }
        let all = self.columns.iter().cloned().zip(self.longest.iter().copied());
        let mut columns: Vec<(Column, u16)> = self.at(Place::InRow, all).collect();
        if let Some(limit) = self.terminal.width {
            fit::wrap(&mut columns, limit);
        }
        let mut text = String::new();
        if self.is_empty {
            // Titles are laid out like a row: aligned as the cells below them, figures to the right.
            let titles = columns.iter().map(|(column, _)| column.title.to_string()).collect();
            push_row(&mut text, &columns, titles, false);
            self.is_empty = false;
        }
        for row in rows {
            let in_row = self.at(Place::InRow, row.iter().cloned()).collect();
            push_row(&mut text, &columns, in_row, self.terminal.colors);
            for (column, cell) in self.at(Place::Below, self.columns.iter().zip(row)) {
                self.push_below(&mut text, column, cell);
            }
        }
        text
    }

    /// What follows the last page: the names of the columns that the terminal has no room for.
    pub(crate) fn end(&self) -> String {
        let left_out = self.at(Place::LeftOut, self.columns.iter().map(|column| column.title.as_ref()));
        let titles = left_out.collect::<Vec<_>>().join(", ");
        if titles.is_empty() {
            return String::new();
        }
        format!("\n{}", wrapped(&format!("no room for {titles}: see -o wide"), self.terminal))
    }

    /// What is given for each column, for those at that place.
    fn at<T>(&self, place: Place, given: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
        self.places.iter().zip(given).filter(move |(at, _)| **at == place).map(|(_, given)| given)
    }

    /// Appends a cell that is below its row, unless there is nothing in it.
    fn push_below(&self, text: &mut String, column: &Column, cell: String) {
        if cell == NOTHING {
            return;
        }
        let title = format!("  {}:", column.title);
        let beside = width(&title).saturating_add(GAP);
        let left = self.terminal.width.unwrap_or(u16::MAX).saturating_sub(beside).max(LEAST_BELOW);
        let columns = [(Column::words(""), width(&title)), (column.clone(), width(&cell).min(left))];
        push_row(text, &columns, vec![title, cell], self.terminal.colors);
    }
}

/// The text in lines that fit the terminal; each ends with a newline. A command in backticks is on one line, even if the
/// terminal has to break that.
pub(crate) fn wrapped(text: &str, terminal: Terminal) -> String {
    let limit = terminal.width.map(|width| width.max(LEAST_BELOW));
    lines(text, limit).into_iter().map(|line| line + "\n").collect()
}

/// Appends the lines of one row, whose columns have these widths.
fn push_row(text: &mut String, columns: &[(Column, u16)], row: Vec<String>, colors: bool) {
    let mut table = comfy_table::Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let styles: Vec<Style> = columns
        .iter()
        .zip(&row)
        .map(|((column, _), cell)| match column.paint {
            Some(paint) if colors => paint(cell),
            _ => Style::new(),
        })
        .collect();
    table.add_row(row);
    for (index, (column, width)) in columns.iter().enumerate() {
        let Some(shown) = table.column_mut(index) else { continue };
        shown.set_padding((0, GAP)).set_constraint(ColumnConstraint::Absolute(Width::Fixed(width.saturating_add(GAP))));
        if column.number {
            shown.set_cell_alignment(CellAlignment::Right);
        }
    }
    let widths: Vec<u16> = columns.iter().map(|(_, width)| *width).collect();
    for line in table.lines() {
        text.push_str(paint::line(&line, &widths, &styles).trim_end());
        text.push('\n');
    }
}

/// The number of columns that a text has in a terminal.
fn width(text: &str) -> u16 {
    u16::try_from(text.width()).unwrap_or(u16::MAX)
}

fn printable(row: Vec<String>) -> Vec<String> {
    row.into_iter().map(|cell| quarry_volume::printable(&cell)).collect()
}
