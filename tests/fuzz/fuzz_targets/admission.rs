//! AdmissionReviews of anybody's making: nothing panics, what is injected is not injected again, and goes back to what it was.
#![no_main]

use std::net::Ipv4Addr;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use outrigger_inject::review::{is_exempt, question};
use outrigger_inject::workload::{inject_object, uninject_object};
use outrigger_inject::{Anchor, Authority, Egress, Images, Namespace, Resources, Settings, Verdict, diff, inject};
use serde_json::Value;

static SETTINGS: LazyLock<Settings> = LazyLock::new(|| Settings {
    trust_domain: "demo.outrigger.local".into(),
    authority: Some(Authority { url: "https://ca:8440".into(), anchor: Anchor::Digest("ab".repeat(32)) }),
    workload_api: None,
    ingress: vec!["ingress:8444".into()],
    audience: "outrigger".into(),
    token_seconds: 3600,
    address: Ipv4Addr::UNSPECIFIED.into(),
    images: Images { sidecar: "sidecar".into(), redirect: "redirect".into(), pull_policy: "Never".into() },
    resources: Resources {
        cpu_request: "10m".into(),
        cpu_limit: None,
        memory_request: "16Mi".into(),
        memory_limit: "64Mi".into(),
    },
    native: true,
    egress: Egress::Off,
    policy: None,
});

fuzz_target!(|data: &[u8]| {
    let Ok(review) = serde_json::from_slice::<Value>(data) else { return };
    let Some((_, asked)) = question(&review) else { return };
    if is_exempt(asked, &["kube-system".to_owned()]) {
        return;
    }
    let (pod, namespace) = (&asked["object"], Namespace::of(&asked["object"]));
    let Ok(Verdict::Injected(injection)) = inject(pod, &namespace, false, &SETTINGS) else { return };
    assert!(!diff(pod, &injection.pod).is_empty());
    assert_eq!(inject(&injection.pod, &namespace, false, &SETTINGS), Ok(Verdict::Present));
    let mut object = pod.clone();
    object["kind"] = "Pod".into();
    let before = object.clone();
    inject_object(&mut object, &|_| &namespace, false, &SETTINGS);
    uninject_object(&mut object);
    assert_eq!(object, before);
});
