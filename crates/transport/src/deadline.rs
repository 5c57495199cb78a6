//! How long the caller waits for its answer.
//!
//! A gRPC caller sends its deadline with the request. tonic drops a handler when that time is over, and the
//! caller would see only CANCELLED. So a handler limits its own wait to slightly less and returns
//! DEADLINE_EXCEEDED itself, while the work continues elsewhere.

use std::time::Duration;

use ::http::HeaderMap;
use tonic::metadata::MetadataMap;

/// The metadata key (and header) of the caller's timeout.
const KEY: &str = "grpc-timeout";
/// The maximum margin for sending the answer to the caller.
const MARGIN: Duration = Duration::from_millis(200);

/// The caller's timeout, counted from the arrival of the request. `None` if none was sent, or if it is
/// malformed.
#[must_use]
pub fn of(metadata: &MetadataMap) -> Option<Duration> {
    parse(metadata.get(KEY)?.to_str().ok()?)
}

/// Like [`of`], for code that sees only the HTTP headers.
pub(crate) fn of_headers(headers: &HeaderMap) -> Option<Duration> {
    parse(headers.get(KEY)?.to_str().ok()?)
}

/// How long a handler may wait if its answer must reach the caller within `timeout`: a tenth less, but at
/// most 200 ms less.
#[must_use]
pub fn wait_for(timeout: Duration) -> Duration {
    timeout - (timeout / 10).min(MARGIN)
}

/// How long the handler of a request may wait: the caller's timeout without the margin, but at most `most`.
#[must_use]
pub fn wait(metadata: &MetadataMap, most: Duration) -> Duration {
    of(metadata).map_or(most, |timeout| wait_for(timeout).min(most))
}

/// Parses gRPC's format: one to eight digits, then one of the units `H`, `M`, `S`, `m`, `u`, `n`.
#[must_use]
pub fn parse(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_parsed() {
        let expected = [
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("10S", Duration::from_secs(10)),
            ("1500m", Duration::from_millis(1500)),
            ("9999u", Duration::from_micros(9999)),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
            ("0S", Duration::ZERO),
        ];
        for (text, duration) in expected {
            assert_eq!(parse(text), Some(duration), "{text}");
        }
    }

    #[test]
    fn malformed_values_are_no_deadline() {
        for text in ["", "S", "10", "10s", "-1S", "+1S", " 1S", "1 S", "123456789S", "1.5S", "1é", "é"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn it_is_found_in_the_metadata() {
        let mut request = tonic::Request::new(());
        assert_eq!(of(request.metadata()), None);
        request.set_timeout(Duration::from_secs(10));
        assert_eq!(of(request.metadata()), Some(Duration::from_secs(10)));
    }

    #[test]
    fn the_callers_timeout_is_limited_by_the_servers() {
        let most = Duration::from_secs(30);
        let mut request = tonic::Request::new(());
        assert_eq!(wait(request.metadata(), most), most);
        request.set_timeout(Duration::from_secs(10));
        assert_eq!(wait(request.metadata(), most), Duration::from_millis(9800));
        request.set_timeout(Duration::from_secs(60));
        assert_eq!(wait(request.metadata(), most), most);
    }

    #[test]
    fn the_margin_is_a_tenth_and_bounded() {
        assert_eq!(wait_for(Duration::from_secs(10)), Duration::from_millis(9800));
        assert_eq!(wait_for(Duration::from_millis(100)), Duration::from_millis(90));
        assert_eq!(wait_for(Duration::ZERO), Duration::ZERO);
    }
}
