//! Where the columns of a table are in a terminal, and how wide they are.

use super::{Column, Fit, GAP, Place};

/// The width of a table whose columns have these widths.
fn total(widths: impl Iterator<Item = u16>) -> u32 {
    let all: u32 = widths.map(|width| u32::from(width) + u32::from(GAP)).sum();
    // Nothing follows the last column.
    all.saturating_sub(u32::from(GAP))
}

/// The least width of a column that is wrapped.
fn least(column: &Column, least: u16) -> u16 {
    least.max(super::width(&column.title))
}

/// Where the columns of a table are that is `limit` wide. `longest`: the width of each column's longest cell.
pub(super) fn places(columns: &[Column], longest: &[u16], limit: u16) -> Vec<Place> {
    let mut places = vec![Place::InRow; columns.len()];
    let too_wide = |places: &[Place]| {
        let in_row = columns.iter().zip(longest).zip(places).filter(|(_, place)| **place == Place::InRow);
        let widths = in_row.map(|((column, longest), _)| match column.fit {
            // A later page may have longer sentences.
            Fit::Text(of_text) => least(column, of_text),
            Fit::Name(of_name) => least(column, of_name).min(*longest),
            Fit::Whole | Fit::LeftOut(_) => *longest,
        });
        total(widths) > u32::from(limit)
    };
    if too_wide(&places) {
        for (place, column) in places.iter_mut().zip(columns) {
            if matches!(column.fit, Fit::Text(_)) {
                *place = Place::Below;
            }
        }
    }
    let ranked = columns.iter().enumerate().filter_map(|(index, column)| Some((rank(column)?, index)));
    let mut candidates: Vec<(u8, usize)> = ranked.collect();
    candidates.sort_unstable();
    while too_wide(&places)
        && let Some((_, index)) = candidates.pop()
        && let Some(place) = places.get_mut(index)
    {
        *place = Place::LeftOut;
    }
    places
}

fn rank(column: &Column) -> Option<u8> {
    match column.fit {
        Fit::LeftOut(rank) => Some(rank),
        Fit::Whole | Fit::Text(_) | Fit::Name(_) => None,
    }
}

/// Lowers the widths so that the table is `limit` wide, if that is possible: first of text, then of names.
pub(super) fn wrap(columns: &mut [(Column, u16)], limit: u16) {
    let least = |column: &Column, of_text: bool| match column.fit {
        Fit::Text(width) if of_text => Some(least(column, width)),
        Fit::Name(width) if !of_text => Some(least(column, width)),
        _ => None,
    };
    for of_text in [true, false] {
        loop {
            let over = total(columns.iter().map(|(_, width)| *width)) > u32::from(limit);
            let widest = columns
                .iter_mut()
                .filter_map(|(column, width)| Some((least(column, of_text)?, width)))
                .filter(|(least, width)| **width > *least)
                .max_by_key(|(_, width)| **width);
            match widest {
                Some((_, width)) if over => *width -= 1,
                _ => break,
            }
        }
    }
}
