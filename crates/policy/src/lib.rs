//! Who may do what, and how often: principals, rules, decisions, limits. Pure: no io, injected clock.
//!
//! ```text
//!  certificate or token --identify--> Principal --\
//!  policy files --compile--> PolicySet ------------> decide(who, what) -> Allow { rule, .. } | Deny { reason, rule }
//!                               \--> Limits -------> check(client, capability, now) -> Ok | Limited
//! ```
//!
//! What no rule allows is denied, and a rule that denies wins. A [`PolicySet`] is an immutable snapshot that the proxies swap on
//! reload. `docs/POLICY.md` describes the files for the people who write them.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod approval;
pub mod capability;
pub mod compile;
pub mod condition;
mod document;
pub mod egress;
pub mod explain;
pub mod glob;
pub mod limit;
pub mod outlook;
pub mod policy_set;
pub mod principal;
pub mod rule;
pub mod tokens;

pub use approval::Approval;
pub use capability::{Capability, CapabilityKind};
pub use compile::{Reader, settings};
pub use condition::{Annotations, CallFacts, Circumstances, Listed};
pub use explain::{Considered, Explanation};
pub use limit::{
    Amount, CapabilityLimits, Charge, ClientLimits, Concurrency, ConcurrencyPermit, Exceeded, LimitRule, Limited,
    Limits, Nanos, Per,
};
pub use policy_set::{Decision, Denial, DenyReason, MtlsMode, PolicySet};
pub use principal::{Claim, MAX_CLAIMS, Principal, PrincipalError, PrincipalKind};
pub use rule::{Effect, Mode, RuleId};
pub use tokens::{StaticToken, TokenError, TokenTable};
