//! What a service offers now against what was approved.

use outrigger_mcp::catalog::Catalog;
use outrigger_mcp::catalog_kind::Kind;
use serde::Serialize;

use crate::definition::{Digest, quoted};
use crate::diff::{Change, diff};
use crate::lock::ServiceLock;

/// How something differs from what was approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It was approved as something else.
    Changed,
    /// Nobody approved it.
    New,
    /// It was approved and is not offered.
    Gone,
}

impl Verdict {
    /// The word in logs, metrics and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Changed => "changed",
            Verdict::New => "new",
            Verdict::Gone => "gone",
        }
    }
}

/// What deviates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// What the server says to models as a whole.
    Instructions,
    /// A definition, by its name, URI or template.
    Definition(Kind, String),
}

/// One thing that is not as it was approved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deviation {
    /// What.
    pub subject: Subject,
    /// How.
    pub verdict: Verdict,
    /// In what.
    pub changes: Vec<Change>,
}

/// Everything about a service that is not as it was approved, in a stable order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Review {
    /// What differs.
    pub deviations: Vec<Deviation>,
}

impl Subject {
    /// The word for its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Subject::Instructions => "instructions",
            Subject::Definition(kind, _) => kind.as_str(),
        }
    }

    /// Its name; none of instructions.
    pub fn name(&self) -> &str {
        match self {
            Subject::Instructions => "",
            Subject::Definition(_, name) => name,
        }
    }
}

/// Compares; a service that is not in the lock at all has nothing approved, of any kind.
pub fn review(approved: Option<&ServiceLock>, offered: &Catalog) -> Review {
    let mut deviations = Vec::new();
    let told = |text: Option<&str>| text.map(|text| format!("{{\"instructions\":{}}}", quoted(text)));
    let (old, new) = (approved.and_then(ServiceLock::instructions), offered.about().instructions.as_deref());
    if old != new {
        let verdict = match (old, new) {
            (None, _) => Verdict::New,
            (_, None) => Verdict::Gone,
            _ => Verdict::Changed,
        };
        let (old, new) = (told(old), told(new));
        let changes = diff(old.as_deref().map(str::as_bytes), new.as_deref().map(str::as_bytes));
        deviations.push(Deviation { subject: Subject::Instructions, verdict, changes });
    }
    for kind in Kind::ALL {
        of_kind(approved, offered, kind, &mut deviations);
    }
    Review { deviations }
}

fn of_kind(approved: Option<&ServiceLock>, offered: &Catalog, kind: Kind, deviations: &mut Vec<Deviation>) {
    let entries = match approved {
        None => None,
        Some(approved) => match approved.of_kind(kind) {
            // A kind that is not held to anything.
            None => return,
            some => some,
        },
    };
    let list = offered.list(kind);
    let mut push = |name: &str, verdict, changes| {
        deviations.push(Deviation { subject: Subject::Definition(kind, name.to_owned()), verdict, changes });
    };
    for item in list.items() {
        match entries.and_then(|entries| entries.get(item.key())) {
            None => push(item.key(), Verdict::New, diff(None, Some(item.raw()))),
            Some(entry) if entry.digest != Digest::of(item.raw()) => {
                push(item.key(), Verdict::Changed, diff(Some(entry.definition.as_bytes()), Some(item.raw())));
            }
            Some(_) => {}
        }
    }
    for (name, entry) in entries.into_iter().flatten() {
        if list.find(name).is_none() {
            push(name, Verdict::Gone, diff(Some(entry.definition.as_bytes()), None));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::tests::catalog;

    fn found(approved: Option<&str>, offered: &str, kinds: &[Kind]) -> Vec<(&'static str, String, &'static str)> {
        let approved = approved.map(|json| ServiceLock::of(&catalog(json), kinds));
        let review = review(approved.as_ref(), &catalog(offered));
        let told = |one: &Deviation| (one.subject.kind(), one.subject.name().to_owned(), one.verdict.as_str());
        review.deviations.iter().map(told).collect()
    }

    #[test]
    fn what_is_as_it_was_is_not_told() {
        let approved = r#"{"instructions":"a","tools":[{"name":"t","n":1},{"name":"u"}]}"#;
        let spelt = r#"{"instructions":"a","tools":[{"name":"u"},{ "n":1.0, "name":"t" }]}"#;
        assert_eq!(found(Some(approved), spelt, &Kind::ALL), []);
    }

    #[test]
    fn each_deviation_is_told_once() {
        let approved =
            r#"{"instructions":"a","tools":[{"name":"t","description":"x"},{"name":"old"}],"prompts":[{"name":"p"}]}"#;
        let offered =
            r#"{"tools":[{"name":"t","description":"y"},{"name":"n"}],"resources":[{"uri":"a:b","name":"r"}]}"#;
        let kinds = [Kind::Tool, Kind::Prompt];
        let expected = [
            ("instructions", "", "gone"),
            ("tool", "t", "changed"),
            ("tool", "n", "new"),
            ("tool", "old", "gone"),
            ("prompt", "p", "gone"),
        ];
        let expected: Vec<_> = expected.map(|(kind, name, verdict)| (kind, name.to_owned(), verdict)).into();
        assert_eq!(found(Some(approved), offered, &kinds), expected, "resources are not held to anything");
        let all = found(None, offered, &[]);
        assert_eq!(all.len(), 3, "of a service that nobody approved everything is new: {all:?}");
        assert!(all.iter().all(|(.., verdict)| *verdict == "new"));
    }
}
