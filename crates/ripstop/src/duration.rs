//! Lengths of time on the command line.

use std::time::Duration;

/// What [`parse`] accepts, for help and errors.
pub const ACCEPTED: &str = "a number with a unit of ms, s, m or h, such as 500ms or 2m";

/// Reads a number with a unit.
///
/// # Errors
/// A sentence, for a number without unit, an unknown unit, and what does not fit.
pub fn parse(text: &str) -> Result<Duration, String> {
    let refused = || format!("found {text:?}, accepted is {ACCEPTED}");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refused)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refused())?;
    let ms = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    ms.map(Duration::from_millis).ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_a_unit() {
        let ms = [("0s", 0), ("500ms", 500), ("30s", 30_000), ("2m", 120_000), ("1h", 3_600_000)];
        for (text, ms) in ms {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1.5s", "5 s", "5d", "99999999999999999999s", "18446744073709551615h"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
