//! Which of several policies can be in force together, when some are wrong. Reads files; else pure.

use std::path::PathBuf;

use crate::discovery::wire::Key;
use crate::policy::{PolicyError, load};

/// Characters of a mistake that are shown.
const SHOWN: usize = 600;

/// One object, as it is and as it was when it was good.
pub(super) struct Candidate {
    pub(super) key: Key,
    pub(super) text: String,
    pub(super) good: Option<String>,
}

/// What becomes of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) key: Key,
    pub(super) standing: Standing,
    /// What is wrong with it as it is now.
    pub(super) mistake: Option<String>,
    text: String,
}

/// What of it is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// What it says now.
    Current,
    /// What it said before.
    LastGood,
    /// Nothing.
    Out,
}

impl Settled {
    /// What is in force of it, under its name.
    pub(super) fn text(&self) -> Option<(String, String)> {
        (self.standing != Standing::Out).then(|| (name(&self.key), self.text.clone()))
    }
}

/// Takes what is wrong back, step by step, until the rest fits together. Earlier candidates keep names that they share.
///
/// # Errors
/// The files are wrong by themselves.
pub(super) fn settle(files: &[PathBuf], candidates: Vec<Candidate>) -> Result<Vec<Settled>, PolicyError> {
    let mut goods = Vec::with_capacity(candidates.len());
    let mut all = Vec::with_capacity(candidates.len());
    for Candidate { key, text, good } in candidates {
        goods.push(good.filter(|good| *good != text));
        all.push(Settled { key, standing: Standing::Current, mistake: None, text });
    }
    loop {
        let texts: Vec<_> = all.iter().filter_map(Settled::text).collect();
        let mistakes = match load(files, &texts) {
            Ok(_) => return Ok(all),
            Err(PolicyError::Mistakes(mistakes)) => mistakes,
            Err(error) => return Err(error),
        };
        let mut blamed = false;
        for (one, good) in all.iter_mut().zip(&mut goods).filter(|(one, _)| one.standing != Standing::Out) {
            let at = name(&one.key);
            let mut own = mistakes.0.iter().filter(|mistake| mistake.file == at);
            let Some(first) = own.next() else { continue };
            blamed = true;
            let hint = first.hint.as_deref().map_or_else(String::new, |hint| format!(" ({hint})"));
            let more = match own.count() {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            let text = format!("{}: {}{hint}{more}", first.path, first.message);
            one.mistake.get_or_insert_with(|| text.chars().take(SHOWN).collect());
            (one.standing, one.text) = match good.take() {
                Some(good) => (Standing::LastGood, good),
                None => (Standing::Out, String::new()),
            };
        }
        if !blamed {
            return Err(PolicyError::Mistakes(mistakes));
        }
    }
}

/// The name under which mistakes are told.
fn name((namespace, name): &Key) -> String {
    format!("SecurityPolicy {namespace}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str, capabilities: &str) -> String {
        let rules = format!(r#"[{{"name": "r", "services": ["*"], "capabilities": {capabilities}}}]"#);
        format!(
            r#"{{"apiVersion": "mcpx.io/v1", "kind": "SecurityPolicy", "metadata": {{"name": "{name}"}}, "spec": {{"authorization": {{"rules": {rules}}}}}}}"#
        )
    }

    fn candidate(namespace: &str, text: String, good: Option<String>) -> Candidate {
        Candidate { key: (namespace.to_owned(), "p".to_owned()), text, good }
    }

    #[test]
    fn the_wrong_are_taken_back_and_nobody_else() {
        let (good, bad) = (text("a", "[\"*\"]"), text("b", "[]"));
        let was = text("b", "[\"x\"]");
        let settled = settle(
            &[],
            vec![
                candidate("n1", good.clone(), None),
                candidate("n2", bad, Some(was.clone())),
                candidate("n3", text("c", "[]"), None),
                // The name is taken.
                candidate("n4", text("a", "[\"y\"]"), None),
            ],
        )
        .unwrap();
        let standings: Vec<_> = settled.iter().map(|one| one.standing).collect();
        assert_eq!(standings, [Standing::Current, Standing::LastGood, Standing::Out, Standing::Out]);
        assert_eq!(settled[1].text().unwrap().1, was);
        assert_eq!(settled[0].mistake, None);
        for (at, why) in [(1, "capabilities"), (2, "capabilities"), (3, "`a` is defined")] {
            assert!(settled[at].mistake.as_ref().unwrap().contains(why), "{:?}", settled[at]);
        }
    }

    #[test]
    fn wrong_files_are_an_error() {
        let missing = settle(&["/no/such/file".into()], vec![candidate("n1", text("a", "[\"*\"]"), None)]);
        assert!(missing.is_err());
    }
}
