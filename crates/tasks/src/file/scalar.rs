//! What a plain scalar means. PyYAML follows YAML 1.1: `yes` and `off` are booleans, `1e-5` is text, `1:30` is 90.

use super::yaml::Yaml;

/// The value of a scalar without quotes or tag.
pub(super) fn plain(text: &str) -> Yaml {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Yaml::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Yaml::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => return Yaml::Bool(false),
        _ => {}
    }
    integer(text)
        .map(Yaml::Integer)
        .or_else(|| float(text).map(Yaml::Float))
        .unwrap_or_else(|| Yaml::Text(text.to_owned()))
}

/// A whole number: decimal, `0b`, octal with a leading 0, `0x`, or sexagesimal.
fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = sign(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    // `from_str_radix` would read a second sign.
    if digits.contains(['+', '-']) {
        return None;
    }
    let plain: String = digits.chars().filter(|c| *c != '_').collect();
    let size = if let Some(binary) = plain.strip_prefix("0b") {
        i64::from_str_radix(binary, 2).ok()?
    } else if let Some(hex) = plain.strip_prefix("0x") {
        i64::from_str_radix(hex, 16).ok()?
    } else if plain.contains(':') {
        sexagesimal(&plain)?
    } else if plain.len() > 1 && plain.starts_with('0') {
        i64::from_str_radix(&plain[1..], 8).ok()?
    } else {
        plain.parse().ok()?
    };
    Some(if negative { -size } else { size })
}

/// `1:30`: digits to the base 60. Only the first group may be large.
fn sexagesimal(text: &str) -> Option<i64> {
    let mut groups = text.split(':');
    let first = groups.next()?;
    if first.starts_with('0') && first.len() > 1 || first == "0" {
        return None;
    }
    let mut value: i64 = first.parse().ok()?;
    for group in groups {
        let digit: i64 = group.parse().ok().filter(|d| (0..60).contains(d) && group.len() <= 2)?;
        value = value.checked_mul(60)?.checked_add(digit)?;
    }
    Some(value)
}

/// A number with a point. An exponent needs a sign.
fn float(text: &str) -> Option<f64> {
    let (negative, digits) = sign(text);
    let size = match digits {
        ".inf" | ".Inf" | ".INF" => f64::INFINITY,
        ".nan" | ".NaN" | ".NAN" if text.len() == 4 => f64::NAN,
        _ => {
            let (mantissa, exponent) = match digits.find(['e', 'E']) {
                Some(at) => (&digits[..at], Some(&digits[at + 1..])),
                None => (digits, None),
            };
            let (whole, part) = mantissa.split_once('.')?;
            let digit = |c: char| c.is_ascii_digit() || c == '_';
            let begins = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
            if !(whole.chars().all(digit) && part.chars().all(digit))
                || !(begins(whole) || whole.is_empty() && begins(part))
            {
                return None;
            }
            if let Some(exponent) = exponent {
                let digits = exponent.strip_prefix(['+', '-'])?;
                if digits.is_empty() || !digits.chars().all(|c| c.is_ascii_digit()) {
                    return None;
                }
            }
            digits.replace('_', "").parse().ok()?
        }
    };
    Some(if negative { -size } else { size })
}

fn sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}
