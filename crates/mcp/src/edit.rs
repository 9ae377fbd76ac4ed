//! Edits as splices: replace ranges of the original bytes, keep everything else, copy nothing big.

use bytes::Bytes;

use crate::{
    envelope::Message,
    json::{Span, members, write_string},
};

/// Replacements of byte ranges of one message.
#[derive(Debug, Default)]
pub struct Edits {
    list: Vec<(Span, Bytes)>,
}

impl Edits {
    /// No edits yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces a range; an empty range inserts. Ranges must not overlap.
    pub fn replace(&mut self, span: Span, with: impl Into<Bytes>) {
        self.list.push((span, with.into()));
    }

    /// Inserts before a byte.
    pub fn insert(&mut self, at: u32, what: impl Into<Bytes>) {
        self.replace(Span { start: at, end: at }, what);
    }

    /// Sets the id of a message, which must have one.
    pub fn set_id(&mut self, message: &Message, id: impl Into<Bytes>) {
        if let Some(span) = message.id_span() {
            self.replace(span, id);
        }
    }

    /// The edited message as pieces that share the memory of the original.
    pub fn apply(mut self, body: &Bytes) -> Vec<Bytes> {
        self.list.sort_by_key(|(span, _)| (span.start, span.end));
        let mut out = Vec::with_capacity(self.list.len() * 2 + 1);
        let mut at = 0usize;
        for (span, with) in self.list {
            let range = span.range();
            debug_assert!(range.start >= at, "edits overlap");
            if range.start > at {
                out.push(body.slice(at..range.start));
            }
            if !with.is_empty() {
                out.push(with);
            }
            at = range.end;
        }
        if at < body.len() {
            out.push(body.slice(at..));
        }
        out
    }

    /// The edited message in one piece.
    pub fn apply_flat(self, body: &Bytes) -> Bytes {
        if self.list.is_empty() {
            return body.clone();
        }
        concat(&self.apply(body))
    }
}

/// Joins pieces.
pub fn concat(pieces: &[Bytes]) -> Bytes {
    if let [only] = pieces {
        return only.clone();
    }
    let mut out = Vec::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in pieces {
        out.extend_from_slice(piece);
    }
    Bytes::from(out)
}

/// What to do to the `_meta` of a message.
#[derive(Debug, Default)]
pub struct MetaEdit<'a> {
    /// Members to leave out, by name.
    pub drop: Option<fn(&str) -> bool>,
    /// Members to set, with their JSON values; they replace members of the same name.
    pub set: Vec<(&'a str, Bytes)>,
}

impl<'a> MetaEdit<'a> {
    /// Sets a member to a JSON string.
    pub fn text(mut self, key: &'a str, value: &str) -> Self {
        self.set.push((key, crate::json::quote(value).into()));
        self
    }

    /// Sets a member to raw JSON.
    pub fn raw(mut self, key: &'a str, value: impl Into<Bytes>) -> Self {
        self.set.push((key, value.into()));
        self
    }

    /// Adds the edits that bring this about in `params._meta`, creating `params` and `_meta` where they are missing.
    pub fn params(&self, message: &Message, edits: &mut Edits) {
        if let Some(meta) = message.meta().object() {
            edits.replace(meta, self.rebuild(message.body(), Some(meta)));
            return;
        }
        let fresh = self.rebuild(message.body(), None);
        if fresh == b"{}"[..] {
            return;
        }
        match message.params().object() {
            Some(params) => insert_member(message.body(), params, "\"_meta\":", &fresh, edits),
            None => {
                let mut params = Vec::with_capacity(fresh.len() + 12);
                params.extend_from_slice(b"{\"_meta\":");
                params.extend_from_slice(&fresh);
                params.push(b'}');
                insert_member(message.body(), message.object(), "\"params\":", &params, edits);
            }
        }
    }

    /// The same for `result._meta`. Results that are not objects are left alone.
    pub fn result(&self, message: &Message, edits: &mut Edits) {
        let Some(result) = message.results().object() else { return };
        if let Some(meta) = message.meta().object() {
            edits.replace(meta, self.rebuild(message.body(), Some(meta)));
        } else if !self.set.is_empty() {
            insert_member(message.body(), result, "\"_meta\":", &self.rebuild(message.body(), None), edits);
        }
    }

