//! The shape of a condition: leaves joined by `&&`, `||` and `!`, decided with three values and errors.
//!
//! A list is made before a call is known, so a leaf that reads what only a call has is *unknown* there, and the rest of
//! the condition decides as far as it can. Leaves are what an explanation shows.

use cel::common::ast::{Expr, IdedExpr, LiteralValue, operators};
use outrigger_policy::condition::{ConditionError, ConditionMistake, Facts, Part, Reads, Truth};

use crate::check::{self, Parsed, Places, Uses, mistake};
use crate::values;

#[derive(Debug)]
pub(crate) enum Tree {
    /// `&&`
    All(Vec<Tree>),
    /// `||`
    Any(Vec<Tree>),
    /// `!`
    Not(Box<Tree>),
    Leaf(Box<Leaf>),
}

/// Something that CEL evaluates.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) expression: IdedExpr,
    pub(crate) uses: Uses,
    text: Box<str>,
}

type Verdict = Result<Truth, ConditionError>;

impl Tree {
    /// Splits a checked condition.
    pub(crate) fn of(parsed: Parsed) -> Result<Tree, ConditionMistake> {
        split(parsed.expression, &parsed.places)
    }

    /// What any of it reads.
    pub(crate) fn reads(&self) -> Reads {
        let join = |trees: &[Tree]| trees.iter().map(Tree::reads).fold(Reads::default(), Reads::and);
        match self {
            Tree::All(trees) | Tree::Any(trees) => join(trees),
            Tree::Not(tree) => tree.reads(),
            Tree::Leaf(leaf) => leaf.uses.reads,
        }
    }

    /// Decides.
    pub(crate) fn evaluate(&self, facts: &Facts<'_>) -> Verdict {
        match self {
            Tree::All(trees) => joined(trees, facts, Truth::False, Truth::True),
            Tree::Any(trees) => joined(trees, facts, Truth::True, Truth::False),
            Tree::Not(tree) => tree.evaluate(facts).map(Truth::not),
            Tree::Leaf(leaf) => values::evaluate(leaf, facts),
        }
    }

    /// Every leaf with its outcome.
    pub(crate) fn parts(&self, facts: &Facts<'_>, parts: &mut Vec<Part>) {
        match self {
            Tree::All(trees) | Tree::Any(trees) => trees.iter().for_each(|tree| tree.parts(facts, parts)),
            Tree::Not(tree) => tree.parts(facts, parts),
            Tree::Leaf(leaf) => {
                parts.push(Part { text: leaf.text.to_string(), outcome: values::evaluate(leaf, facts) });
            }
        }
    }
}

/// `decisive` ends the matter, also where others fail, as in CEL; `otherwise` is what remains when nothing does.
fn joined(trees: &[Tree], facts: &Facts<'_>, decisive: Truth, otherwise: Truth) -> Verdict {
    let mut verdict = Ok(otherwise);
    for tree in trees {
        match tree.evaluate(facts) {
            Ok(truth) if truth == decisive => return Ok(decisive),
            Ok(Truth::Unknown) if verdict.is_ok() => verdict = Ok(Truth::Unknown),
            Ok(_) => {}
            Err(error) => verdict = Err(error),
        }
    }
    verdict
}

fn split(part: IdedExpr, places: &Places) -> Result<Tree, ConditionMistake> {
    let operator = match &part.expr {
        Expr::Call(call) if call.target.is_none() => call.func_name.clone(),
        _ => String::new(),
    };
    match (operator.as_str(), part) {
        (operators::LOGICAL_AND, IdedExpr { expr: Expr::Call(call), .. }) => {
            Ok(Tree::All(split_all(call.args, places)?))
        }
        (operators::LOGICAL_OR, IdedExpr { expr: Expr::Call(call), .. }) => {
            Ok(Tree::Any(split_all(call.args, places)?))
        }
        (operators::LOGICAL_NOT, IdedExpr { expr: Expr::Call(mut call), .. }) if call.args.len() == 1 => {
            Ok(Tree::Not(Box::new(split(call.args.remove(0), places)?)))
        }
        (_, part) => leaf(part, places),
    }
}

fn split_all(parts: Vec<IdedExpr>, places: &Places) -> Result<Vec<Tree>, ConditionMistake> {
    parts.into_iter().map(|part| split(part, places)).collect()
}

fn leaf(part: IdedExpr, places: &Places) -> Result<Tree, ConditionMistake> {
    let gives = match &part.expr {
        Expr::Literal(LiteralValue::Boolean(_)) => None,
        Expr::Literal(LiteralValue::String(_)) => Some("text"),
        Expr::Literal(_) => Some("a number, bytes or null"),
        Expr::List(_) => Some("a list"),
        Expr::Map(_) => Some("a map"),
        Expr::Ident(_) => Some("a whole value"),
        Expr::Call(call) => match call.func_name.as_str() {
            operators::ADD
            | operators::SUBSTRACT
            | operators::MULTIPLY
            | operators::DIVIDE
            | operators::MODULO
            | operators::NEGATE
            | "size"
            | "int"
            | "uint"
            | "double" => Some("a number"),
            "string" => Some("text"),
            "type" => Some("a type"),
            "timestamp" | "duration" => Some("a time"),
            name if name.starts_with("get") => Some("a number"),
            _ => None,
        },
        _ => None,
    };
    if let Some(gives) = gives {
        let message = format!("this gives {gives}; a condition is true or false");
        return Err(mistake(places.of(&part), message, "compare it with something"));
    }
    let text = places.text(&part).into();
    Ok(Tree::Leaf(Box::new(Leaf { uses: check::uses(&part), expression: part, text })))
}
