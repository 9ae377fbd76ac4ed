//! Whatever a pod looks like: nothing panics, what comes out is what its patch makes, and a second time changes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use outrigger_inject::annotations::KNOWN;
use outrigger_inject::workload::{inject_object, uninject_object};
use outrigger_inject::{
    Anchor, Authority, Egress, Images, Namespace, Refusal, Resources, Settings, Verdict, diff, inject,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn settings(native: bool, egress: Egress) -> Settings {
    Settings {
        trust_domain: "demo.outrigger.local".into(),
        authority: Some(Authority {
            url: "https://ca:8440".into(),
            anchor: Anchor::Bundle("-----BEGIN CERTIFICATE-----\n".into()),
        }),
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
        native,
        egress,
        policy: None,
    }
}

/// Anything, with the names that are looked for more often than chance has it.
fn anything() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        Just("name".to_owned()),
        Just("containers".to_owned()),
        Just("initContainers".to_owned()),
        Just("env".to_owned()),
        Just("ports".to_owned()),
        Just("containerPort".to_owned()),
        Just("securityContext".to_owned()),
        Just("capabilities".to_owned()),
        Just("lifecycle".to_owned()),
        Just("readinessProbe".to_owned()),
        Just("httpGet".to_owned()),
        Just("tcpSocket".to_owned()),
        Just("port".to_owned()),
        Just("volumes".to_owned()),
        Just("volumeMounts".to_owned()),
        Just("command".to_owned()),
        "[a-z/~ü]{0,4}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0_u64..70_000).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z0-9/:,= ]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..5)
                .prop_map(|members: BTreeMap<String, Value>| members.into_iter().collect::<Value>()),
        ]
    })
}

/// A pod that would be injected, in which something is replaced by anything.
fn nearly_a_pod() -> impl Strategy<Value = Value> {
    let paths = prop::sample::select(vec![
        "/metadata",
        "/metadata/annotations",
        "/metadata/labels",
        "/spec",
        "/spec/containers",
        "/spec/containers/0",
        "/spec/volumes",
        "/spec/containers/0/ports",
        "/spec/containers/0/env",
        "/spec/containers/0/command",
        "/spec/containers/0/lifecycle",
        "/spec/containers/0/securityContext",
        "/spec/containers/0/readinessProbe",
        "/spec/containers/0/volumeMounts",
        "/spec/initContainers",
        "/spec/initContainers/0",
        "/spec/securityContext",
        "/spec/terminationGracePeriodSeconds",
        "/spec/restartPolicy",
    ]);
    let annotations = prop::collection::vec((prop::sample::select(KNOWN), "[a-z0-9/:' ]{0,8}"), 0..3);
    (paths, anything(), any::<bool>(), any::<bool>(), annotations).prop_map(|(path, anything, stdio, replaced, annotations)| {
        let mut pod = json!({
            "metadata": {"name": "fs", "annotations": {"outrigger.dev/inject": "true"}, "labels": {"a": "b"}},
            "spec": {"serviceAccountName": "fs", "restartPolicy": "Always", "terminationGracePeriodSeconds": 40,
                "securityContext": {"runAsUser": 1000}, "volumes": [{"name": "v", "emptyDir": {}}],
                "initContainers": [{"name": "first", "image": "i"}],
                "containers": [{"name": "server", "image": "i", "command": ["notes"], "ports": [{"containerPort": 9001}],
                    "env": [{"name": "A", "value": "b"}], "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                    "securityContext": {"capabilities": {"add": ["CHOWN"]}}, "lifecycle": {"postStart": {"exec": {"command": ["x"]}}},
                    "readinessProbe": {"httpGet": {"path": "/", "port": 9001}}}, {"name": "helper", "image": "i"}]},
        });
        if stdio {
            pod["metadata"]["annotations"]["outrigger.dev/transport"] = "stdio".into();
            pod["metadata"]["annotations"]["outrigger.dev/container"] = "server".into();
        }
        for (known, value) in annotations {
            pod["metadata"]["annotations"][format!("outrigger.dev/{}", known.name)] = value.into();
        }
        if replaced {
            *pod.pointer_mut(path).unwrap() = anything;
        }
        pod
    })
}

/// What an API server fills in before it asks again.
fn defaulted(pod: &Value) -> Value {
    let mut pod = pod.clone();
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            let Some(members) = container.as_object_mut() else { continue };
            for (name, value) in [
                ("terminationMessagePath", json!("/dev/termination-log")),
                ("terminationMessagePolicy", json!("File")),
                ("imagePullPolicy", json!("IfNotPresent")),
                ("resources", json!({})),
            ] {
                members.entry(name).or_insert(value);
            }
        }
    }
    if let Some(spec) = pod["spec"].as_object_mut() {
        spec.insert("enableServiceLinks".into(), true.into());
        spec.insert("dnsPolicy".into(), "ClusterFirst".into());
    }
    pod
}