    fn rebuild(&self, body: &[u8], old: Option<Span>) -> Bytes {
        let mut out = Vec::with_capacity(256);
        out.push(b'{');
        for (key, value) in old.map(|span| members(body, span)).unwrap_or_default() {
            let name = key.decode(body);
            let replaced = self.set.iter().any(|(set, _)| *set == name);
            if replaced || self.drop.is_some_and(|drop| drop(&name)) {
                continue;
            }
            separate(&mut out);
            out.extend_from_slice(key.span.of(body));
            out.push(b':');
            out.extend_from_slice(value.of(body));
        }
        for (key, value) in &self.set {
            separate(&mut out);
            write_string(&mut out, key);
            out.push(b':');
            out.extend_from_slice(value);
        }
        out.push(b'}');
        Bytes::from(out)
    }
}

fn separate(out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
}

/// Inserts `"key":value` as the first member of an object. `key` comes quoted, with its colon.
pub fn insert_member(body: &[u8], object: Span, key: &str, value: &[u8], edits: &mut Edits) {
    let inside = body.get(object.start as usize + 1..object.end as usize - 1).unwrap_or_default();
    let empty = inside.iter().all(u8::is_ascii_whitespace);
    let mut text = Vec::with_capacity(key.len() + value.len() + 1);
    text.extend_from_slice(key.as_bytes());
    text.extend_from_slice(value);
    if !empty {
        text.push(b',');
    }
    edits.insert(object.start + 1, text);
}

/// Rebuilds an object without some members and with others set; for objects that are small or rarely edited.
pub fn rebuild_object(body: &[u8], object: Span, drop: impl Fn(&str) -> bool, set: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.range().len() + 64);
    out.push(b'{');
    for (key, value) in members(body, object) {
        let name = key.decode(body);
        if drop(&name) || set.iter().any(|(set, _)| *set == name) {
            continue;
        }
        separate(&mut out);
        out.extend_from_slice(key.span.of(body));
        out.push(b':');
        out.extend_from_slice(value.of(body));
    }
    for (key, value) in set {
        separate(&mut out);
        write_string(&mut out, key);
        out.push(b':');
        out.extend_from_slice(value);
    }
    out.push(b'}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: &str, meta: &MetaEdit<'_>) -> String {
        let m = Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap();
        let mut edits = Edits::new();
        meta.params(&m, &mut edits);
        String::from_utf8(edits.apply_flat(m.body()).to_vec()).unwrap()
    }

    #[test]
    fn meta_is_created_where_it_is_missing_and_nothing_else_changes() {
        let set = MetaEdit::default().text("traceparent", "t");
        assert_eq!(
            edited(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#, &set),
            r#"{"params":{"_meta":{"traceparent":"t"}},"jsonrpc":"2.0","id":1,"method":"tools/list"}"#
        );
        assert_eq!(
            edited(r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{ }}"#, &set),
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"traceparent":"t"} }}"#
        );
        assert_eq!(
            edited(
                r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":1.50,"_meta":{"b": 2,"traceparent":"old"}}}"#,
                &set
            ),
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":1.50,"_meta":{"b":2,"traceparent":"t"}}}"#
        );
    }

    #[test]
    fn members_can_be_dropped() {
        let drop = MetaEdit { drop: Some(|k| k.starts_with("io.")), set: vec![] };
        assert_eq!(
            edited(r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"io.a":1,"b":2}}}"#, &drop),
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"b":2}}}"#
        );
    }

    #[test]
    fn big_payloads_are_shared_not_copied() {
        let big = "x".repeat(100_000);
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"arguments":"{big}"}}}}"#);
        let m = Message::parse(Bytes::from(text)).unwrap();
        let mut edits = Edits::new();
        MetaEdit::default().text("traceparent", "t").params(&m, &mut edits);
        let pieces = edits.apply(m.body());
        let shared = pieces.iter().any(|p| p.len() > 90_000 && m.body().as_ptr_range().contains(&p.as_ptr()));
        assert!(shared);
    }
}
