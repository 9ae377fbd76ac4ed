//! Conditions of rules (`when:`): what an engine that understands them is asked, and what it answers.
//!
//! This crate knows no expression language. An [`Engine`] compiles the text of a condition while a policy is read; a
//! [`Condition`] is then asked for every call that its rule is otherwise about.

use crate::capability::Capability;
use crate::principal::Principal;
use outrigger_config::Position;
use std::any::Any;
use std::cell::OnceCell;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// Understands conditions.
pub trait Engine {
    /// Compiles a condition, with everything that can be wrong with it found now.
    ///
    /// # Errors
    /// The first mistake, with its place in the text.
    fn compile(&self, source: &str) -> Result<Arc<dyn Condition>, ConditionMistake>;
}

/// A compiled condition. Evaluating it costs a bounded time whatever the caller sends.
pub trait Condition: fmt::Debug + Send + Sync {
    /// The text as it was written.
    fn source(&self) -> &str;

    /// What it looks at.
    fn reads(&self) -> Reads;

    /// Whether it holds.
    ///
    /// # Errors
    /// It cannot be told: whoever asks takes that for a reason to deny.
    fn evaluate(&self, facts: &Facts<'_>) -> Result<Truth, ConditionError>;

    /// Its parts with their outcomes, for explanations.
    fn parts(&self, facts: &Facts<'_>) -> Vec<Part>;
}

/// What is wrong with the text of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConditionMistake {
    /// Where in the text.
    pub at: Position,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

/// Why a condition could not be evaluated. Holds nothing that the caller sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConditionError(pub &'static str);

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It does.
    True,
    /// It does not.
    False,
    /// That depends on what only a call has: its arguments, its time, where it comes from.
    Unknown,
}

/// What a condition looks at besides the service and the capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Reads {
    /// Who calls.
    pub principal: bool,
    /// The hints of a tool.
    pub annotations: bool,
    /// The arguments of a call.
    pub arguments: bool,
    /// When it is made.
    pub time: bool,
    /// The address that it comes from.
    pub source: bool,
}

/// The hints of a tool, as its server gives them (MCP, `ToolAnnotations`). A server that lies about them is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Annotations {
    /// `readOnlyHint`
    pub read_only: bool,
    /// `destructiveHint`
    pub destructive: bool,
    /// `idempotentHint`
    pub idempotent: bool,
    /// `openWorldHint`
    pub open_world: bool,
}

/// What is known of a request besides who asks for what. Asked only by conditions that look at it.
pub trait Circumstances {
    /// The hints of what is asked for; none if they are not known.
    fn annotations(&self) -> Option<Annotations>;

    /// What only a call has; none while a list is made.
    fn call(&self) -> Option<CallFacts<'_>>;
}

/// What only a call has.
#[derive(Clone, Copy)]
pub struct CallFacts<'a> {
    /// The arguments as they stand in the message.
    pub arguments: Option<&'a [u8]>,
    /// When it is decided.
    pub time: SystemTime,
    /// The other end of the connection, if it has an address.
    pub source: Option<IpAddr>,
}

/// A list: nothing is known of a call, and perhaps the hints of what is listed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Listed(pub Option<Annotations>);

/// Everything that a condition can look at.
pub struct Facts<'a> {
    /// Who asks.
    pub who: &'a Principal,
    /// For what.
    pub what: &'a Capability<'a>,
    /// And what else is known.
    pub circumstances: &'a dyn Circumstances,
    /// What the engine keeps for further conditions of the same decision.
    pub memo: Memo,
}

/// Something that an engine keeps. Empty at first, and then it allocates nothing.
pub type Memo = OnceCell<Box<dyn Any>>;

/// A part of a condition and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// As it was written.
    pub text: String,
    /// Whether it holds.
    pub outcome: Result<Truth, ConditionError>,
}

/// A condition in its rule; two are the same when their texts are.
#[derive(Debug, Clone)]
pub(crate) struct When(pub(crate) Arc<dyn Condition>);

impl Truth {
    /// The opposite, where it is known.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "`!` on three values would surprise")]
    pub fn not(self) -> Truth {
        match self {
            Truth::True => Truth::False,
            Truth::False => Truth::True,
            Truth::Unknown => Truth::Unknown,
        }
    }
}

impl Reads {
    /// What either looks at.
    #[must_use]
    pub fn and(self, other: Reads) -> Reads {
        Reads {
            principal: self.principal | other.principal,
            annotations: self.annotations | other.annotations,
            arguments: self.arguments | other.arguments,
            time: self.time | other.time,
            source: self.source | other.source,
        }
    }

    /// Whether it looks at what only a call has.
    pub fn of_a_call(self) -> bool {
        self.arguments || self.time || self.source
    }
}

impl Default for Annotations {
    /// What MCP says of a tool without hints: it changes things, for good, and out in the world.
    fn default() -> Annotations {
        Annotations { read_only: false, destructive: true, idempotent: false, open_world: true }
    }
}

impl Annotations {
    /// Of a tool's definition: the JSON of its `annotations`, if it has any. What is no boolean counts as not given.
    pub fn of(json: Option<&[u8]>) -> Annotations {
        let given: serde_json::Value = json.and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default();
        let hint = |name: &str, default| given.get(name).and_then(serde_json::Value::as_bool).unwrap_or(default);
        let absent = Annotations::default();
        Annotations {
            read_only: hint("readOnlyHint", absent.read_only),
            destructive: hint("destructiveHint", absent.destructive),
            idempotent: hint("idempotentHint", absent.idempotent),
            open_world: hint("openWorldHint", absent.open_world),
        }
    }
}

impl Circumstances for Listed {
    fn annotations(&self) -> Option<Annotations> {
        self.0
    }

    fn call(&self) -> Option<CallFacts<'_>> {
        None
    }
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Truth::True => "true",
            Truth::False => "false",
            Truth::Unknown => "depends on the call",
        })
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Ok(truth) => write!(f, "{}: {truth}", self.text),
            Err(error) => write!(f, "{}: error, {error}", self.text),
        }
    }
}

impl PartialEq for When {
    fn eq(&self, other: &When) -> bool {
        self.0.source() == other.0.source()
    }
}

impl Eq for When {}

impl Hash for When {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.source().hash(state);
    }
}
