//! Reads the condition of a rule, where there is an engine that can, and puts its mistakes where they stand in the file.

use crate::condition::{ConditionMistake, Engine, When};
use crate::rule::Coverage;
use outrigger_config::{Fields, Position, Value};

/// Who reads conditions, and for whom.
#[derive(Clone, Copy, Default)]
pub(crate) struct WhenReader<'a> {
    /// None in a program that was built without.
    pub(crate) engine: Option<&'a dyn Engine>,
    /// The one service that matters to the process, if there is only one.
    pub(crate) service: Option<&'a str>,
}

impl WhenReader<'_> {
    /// The condition; nothing inside when it cannot be read here and need not be, because the rule is about others. Nothing
    /// at all when it is wrong, which is then a recorded mistake.
    #[expect(clippy::option_option, reason = "wrong, and not needed, are two things")]
    pub(crate) fn read(&self, f: &mut Fields<'_>, source: &str, coverage: &Coverage) -> Option<Option<When>> {
        if f.is_describing() {
            return Some(None);
        }
        let Some(engine) = self.engine else {
            if self.service.is_some_and(|service| !coverage.covers_service(service)) {
                return Some(None);
            }
            let hint = "use a build with conditions (`outrigger sidecar`, or cargo feature `conditions`), or decide this \
                        in the policy of the ingress";
            f.mistake("when", "this program was built without conditions, and the rule is about its service", hint);
            return None;
        };
        match engine.compile(source) {
            Ok(condition) => Some(Some(When(condition))),
            Err(mistake) => {
                report(f, source, mistake);
                None
            }
        }
    }
}

/// A condition on one line stands in the file as it stands here; of one over several lines only its beginning is known.
fn report(f: &mut Fields<'_>, source: &str, mistake: ConditionMistake) {
    let ConditionMistake { at, message, hint } = mistake;
    let node = f.raw("when");
    let one_line = !source.contains('\n');
    match node {
        Some(node) if one_line => {
            let plain = matches!(&node.value, Value::Scalar(scalar) if scalar.plain);
            let column = node.at.column + at.column.saturating_sub(1) + u32::from(!plain);
            f.mistake_at(Position { column, ..node.at }, "when", message, hint);
        }
        _ => f.mistake("when", format!("line {} column {} of the condition: {message}", at.line, at.column), hint),
    }
}
