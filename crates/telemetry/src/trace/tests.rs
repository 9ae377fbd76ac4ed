//! Tests of the parent rules and of the format, by the examples and the prohibitions of the specification.

use proptest::prelude::*;

use super::*;

const GOOD: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const OTHER: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

#[test]
fn the_example_of_the_specification_round_trips() {
    let context = TraceContext::parse(GOOD).unwrap();
    assert!(context.sampled());
    assert_eq!(&context.format(), GOOD);
    assert_eq!(&context.trace_id_hex(), b"4bf92f3577b34da6a3ce929d0e0e4736");
}

#[test]
fn invalid_values_are_refused() {
    let cases: &[&[u8]] = &[
        b"",
        b"garbage",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 ",
        b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        b"00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        b"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
        b"0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
    ];
    for case in cases {
        assert_eq!(TraceContext::parse(case), None, "{}", String::from_utf8_lossy(case));
    }
}

#[test]
fn a_future_version_is_read_and_answered_as_version_00() {
    for tail in ["", "-what-the-future-will-be-like"] {
        let value = format!("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01{tail}");
        assert_eq!(&TraceContext::parse(value.as_bytes()).unwrap().format(), GOOD);
    }
}

#[test]
fn unknown_flags_are_not_passed_on() {
    let context = TraceContext::parse(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff").unwrap();
    assert_eq!(context.flags, 0x03);
}

#[test]
fn a_child_keeps_the_trace_and_changes_the_span() {
    let parent = TraceContext::parse(GOOD).unwrap();
    let child = parent.child();
    assert_eq!((child.trace_id, child.flags), (parent.trace_id, parent.flags));
    assert_ne!(child.span_id, parent.span_id);
    assert_ne!(TraceContext::new_root().trace_id, TraceContext::new_root().trace_id);
}

#[test]
fn the_message_wins_over_the_header_and_garbage_counts_as_absent() {
    let migration: (Option<&[u8]>, Option<&[u8]>) =
        (Some(b"0af7651916cd43dd8448eb211c80319c"), Some(b"b7ad6b7169203331"));
    let source = |meta, header, migration, mcpx| choose_parent(meta, header, migration, mcpx).map(|p| p.source);
    let mcpx: Option<&[u8]> = Some(br#"{"traceId":"0af7651916cd43dd8448eb211c80319c"}"#);
    let garbage: Option<&[u8]> = Some(b"garbage");

    assert_eq!(source(Some(GOOD), Some(OTHER), migration, mcpx), Some(ParentSource::Meta));
    assert_eq!(source(garbage, Some(OTHER), migration, mcpx), Some(ParentSource::Header));
    assert_eq!(source(garbage, garbage, migration, mcpx), Some(ParentSource::Migration));
    assert_eq!(source(None, None, (garbage, None), mcpx), Some(ParentSource::Mcpx));
    assert_eq!(source(garbage, garbage, (garbage, garbage), garbage), None);
}

#[test]
fn migration_ids_may_be_a_uuid_and_a_bad_span_id_is_replaced() {
    let parent = |span: Option<&'static [u8]>| {
        let trace: &[u8] = b"0AF76519-16cd-43dd-8448-eb211c80319c";
        choose_parent(None, None, (Some(trace), span), None).unwrap().context
    };
    assert_eq!(parent(Some(b"b7ad6b7169203331")).span_id, TraceContext::parse(OTHER).unwrap().span_id);
    assert_eq!(parent(Some(b"nonsense")).trace_id, TraceContext::parse(OTHER).unwrap().trace_id);
    assert_ne!(parent(None).span_id, [0; 8]);
}

#[test]
fn mcpx_trace_is_a_string_or_a_pair_of_ids() {
    let trace = TraceContext::parse(OTHER).unwrap().trace_id;
    let quoted = format!("\"{}\"", String::from_utf8_lossy(OTHER));
    for raw in [
        quoted.as_str(),
        "\"0af7651916cd43dd8448eb211c80319c\"",
        r#"{"trace_id":"0af7651916cd43dd8448eb211c80319c","span_id":"b7ad6b7169203331","more":1}"#,
    ] {
        let parent = choose_parent(None, None, (None, None), Some(raw.as_bytes())).unwrap();
        assert_eq!(parent.context.trace_id, trace, "{raw}");
    }
    for raw in ["null", "7", "{}", "\"00000000000000000000000000000000\"", "{"] {
        assert_eq!(choose_parent(None, None, (None, None), Some(raw.as_bytes())), None, "{raw}");
    }
}

#[test]
fn no_parent_starts_a_trace_and_a_parent_is_followed() {
    let parent = choose_parent(Some(GOOD), None, (None, None), None).unwrap();
    assert_eq!(TraceContext::under(Some(&parent)).trace_id, parent.context.trace_id);
    let root = TraceContext::under(None);
    assert_eq!(TraceContext::parse(&root.format()), Some(root));
}

#[test]
fn tracestate_carries_our_span_only_beside_a_callers_list() {
    let context = TraceContext::parse(GOOD).unwrap();
    assert_eq!(context.tracestate(Some(b"a=1")).unwrap(), b"outrigger=00f067aa0ba902b7,a=1");
    assert_eq!(context.tracestate(Some(b"A=1")), None);
    assert_eq!(context.tracestate(None), None);
}

proptest! {
    #[test]
    fn any_bytes_are_survived(value in proptest::collection::vec(any::<u8>(), 0..80)) {
        if let Some(context) = TraceContext::parse(&value) {
            prop_assert_eq!(TraceContext::parse(&context.format()), Some(context));
        }
        let _ = choose_parent(Some(&value), Some(&value), (Some(&value), Some(&value)), Some(&value));
        let _ = TraceContext::new_root().tracestate(Some(&value));
    }
}
