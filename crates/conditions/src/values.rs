//! The facts of a request as values of CEL: each is made when a condition first reads it, and then kept for the further
//! conditions of the same decision.

use std::any::Any;
use std::collections::HashMap;
use std::sync::OnceLock;

use cel::common::types::{CelBool, CelList, CelMap, CelMapKey, CelNull, CelString, CelTimestamp};
use cel::common::value::CowVal;
use cel::context::VariableResolver;
use cel::{Context, ExecutionError, Value as Outcome};
use outrigger_policy::condition::{Annotations, CallFacts, ConditionError, Facts, Truth};
use outrigger_policy::{Principal, PrincipalKind};

use crate::ENVIRONMENT;
use crate::arguments::{self, MAX_ELEMENTS, Unreadable, Value};
use crate::tree::Leaf;

/// The values of one decision.
#[derive(Default)]
struct Values {
    principal: OnceLock<Value>,
    service: OnceLock<Value>,
    capability: OnceLock<Value>,
    annotations: OnceLock<Value>,
    arguments: OnceLock<Result<(Value, usize), Unreadable>>,
    time: OnceLock<Value>,
    source: OnceLock<Value>,
}

/// Evaluates a leaf, or says that it waits for a call.
pub(crate) fn evaluate(leaf: &Leaf, facts: &Facts<'_>) -> Result<Truth, ConditionError> {
    let reads = leaf.uses.reads;
    let (annotations, call) = (facts.circumstances.annotations(), facts.circumstances.call());
    if (reads.annotations && annotations.is_none()) || (reads.of_a_call() && call.is_none()) {
        return Ok(Truth::Unknown);
    }
    let memo: &Box<dyn Any> = facts.memo.get_or_init(|| Box::<Values>::default());
    let Some(values) = memo.downcast_ref::<Values>() else {
        return Err(ConditionError("the values of a request belong to another engine"));
    };
    values.fill(leaf, facts, annotations, call.as_ref())?;
    let mut context = Context::with_env(ENVIRONMENT.clone());
    context.set_variable_resolver(values);
    match Outcome::resolve(&leaf.expression, &context) {
        Ok(Outcome::Bool(true)) => Ok(Truth::True),
        Ok(Outcome::Bool(false)) => Ok(Truth::False),
        Ok(_) => Err(ConditionError("it is neither true nor false")),
        Err(error) => Err(ConditionError(told(&error))),
    }
}

impl Values {
    fn fill(
        &self,
        leaf: &Leaf,
        facts: &Facts<'_>,
        annotations: Option<Annotations>,
        call: Option<&CallFacts<'_>>,
    ) -> Result<(), ConditionError> {
        let reads = leaf.uses.reads;
        self.service.get_or_init(|| text(facts.what.service));
        self.capability
            .get_or_init(|| map([("kind", text(facts.what.kind.as_str())), ("name", text(facts.what.name))]));
        if reads.principal {
            self.principal.get_or_init(|| principal(facts.who));
        }
        if let Some(annotations) = annotations.filter(|_| reads.annotations) {
            self.annotations.get_or_init(|| hints(annotations));
        }
        let Some(call) = call else { return Ok(()) };
        if reads.time {
            self.time.get_or_init(|| {
                let time: chrono::DateTime<chrono::Utc> = call.time.into();
                Box::new(CelTimestamp::from(time.fixed_offset()))
            });
        }
        if reads.source {
            self.source.get_or_init(|| match call.source {
                Some(address) => text(&address.to_string()),
                None => Box::new(CelNull),
            });
        }
        if reads.arguments {
            let read = self.arguments.get_or_init(|| arguments::read(call.arguments));
            let most = MAX_ELEMENTS.get(leaf.uses.loops).copied().unwrap_or_default();
            match read {
                Ok((_, elements)) if *elements <= most => {}
                Ok(_) => return Err(ConditionError("the arguments hold more values than a loop may go over")),
                Err(Unreadable::TooLong) => return Err(ConditionError("the arguments are too long to be looked at")),
                Err(Unreadable::Form) => {
                    return Err(ConditionError("the arguments are too deep, too many, or name something twice"));
                }
            }
        }
        Ok(())
    }
}

impl VariableResolver for Values {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let value = match variable {
            "principal" => self.principal.get(),
            "service" => self.service.get(),
            "capability" => self.capability.get(),
            "annotations" => self.annotations.get(),
            "arguments" => self.arguments.get().and_then(|read| read.as_ref().ok()).map(|(value, _)| value),
            "time" => self.time.get(),
            "source" => self.source.get(),
            _ => None,
        };
        value.map(|value| CowVal::Borrowed(&**value))
    }
}

/// What failed, without any value: they come from the caller.
fn told(error: &ExecutionError) -> &'static str {
    match error {
        ExecutionError::NoSuchKey(_) => "there is no such member; ask with has() first",
        ExecutionError::NoSuchOverload(_)
        | ExecutionError::UnexpectedType { .. }
        | ExecutionError::ValuesNotComparable(..)
        | ExecutionError::UnsupportedBinaryOperator(..)
        | ExecutionError::UnsupportedTargetType { .. }
        | ExecutionError::UnsupportedIndex(..) => "the types do not fit each other",
        ExecutionError::IndexOutOfBounds(_) => "there is no such element",
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero",
        ExecutionError::Overflow(..) => "a number is too large",
        _ => "it cannot be evaluated",
    }
}

fn principal(who: &Principal) -> Value {
    let kind = match who.kind() {
        PrincipalKind::Workload { .. } => "workload",
        PrincipalKind::User { .. } => "user",
        PrincipalKind::Anonymous => "anonymous",
    };
    let texts = |list: &[std::sync::Arc<str>]| -> Value {
        Box::new(CelList::from(list.iter().map(|item| text(item)).collect::<Vec<Value>>()))
    };
    let mut members = vec![("id", text(who.id())), ("kind", text(kind))];
    match who.kind() {
        PrincipalKind::Workload { trust_domain, service, .. } => {
            members.extend([("trustDomain", text(trust_domain)), ("service", text(service))]);
        }
        PrincipalKind::User { subject } => members.push(("subject", text(subject))),
        PrincipalKind::Anonymous => {}
    }
    members.extend([("roles", texts(who.roles())), ("scopes", texts(who.scopes()))]);
    let claims = who.claims().iter().map(|claim| (claim.name(), texts(claim.values())));
    members.push(("claims", map(claims)));
    map(members)
}

fn hints(annotations: Annotations) -> Value {
    let hint = |value: bool| -> Value { Box::new(CelBool::from(value)) };
    map([
        ("readOnlyHint", hint(annotations.read_only)),
        ("destructiveHint", hint(annotations.destructive)),
        ("idempotentHint", hint(annotations.idempotent)),
        ("openWorldHint", hint(annotations.open_world)),
    ])
}

fn text(text: &str) -> Value {
    Box::new(CelString::from(text.to_owned()))
}

fn map<'a>(members: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    let members = members.into_iter().map(|(name, value)| (CelMapKey::from(name.to_owned()), value));
    Box::new(CelMap::from(members.collect::<HashMap<CelMapKey<'static>, Value>>()))
}
