//! Amounts people write: `90s`, `5m`, `10G`.

/// Whole seconds from `90`, `90s`, `5m`, `2h`, `7d`.
pub(crate) fn seconds(text: &str) -> Result<i64, String> {
    amount(text, &[("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)])
        .ok_or_else(|| format!("{text:?} is no time; write 90s, 5m, 2h or 7d"))
}

/// MiB from `512`, `512M`, `10G`, `1T`.
pub(crate) fn mebibytes(text: &str) -> Result<i64, String> {
    let bare = text.strip_suffix("iB").or_else(|| text.strip_suffix('B')).unwrap_or(text);
    amount(bare, &[("M", 1), ("G", 1_024), ("T", 1_048_576), ("m", 1), ("g", 1_024), ("t", 1_048_576)])
        .ok_or_else(|| format!("{text:?} is no size; write 512M, 10G or 1T (a bare number is MiB)"))
}

fn amount(text: &str, units: &[(&str, i64)]) -> Option<i64> {
    let (digits, factor) = units
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|digits| (digits, *factor)))
        .unwrap_or((text, 1));
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    digits.parse::<i64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn amounts_are_read_with_and_without_units() {
        for (text, want) in [("90", 90), ("90s", 90), ("5m", 300), ("2h", 7_200), ("7d", 604_800)] {
            assert_eq!(seconds(text), Ok(want));
        }
        for (text, want) in [("512", 512), ("512M", 512), ("10G", 10_240), ("10GiB", 10_240), ("1T", 1_048_576)] {
            assert_eq!(mebibytes(text), Ok(want));
        }
        for text in ["", "G", "-1", "+1", "1.5G", "9999999999999999999", "9223372036854775807T", "ten"] {
            assert!(mebibytes(text).is_err(), "{text}");
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
