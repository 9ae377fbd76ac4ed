//! Sections that more than one program has, declared once so that they cannot drift apart.

mod agent;
mod enroll;
mod entrance;
mod identity;
mod observe;
mod sessions;

pub use agent::AgentSocket;
pub use enroll::{Anchor, Authority, Enroll, JoinProof, key_digest};
pub use entrance::{
    CommonTimeouts, EntranceLimits, HOUR, KIB, MIB, MINUTE, SECOND, any_duration, common_timeouts, entrance_limits,
    header_checks, how_many, http_sse, sized, tolerance,
};
pub use identity::{Federated, Identity, IdentitySource, identity, service_name, spiffe_id, trust_domain};
pub use observe::{
    AuditFsync, AuditTrail, Log, LogFormat, LogLevel, Output, Trace, WhenFull, access_log, audit, audit_trail,
    egress_log, log, trace,
};
pub use sessions::{SessionLimits, resume_timeout, session_limits};
