//! Sizes and rates as people write them.

use super::raw::RawSize;

/// Suffixes, their factors; decimal and binary.
const UNITS: [(&str, u64); 13] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// Bytes of `256MiB`, `1.5GB`, `64k` (1024) or a plain number. With `rate`, `/s` may follow. `None` for anything else.
#[must_use]
pub fn parse_size(text: &str, rate: bool) -> Option<u64> {
    let text = text.trim();
    let text = if rate { text.strip_suffix("/s").unwrap_or(text) } else { text };
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = unit.trim().to_ascii_lowercase();
    let factor = UNITS.iter().find(|(name, _)| *name == unit)?.1;
    match number.parse::<u64>() {
        Ok(n) => n.checked_mul(factor),
        Err(_) => {
            let bytes = number.parse::<f64>().ok()? * factor as f64;
            // Far from the edge of exact integers, and never negative: digits and a point only.
            (bytes < 9e15).then_some(bytes as u64)
        }
    }
}

impl RawSize {
    /// See [`parse_size`].
    pub(crate) fn bytes(&self, rate: bool) -> Option<u64> {
        match self {
            RawSize::Number(n) => Some(*n),
            RawSize::Text(t) => parse_size(t, rate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_are_read_in_both_systems() {
        for (text, bytes) in
            [("0", 0), ("17", 17), ("256MiB", 256 << 20), ("64k", 65_536), ("1.5 GB", 1_500_000_000), ("2TiB", 2 << 40)]
        {
            assert_eq!(parse_size(text, false), Some(bytes), "{text}");
        }
        assert_eq!(parse_size("200MiB/s", true), Some(200 << 20));
        for bad in ["", "MiB", "-1", "1e3", "5 apples", "200MiB/s", "99999999999999999999", "1.2.3MB", "ü"] {
            assert_eq!(parse_size(bad, false), None, "{bad}");
        }
    }
}
