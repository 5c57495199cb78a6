//! Answers for people: `key: value` lines, and a table for a list.

use std::fmt::Write as _;

use quarry_volume::printable;
use serde_json::{Map, Value};

use crate::table::{Column, NOTHING, Table};
use crate::terminal::Terminal;

/// Fields that hold a size in bytes.
const SIZES: [&str; 5] =
    ["capacity_bytes", "size_bytes", "available_capacity", "maximum_volume_size", "minimum_volume_size"];
/// Every field of an object with this name is a size.
const ALL_SIZES: &str = "bytes";

/// The whole answer; each line ends with a newline.
pub(crate) fn text(answer: &Value) -> String {
    match answer {
        Value::Array(rows) => table(rows),
        Value::Object(fields) => {
            let mut lines = String::new();
            object(fields, "", 0, &mut lines);
            lines
        }
        scalar => format!("{}\n", inline("", "", scalar)),
    }
}

fn object(fields: &Map<String, Value>, name: &str, indent: usize, lines: &mut String) {
    let margin = " ".repeat(indent);
    for (key, value) in fields {
        // Writing to a String cannot fail.
        let _ = match value {
            Value::Object(inner) if !inner.is_empty() => {
                let _ = writeln!(lines, "{margin}{}:", printable(key));
                object(inner, key, indent + 2, lines);
                Ok(())
            }
            value => writeln!(lines, "{margin}{}: {}", printable(key), inline(name, key, value)),
        };
    }
}

/// A column for each key of the first row; all rows have the same keys.
fn table(rows: &[Value]) -> String {
    let Some(Value::Object(first)) = rows.first() else { return "none\n".to_owned() };
    let columns: Vec<Column> =
        first.keys().map(|key| Column::named(printable(&key.replace('_', " ")).to_uppercase())).collect();
    let cells =
        |row: &Value| first.keys().map(|key| inline("", key, row.get(key.as_str()).unwrap_or(&Value::Null))).collect();
    Table::new(&columns, Terminal::default()).page(rows.iter().map(cells))
}

/// A value on one line. `parent` and `key` decide whether a number is a size.
fn inline(parent: &str, key: &str, value: &Value) -> String {
    match value {
        Value::Null => NOTHING.to_owned(),
        Value::String(text) if text.is_empty() => NOTHING.to_owned(),
        Value::String(text) => printable(text),
        Value::Number(number) if SIZES.contains(&key) || parent == ALL_SIZES => match number.as_u64() {
            Some(bytes) if bytes >= 1024 => format!("{bytes} ({})", human(bytes)),
            _ => number.to_string(),
        },
        Value::Array(values) if values.is_empty() => NOTHING.to_owned(),
        Value::Array(values) => values.iter().map(|value| inline(parent, key, value)).collect::<Vec<_>>().join(", "),
        Value::Object(fields) if fields.is_empty() => NOTHING.to_owned(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| format!("{}={}", printable(name), inline(key, name, value)))
            .collect::<Vec<_>>()
            .join(" "),
        other => other.to_string(),
    }
}

/// A size with its largest binary unit: `1 GiB`, `1.50 GiB`.
fn human(bytes: u64) -> String {
    const UNITS: [(&str, u64); 5] =
        [("PiB", 1 << 50), ("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, size) in UNITS {
        if bytes >= size {
            let hundredths = u128::from(bytes % size) * 100 / u128::from(size);
            return match bytes % size {
                0 => format!("{} {unit}", bytes / size),
                _ => format!("{}.{hundredths:02} {unit}", bytes / size),
            };
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_lines_and_sizes_are_readable() {
        let volume = json!({
            "volume_id": "v1-a",
            "capacity_bytes": 3_u64 << 29,
            "volume_context": {},
            "accessible_topology": [{"t/node": "n1"}],
            "bytes": {"total": 1 << 30, "used": 12},
            "content_source": null,
        });
        assert_eq!(
            text(&volume),
            "volume_id: v1-a\ncapacity_bytes: 1610612736 (1.50 GiB)\nvolume_context: -\n\
             accessible_topology: t/node=n1\nbytes:\n  total: 1073741824 (1 GiB)\n  used: 12\ncontent_source: -\n"
        );
    }

    #[test]
    fn a_list_is_a_table() {
        let rows = json!([{"volume_id": "a", "capacity_bytes": 1024}, {"volume_id": "longer", "capacity_bytes": 0}]);
        assert_eq!(text(&rows), "VOLUME ID  CAPACITY BYTES\na          1024 (1 KiB)\nlonger     0\n");
        assert_eq!(text(&json!([])), "none\n");
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(text(&json!({"a\u{1b}": "x\u{1b}[2J\ny"})), "a\\u{1b}: x\\u{1b}[2J\\ny\n");
    }
}
