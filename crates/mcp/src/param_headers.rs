//! Tool arguments that are mirrored into headers: `x-mcp-header` in a tool's `inputSchema`.
//!
//! Source: MCP 2026-07-28, server/tools "x-mcp-header" and basic/transports/streamable-http "Custom Headers from Tool
//! Parameters". Clients drop a tool whose annotations are invalid, and so do lists for modern HTTP clients here.

use std::borrow::Cow;

use serde_json::Value;
use thiserror::Error;

use crate::{
    headers::{self, HeaderError, encode, is_token_byte, safe_integer},
    json::{MAX_DEPTH, Scanner, Span, decode_string, members},
};

const ANNOTATION: &str = "x-mcp-header";
/// More mirrored arguments than this are a mistake: they would not fit the header limits of any server.
const MAX_HEADERS: usize = 64;
/// Keywords whose members are schemas under names of the author's choosing.
const SCHEMA_MAPS: [&str; 5] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];
/// Keywords whose values are data, not schemas.
const DATA: [&str; 5] = ["default", "const", "enum", "examples", "example"];

/// Why the annotations of a tool are invalid. The tool must not be listed for modern HTTP clients.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParamSchemaError {
    /// Not a JSON object.
    #[error("inputSchema is not a JSON object")]
    Schema,
    /// Not a text, empty, or not a header name.
    #[error("x-mcp-header of {0:?} is not a header name (letters, digits and !#$%&'*+-.^_`|~)")]
    Name(String),
    /// The property has another type, several, or none.
    #[error("x-mcp-header of {0:?} needs a property of type string, integer or boolean")]
    Type(String),
    /// Another property has the same header.
    #[error("x-mcp-header {0:?} is used by more than one property (names ignore case)")]
    Repeated(String),
    /// Not reachable by `properties` alone.
    #[error("x-mcp-header stands where `properties` alone do not lead (below {0:?})")]
    Unreachable(String),
    /// Too many of them.
    #[error("more than {MAX_HEADERS} x-mcp-header annotations")]
    TooMany,
}

/// One mirrored argument.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ParamHeader {
    /// Keys from the root of `arguments`.
    path: Vec<String>,
    /// The whole header name, as the server spelled it.
    header: String,
    /// Whether values compare as numbers.
    integer: bool,
}

/// The mirrored arguments of one tool, compiled from its schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamHeaders(Vec<ParamHeader>);

impl ParamHeaders {
    /// Finds the annotations of an `inputSchema`; `None` when it has none, which costs one scan for their name.
    ///
    /// # Errors
    /// [`ParamSchemaError`] when the tool must be dropped.
    pub fn compile(schema: &[u8]) -> Result<Option<Self>, ParamSchemaError> {
        if !may_hold_annotation(schema) {
            return Ok(None);
        }
        let schema: Value = serde_json::from_slice(schema).map_err(|_| ParamSchemaError::Schema)?;
        let mut found = Vec::new();
        walk(&schema, &mut Vec::new(), &mut found)?;
        Ok((!found.is_empty()).then_some(Self(found)))
    }

    /// The names of the headers.
    pub fn header_names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|param| param.header.as_str())
    }

    /// Checks the headers of a call against its `arguments` (raw JSON). The message of an error is for the caller and
    /// goes with -32020; it never repeats a value.
    ///
    /// # Errors
    /// A header is missing, superfluous, unreadable or differs.
    pub fn check<'h>(&self, arguments: Option<&[u8]>, header: impl Fn(&str) -> Option<&'h [u8]>) -> Result<(), String> {
        let arguments = scan(arguments)?;
        for param in &self.0 {
            let given = header(&param.header).map(headers::decode).transpose();
            let given = given.map_err(|e: HeaderError| format!("{} {e}", param.header))?;
            let wrong = match (find(arguments, &param.path)?, given) {
                (None, None) => continue,
                (Some(token), Some(given)) if param.matches(token, &given) => continue,
                (None, Some(_)) => "is present, but absent or null is",
                (Some(_), None) => "is missing, but present is",
                (Some(_), Some(_)) => "differs from",
            };
            return Err(format!("{} {wrong} the argument {:?}", param.header, param.path.join(".")));
        }
        Ok(())
    }

    /// The headers that a client has to send with `arguments` (raw JSON): names and encoded values.
    pub fn generate(&self, arguments: Option<&[u8]>) -> Vec<(&str, String)> {
        let Ok(arguments) = scan(arguments) else {
            return Vec::new();
        };
        let text = |param: &ParamHeader| {
            let token = find(arguments, &param.path).ok()??;
            Some(encode(&param.text(token)?).into_owned())
        };
        self.0.iter().filter_map(|param| Some((param.header.as_str(), text(param)?))).collect()
    }
}

