//! `outrigger bench` against a real mesh.

use serde_json::Value;

use crate::support::{EXAMPLES, Mesh, run, stderr, stdout};

#[test]
fn a_mesh_is_measured_at_a_rate_and_at_its_most() {
    let mesh = Mesh::start(EXAMPLES, &[]);
    let dir = mesh.dir.path();
    let tool = ["--tool", "fs__readFileText", "--arguments", r#"{"path":"hello.txt"}"#];
    let bench = |more: &[&str]| run(dir, &[&["bench", "--duration", "1s", "--connections", "2"], more].concat());

    let at_rate = bench(&[&tool[..], &["--rate", "20", "--json"]].concat());
    assert!(at_rate.status.success(), "{}", stderr(&at_rate));
    let figures: Value = serde_json::from_str(&stdout(&at_rate)).unwrap();
    // Twenty were due after the warm-up; on a loaded machine the last ones may not have begun, which is a failure.
    assert_eq!((figures["succeeded"].as_u64(), figures["never_begun"].as_u64()), (Some(20), Some(0)), "{figures}");
    let latency = |name: &str| figures["latency_us"][name].as_u64().unwrap();
    assert!(latency("p50") > 0 && latency("p50") <= latency("p99") && latency("p999") <= latency("max"), "{figures}");

    let most = bench(&[]);
    assert!(most.status.success(), "{}", stderr(&most));
    assert!(stdout(&most).starts_with("tools/list: 2 connections, as many calls as possible"), "{}", stdout(&most));

    let wrong = bench(&["--tool", "fs__readFileText", "--arguments", r#"{"path":"not-there.txt"}"#]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("the first call failed: the tool failed (isError)"), "{}", stderr(&wrong));
    let unknown = bench(&["--tool", "fs__no_such_tool"]);
    assert!(stderr(&unknown).contains("the first call failed"), "{}", stderr(&unknown));
    let shape = bench(&["--tool", "x", "--arguments", "[]"]);
    assert!(stderr(&shape).contains("--arguments is not a JSON object"), "{}", stderr(&shape));
}
