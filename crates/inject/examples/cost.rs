//! What an injection adds to the admission of a pod, of a small one and of a large one: reading the question, injecting,
//! the patch as text.
//!
//! ```console
//! cargo run --release -p outrigger-inject --example cost
//! ```
#![expect(clippy::print_stdout, reason = "it is what it is for")]

use std::hint::black_box;
use std::net::Ipv4Addr;

use outrigger_inject::{Anchor, Authority, Egress, Images, Namespace, Resources, Settings, Verdict, diff, inject};
use serde_json::{Value, json};

/// Injections that one figure is the mean of.
const ROUNDS: u32 = 2000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let settings = settings();
    for (what, containers) in [("one container", 1), ("50 containers", 50)] {
        let question = pod(containers).to_string();
        let mut bytes = 0;
        #[expect(clippy::disallowed_methods, reason = "a measurement is of real time")]
        let begun = std::time::Instant::now();
        for _ in 0..ROUNDS {
            let pod: Value = serde_json::from_str(black_box(&question))?;
            if let Verdict::Injected(injection) = inject(&pod, &Namespace::default(), false, &settings)? {
                bytes = black_box(Value::Array(diff(&pod, &injection.pod)).to_string()).len();
            }
        }
        let each = begun.elapsed() / ROUNDS;
        println!("{what:14} {:6} bytes  {:5} us  patch of {bytes} bytes", question.len(), each.as_micros());
    }
    Ok(())
}

fn pod(containers: usize) -> Value {
    let container = |number: usize| {
        let env: Vec<Value> = (0..40).map(|name| json!({"name": format!("NAME_{name}"), "value": "a value"})).collect();
        let probe = json!({"httpGet": {"path": "/ready", "port": 9001 + number}});
        json!({"name": format!("container-{number}"), "image": "registry.example/server:1", "env": env,
            "ports": [{"containerPort": 9001 + number}], "readinessProbe": probe, "livenessProbe": probe})
    };
    let annotations =
        json!({"outrigger.dev/inject": "true", "outrigger.dev/egress": "redirect", "outrigger.dev/port": "9001"});
    let containers: Vec<Value> = (0..containers).map(container).collect();
    json!({"metadata": {"name": "fs", "annotations": annotations}, "spec": {"serviceAccountName": "fs", "securityContext": {"runAsUser": 1000},
        "containers": containers}})
}

fn settings() -> Settings {
    Settings {
        trust_domain: "demo.outrigger.local".into(),
        authority: Some(Authority {
            url: "https://outrigger-ca.outrigger-system.svc:8440".into(),
            anchor: Anchor::Digest("ab".repeat(32)),
        }),
        workload_api: None,
        ingress: vec!["outrigger-ingress.outrigger-system.svc:8444".into()],
        audience: "outrigger".into(),
        token_seconds: 3600,
        address: Ipv4Addr::UNSPECIFIED.into(),
        images: Images {
            sidecar: "sidecar:1".into(),
            redirect: "redirect:1".into(),
            pull_policy: "IfNotPresent".into(),
        },
        resources: Resources {
            cpu_request: "10m".into(),
            cpu_limit: None,
            memory_request: "16Mi".into(),
            memory_limit: "128Mi".into(),
        },
        native: true,
        egress: Egress::Off,
        policy: None,
    }
}
