//! What a legacy client's revision has no form for, said in a form that it has, or left out.
//!
//! ```text
//!                                  2024-11-05   2025-03-26   2025-06-18   2025-11-25
//!  resultType, ttlMs, cacheScope   left out     left out     left out     left out
//!  structuredContent               as text      as text      an object or as text
//!  outputSchema                    left out     left out     of objects, or left out
//!  resource_link                   its URI as text           passes       passes
//!  audio                           a note       passes       passes       passes
//!  sampling: several blocks        one message for each                   passes
//!  forms: named choices            -            -            enumNames    passes
//!  forms: several choices at once  -            -            left out, or refused where required
//! ```
//!
//! As text means: unless the result has content besides, which then says the same (2025-06-18, server/tools). Members that
//! older revisions do not know but allow (`title`, `icons`, `annotations`, `_meta`, `execution`) pass: their objects are
//! open.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::{
    catalog_kind::Kind,
    edit::Edits,
    envelope::{Field, Message},
    json::{Key, Span, decode_string, elements, member, members, quote},
    method::Method,
    revision::Revision,
};

/// Members of results that only the stateless revision has.
const MODERN: [&str; 3] = ["resultType", "ttlMs", "cacheScope"];

/// How many forms definitions have for older revisions: without any schema of results, and with those of objects.
pub const LIST_FORMS: usize = 2;

/// A result without what the client's revision has no form for; `None` when it can stay as it is.
pub fn result(message: &Message, method: Method, revision: Revision) -> Option<Bytes> {
    let body = message.body();
    let object = message.result_span()?;
    // What is of another type is not this method's result: `to_client::reply` says so in its place.
    if !matches!(message.result_text(Field::ResultType).as_deref(), None | Some("complete")) {
        return None;
    }
    let list = members(body, object);
    let (mut edits, mut drop, mut structured) = (Edits::new(), BTreeSet::new(), false);
    for (at, (key, value)) in list.iter().enumerate() {
        match (method, &*key.decode(body)) {
            (_, name) if MODERN.contains(&name) => {
                drop.insert(at);
            }
            (Method::ToolsCall, "structuredContent") if !holds_structure(body, *value, revision) => {
                // Of two of that name the first is said otherwise.
                let second = std::mem::replace(&mut structured, true);
                let gone = second || !says_otherwise(body, &list, (*key, *value), &mut edits);
                drop.extend(gone.then_some(at));
            }
            (Method::ToolsCall, "content") => blocks(body, *value, revision, &mut edits),
            (Method::PromptsGet, "messages") => {
                for message in elements(body, *value).unwrap_or_default() {
                    let content = member(body, message, "content");
                    content.into_iter().for_each(|content| block(body, content, revision, &mut edits));
                }
            }
            (Method::ToolsList, "tools") => {
                let tools = elements(body, *value).unwrap_or_default();
                tools.into_iter().for_each(|tool| without_schema(body, tool, revision, &mut edits));
            }
            _ => {}
        }
    }
    leave_out(&list, &drop, &mut edits);
    let narrowed = edits.apply_flat(body);
    (narrowed != *body).then_some(narrowed)
}

/// Which form of definitions a revision reads, below [`LIST_FORMS`]; `None` when it reads them as they are.
pub fn list_form(revision: Revision) -> Option<usize> {
    (!revision.is_modern()).then(|| usize::from(revision >= Revision::V2025_06_18))
}

/// Definitions, joined by commas, without what a revision has no form for; `None` when they can stay as they are.
pub fn definitions(kind: Kind, joined: &[u8], revision: Revision) -> Option<Bytes> {
    if kind != Kind::Tool || list_form(revision).is_none() {
        return None;
    }
    let body = Bytes::from([b"[", joined, b"]"].concat());
    let list = Span { start: 0, end: u32::try_from(body.len()).unwrap_or(u32::MAX) };
    let mut edits = Edits::new();
    let tools = elements(&body, list).unwrap_or_default();
    tools.into_iter().for_each(|tool| without_schema(&body, tool, revision, &mut edits));
    let narrowed = edits.apply_flat(&body);
    (narrowed != body).then(|| narrowed.slice(1..narrowed.len() - 1))
}

