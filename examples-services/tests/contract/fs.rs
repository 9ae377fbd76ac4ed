//! The contract of `fs`: what it lists and reads, and that nothing leads out of its root.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::support::{call, error, everywhere, read, rpc_error, structured, text, try_call};

fn root() -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    fs::write(base.path().join("secret.txt"), "top secret").unwrap();
    let root = base.path().join("root");
    fs::create_dir_all(root.join("notes")).unwrap();
    fs::write(root.join("notes/a b.md"), "# hello\n").unwrap();
    fs::write(root.join("pixel.png"), [0x89, b'P', 0, 0xff]).unwrap();
    fs::write(root.join("big.txt"), "x".repeat(2000)).unwrap();
    symlink("../secret.txt", root.join("leak")).unwrap();
    base
}

#[tokio::test]
async fn lists_and_reads_in_every_era_and_transport() {
    let base = root();
    let root = base.path().join("root");
    everywhere(&["fs", "--root", root.to_str().unwrap()], async |client| {
        let tools = client.list_all_tools().await.unwrap();
        let mut names: Vec<&str> = tools.iter().map(|tool| tool.name.as_ref()).collect();
        names.sort_unstable();
        assert_eq!(names, ["listDir", "readFileText"]);
        for tool in &tools {
            assert_eq!(tool.annotations.as_ref().unwrap().read_only_hint, Some(true), "{}", tool.name);
            let schema = serde_json::to_value(&tool.input_schema).unwrap();
            assert!(schema["properties"]["path"]["description"].is_string(), "{schema}");
        }
        assert!(tools.iter().any(|tool| tool.name == "listDir" && tool.output_schema.is_some()));

        let listing = structured(call(client, "listDir", json!({})).await);
        let expected = json!({"path": ".", "truncated": false, "entries": [
            {"name": "big.txt", "kind": "file", "size": 2000},
            {"name": "leak", "kind": "symlink"},
            {"name": "notes", "kind": "directory"},
            {"name": "pixel.png", "kind": "file", "size": 4},
        ]});
        assert_eq!(listing, expected);
        assert_eq!(text(&call(client, "readFileText", json!({"path": "notes/a b.md"})).await), "# hello\n");

        let contents = read(client, "file:///notes/a%20b.md").await.unwrap();
        assert_eq!(contents["contents"][0]["text"], "# hello\n");
        let templates = client.list_all_resource_templates().await.unwrap();
        assert_eq!(templates[0].uri_template, "file:///{+path}");
    })
    .await;
}

#[tokio::test]
async fn escapes_and_unsuitable_files_are_tool_errors() {
    let base = root();
    let root = base.path().join("root");
    everywhere(&["fs", "--root", root.to_str().unwrap(), "--max-bytes", "1000"], async |client| {
        for (path, reason) in [
            ("../secret.txt", "without \"..\""),
            ("notes/../../secret.txt", "without \"..\""),
            ("/etc/passwd", "relative to the root"),
            ("leak", "leads outside the root"),
            ("none.txt", "does not exist"),
            ("notes", "not a regular file"),
            ("pixel.png", "binary file"),
            ("big.txt", "2000 bytes; the limit is 1000"),
        ] {
            let message = error(&call(client, "readFileText", json!({"path": path})).await);
            assert!(message.contains(reason), "{path}: {message}");
            assert!(!message.contains("top secret") && !message.contains(base.path().to_str().unwrap()), "{message}");
        }
        let message = error(&call(client, "listDir", json!({"path": ".."})).await);
        assert!(message.contains("without \"..\""), "{message}");
    })
    .await;
}

#[tokio::test]
async fn wrong_arguments_are_tool_errors_and_wrong_targets_protocol_errors() {
    let base = root();
    let root = base.path().join("root");
    everywhere(&["fs", "--root", root.to_str().unwrap()], async |client| {
        for (tool, args, reason) in [
            ("readFileText", json!({}), "missing field `path`"),
            ("readFileText", json!({"path": 7}), "expected a string"),
            ("listDir", json!({"path": ".", "depth": 2}), "unknown field `depth`"),
        ] {
            let message = error(&call(client, tool, args).await);
            assert!(message.contains(reason), "{tool}: {message}");
        }
        let (code, message) = rpc_error(try_call(client, "writeFile", json!({})).await.unwrap_err());
        assert_eq!(code, -32602, "{message}");
        for uri in ["file:///leak", "file://elsewhere/x", "http://x/"] {
            let (code, message) = rpc_error(read(client, uri).await.unwrap_err());
            assert_eq!(code, -32602, "{uri}: {message}");
        }
        assert!(read(client, "file:///none.txt").await.is_err());
    })
    .await;
}
