//! What the declarations say about themselves: the reference page and the JSON Schema.

use std::cell::RefCell;
use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};

use crate::fields::{Doc, Fields, Recorder};
use crate::node::Document;

/// One step of a setting's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// A fixed or given name.
    Key(String),
    /// Any name, in a description.
    AnyKey,
    /// One item of a list.
    Item(usize),
    /// Any item, in a description.
    AnyItem,
}

/// Everything known about one setting or section.
#[derive(Debug, Clone)]
pub struct SettingDoc {
    /// Where it stands.
    pub path: Vec<Segment>,
    /// The kind of value, in words; `section`, `optional section`, `map` or `list` for what holds other settings.
    pub kind: String,
    /// The JSON Schema of a value; nothing for what holds other settings.
    pub schema: Option<Json>,
    /// The JSON Schema of the names in a map.
    pub names: Option<Json>,
    /// The default as one would write it.
    pub default: Option<String>,
    /// It must be given.
    pub required: bool,
    /// Text, reason, environment variable, example.
    pub doc: Doc,
}

/// All settings of one program, in the order in which the code reads them.
#[derive(Debug, Clone)]
pub struct Settings(pub Vec<SettingDoc>);

/// Runs a declaration without input and collects what it declares.
pub fn describe<T>(read: impl FnOnce(&mut Fields<'_>) -> T) -> Settings {
    let document = Document::empty();
    let described = Some(RefCell::new(Vec::new()));
    let recorder = Recorder { document: &document, env: &|_| None, described, found: RefCell::default() };
    Fields::within(&recorder, Vec::new(), None, false, |fields| read(fields));
    Settings(recorder.described.map(RefCell::into_inner).unwrap_or_default())
}

/// `services.<name>.tokens[].subject`
pub(crate) fn path_text(path: &[Segment]) -> String {
    let mut text = String::new();
    for segment in path {
        let dot = if text.is_empty() { "" } else { "." };
        match segment {
            Segment::Key(key) => text.extend([dot, key]),
            Segment::AnyKey => text.extend([dot, "<name>"]),
            Segment::Item(index) => text.push_str(&format!("[{index}]")),
            Segment::AnyItem => text.push_str("[]"),
        }
    }
    text
}

impl Settings {
    /// A Markdown reference: one table per section, one line per setting. `level` is the depth of the section headings.
    pub fn to_markdown(&self, level: usize) -> String {
        let mut page = String::new();
        self.write_section(&mut page, &[], level);
        page
    }

    /// The names of all environment variables.
    pub fn variables(&self) -> Vec<&'static str> {
        self.0.iter().filter_map(|setting| setting.doc.env).collect()
    }

    /// A JSON Schema (2020-12) of the file.
    pub fn to_json_schema(&self, title: &str) -> Json {
        let mut schema = self.object(&[]);
        if let Some(members) = schema.as_object_mut() {
            members.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
            members.insert("title".to_owned(), json!(title));
        }
        schema
    }

    // ---- Markdown ----

    fn write_section(&self, page: &mut String, section: &[Segment], level: usize) {
        let values: Vec<_> = self.children(section).filter(|setting| setting.schema.is_some()).collect();
        if !values.is_empty() {
            page.push_str("| setting | value | default | environment | meaning |\n|---|---|---|---|---|\n");
            for setting in values {
                setting.write_row(page);
            }
            page.push('\n');
        }
        for holder in self.children(section).filter(|setting| setting.schema.is_none()) {
            let inside = holder.inside();
            let marks = "#".repeat(level);
            let _ = write!(page, "{marks} `{}`\n\n{} ({})\n\n", path_text(&inside), holder.doc.text, holder.kind);
            self.write_section(page, &inside, level);
        }
    }

    fn children(&self, section: &[Segment]) -> impl Iterator<Item = &SettingDoc> {
        self.0.iter().filter(move |setting| setting.path.split_last().is_some_and(|(_, parent)| parent == section))
    }

    // ---- JSON Schema ----

    fn object(&self, section: &[Segment]) -> Json {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for setting in self.children(section) {
            let Some(Segment::Key(name)) = setting.path.last() else {
                continue;
            };
            if setting.required && setting.doc.env.is_none() {
                // A setting that the environment can give is not required of the file.
                required.push(json!(name));
            }
            properties.insert(name.clone(), self.property(setting));
        }
        let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
        if let (Some(members), false) = (schema.as_object_mut(), required.is_empty()) {
            members.insert("required".to_owned(), Json::Array(required));
        }
        schema
    }

    fn property(&self, setting: &SettingDoc) -> Json {
        let mut schema = match &setting.schema {
            Some(schema) => schema.clone(),
            None => {
                let inside = self.object(&setting.inside());
                match setting.kind.as_str() {
                    "map" => json!({"type": "object", "propertyNames": setting.names, "additionalProperties": inside}),
                    "list" => json!({"type": "array", "items": inside}),
                    _ => inside,
                }
            }
        };
        if let Some(members) = schema.as_object_mut() {
            members.insert("description".to_owned(), json!(setting.doc.text));
            if let Some(default) = setting.json_default() {
                members.insert("default".to_owned(), default);
            }
        }
        schema
    }
}