/// The `params` of a server's question as the client's revision can read them; the same bytes where it can already.
///
/// # Errors
/// Why the client cannot be asked that at all.
pub fn question(method: Method, params: Bytes, revision: Revision) -> Result<Bytes, String> {
    if revision >= Revision::V2025_11_25 {
        return Ok(params);
    }
    let whole = Span { start: 0, end: u32::try_from(params.len()).unwrap_or(u32::MAX) };
    let mut edits = Edits::new();
    match method {
        Method::SamplingCreateMessage => {
            let list = member(&params, whole, "messages").and_then(|list| Some((list, elements(&params, list)?)));
            if let Some((list, messages)) = list {
                let one_each = messages.iter().flat_map(|message| one_block_each(&params, *message, revision));
                edits.replace(list, format!("[{}]", one_each.collect::<Vec<_>>().join(",")));
            }
        }
        Method::ElicitationCreate => {
            if let Some(schema) = member(&params, whole, "requestedSchema") {
                form(&params, schema, revision, &mut edits)?;
            }
        }
        _ => {}
    }
    Ok(edits.apply_flat(&params))
}

/// The fields of a form in the words of 2025-06-18. One that takes several values at once has none: it is left out, unless the
/// server must have it.
fn form(params: &[u8], schema: Span, revision: Revision, edits: &mut Edits) -> Result<(), String> {
    let list = member(params, schema, "properties").map(|list| members(params, list)).unwrap_or_default();
    let required = member(params, schema, "required").and_then(|list| elements(params, list)).unwrap_or_default();
    let mut several = BTreeSet::new();
    for (at, (key, property)) in list.iter().enumerate() {
        if member(params, *property, "type").is_none_or(|kind| kind.of(params) != b"\"array\"") {
            choices(params, *property, edits);
            continue;
        }
        let name = key.decode(params);
        if required.iter().any(|needed| decode_string(needed.of(params)).as_deref() == Some(&*name)) {
            let revision = revision.as_str();
            return Err(format!(
                "it asks for several choices at once (`{name}`), which revision {revision} has no form for"
            ));
        }
        several.insert(at);
    }
    leave_out(&list, &several, edits);
    Ok(())
}

/// Whether structured content is what a revision allows.
fn holds_structure(body: &[u8], content: Span, revision: Revision) -> bool {
    revision >= Revision::V2025_06_18 && content.of(body).first() == Some(&b'{')
}

/// Puts structured content where text belongs, when a result has nothing else to say. True when it took the place of the
/// member itself, which must then stay.
fn says_otherwise(body: &[u8], list: &[(Key, Span)], (key, value): (Key, Span), edits: &mut Edits) -> bool {
    let text = || text(&String::from_utf8_lossy(value.of(body)));
    match list.iter().find(|(key, _)| key.decode(body) == "content") {
        Some((_, content)) => {
            if elements(body, *content).is_some_and(|blocks| blocks.is_empty()) {
                edits.replace(*content, format!("[{}]", text()));
            }
            false
        }
        None => {
            let member = Span { start: key.span.start, end: value.end };
            edits.replace(member, format!("\"content\":[{}]", text()));
            true
        }
    }
}

fn blocks(body: &[u8], content: Span, revision: Revision, edits: &mut Edits) {
    for found in elements(body, content).unwrap_or_default() {
        block(body, found, revision, edits);
    }
}

fn block(body: &[u8], block: Span, revision: Revision, edits: &mut Edits) {
    if let Some(text) = in_older_words(body, block, revision) {
        edits.replace(block, text);
    }
}

