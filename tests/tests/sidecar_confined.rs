//! Confined stdio servers: MCP works as before, unchanged servers start, and what is not allowed is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::{net::TcpListener, os::unix::net::UnixListener, path::Path};

use outrigger_tests::{
    Client, Mesh, TestSidecar, eventually,
    processes::runs,
    sidecar::{OPEN, text_of},
    subjects::{installed, scripted, words},
};
use serde_json::Value;

/// A server of subjects-local that tries things, confined.
fn wanderer(confine: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("subjects-local/wanderer.py");
    format!("command: {}\nsandbox: strict\n{confine}", words(&["python3", script.to_str().unwrap()]))
}

async fn tries(client: &Client, tool: &str, arguments: &str) -> String {
    text_of(&client.tool(tool, arguments).await)
}

#[tokio::test]
async fn calls_work_and_what_is_not_allowed_is_refused() {
    let mesh = Mesh::new();
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "the key").unwrap();
    let socket = outside.path().join("socket");
    let _listening = UnixListener::bind(&socket).unwrap();
    let open = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = open.local_addr().unwrap().port();
    let sidecar = TestSidecar::start(&mesh, &wanderer("")).await;
    let client = sidecar.ready_client(&mesh).await;
    let path = |path: &Path| format!(r#"{{"path":"{}"}}"#, path.display());
    for (tool, arguments) in [
        ("connect", format!(r#"{{"host":"127.0.0.1","port":{port}}}"#)),
        ("udp", format!(r#"{{"port":{port}}}"#)),
        ("unix", path(&socket)),
        ("read", path(&secret)),
        ("write", path(&secret)),
        ("write", path(&outside.path().join("new"))),
        ("read", path(mesh.path())),
    ] {
        let said = tries(&client, tool, &arguments).await;
        assert!(said.starts_with("refused"), "{tool} {arguments}: {said}");
    }
    assert_eq!(tries(&client, "scratch", "{}").await, "done");
    let place: Value = serde_json::from_str(&tries(&client, "where", "{}").await).unwrap();
    let home = std::path::PathBuf::from(place["home"].as_str().unwrap());
    assert!(home.join("note").exists() && place["temporary"] == place["home"], "{place}");
    sidecar.stop().await;
    eventually("what it wrote is gone", || async { (!home.exists()).then_some(()) }).await;
}

#[tokio::test]
async fn what_the_settings_name_is_allowed() {
    let mesh = Mesh::new();
    let outside = tempfile::tempdir().unwrap();
    let at = |name: &str| outside.path().join(name);
    for name in ["data", "home", "text"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    std::fs::write(at("text/a"), "a").unwrap();
    let _listening = UnixListener::bind(at("socket")).unwrap();
    let open = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = open.local_addr().unwrap().port();
    let root = outside.path().display();
    let confine = format!(
        "confine: {{ read: [{root}/text], write: [{root}/data], home: {root}/home, sockets: [{root}/socket], \
         connect: [\"127.0.0.1:{port}\"] }}\n"
    );
    let sidecar = TestSidecar::start(&mesh, &wanderer(&confine)).await;
    let client = sidecar.ready_client(&mesh).await;
    for (tool, arguments) in [
        ("connect", format!(r#"{{"host":"127.0.0.1","port":{port}}}"#)),
        ("unix", format!(r#"{{"path":"{root}/socket"}}"#)),
        ("read", format!(r#"{{"path":"{root}/text/a"}}"#)),
        ("write", format!(r#"{{"path":"{root}/data/new"}}"#)),
        ("scratch", "{}".to_owned()),
    ] {
        assert_eq!(tries(&client, tool, &arguments).await, "done", "{tool} {arguments}");
    }
    let written = tries(&client, "write", &format!(r#"{{"path":"{root}/text/b"}}"#)).await;
    assert!(written.starts_with("refused"), "{written}");
    assert!(at("home/note").exists(), "its home lasts");
    sidecar.stop().await;
}

#[tokio::test]
async fn the_keys_of_the_sidecar_are_its_own_wherever_they_lie() {
    let mesh = Mesh::new();
    let beside = mesh.path().join("certs/beside");
    std::fs::create_dir(mesh.path().join("certs")).unwrap();
    std::fs::write(&beside, "text").unwrap();
    let around = mesh.path().display();
    let sidecar = TestSidecar::start(&mesh, &wanderer(&format!("confine: {{ read: [{around}] }}\n"))).await;
    let client = sidecar.ready_client(&mesh).await;
    let path = |path: &Path| format!(r#"{{"path":"{}"}}"#, path.display());
    assert_eq!(tries(&client, "read", &path(&beside)).await, "done");
    let key = mesh.issue("everything", std::time::Duration::from_secs(60)).key;
    for key in [key, mesh.path().join("certs/../certs/everything.key")] {
        let said = tries(&client, "read", &path(&key)).await;
        assert!(said.starts_with("refused"), "{}: {said}", key.display());
    }
    sidecar.stop().await;
    for kept in ["certs", "ca"] {
        let settings = wanderer(&format!("confine: {{ write: [{around}/{kept}] }}\n"));
        let refused = TestSidecar::try_start(&mesh, OPEN, &settings).await.err().map(|error| error.to_string());
        assert!(refused.as_ref().is_some_and(|why| why.contains("could change")), "{refused:?}");
    }
}

#[tokio::test]
async fn a_confined_child_is_stopped_like_any_other() {
    let mesh = Mesh::new();
    let settings = format!("{}sandbox: strict\ntimeouts: {{ child_stop: 300ms }}\n", scripted(&["--ignore-eof"]));
    let sidecar = TestSidecar::start(&mesh, &settings).await;
    let client = sidecar.ready_client(&mesh).await;
    let pid: u32 = tries(&client, "pid", "{}").await.parse().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for expected in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(expected), "{status}");
    }
    sidecar.stop().await;
    eventually("the child is gone", || async { (!runs(pid)).then_some(()) }).await;
}

#[tokio::test]
async fn servers_that_nobody_here_wrote_start_confined() {
    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join("a.txt"), "hello").unwrap();
    let root = data.path().to_str().unwrap();
    let confine = format!("confine: {{ write: [{root}] }}\n");
    let subjects: [(&[&str], &str, &str, String); 3] = [
        (&["npm/node_modules/.bin/mcp-server-everything", "stdio"], "", "echo", r#"{"message":"hi"}"#.into()),
        (&["venv/bin/mcp-server-time"], "", "get_current_time", r#"{"timezone":"Europe/Paris"}"#.into()),
        (
            &["npm/node_modules/.bin/mcp-server-filesystem", root],
            &confine,
            "read_text_file",
            format!(r#"{{"path":"{root}/a.txt"}}"#),
        ),
    ];
    for (command, confine, tool, arguments) in subjects {
        let mesh = Mesh::new();
        let program = installed(command[0]);
        let command: Vec<&str> = std::iter::once(program.as_str()).chain(command[1..].iter().copied()).collect();
        let settings = format!("command: {}\nsandbox: strict\n{confine}", words(&command));
        let sidecar = TestSidecar::start(&mesh, &settings).await;
        let client = sidecar.ready_client(&mesh).await;
        let reply = client.tool(tool, &arguments).await;
        assert_ne!(reply["result"]["isError"], true, "{program}: {reply}");
        assert!(!text_of(&reply).is_empty(), "{program}: {reply}");
        sidecar.stop().await;
    }
}

#[tokio::test]
async fn a_sidecar_whose_child_cannot_be_confined_as_wanted_does_not_start() {
    let mesh = Mesh::new();
    let settings = wanderer("confine: { write: [/no/such/directory] }\n");
    let refused = TestSidecar::try_start(&mesh, OPEN, &settings).await.err().map(|error| error.to_string());
    assert!(refused.as_ref().is_some_and(|why| why.contains("/no/such/directory")), "{refused:?}");
}
