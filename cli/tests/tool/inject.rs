//! `outrigger inject -f`: what people's manifests become. The files are in tests/kubernetes/inject, and what they become is
//! in `expected` beside them; `UPDATE_GOLDEN=1` writes that anew.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{run, stderr, stdout, tool};

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/kubernetes")
}

/// The manifests of a directory, by name.
fn manifests(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(home().join(directory)).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = entries.filter(|path| path.extension().is_some_and(|it| it == "yaml")).collect();
    all.sort();
    all
}

/// Runs it in the directory of the manifests, so that mistakes name files alone.
fn inject(path: &Path, more: &[&str]) -> std::process::Output {
    let file = path.file_name().unwrap().to_str().unwrap();
    let settings = home().join("inject.settings.yaml");
    let args = [&["inject", "--config", settings.to_str().unwrap(), "-f", file][..], more].concat();
    run(path.parent().unwrap(), &args)
}

/// Compares with what is written beside the manifest.
fn compare(path: &Path, kind: &str, found: &str) {
    let directory = path.parent().unwrap().join("expected");
    let golden = directory.join(path.file_name().unwrap()).with_extension(kind);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(&directory).unwrap();
        fs::write(&golden, found).unwrap();
    }
    let expected = fs::read_to_string(&golden).unwrap_or_default();
    assert_eq!(found, expected, "{} is not as written; UPDATE_GOLDEN=1 writes it anew", golden.display());
}

/// All of it: what it becomes, what is said of it, and that a second time changes nothing.
fn becomes(directory: &str, more: &[&str]) {
    let manifests = manifests(directory);
    assert!(!manifests.is_empty());
    for path in manifests {
        let output = inject(&path, more);
        assert_eq!(output.status.code(), Some(0), "{}: {}", path.display(), stderr(&output));
        let said: String = stderr(&output).lines().map(|line| format!("# {line}\n")).collect();
        compare(&path, "yaml", &format!("{said}{}", stdout(&output)));

        let again = tempfile::tempdir().unwrap();
        let injected = again.path().join("injected.yaml");
        fs::write(&injected, stdout(&output)).unwrap();
        let second = inject(&injected, more);
        assert_eq!(stdout(&second), stdout(&output), "{}: a second time", path.display());

        let taken = uninject(&injected);
        let before = again.path().join("before.yaml");
        fs::write(&before, &taken).unwrap();
        assert!(!taken.contains("outrigger.dev/injected"), "{}: something is left:\n{taken}", path.display());
        assert_eq!(uninject(&before), taken, "{}: nothing is left to take", path.display());
        let third = inject(&before, more);
        assert_eq!(stdout(&third), stdout(&output), "{}: there and back again", path.display());
    }
}

/// What is left without sidecars. It takes no settings.
fn uninject(path: &Path) -> String {
    let output = run(path.parent().unwrap(), &["inject", "--uninject", "-f", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}: {}", path.display(), stderr(&output));
    stdout(&output)
}

#[test]
fn what_a_webhook_gave_is_not_taken_out_of_a_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let pod = "kind: Pod\nmetadata: {name: a, annotations: {outrigger.dev/injected: '1'}}\nspec: {containers: [{name: a}], volumes: [{name: \
               outrigger-identity}]}\n";
    fs::write(dir.path().join("a.yaml"), pod).unwrap();
    let output = run(dir.path(), &["inject", "--uninject", "-f", "a.yaml"]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()));
    assert!(stderr(&output).contains("a.yaml: pod/a: this pod does not say what it was before"), "{}", stderr(&output));
}

#[test]
fn an_agent_of_the_node_can_give_certificates() {
    let agents = home().join("inject/agent");
    for (volume, part) in
        [("csi:csi.spiffe.io", "driver: csi.spiffe.io"), ("/run/spire/agent-sockets", "path: /run/spire/agent-sockets")]
    {
        for path in manifests("inject/agent") {
            let file = path.file_name().unwrap().to_str().unwrap();
            let output = tool(&agents, &["inject", "-f", file])
                .env("OUTRIGGER_TRUST_DOMAIN", "demo.outrigger.local")
                .env("OUTRIGGER_WORKLOAD_API", volume)
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(0), "{}: {}", path.display(), stderr(&output));
            assert!(stdout(&output).contains(part), "{}", stdout(&output));
            let kind = if volume.starts_with("csi") { "yaml" } else { "host.yaml" };
            compare(&path, kind, &stdout(&output));
        }
    }
    // Where the authority is not known, no pod can have its certificate from there.
    let dir = tempfile::tempdir().unwrap();
    let pod = fs::read_to_string(agents.join("http.yaml"))
        .unwrap()
        .replace("outrigger.dev/inject", "outrigger.dev/identity: authority\n    outrigger.dev/inject");
    fs::write(dir.path().join("a.yaml"), pod).unwrap();
    let output = tool(dir.path(), &["inject", "-f", "a.yaml"])
        .env("OUTRIGGER_TRUST_DOMAIN", "demo.outrigger.local")
        .env("OUTRIGGER_WORKLOAD_API", "csi:csi.spiffe.io")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("have no `mesh.ca_url`"), "{}", stderr(&output));
}

