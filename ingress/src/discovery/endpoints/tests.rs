//! Services and slices as the API server writes them, and what becomes of them.

use serde_json::json;

use super::*;

fn meta(value: Value) -> Meta {
    serde_json::from_value(value).unwrap()
}

fn service(annotations: Value) -> Named {
    Named::read(meta(json!({"name": "files", "namespace": "tools", "annotations": annotations})), &mut Value::Null)
}

fn slice(mut object: Value) -> Slice {
    let labels = json!({"name": "files-1", "namespace": "tools", "labels": {"kubernetes.io/service-name": "files"}});
    Slice::read(meta(labels), &mut object)
}

fn key(name: &str) -> Key {
    ("tools".to_owned(), name.to_owned())
}

/// What is found, and what is wrong.
fn found(named: Named, slices: &[Slice]) -> (Vec<String>, Vec<String>) {
    let keys: Vec<_> = (0..slices.len()).map(|at| key(&format!("files-{at}"))).collect();
    let services = BTreeMap::from([(key("files"), named)]);
    let reading = Reading { port: 8443, any_address: false };
    let (selected, mut wrong) = annotated(&services);
    let all = replicas(&selected, keys.iter().zip(slices), reading, &mut wrong);
    let all = all.into_iter().map(|(service, at)| format!("{service} {at}")).collect();
    (all, wrong.into_iter().map(|wrong| wrong.what).collect())
}

#[test]
fn ready_endpoints_of_an_annotated_service_are_replicas() {
    let slice = slice(json!({
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.0.0.7"], "conditions": {"ready": true, "serving": true, "terminating": false}},
            {"addresses": ["10.0.0.8", "10.0.0.80"], "conditions": {}},
            {"addresses": ["10.0.0.9"]},
            {"addresses": ["10.0.0.10"], "conditions": {"ready": false}},
            {"addresses": ["10.0.0.11"], "conditions": {"ready": true, "terminating": true}},
            {"addresses": []},
        ],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }));
    let expected = ["fs 10.0.0.7:8443", "fs 10.0.0.8:8443", "fs 10.0.0.9:8443"].map(str::to_owned);
    let (all, wrong) = found(service(json!({"outrigger.dev/service": "fs"})), std::slice::from_ref(&slice));
    assert_eq!((all.as_slice(), wrong.len()), (expected.as_slice(), 0));
    assert_eq!(found(service(json!({})), &[slice]), (vec![], vec![]), "nobody asked for it");
}

#[test]
fn no_pod_has_an_address_of_this_machine_or_of_metadata() {
    for (address, good) in [
        ("10.0.0.7", true),
        ("192.168.1.7", true),
        ("100.64.0.7", true),
        ("fd00::7", true),
        ("2001:db8::7", true),
        ("127.0.0.1", false),
        ("0.0.0.0", false),
        ("::", false),
        ("::1", false),
        ("fe80::1", false),
        ("ff02::1", false),
        ("255.255.255.255", false),
        ("169.254.169.254", false),
        ("100.100.100.200", false),
        ("168.63.129.16", false),
        ("fd00:ec2::254", false),
        ("::ffff:127.0.0.1", false),
        ("::ffff:10.0.0.7", true),
        ("64:ff9b::a9fe:a9fe", false),
    ] {
        assert_eq!(is_of_a_pod(address.parse().unwrap()), good, "{address}");
    }
}

#[test]
fn a_label_names_a_service_too() {
    let labels = json!({"name": "files", "namespace": "tools", "labels": {"outrigger.dev/service": "fs"}});
    assert_eq!(Named::read(meta(labels), &mut Value::Null).service.as_deref(), Some("fs"));
}

#[test]
fn ports_are_named_numbered_or_usual() {
    let ports =
        json!([{"name": "mesh", "port": 9443}, {"name": "outrigger", "port": 7443}, {"name": "odd", "port": null}]);
    let slice = slice(json!({"endpoints": [{"addresses": ["10.0.0.7"]}], "ports": ports}));
    for (port, at) in [(None, "7443"), (Some("mesh"), "9443"), (Some("1234"), "1234")] {
        let mut annotations = json!({"outrigger.dev/service": "fs"});
        if let Some(port) = port {
            annotations["outrigger.dev/port"] = json!(port);
        }
        let (all, wrong) = found(service(annotations), std::slice::from_ref(&slice));
        assert_eq!((all, wrong.len()), (vec![format!("fs 10.0.0.7:{at}")], 0));
    }
    for port in ["nobody", "0", "odd", "70000"] {
        let annotations = json!({"outrigger.dev/service": "fs", "outrigger.dev/port": port});
        let (all, wrong) = found(service(annotations), std::slice::from_ref(&slice));
        assert!(all.is_empty() && wrong.len() == 1, "{port}: {all:?} {wrong:?}");
    }
}

#[test]
fn what_is_wrong_is_told_and_harms_nobody_else() {
    let slice = |address: &str| slice(json!({"endpoints": [{"addresses": [address]}, {"addresses": ["10.0.0.7"]}]}));
    let fs = || service(json!({"outrigger.dev/service": "fs"}));
    for address in ["127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1", "::ffff:127.0.0.1", "224.0.0.1"] {
        let (all, wrong) = found(fs(), &[slice(address)]);
        assert_eq!(all, ["fs 10.0.0.7:8443"], "{address}");
        assert!(wrong.len() == 1 && wrong[0].contains("any_address"), "{wrong:?}");
    }
    let (all, _) = found(fs(), &[slice("files.example.com")]);
    assert_eq!(all, ["fs 10.0.0.7:8443"], "names are not dialled");
    for name in ["FS", "", "a/b", "twenty-one-characters", "\u{1b}[31m"] {
        let (all, wrong) = found(service(json!({"outrigger.dev/service": name})), &[slice("10.0.0.8")]);
        assert!(all.is_empty() && wrong.len() == 1, "{name:?}: {all:?} {wrong:?}");
        assert!(!wrong[0].contains('\u{1b}'), "{wrong:?}");
    }
    for nonsense in [json!({"endpoints": 1}), json!({"endpoints": [{"addresses": 7}]}), json!([]), json!(null)] {
        let mut nonsense = nonsense;
        assert_eq!(Slice::read(Meta::default(), &mut nonsense), Slice::default());
    }
}

#[test]
fn a_pod_with_two_addresses_is_one_replica() {
    let of = |address: &str| {
        let endpoint = json!({"addresses": [address], "targetRef": {"kind": "Pod", "name": "files-x", "uid": "u1"}});
        slice(json!({"endpoints": [endpoint]}))
    };
    let fs = || service(json!({"outrigger.dev/service": "fs"}));
    let (six, four) = (of("fd00::7"), of("10.0.0.7"));
    assert_eq!(found(fs(), &[six.clone(), four.clone()]).0, ["fs 10.0.0.7:8443"]);
    assert_eq!(found(fs(), &[four, six.clone()]).0, ["fs 10.0.0.7:8443"]);
    assert_eq!(found(fs(), &[six]).0, ["fs [fd00::7]:8443"]);
}
