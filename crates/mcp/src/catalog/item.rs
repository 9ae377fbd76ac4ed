//! One capability as its server defined it.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

use crate::{
    apps,
    bridge::tasks::TaskSupport,
    catalog_kind::Kind,
    json::{MAX_DEPTH, Scanner, Span, decode_string, members},
    param_headers::ParamHeaders,
};

/// Longest tool or prompt name. The specification asks for 128; servers exist that do not care.
const MAX_NAME: usize = 1024;
/// Longest URI or template: in base64 it still fits a header of 8 KiB.
const MAX_URI: usize = 5 * 1024;

/// A tool, prompt, resource or template: the server's own bytes, and where its name lies in them.
#[derive(Debug, Clone)]
pub struct Item {
    raw: Bytes,
    key: Box<str>,
    /// The string token of the name, with its quotes.
    key_at: Range<u32>,
    /// The tokens of URIs in a tool's `_meta` that name its page, with their quotes, in the order of the text.
    pages: Box<[Span]>,
    headers: ToolHeaders,
    repeatable: bool,
    tasks: TaskSupport,
}

/// What a tool says about arguments that are mirrored into headers.
#[derive(Debug, Clone)]
pub enum ToolHeaders {
    /// Nothing.
    None,
    /// They are to be checked, or sent.
    Mirrored(Arc<ParamHeaders>),
    /// The annotations are invalid for this reason: modern HTTP clients must not see the tool.
    Invalid(Arc<str>),
}

impl Item {
    /// Reads a definition, which must be an object of valid JSON.
    ///
    /// # Errors
    /// What is wrong with it, for a warning.
    pub fn parse(kind: Kind, raw: Bytes) -> Result<Self, String> {
        let span = Scanner::new(&raw, MAX_DEPTH).and_then(|mut s| s.value()).map_err(|e| e.to_string())?;
        Self::read(kind, raw.slice(span.range()))
    }

    /// Reads a definition whose bytes are known to be one JSON value without space around it.
    pub(super) fn read(kind: Kind, raw: Bytes) -> Result<Self, String> {
        let whole = Span { start: 0, end: u32::try_from(raw.len()).map_err(|e| e.to_string())? };
        let member_name = kind.key_member();
        let (mut key, mut schema, mut hints, mut execution, mut meta) = (None, None, None, None, None);
        for (name, value) in members(&raw, whole) {
            let slot = match &*name.decode(&raw) {
                name if name == member_name => &mut key,
                "inputSchema" => &mut schema,
                "annotations" => &mut hints,
                "execution" => &mut execution,
                "_meta" => &mut meta,
                _ => continue,
            };
            if slot.replace(value).is_some() {
                // Readers differ in which one they take.
                return Err(format!("has the member {} twice", String::from_utf8_lossy(name.span.of(&raw))));
            }
        }
        let at: Span = key.ok_or_else(|| format!("has no `{member_name}`"))?;
        let text = decode_string(at.of(&raw)).ok_or_else(|| format!("has a `{member_name}` that is not text"))?;
        let limit = if matches!(kind, Kind::Tool | Kind::Prompt) { MAX_NAME } else { MAX_URI };
        if text.is_empty() || text.len() > limit {
            return Err(format!("has a `{member_name}` of {} bytes; 1 to {limit} are allowed", text.len()));
        }
        let text = text.into();
        let tool = kind == Kind::Tool;
        let headers = if tool { tool_headers(schema.map(|s| s.of(&raw))) } else { ToolHeaders::None };
        let repeatable = tool && hints.is_some_and(|hints| says_repeatable(&raw, hints));
        let tasks =
            execution.filter(|_| tool).map_or(TaskSupport::Forbidden, |span| TaskSupport::of_execution(span.of(&raw)));
        let pages = meta.filter(|_| tool).map(|meta| apps::pages(&raw, meta)).unwrap_or_default().into();
        Ok(Self { key: text, key_at: at.start..at.end, pages, headers, repeatable, tasks, raw })
    }

    /// The definition, byte for byte as the server sent it.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// What identifies it: the name, or the URI, or the template.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Arguments that are mirrored into headers.
    pub fn headers(&self) -> &ToolHeaders {
        &self.headers
    }

    /// Whether calling the tool twice does no more than calling it once, by its own account (`readOnlyHint` or
    /// `idempotentHint`).
    pub fn repeatable(&self) -> bool {
        self.repeatable
    }

    /// Whether the tool can be called as a task, in the form of 2025-11-25.
    pub fn tasks(&self) -> TaskSupport {
        self.tasks
    }

    /// Appends the definition with another name, and with the URIs of its page that `expose` gives; every other byte stays.
    pub fn write_as(&self, exposed: &str, expose: impl Fn(&str) -> Option<String>, out: &mut Vec<u8>) {
        let mut copied = 0;
        let mut put = |span: Range<usize>, new: &str, out: &mut Vec<u8>| {
            out.extend_from_slice(&self.raw[copied..span.start]);
            crate::json::write_string(out, new);
            copied = span.end;
        };
        let name = (exposed != &*self.key).then_some((self.key_at.start as usize..self.key_at.end as usize, exposed));
        let mut name = name.into_iter().peekable();
        for page in &self.pages {
            let uri = decode_string(page.of(&self.raw)).and_then(|uri| expose(&uri));
            if let Some((span, exposed)) = name.next_if(|(span, _)| span.start < page.range().start) {
                put(span, exposed, out);
            }
            if let Some(uri) = uri {
                put(page.range(), &uri, out);
            }
        }
        if let Some((span, exposed)) = name.next() {
            put(span, exposed, out);
        }
        out.extend_from_slice(&self.raw[copied..]);
    }
}

