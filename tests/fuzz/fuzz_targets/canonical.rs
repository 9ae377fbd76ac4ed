//! The form in which a retry's arguments are compared: one for all spellings of a value, another for every other value.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_mcp::canonical::canonical;
use serde_json::Value;

fuzz_target!(|texts: (&str, &str)| {
    let (one, other) = (canonical(texts.0.as_bytes()), canonical(texts.1.as_bytes()));
    let read = |text| serde_json::from_str::<Value>(text).ok();
    let (Some(first), Some(second)) = (read(texts.0), read(texts.1)) else { return };
    if first != second && one == other {
        // A number may be written in two ways that this reader tells apart.
        assert!(has_fraction(&first) || has_fraction(&second), "two values, one form");
    }
    let (plain, pretty) = (first.to_string(), serde_json::to_string_pretty(&first).expect("a value has a text"));
    assert_eq!(canonical(plain.as_bytes()), canonical(pretty.as_bytes()), "white space counts");
});

fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(list) => list.iter().any(has_fraction),
        Value::Object(map) => map.values().any(has_fraction),
        _ => false,
    }
}
