//! A policy file. Whatever it says, a caller that proved nothing is let in only where the file says so.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger_conditions::Cel;
use outrigger_policy::{Capability, CapabilityKind, Principal, Reader};

fuzz_target!(|text: &str| {
    let reader = Reader { engine: Some(&Cel), service: None };
    let policy = match reader.compile(&[("policy.yaml", text)]) {
        Ok(policy) => policy,
        Err(mistakes) => {
            assert!(!mistakes.0.is_empty(), "refused without a reason");
            mistakes.to_string();
            return;
        }
    };
    let anonymous = Principal::anonymous();
    let user = Principal::user("alice").expect("a plain subject");
    for name in ["echo", "file:///public/../secret", ""] {
        let what = Capability { kind: CapabilityKind::Resource, service: "fs", name };
        let (decision, explained) = (policy.decide(&user, &what), policy.explain(&user, &what));
        assert_eq!(explained.allowed, decision.is_allowed(), "explain and decide disagree");
        if !text.contains("anonymous") {
            assert!(!policy.decide(&anonymous, &what).is_allowed(), "a stranger was let in");
        }
        assert!(!decision.is_allowed() || policy.may_use_service(&user, "fs"));
    }
});