fn tool_headers(schema: Option<&[u8]>) -> ToolHeaders {
    match schema.map_or(Ok(None), ParamHeaders::compile) {
        Ok(None) => ToolHeaders::None,
        Ok(Some(headers)) => ToolHeaders::Mirrored(Arc::new(headers)),
        Err(reason) => ToolHeaders::Invalid(reason.to_string().into()),
    }
}

fn says_repeatable(raw: &[u8], hints: Span) -> bool {
    members(raw, hints)
        .into_iter()
        .any(|(k, v)| matches!(&*k.decode(raw), "readOnlyHint" | "idempotentHint") && v.of(raw) == b"true")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tool(text: &str) -> Item {
        Item::parse(Kind::Tool, Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    #[test]
    fn items_keep_their_bytes() {
        let text = r#"{ "x":1.0, "name" : "a\u0062" , "inputSchema":{"type":"object"},"x":2 }"#;
        let item = tool(&format!("  {text}\n"));
        assert_eq!(item.raw(), text);
        assert_eq!(item.key(), "ab");
        let mut out = Vec::new();
        item.write_as("fs__ab", |_| None, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), text.replace(r#""a\u0062""#, r#""fs__ab""#));
    }

    #[test]
    fn a_page_is_named_as_it_can_be_read() {
        let wrap = |uri: &str| (uri != "ui://own").then(|| format!("ui://fs+{uri}"));
        let meta = r#""_meta":{"ui":{"resourceUri":"ui:\/\/a"},"ui/resourceUri":"ui://a","x":"ui://a"}"#;
        let renamed =
            r#""_meta":{"ui":{"resourceUri":"ui://fs+ui://a"},"ui/resourceUri":"ui://fs+ui://a","x":"ui://a"}"#;
        for (text, new) in [
            (format!("{{{meta},\"name\":\"t\"}}"), format!("{{{renamed},\"name\":\"fs__t\"}}")),
            (format!("{{\"name\":\"t\",{meta},\"n\":1.0}}"), format!("{{\"name\":\"fs__t\",{renamed},\"n\":1.0}}")),
            (
                r#"{"name":"t","_meta":{"ui":{"resourceUri":"ui://own"}}}"#.into(),
                r#"{"name":"fs__t","_meta":{"ui":{"resourceUri":"ui://own"}}}"#.into(),
            ),
        ] {
            let mut out = Vec::new();
            tool(&text).write_as("fs__t", wrap, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), new);
        }
    }

    #[test]
    fn bad_items_say_what_is_wrong() {
        for (text, reason) in [
            ("{}", "no `name`"),
            ("7", "no `name`"),
            (r#"{"name":""}"#, "0 bytes"),
            (r#"{"name":7}"#, "not text"),
            (r#"{"name":"\ud800"}"#, "not text"),
            (r#"{"name":"a","name":"b"}"#, "twice"),
            (r#"{"name":"a","na\u006de":"b"}"#, "twice"),
            (&format!(r#"{{"name":"{}"}}"#, "x".repeat(1025)), "1025 bytes"),
            ("{", "not valid"),
        ] {
            let error = Item::parse(Kind::Tool, Bytes::copy_from_slice(text.as_bytes())).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn tools_tell_about_headers_and_repeating() {
        let mirrored = tool(r#"{"name":"a","inputSchema":{"properties":{"r":{"type":"string","x-mcp-header":"R"}}}}"#);
        assert!(matches!(mirrored.headers(), ToolHeaders::Mirrored(_)));
        let invalid = tool(r#"{"name":"a","inputSchema":{"properties":{"r":{"type":"number","x-mcp-header":"R"}}}}"#);
        assert!(matches!(invalid.headers(), ToolHeaders::Invalid(why) if why.contains("string, integer or boolean")));
        assert!(!mirrored.repeatable());
        assert!(tool(r#"{"name":"a","annotations":{"readOnlyHint":true}}"#).repeatable());
        assert!(tool(r#"{"name":"a","annotations":{"destructiveHint":false,"idempotentHint":true}}"#).repeatable());
        assert!(!tool(r#"{"name":"a","annotations":{"readOnlyHint":false}}"#).repeatable());
        assert_eq!(mirrored.tasks(), TaskSupport::Forbidden);
        assert_eq!(tool(r#"{"name":"a","execution":{"taskSupport":"optional"}}"#).tasks(), TaskSupport::Optional);
    }

    proptest! {
        #[test]
        fn renaming_keeps_every_other_byte(name in "\\PC{1,20}", exposed in any::<String>(), before in "[ \\n]{0,3}", value in any::<i32>()) {
            let token = crate::json::quote(&name);
            let head = format!("{{{before}\"k\": {value},{before}\"name\":{before}");
            let tail = format!("{before},\"description\":{token}{before}}}");
            let item = tool(&format!("{head}{token}{tail}"));
            prop_assert_eq!(item.key(), name.as_str());
            let mut out = Vec::new();
            item.write_as(&exposed, |_| None, &mut out);
            prop_assert_eq!(String::from_utf8(out).unwrap(), format!("{head}{}{tail}", crate::json::quote(&exposed)));
        }
    }
}
