//! A condition of a policy and the arguments of a call that it is asked about. Whatever either says, it ends, and it never
//! holds for arguments that name something twice.
#![no_main]

use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use outrigger_conditions::Cel;
use outrigger_policy::condition::{Circumstances, Engine, Facts, Memo};
use outrigger_policy::{Annotations, CallFacts, Capability, CapabilityKind, Principal};

struct Call<'a>(&'a [u8]);

impl Circumstances for Call<'_> {
    fn annotations(&self) -> Option<Annotations> {
        Some(Annotations::default())
    }

    fn call(&self) -> Option<CallFacts<'_>> {
        Some(CallFacts { arguments: Some(self.0), time: SystemTime::UNIX_EPOCH, source: None })
    }
}

fuzz_target!(|input: (&str, &[u8])| {
    let (source, arguments) = input;
    let condition = match Cel.compile(source) {
        Ok(condition) => condition,
        Err(mistake) => {
            assert!(!mistake.message.is_empty() && mistake.at.line > 0, "refused without a reason or a place");
            return;
        }
    };
    let who = Principal::user("alice").expect("a plain subject");
    let what = Capability { kind: CapabilityKind::Tool, service: "fs", name: "read" };
    let call = Call(arguments);
    let facts = Facts { who: &who, what: &what, circumstances: &call, memo: Memo::new() };
    let (first, again) = (condition.evaluate(&facts), condition.evaluate(&facts));
    assert_eq!(first, again, "asked twice, told two things");
    condition.parts(&facts);
});
