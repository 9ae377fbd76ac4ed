//! Conditions of policy rules (`when:`) in CEL, the Common Expression Language, with bounds on what they may cost.
//!
//! ```text
//!  text --[check]: bounds, names, functions--> Tree of && || ! over leaves --[tree]--> true | false | unknown | error
//!                                                       ^ values of a request, made once and when first read: [values]
//! ```
//!
//! `crates/policy` asks through its traits and knows nothing of CEL. The crate `cel` bounds neither time nor memory of an
//! evaluation; everything here that looks strict is there for that reason. `docs/decisions/0019-conditions-in-cel.md`
//! has the whole story, `docs/POLICY.md` what people write.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may fail loudly"))]

mod arguments;
mod check;
mod tree;
mod values;

use std::sync::{Arc, LazyLock};

use cel::Env;
use outrigger_policy::condition::{Condition, ConditionError, ConditionMistake, Engine, Facts, Part, Reads, Truth};

pub use arguments::{MAX_BYTES, MAX_DEPTH, MAX_ELEMENTS};
pub use check::{MAX_LOOP_DEPTH, MAX_NODES, MAX_SOURCE_BYTES};
use tree::Tree;

/// What expressions are compiled with and evaluated in. Building it costs more than evaluating ten conditions.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// The engine that reads conditions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cel;

#[derive(Debug)]
struct Expression {
    source: Box<str>,
    reads: Reads,
    tree: Tree,
}

impl Engine for Cel {
    fn compile(&self, source: &str) -> Result<Arc<dyn Condition>, ConditionMistake> {
        let tree = Tree::of(check::parse(source)?)?;
        Ok(Arc::new(Expression { source: source.into(), reads: tree.reads(), tree }))
    }
}

impl Condition for Expression {
    fn source(&self) -> &str {
        &self.source
    }

    fn reads(&self) -> Reads {
        self.reads
    }

    fn evaluate(&self, facts: &Facts<'_>) -> Result<Truth, ConditionError> {
        self.tree.evaluate(facts)
    }

    fn parts(&self, facts: &Facts<'_>) -> Vec<Part> {
        let mut parts = Vec::new();
        self.tree.parts(facts, &mut parts);
        parts
    }
}

#[cfg(test)]
mod tests;
