//! How long a request may take, as its headers say.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};

use super::error::ApiError;

/// The header by which a client of any protocol asks for less time than the server gives.
const TIMEOUT: &str = "tilesight-timeout-ms";

/// gRPC's own.
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// The time that is asked for; the shorter one where both are.
///
/// # Errors
/// [`ApiError::Malformed`].
pub(crate) fn asked(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let read = |name, expected, parse: fn(&str) -> Option<Duration>| {
        let Some(value) = headers.get(name) else { return Ok(None) };
        let time = HeaderValue::to_str(value).ok().and_then(parse);
        time.map(Some).ok_or_else(|| ApiError::malformed(format!("{name} must be {expected}, found {value:?}")))
    };
    let own = read(TIMEOUT, "a number of milliseconds", |text| text.parse().ok().map(Duration::from_millis))?;
    let grpc = read(GRPC_TIMEOUT, "up to eight digits and a unit of H, M, S, m, u and n", grpc)?;
    Ok([own, grpc].into_iter().flatten().min())
}

/// gRPC's form: `100m` is 100 milliseconds.
fn grpc(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.len() > 8 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(3600 * number)),
        "M" => Some(Duration::from_secs(60 * number)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpcs_units_are_read_and_all_else_is_refused() {
        for (text, expected) in [
            ("1H", Some(3600 * 1000)),
            ("2M", Some(2 * 60 * 1000)),
            ("3S", Some(3000)),
            ("99999999m", Some(99_999_999)),
            ("5000u", Some(5)),
            ("7000000n", Some(7)),
            ("0m", Some(0)),
            ("", None),
            ("m", None),
            ("1", None),
            ("-1m", None),
            ("+1m", None),
            ("1s", None),
            ("1é", None),
            ("123456789m", None),
        ] {
            assert_eq!(grpc(text), expected.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn the_shorter_time_counts() {
        let headers = |own: &'static str, grpc: &'static str| {
            HeaderMap::from_iter([
                (TIMEOUT.parse().unwrap(), HeaderValue::from_static(own)),
                (GRPC_TIMEOUT.parse().unwrap(), HeaderValue::from_static(grpc)),
            ])
        };
        assert_eq!(asked(&HeaderMap::new()).unwrap(), None);
        assert_eq!(asked(&headers("300", "1S")).unwrap(), Some(Duration::from_millis(300)));
        assert_eq!(asked(&headers("300", "1m")).unwrap(), Some(Duration::from_millis(1)));
        assert!(asked(&headers("soon", "1m")).is_err());
        assert!(asked(&headers("300", "soon")).is_err());
    }
}