#[test]
fn pods_get_what_they_ask_for() {
    becomes("inject", &[]);
}

#[test]
fn older_clusters_get_plain_containers() {
    let jobs = home().join("inject/plain/job.yaml");
    let output = inject(&jobs, &["--kubernetes-version", "1.28"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("need Kubernetes 1.29"), "{}", stderr(&output));
    fs::read_dir(home().join("inject/plain")).unwrap();
    for path in manifests("inject/plain").into_iter().filter(|path| *path != jobs) {
        let output = inject(&path, &["--kubernetes-version", "v1.28.9"]);
        assert_eq!(output.status.code(), Some(0), "{}: {}", path.display(), stderr(&output));
        compare(&path, "yaml", &stdout(&output));
    }
}

#[test]
fn pods_that_ask_for_what_they_cannot_have_are_told_what_to_do() {
    for path in manifests("inject/refused") {
        let output = inject(&path, &[]);
        assert_eq!(output.status.code(), Some(1), "{}: {}", path.display(), stdout(&output));
        assert_eq!(stdout(&output), "", "{}: nothing for kubectl to take", path.display());
        compare(&path, "txt", &stderr(&output));
    }
}

#[test]
fn what_does_not_ask_passes_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let text = "# mine\nkind:   ConfigMap\ndata: { a:   'x' }\n---\nkind: Pod\nspec: {containers: [{name: a}]}\n";
    fs::write(dir.path().join("a.yaml"), text).unwrap();
    // Larger and stranger than our own reader takes, and none of our business.
    let other = format!("kind: Other\nx: {}1{}\ny: {}\n", "[".repeat(100), "]".repeat(100), "z".repeat(2 << 20));
    fs::write(dir.path().join("b.yaml"), &other).unwrap();
    let settings = home().join("inject.settings.yaml");
    let args = ["inject", "--config", settings.to_str().unwrap(), "-f", "a.yaml", "-f", "b.yaml"];
    let output = run(dir.path(), &args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), format!("{text}---\n{other}"));
    assert!(stderr(&output).contains("nothing here asks for a sidecar"), "{}", stderr(&output));
}

#[test]
fn all_means_those_that_say_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let pod = |name: &str, inject: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}{inject}}}\nspec: {{serviceAccountName: fs, containers: [{{name: a, \
             ports: [{{containerPort: 1}}]}}]}}\n"
        )
    };
    let no = ", annotations: {outrigger.dev/inject: 'false'}";
    fs::write(dir.path().join("a.yaml"), format!("{}---\n{}", pod("yes", ""), pod("no", no))).unwrap();
    let settings = home().join("inject.settings.yaml");
    let output = run(dir.path(), &["inject", "--all", "--config", settings.to_str().unwrap(), "-f", "a.yaml"]);
    let (first, second) = stdout(&output).split_once("---\n").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert!(first.contains("outrigger-sidecar"), "{}", stderr(&output));
    assert_eq!(second, pod("no", no));
}

#[test]
fn settings_and_standard_input_come_from_where_they_are_given() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let mut child = tool(dir.path(), &["inject", "-f", "-"])
        .env("OUTRIGGER_TRUST_DOMAIN", "other.outrigger.local")
        .env("OUTRIGGER_CA_URL", "https://ca.example")
        .env("OUTRIGGER_CA_SHA256", "ab".repeat(32))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pod = fs::read(home().join("inject/http-minimal.yaml")).unwrap();
    child.stdin.take().unwrap().write_all(&pod).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(stdout(&output).contains("other.outrigger.local") && stdout(&output).contains("https://ca.example:443"));

    let output = run(dir.path(), &["inject", "-f", "none.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("OUTRIGGER_TRUST_DOMAIN"), "{}", stderr(&output));
}