/// A content block that a revision does not know, as a text; `None` when it does.
fn in_older_words(body: &[u8], block: Span, revision: Revision) -> Option<String> {
    if revision >= Revision::V2025_06_18 {
        return None;
    }
    match member(body, block, "type")?.of(body) {
        b"\"resource_link\"" => {
            let uri = member(body, block, "uri")?;
            Some(format!("{{\"type\":\"text\",\"text\":{}}}", String::from_utf8_lossy(uri.of(body))))
        }
        b"\"audio\"" if revision < Revision::V2025_03_26 => {
            let kind = member(body, block, "mimeType").and_then(|kind| decode_string(kind.of(body)));
            let kind = kind.as_deref().unwrap_or("of an unknown type");
            Some(text(&format!("[audio, {kind}: left out, because revision {} has none]", revision.as_str())))
        }
        _ => None,
    }
}

fn text(text: &str) -> String {
    format!("{{\"type\":\"text\",\"text\":{}}}", quote(text))
}

/// Takes a tool's schema of results out, where the revision has none or none of its kind.
fn without_schema(body: &[u8], tool: Span, revision: Revision, edits: &mut Edits) {
    let list = members(body, tool);
    let unknown = |schema: Span| {
        let objects = member(body, schema, "type").is_some_and(|kind| kind.of(body) == b"\"object\"");
        !objects || revision < Revision::V2025_06_18
    };
    let at = list.iter().position(|(key, schema)| key.decode(body) == "outputSchema" && unknown(*schema));
    leave_out(&list, &at.into_iter().collect(), edits);
}

/// Removes members of an object, with their commas.
fn leave_out(list: &[(Key, Span)], drop: &BTreeSet<usize>, edits: &mut Edits) {
    let mut at = 0;
    while at < list.len() {
        let first = at;
        while drop.contains(&at) {
            at += 1;
        }
        if let Some(last) = at.checked_sub(1).filter(|_| at > first) {
            // Up to what follows, or, at the end of the object, from what comes before.
            let start = list.get(first).map_or(0, |(key, _)| key.span.start);
            let span = match (list.get(at), first.checked_sub(1).and_then(|before| list.get(before))) {
                (Some((next, _)), _) => Span { start, end: next.span.start },
                (None, before) => Span {
                    start: before.map_or(start, |(_, value)| value.end),
                    end: list.get(last).map_or(start, |(_, value)| value.end),
                },
            };
            edits.replace(span, Bytes::new());
        }
        at += 1;
    }
}

/// A message to a model with as many messages as it has blocks of content: before 2025-11-25 each has one.
fn one_block_each(params: &[u8], message: Span, revision: Revision) -> Vec<String> {
    let raw = |span: Span| String::from_utf8_lossy(span.of(params)).into_owned();
    let Some(content) = member(params, message, "content") else { return vec![raw(message)] };
    let blocks = elements(params, content).unwrap_or_else(|| vec![content]);
    let with = |block: Span| {
        let block = in_older_words(params, block, revision).unwrap_or_else(|| raw(block));
        let (before, after) = (Span { end: content.start, ..message }, Span { start: content.end, ..message });
        format!("{}{block}{}", raw(before), raw(after))
    };
    blocks.into_iter().map(with).collect()
}

/// A choice among named values (`oneOf` of `const` and `title`) in the form of 2025-06-18.
fn choices(params: &[u8], property: Span, edits: &mut Edits) {
    let list = members(params, property);
    let Some((key, options)) = list.iter().find(|(key, _)| key.decode(params) == "oneOf") else { return };
    let Some(options) = elements(params, *options).map(|found| (found, options.end)) else { return };
    let (found, end) = options;
    let tokens = |name: &str| -> Option<Vec<String>> {
        let token = |option: &Span| member(params, *option, name).map(|at| at.of(params));
        found.iter().map(|option| Some(String::from_utf8_lossy(token(option)?).into_owned())).collect()
    };
    if let Some(values) = tokens("const") {
        let names = tokens("title").map(|names| format!(",\"enumNames\":[{}]", names.join(",")));
        let member = Span { start: key.span.start, end };
        edits.replace(member, format!("\"enum\":[{}]{}", values.join(","), names.unwrap_or_default()));
    }
}

#[cfg(test)]
mod tests;
