//! What holds other settings: sections, maps with free names, lists.

use super::{Fields, doc};
use crate::describe::Segment;
use crate::kinds::{Kind, Mistake};

/// What [`Fields::optional_section_or`] reads, in documentation.
pub const OPTIONAL_OR: &str = "optional section, or its variable";

impl<'a> Fields<'a> {
    /// A section that always exists; absent from the file it has its defaults and its environment variables.
    /// Nothing only when the file has something else than a section here.
    pub fn section<T>(
        &mut self,
        name: &'static str,
        text: &'static str,
        read: impl FnOnce(&mut Fields<'a>) -> Option<T>,
    ) -> Option<T> {
        self.describe_section(name, text, "section", None);
        let node = self.take(name);
        Fields::within(self.recorder, self.child(name), node, self.file_alone, read).flatten()
    }

    /// A section that exists only when the file has it. Environment variables of settings inside mean nothing here.
    pub fn optional_section<T>(
        &mut self,
        name: &'static str,
        text: &'static str,
        read: impl FnOnce(&mut Fields<'a>) -> Option<T>,
    ) -> Option<T> {
        self.describe_section(name, text, "optional section", None);
        let node = self.take(name);
        if node.is_none() && !self.is_describing() {
            return None;
        }
        Fields::within(self.recorder, self.child(name), node, true, read).flatten()
    }

    /// The same, which also exists when `variable` is set: that of a setting without which it would be nothing. Then the
    /// variables of its other settings count, too.
    pub fn optional_section_or<T>(
        &mut self,
        name: &'static str,
        text: &'static str,
        variable: &'static str,
        read: impl FnOnce(&mut Fields<'a>) -> Option<T>,
    ) -> Option<T> {
        self.describe_section(name, text, OPTIONAL_OR, None);
        let node = self.take(name);
        let set = self.variable(doc("").env(variable)).is_some();
        if node.is_none() && !set && !self.is_describing() {
            return None;
        }
        Fields::within(self.recorder, self.child(name), node, self.file_alone, read).flatten()
    }

    /// Sections under names of the operator's choice, without environment variables. `key` says which names are good. In file order.
    pub fn map<T>(
        &mut self,
        name: &'static str,
        text: &'static str,
        key: &Kind<String>,
        mut read: impl FnMut(&str, &mut Fields<'a>) -> Option<T>,
    ) -> Vec<(String, T)> {
        self.describe_section(name, text, "map", Some(key.schema.clone()));
        let parent = self.child(name);
        if self.is_describing() {
            let path = [parent, vec![Segment::AnyKey]].concat();
            Fields::within(self.recorder, path, None, true, |fields| read("name", fields));
            return Vec::new();
        }
        let Some(node) = self.take(name) else {
            return Vec::new();
        };
        let Some(entries) = node.entries() else {
            let message = format!("expected names with a section each, found {}", node.found());
            self.report(
                &Mistake::new(message, format!("write `{name}:`, then `  a-name:` and its settings")),
                node.at,
                &parent,
            );
            return Vec::new();
        };
        let mut values = Vec::new();
        for entry in entries {
            let path = [parent.clone(), vec![Segment::Key(entry.key.clone())]].concat();
            if let Err(mistake) = (key.from_text)(&entry.key) {
                self.report(&mistake, entry.at, &path);
            }
            let value =
                Fields::within(self.recorder, path, Some(&entry.value), true, |fields| read(&entry.key, fields));
            values.extend(value.flatten().map(|value| (entry.key.clone(), value)));
        }
        values
    }

    /// A list of sections, without environment variables.
    pub fn list<T>(
        &mut self,
        name: &'static str,
        text: &'static str,
        mut read: impl FnMut(&mut Fields<'a>) -> Option<T>,
    ) -> Vec<T> {
        self.describe_section(name, text, "list", None);
        let parent = self.child(name);
        if self.is_describing() {
            let path = [parent, vec![Segment::AnyItem]].concat();
            Fields::within(self.recorder, path, None, true, |fields| read(fields));
            return Vec::new();
        }
        let Some(node) = self.take(name) else {
            return Vec::new();
        };
        let Some(items) = node.items() else {
            let message = format!("expected a list, found {}", node.found());
            self.report(&Mistake::new(message, "begin each item with `- `"), node.at, &parent);
            return Vec::new();
        };
        let mut values = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = [parent.clone(), vec![Segment::Item(index)]].concat();
            values.extend(Fields::within(self.recorder, path, Some(item), true, |fields| read(fields)).flatten());
        }
        values
    }
}