fn holds(pod: &Value, native: bool, egress: Egress) -> Result<(), TestCaseError> {
    let settings = settings(native, egress);
    let namespace = Namespace::default();
    let before = pod.clone();
    let Ok(Verdict::Injected(injection)) = inject(pod, &namespace, false, &settings) else { return Ok(()) };
    prop_assert_eq!(pod, &before);
    // By somebody else's reading of RFC 6902.
    let operations = Value::Array(diff(pod, &injection.pod));
    let patch: json_patch::Patch = serde_json::from_value(operations).unwrap();
    let mut patched = pod.clone();
    json_patch::patch(&mut patched, &patch).unwrap();
    prop_assert_eq!(&patched, &injection.pod);
    for again in [injection.pod.clone(), defaulted(&injection.pod)] {
        prop_assert_eq!(inject(&again, &namespace, false, &settings), Ok(Verdict::Present));
    }
    // In a file, it can be taken out again.
    let mut object = pod.clone();
    object["kind"] = "Pod".into();
    let written = object.clone();
    inject_object(&mut object, &|_| &namespace, false, &settings);
    prop_assert_eq!(inject(&object, &namespace, false, &settings), Ok(Verdict::Present));
    for there_was in [true, false] {
        let taken = uninject_object(&mut object);
        prop_assert_eq!(taken.into_iter().map(|one| one.verdict).collect::<Vec<_>>(), vec![Ok(there_was)]);
        prop_assert_eq!(&object, &written);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn no_value_is_too_strange(value in anything(), native in any::<bool>()) {
        holds(&value, native, Egress::Off)?;
        let mut asks = json!({"metadata": {"annotations": {"outrigger.dev/inject": "true"}}});
        asks["spec"] = value;
        holds(&asks, native, Egress::Redirect)?;
    }

    #[test]
    fn pods_with_something_strange_in_them_stay_whole(pod in nearly_a_pod(), native in any::<bool>(), redirect in any::<bool>()) {
        holds(&pod, native, if redirect { Egress::Redirect } else { Egress::Proxy })?;
    }

    #[test]
    fn a_patch_makes_one_of_the_other(before in anything(), after in anything()) {
        let patch: json_patch::Patch = serde_json::from_value(Value::Array(diff(&before, &after))).unwrap();
        let mut patched = before.clone();
        json_patch::patch(&mut patched, &patch).unwrap();
        prop_assert_eq!(patched, after);
    }
}

#[test]
fn what_was_changed_since_is_not_taken_apart() {
    let (settings, namespace) = (settings(true, Egress::Off), Namespace::default());
    let pod = json!({"kind": "Pod", "metadata": {"annotations": {"outrigger.dev/inject": "true"}},
        "spec": {"serviceAccountName": "fs", "containers": [{"name": "server", "ports": [{"containerPort": 1}]}]}});
    let mut injected = pod.clone();
    inject_object(&mut injected, &|_| &namespace, false, &settings);
    let mut moved = injected.clone();
    moved["spec"]["initContainers"].as_array_mut().unwrap().insert(0, json!({"name": "first"}));
    let mut unknown = injected.clone();
    unknown["metadata"]["annotations"].as_object_mut().unwrap().remove("outrigger.dev/before");
    for mut other in [moved, unknown] {
        let before = other.clone();
        let outcome = uninject_object(&mut other).remove(0).verdict;
        assert!(outcome.is_err(), "{outcome:?}");
        assert_eq!(other, before);
    }
}

#[test]
fn somebody_elses_is_not_taken_away_for_ours() {
    let (settings, namespace) = (settings(true, Egress::Proxy), Namespace::default());
    let server = |with: &Value| json!({"name": "server", "command": ["fs"], "env": [with], "volumeMounts": [{"name": "own", "mountPath": "/own"}]});
    let plain = json!({"name": "server", "command": ["fs"]});
    for server in [plain, server(&json!({"name": "OWN", "value": "1"}))] {
        let mut pod = json!({"kind": "Pod", "metadata": {"annotations": {"outrigger.dev/inject": "true", "outrigger.dev/transport": "stdio"}},
            "spec": {"serviceAccountName": "fs", "containers": [server]}});
        inject_object(&mut pod, &|_| &namespace, false, &settings);
        let server =
            pod["spec"]["containers"].as_array().unwrap().iter().position(|one| one["name"] == "server").unwrap();
        let changed = |list: &str, at_front: bool, one: Value| {
            let mut other = pod.clone();
            let list = other["spec"]["containers"][server][list].as_array_mut().unwrap();
            let at = if at_front { 0 } else { list.len() };
            list.insert(at, one);
            other
        };
        for mut other in [
            changed("env", true, json!({"name": "LATER", "value": "2"})),
            changed("volumeMounts", true, json!({"name": "data", "mountPath": "/data"})),
        ] {
            let before = other.clone();
            let verdict = uninject_object(&mut other).remove(0).verdict;
            assert!(matches!(&verdict, Err(Refusal::Changed(at)) if at.contains("/containers/")), "{verdict:?}");
            assert_eq!(other, before);
        }
        // Where nothing of ours was moved, it stays; or nothing is taken, if the list would have to go.
        let mut other = changed("env", false, json!({"name": "LATER", "value": "2"}));
        match uninject_object(&mut other).remove(0).verdict {
            Ok(taken) => assert!(taken),
            Err(refusal) => assert!(matches!(refusal, Refusal::Changed(_)), "{refusal}"),
        }
        assert!(other.to_string().contains("LATER"), "{other}");
    }
}

#[test]
fn what_is_added_is_small() {
    let pod = json!({"metadata": {"annotations": {"outrigger.dev/inject": "true"}}, "spec": {"serviceAccountName": "fs",
        "containers": [{"name": "server", "ports": [{"containerPort": 1}]}]}});
    let Ok(Verdict::Injected(injection)) = inject(&pod, &Namespace::default(), false, &settings(true, Egress::Off))
    else {
        panic!("not injected");
    };
    // The API server sends and stores it.
    assert!(Value::Array(diff(&pod, &injection.pod)).to_string().len() < 8 * 1024);
}
