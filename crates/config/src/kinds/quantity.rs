//! Quantities with a unit: durations, sizes, rates.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::json;

use super::{Kind, Mistake, quoted};

/// Milliseconds of each unit, the longest first.
const DURATION_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
/// Bytes of each unit, the largest binary one first.
const BYTE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("B", 1),
];

/// Seconds of each span that an amount of bytes is given for.
const WINDOW_UNITS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];

/// A number of events in a span of time, such as `50/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Events, at least 1.
    pub count: u32,
    /// Per this long: a second, a minute or an hour.
    pub per: Duration,
}

/// A number of bytes in a span of time, such as `10MiB/h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// At least 1.
    pub bytes: u64,
    /// Per this long: a second, a minute, an hour or a day.
    pub per: Duration,
}

/// A duration such as `250ms`, `30s`, `5m`, `2h`, `1d`, inside a range.
pub fn duration(range: RangeInclusive<Duration>) -> Kind<Duration> {
    let limits = format!("{} to {}", show_duration(range.start()), show_duration(range.end()));
    let schema = json!({"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"});
    let hint = format!("a number and a unit, {limits}: 250ms, 30s, 5m, 2h, 1d");
    let parse = move |text: &str| match with_unit(text, &DURATION_UNITS).map(Duration::from_millis) {
        Some(value) if range.contains(&value) => Ok(value),
        Some(_) => Err(Mistake::new(format!("{} is out of range", quoted(text)), hint.clone())),
        None => Err(Mistake::new(format!("{} is not a duration", quoted(text)), hint.clone())),
    };
    Kind::scalar(format!("duration {limits}"), schema, parse, show_duration)
}

/// A size such as `32KiB` or `4MiB`, or plain bytes, inside a range.
pub fn bytes(range: RangeInclusive<usize>) -> Kind<usize> {
    let limits = format!("{} to {}", show_bytes(range.start()), show_bytes(range.end()));
    let schema = json!({"type": ["string", "integer"], "pattern": "^[0-9]+([KMG]i?B|B)?$"});
    let hint = format!("a number and a unit, {limits}: 512B, 32KiB, 4MiB, 1GiB");
    let parse = move |text: &str| {
        let value = text.parse().ok().filter(|_| !text.starts_with('+')).or_else(|| with_unit(text, &BYTE_UNITS));
        match value.and_then(|value| usize::try_from(value).ok()) {
            Some(value) if range.contains(&value) => Ok(value),
            Some(_) => Err(Mistake::new(format!("{} is out of range", quoted(text)), hint.clone())),
            None => Err(Mistake::new(format!("{} is not a size", quoted(text)), hint.clone())),
        }
    };
    Kind::scalar(format!("size {limits}"), schema, parse, show_bytes)
}

/// A rate such as `50/s`, `600/m` or `1000/h`.
pub fn rate() -> Kind<Rate> {
    let hint = "a number of events per s, m or h: 50/s, 600/m, 1000/h";
    let parse = move |text: &str| {
        let parsed = text.split_once('/').and_then(|(number, unit)| {
            let per = match unit {
                "s" => Duration::from_secs(1),
                "m" => Duration::from_secs(60),
                "h" => Duration::from_secs(3600),
                _ => return None,
            };
            let count = number.parse().ok().filter(|count| *count > 0 && !number.starts_with('+'))?;
            Some(Rate { count, per })
        });
        parsed.ok_or_else(|| Mistake::new(format!("{} is not a rate", quoted(text)), hint))
    };
    let show = |rate: &Rate| {
        let unit = match rate.per.as_secs() {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        format!("{}/{unit}", rate.count)
    };
    Kind::scalar("rate", json!({"type": "string", "pattern": "^[1-9][0-9]*/[smh]$"}), parse, show)
}

/// A share in whole percent, such as `50%`, inside a range.
pub fn percent(range: RangeInclusive<u8>) -> Kind<u8> {
    let hint = format!("a whole number and a percent sign, {}% to {}%", range.start(), range.end());
    let name = format!("share {}% to {}%", range.start(), range.end());
    let parse = move |text: &str| {
        let number = text.strip_suffix('%').filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        match number.and_then(|number| number.parse().ok()) {
            Some(value) if range.contains(&value) => Ok(value),
            Some(_) => Err(Mistake::new(format!("{} is out of range", quoted(text)), hint.clone())),
            None => Err(Mistake::new(format!("{} is not a share", quoted(text)), hint.clone())),
        }
    };
    Kind::scalar(name, json!({"type": "string", "pattern": "^[0-9]{1,3}%$"}), parse, |share| format!("{share}%"))
}

/// An amount such as `10MiB/h`: per s, m, h or d.
pub fn flow() -> Kind<Flow> {
    let hint = "a size per s, m, h or d: 64KiB/s, 10MiB/h, 1GiB/d";
    let parse = move |text: &str| {
        let parsed = text.split_once('/').and_then(|(amount, unit)| {
            let (_, seconds) = WINDOW_UNITS.iter().find(|(name, _)| *name == unit)?;
            let bytes = with_unit(amount, &BYTE_UNITS).filter(|bytes| *bytes > 0)?;
            Some(Flow { bytes, per: Duration::from_secs(*seconds) })
        });
        parsed.ok_or_else(|| Mistake::new(format!("{} is not a size per time", quoted(text)), hint))
    };
    let show = |flow: &Flow| {
        let unit =
            WINDOW_UNITS.iter().find(|(_, seconds)| *seconds == flow.per.as_secs()).map_or("s", |(name, _)| name);
        format!("{}/{unit}", show_bytes(&usize::try_from(flow.bytes).unwrap_or(usize::MAX)))
    };
    let pattern = "^[0-9]+([KMG]i?B|B)/[smhd]$";
    Kind::scalar("size per time", json!({"type": "string", "pattern": pattern}), parse, show)
}

/// Writes a duration in the longest unit that states it exactly.
pub fn show_duration(duration: &Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    show_in(millis, &DURATION_UNITS)
}

/// Writes a size in the largest binary unit that states it exactly.
pub fn show_bytes(bytes: &usize) -> String {
    let binary = [BYTE_UNITS[0], BYTE_UNITS[1], BYTE_UNITS[2], BYTE_UNITS[6]];
    if *bytes == 0 {
        return "0B".to_owned();
    }
    show_in(*bytes as u64, &binary)
}

fn show_in(value: u64, units: &[(&str, u64)]) -> String {
    let exact = units.iter().find(|(_, factor)| value.is_multiple_of(*factor));
    exact.map_or_else(|| value.to_string(), |(unit, factor)| format!("{}{unit}", value / factor))
}

/// Digits followed by exactly one known unit; nothing on overflow.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}
