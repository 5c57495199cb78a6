//! Reads intervals of time.

use std::time::Duration;

/// Parses an interval such as `7d`, `12h`, `30m` or `90s`.
///
/// # Errors
/// A sentence about what is wrong with the text.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not an interval: use a whole number with s, m, h or d, such as 7d");
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let unit: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    match digits.parse::<u32>() {
        Ok(0) => Err("must be more than 0".to_owned()),
        Ok(number) => Ok(Duration::from_secs(u64::from(number).saturating_mul(unit))),
        Err(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_a_unit() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("12h", 43_200), ("7d", 604_800)] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "7", "d", "7 d", "-1d", "1.5h", "7w", "7D", "4294967296s"] {
            assert!(parse(text).unwrap_err().contains("is not an interval"), "{text:?}");
        }
        assert_eq!(parse("0d").unwrap_err(), "must be more than 0");
    }
}