impl ParamHeader {
    /// The text that stands for an argument. `None` when no text can: an object, an array, or text with a lone surrogate.
    fn text<'a>(&self, token: &'a [u8]) -> Option<Cow<'a, str>> {
        match token.first()? {
            b'"' => decode_string(token),
            b'{' | b'[' => None,
            _ => {
                let literal = std::str::from_utf8(token).ok()?;
                let canonical = self.integer.then(|| safe_integer(literal)).flatten();
                Some(canonical.map_or(Cow::Borrowed(literal), |n| Cow::Owned(n.to_string())))
            }
        }
    }

    /// Numbers that a double cannot hold exactly never match: two readers may see two values.
    fn matches(&self, token: &[u8], given: &str) -> bool {
        let number = token.first().is_some_and(|b| *b == b'-' || b.is_ascii_digit());
        if number && self.integer {
            let argument = std::str::from_utf8(token).ok().and_then(safe_integer);
            return argument.is_some() && argument == safe_integer(given);
        }
        self.text(token).is_some_and(|text| text == given)
    }
}

/// Whether the name of the annotation may stand in the text; escapes could hide it.
fn may_hold_annotation(schema: &[u8]) -> bool {
    let mut rest = schema;
    // Both needles have a rare first byte, so this is one pass with few candidates.
    while let Some(at) = rest.iter().position(|b| matches!(b, b'x' | b'\\')) {
        rest = &rest[at..];
        if rest.starts_with(ANNOTATION.as_bytes()) || rest.starts_with(b"\\u") {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

/// Collects the annotations of a schema that `properties` alone lead to.
fn walk(schema: &Value, path: &mut Vec<String>, found: &mut Vec<ParamHeader>) -> Result<(), ParamSchemaError> {
    let Value::Object(keywords) = schema else {
        return Ok(());
    };
    if let Some(annotation) = keywords.get(ANNOTATION) {
        found.push(annotated(annotation, keywords.get("type"), path, found)?);
    }
    for (keyword, value) in keywords {
        if keyword == "properties" {
            for (name, property) in value.as_object().into_iter().flatten() {
                path.push(name.clone());
                walk(property, path, found)?;
                path.pop();
            }
        } else if keyword_holds_annotation(keyword, value) {
            return Err(ParamSchemaError::Unreachable(
                path.iter().chain([keyword]).cloned().collect::<Vec<_>>().join("."),
            ));
        }
    }
    Ok(())
}

fn annotated(
    annotation: &Value,
    kind: Option<&Value>,
    path: &[String],
    found: &[ParamHeader],
) -> Result<ParamHeader, ParamSchemaError> {
    let property = || path.join(".");
    if path.is_empty() {
        return Err(ParamSchemaError::Unreachable("inputSchema".into()));
    }
    let name = annotation.as_str().filter(|name| !name.is_empty() && name.bytes().all(is_token_byte));
    let name = name.ok_or_else(|| ParamSchemaError::Name(property()))?;
    let kind = kind.and_then(Value::as_str).filter(|kind| matches!(*kind, "string" | "integer" | "boolean"));
    let kind = kind.ok_or_else(|| ParamSchemaError::Type(property()))?;
    let header = format!("Mcp-Param-{name}");
    if found.iter().any(|other| other.header.eq_ignore_ascii_case(&header)) {
        return Err(ParamSchemaError::Repeated(name.to_owned()));
    }
    if found.len() == MAX_HEADERS {
        return Err(ParamSchemaError::TooMany);
    }
    Ok(ParamHeader { path: path.to_vec(), header, integer: kind == "integer" })
}

/// Whether any schema below a keyword other than the root's chain of `properties` is annotated.
fn keyword_holds_annotation(keyword: &str, value: &Value) -> bool {
    let schema = |schema: &Value| {
        schema.as_object().is_some_and(|keywords| {
            keywords.contains_key(ANNOTATION) || keywords.iter().any(|(k, v)| keyword_holds_annotation(k, v))
        })
    };
    match value {
        _ if DATA.contains(&keyword) => false,
        Value::Object(map) if SCHEMA_MAPS.contains(&keyword) => map.values().any(schema),
        Value::Object(_) => schema(value),
        Value::Array(list) => list.iter().any(schema),
        _ => false,
    }
}

/// Where the arguments lie in their bytes, which are checked here once for all lookups.
fn scan(arguments: Option<&[u8]>) -> Result<Option<(&[u8], Span)>, String> {
    let Some(bytes) = arguments else {
        return Ok(None);
    };
    let span = Scanner::new(bytes, MAX_DEPTH).and_then(|mut s| s.value());
    Ok(Some((bytes, span.map_err(|e| format!("arguments: {e}"))?)))
}

/// The value at a path of keys; `None` when it is absent or null.
fn find<'a>(arguments: Option<(&'a [u8], Span)>, path: &[String]) -> Result<Option<&'a [u8]>, String> {
    let Some((bytes, mut at)) = arguments else {
        return Ok(None);
    };
    for key in path {
        let named = members(bytes, at).into_iter().filter(|(k, _)| k.decode(bytes) == key.as_str());
        let mut values = named.map(|(_, value)| value);
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            // The server may read the other one.
            return Err(format!("the argument {:?} stands more than once", path.join(".")));
        }
        at = value;
    }
    let value = at.of(bytes);
    Ok((value != b"null").then_some(value))
}

#[cfg(test)]
mod tests;