impl SettingDoc {
    /// The path that the settings inside a holder share.
    fn inside(&self) -> Vec<Segment> {
        let mut path = self.path.clone();
        match self.kind.as_str() {
            "map" => path.push(Segment::AnyKey),
            "list" => path.push(Segment::AnyItem),
            _ => {}
        }
        path
    }

    fn write_row(&self, page: &mut String) {
        let default = match &self.default {
            Some(text) if text.is_empty() => "none".to_owned(),
            Some(text) => format!("`{text}`"),
            None if self.required => "**required**".to_owned(),
            None => "none".to_owned(),
        };
        let variable = self.doc.env.map(|name| format!("`{name}`")).unwrap_or_default();
        let mut meaning = self.doc.text.to_owned();
        if let Some(example) = self.doc.example {
            let _ = write!(meaning, " Example: `{example}`.");
        }
        if !self.doc.reason.is_empty() {
            let _ = write!(meaning, " *Default: {}.*", self.doc.reason);
        }
        // A bar ends a table cell even inside backticks.
        let [kind, default, meaning] = [&self.kind, &default, &meaning].map(|text| text.replace('|', "\\|"));
        let _ = writeln!(page, "| `{}` | {kind} | {default} | {variable} | {meaning} |", path_text(&self.path));
    }

    /// The default as the schema's type wants it; lists and maps only when empty.
    fn json_default(&self) -> Option<Json> {
        let text = self.default.as_ref()?;
        match self.schema.as_ref()?.get("type").and_then(Json::as_str) {
            Some("integer" | "boolean") => serde_json::from_str(text).ok(),
            Some("array") => text.is_empty().then(|| json!([])),
            Some("object") => text.is_empty().then(|| json!({})),
            _ => Some(json!(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Settings, describe};
    use crate::fields::doc;
    use crate::kinds;

    fn sample() -> Settings {
        describe(|f| {
            let text = doc("How many | often.").because("three is enough").env("COUNT");
            f.with_default("count", text, kinds::integer(1..=5), 3);
            f.required("mode", doc("Mode.").example("b"), kinds::choice(&[("a", 1), ("b", 2)]));
            f.map("peers", "Peers.", &kinds::text(), |_, f| f.required("host", doc("Host."), kinds::text()));
            f.list("steps", "Steps.", |f| f.optional("on", doc("On."), kinds::boolean()));
            f.mistake("count", "never recorded", "while describing");
        })
    }

    #[test]
    fn the_reference_has_one_line_per_setting() {
        let page = sample().to_markdown(3);
        let count = "| `count` | number 1 to 5 | `3` | `COUNT` | How many \\| often. *Default: three is enough.* |\n";
        assert!(page.contains(count), "{page}");
        assert!(page.contains("| `mode` | `a` \\| `b` | **required** |  | Mode. Example: `b`. |\n"), "{page}");
        assert!(page.contains("### `peers.<name>`\n\nPeers. (map)\n"), "{page}");
        assert!(page.contains("| `steps[].on` |"), "{page}");
    }

    #[test]
    fn the_schema_nests_and_is_closed() {
        let schema = sample().to_json_schema("t");
        let count =
            json!({"type": "integer", "minimum": 1, "maximum": 5, "description": "How many | often.", "default": 3});
        assert_eq!(schema["properties"]["count"], count);
        assert_eq!(schema["required"], json!(["mode"]));
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["properties"]["peers"]["additionalProperties"]["required"], json!(["host"]));
        assert_eq!(schema["properties"]["peers"]["propertyNames"]["minLength"], 1);
        assert_eq!(schema["properties"]["steps"]["items"]["properties"]["on"]["type"], "boolean");
    }

    #[test]
    fn variables_are_listed() {
        assert_eq!(sample().variables(), ["COUNT"]);
    }
}
