//! `tracestate`: validate the caller's list and put our entry in front (W3C Trace Context level 1 §3.3).

/// Our key in the list.
const OUR_KEY: &[u8] = b"outrigger";
/// Most members of a list (§3.3.1.1).
const MAX_MEMBERS: usize = 32;
/// Longest list we carry on. The specification asks for at least 512; twice that keeps a header small.
const MAX_BYTES: usize = 1024;

/// Our entry with `value`, then the caller's other entries, the rightmost (oldest) dropped beyond 32.
/// `None` if the caller's list is invalid, too long or empty: a list that cannot be trusted is dropped whole.
pub(crate) fn prepend(incoming: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    if incoming.len() > MAX_BYTES {
        return None;
    }
    let members = parse(incoming)?;
    if members.is_empty() {
        return None;
    }
    let mut out = Vec::with_capacity(OUR_KEY.len() + value.len() + incoming.len() + 2);
    out.extend_from_slice(OUR_KEY);
    out.push(b'=');
    out.extend_from_slice(value);
    let others = members.iter().filter(|(key, _)| *key != OUR_KEY).take(MAX_MEMBERS - 1);
    for (key, value) in others {
        out.push(b',');
        out.extend_from_slice(key);
        out.push(b'=');
        out.extend_from_slice(value);
    }
    Some(out)
}

type Member<'a> = (&'a [u8], &'a [u8]);

/// The members of a valid list; empty members are allowed and skipped, a repeated key is not.
fn parse(list: &[u8]) -> Option<Vec<Member<'_>>> {
    let mut members: Vec<Member<'_>> = Vec::new();
    for text in list.split(|byte| *byte == b',') {
        let text = trim_blanks(text);
        if text.is_empty() {
            continue;
        }
        let equals = text.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (&text[..equals], &text[equals + 1..]);
        let known = members.iter().any(|(seen, _)| *seen == key);
        if known || members.len() == MAX_MEMBERS || !valid_key(key) || !valid_value(value) {
            return None;
        }
        members.push((key, value));
    }
    Some(members)
}

/// `simple-key` or `tenant@system` (level 1 §3.3.1.3.1).
fn valid_key(key: &[u8]) -> bool {
    let tail_ok = |part: &[u8]| part.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/'));
    let starts_lower = |part: &[u8]| part.first().is_some_and(u8::is_ascii_lowercase);
    let starts_alnum = |part: &[u8]| part.first().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    match key.iter().position(|byte| *byte == b'@') {
        None => key.len() <= 256 && starts_lower(key) && tail_ok(key),
        Some(at) => {
            let (tenant, system) = (&key[..at], &key[at + 1..]);
            let tenant_ok = tenant.len() <= 241 && starts_alnum(tenant) && tail_ok(tenant);
            tenant_ok && system.len() <= 14 && starts_lower(system) && tail_ok(system)
        }
    }
}

/// 1 to 256 printable ASCII bytes without `,` and `=`, not ending in a blank (§3.3.1.3.2).
fn valid_value(value: &[u8]) -> bool {
    let bytes_ok = value.iter().all(|b| matches!(b, 0x20..=0x7e) && !matches!(b, b',' | b'='));
    (1..=256).contains(&value.len()) && bytes_ok && value.last() != Some(&b' ')
}

fn trim_blanks(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepended(list: &str) -> Option<String> {
        prepend(list.as_bytes(), b"00f067aa0ba902b7").map(|v| String::from_utf8(v).unwrap())
    }

    #[test]
    fn our_entry_goes_first_and_replaces_an_older_one() {
        assert_eq!(
            prepended("rojo=1, outrigger=old ,congo@vendor=t61").as_deref(),
            Some("outrigger=00f067aa0ba902b7,rojo=1,congo@vendor=t61")
        );
    }

    #[test]
    fn invalid_lists_are_dropped_whole() {
        let long = format!("a={}", "x".repeat(1025));
        for bad in ["", " , ", "a", "=1", "A=1", "a=", "a=1,a=2", "a=b=c", "a=\u{7f}", "1a=1", "a@=1", &long] {
            assert_eq!(prepended(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn thirty_two_members_are_kept_to_thirty_two_and_more_are_invalid() {
        let list = |n: usize| (0..n).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join(",");
        let kept = prepended(&list(32)).unwrap();
        assert_eq!(kept.split(',').count(), 32);
        assert!(kept.ends_with("k30=v"), "the rightmost member gives way: {kept}");
        assert_eq!(prepended(&list(33)), None);
    }

    #[test]
    fn tenant_keys_may_start_with_a_digit() {
        assert!(prepended("0tenant@sys=1").is_some());
    }
}
