//! `outrigger inject serve`, asked as an API server asks: over TLS that it verifies by the `caBundle` and the name of the service.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use super::kubernetes::api_server;
use super::world::{DOMAIN, Part, World};
use crate::support::until;

const HOST: &str = "outrigger-injector.outrigger-system.svc";

/// A cluster with a namespace `tools` that asks for sidecars, and what it was told of the webhook.
struct Cluster {
    port: u16,
    configuration: Arc<Mutex<Value>>,
}

impl Cluster {
    fn start(world: &World, minor: &'static str) -> Self {
        let webhooks =
            json!([{"name": "pods.outrigger.dev", "clientConfig": {"service": {"name": "outrigger-injector"}}}]);
        let configuration = Arc::new(Mutex::new(json!({"kind": "MutatingWebhookConfiguration", "webhooks": webhooks})));
        let held = Arc::clone(&configuration);
        let port = api_server(world, move |head, body| {
            assert!(head.contains("Bearer of-the-injector"), "{head}");
            let line = head.lines().next().unwrap();
            match line.trim_end_matches(" HTTP/1.1") {
                "GET /version" => (200, json!({"major": "1", "minor": minor})),
                "GET /api/v1/namespaces/tools" => {
                    let annotations = json!({"outrigger.dev/inject": "true", "outrigger.dev/log-level": "debug"});
                    (200, json!({"kind": "Namespace", "metadata": {"name": "tools", "annotations": annotations}}))
                }
                "GET /api/v1/namespaces/quiet" => (200, json!({"kind": "Namespace", "metadata": {"name": "quiet"}})),
                "GET /apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/outrigger-injector" => {
                    (200, held.lock().unwrap().clone())
                }
                "PATCH /apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/outrigger-injector" => {
                    assert!(head.contains("application/strategic-merge-patch+json"), "{head}");
                    let mut held = held.lock().unwrap();
                    assert_eq!(body["webhooks"][0]["name"], held["webhooks"][0]["name"]);
                    held["webhooks"][0]["clientConfig"]["caBundle"] =
                        body["webhooks"][0]["clientConfig"]["caBundle"].clone();
                    (200, held.clone())
                }
                _ => (403, json!({"kind": "Status", "message": format!("may not: {line}")})),
            }
        });
        std::fs::write(world.path("own-token"), "of-the-injector\n").unwrap();
        Self { port, configuration }
    }

    fn bundle(&self) -> Option<Vec<u8>> {
        let held = self.configuration.lock().unwrap();
        held["webhooks"][0]["clientConfig"]["caBundle"].as_str().map(|text| STANDARD.decode(text).unwrap())
    }

    /// The settings of an injector in this cluster.
    fn settings(&self, more: &str) -> String {
        format!(
            "listen: 127.0.0.1:0\nadmin: {{ listen: \"127.0.0.1:0\" }}\nkubernetes: {{ url: \"https://127.0.0.1:{}\", ca: \
             cluster/ca.pem, token_file: own-token }}\nwebhook: {{ configuration: outrigger-injector, exempt: [kube-system] }}\n{more}",
            self.port
        )
    }
}

/// One question over a connection of its own; the HTTP status and what it says.
fn ask(injector: &Part, bundle: &[u8], body: &str) -> (u16, Value) {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle) {
        roots.add(root.unwrap()).unwrap();
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(HOST).unwrap();
    let socket = TcpStream::connect(injector.at["webhook"].as_str().unwrap()).unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), socket);
    let head = format!(
        "POST /inject?timeout=5s HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut answer = Vec::new();
    // One that is refused before it was read is cut off.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer}"));
    (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap_or_else(|_| body.into()))
}

fn review(namespace: &str, pod: &Value) -> String {
    let question = json!({"uid": "the-uid", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": namespace,
        "operation": "CREATE", "object": pod});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": question}).to_string()
}

fn pod(annotations: &Value) -> Value {
    json!({"metadata": {"generateName": "fs-", "annotations": annotations}, "spec": {"serviceAccountName": "fs", "containers": [
        {"name": "server", "image": "fs:1", "ports": [{"containerPort": 9001}]}]}})
}

/// What the pod is with the patch of an answer; none when there is no patch.
fn patched(pod: &Value, response: &Value) -> Option<Value> {
    let patch = STANDARD.decode(response["patch"].as_str()?).unwrap();
    assert_eq!(response["patchType"], "JSONPatch");
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    let mut pod = pod.clone();
    json_patch::patch(&mut pod, &patch).unwrap();
    Some(pod)
}

#[test]
fn an_api_server_that_knows_the_authority_gets_pods_with_sidecars() {
    let world = World::new();
    let authority = world.authority(&format!("hosts: {{ injector: {HOST} }}\n"));
    let cluster = Cluster::start(&world, "36");
    std::fs::write(world.path("token"), world.token("injector", "1")).unwrap();
    let mesh = format!("mesh: {{ trust_domain: {DOMAIN}, ca_url: \"{}\", ca: ca/ca.pem }}\n", authority.url());
    let settings = cluster.settings(&format!("{mesh}tls: {{ token_file: token }}\n"));
    let injector = world.start("inject", &["inject", "serve"], &settings, true);
    until("the webhook is ready", || injector.admin("/readyz") == "ready\n");
    let bundle = cluster.bundle().unwrap();
    let response = |namespace: &str, pod: &Value| {
        let (status, answer) = ask(&injector, &bundle, &review(namespace, pod));
        assert_eq!((status, &answer["kind"]), (200, &json!("AdmissionReview")), "{answer}");
        assert_eq!(answer["response"]["uid"], "the-uid");
        answer["response"].clone()
    };

    // Because of its namespace, whose other annotations count too; a second time there is nothing to do.
    let plain = pod(&json!({}));
    let first = response("tools", &plain);
    assert_eq!((&first["allowed"], &first["warnings"]), (&json!(true), &Value::Null));
    let injected = patched(&plain, &first).unwrap();
    let sidecar = &injected["spec"]["initContainers"][0];
    assert_eq!((&sidecar["name"], &sidecar["restartPolicy"]), (&json!("outrigger-sidecar"), &json!("Always")));
    assert!(sidecar["env"].as_array().unwrap().contains(&json!({"name": "OUTRIGGER_LOG", "value": "debug"})));
    let roots = std::fs::read_to_string(world.path("ca/ca.pem")).unwrap();
    assert_eq!(injected["metadata"]["annotations"]["outrigger.dev/mesh-roots"], roots);
    assert_eq!(response("tools", &injected), json!({"uid": "the-uid", "allowed": true}));

    // Nothing is done to what does not ask, or must not wait for us.
    for (namespace, pod) in [("quiet", plain.clone()), ("kube-system", pod(&json!({"outrigger.dev/inject": "true"})))] {
        let answer = response(namespace, &pod);
        assert_eq!((&answer["allowed"], &answer["patch"]), (&json!(true), &Value::Null), "{namespace}");
    }

    // What cannot be is refused with what to do; what the sidecar's own settings do not take as well.
    for (name, value, expected) in
        [("egres", "proxy", "did you mean `outrigger.dev/egress`?"), ("era", "moder", "did you mean `modern`?")]
    {
        let answer = response("tools", &pod(&json!({ format!("outrigger.dev/{name}"): value })));
        assert_eq!((&answer["allowed"], &answer["status"]["code"]), (&json!(false), &json!(422)));
        assert!(answer["status"]["message"].as_str().unwrap().contains(expected), "{answer}");
    }
    // Of a namespace that cannot be read nobody knows whether its pods may be without: no answer, so that `failurePolicy` decides.
    let (status, answer) = ask(&injector, &bundle, &review("other", &plain));
    // Not as JSON: API servers show people the plain text of such an answer, and nothing else.
    let said = answer.as_str().unwrap();
    assert!(status == 500 && said.contains("what the namespace of the pod says is not known"), "{answer}");
    // A pod that says itself what it wants gets that, and its author is told.
    let answer = response("other", &pod(&json!({"outrigger.dev/inject": "false"})));
    assert_eq!((&answer["allowed"], &answer["patch"]), (&json!(true), &Value::Null));
    let answer = response("other", &pod(&json!({"outrigger.dev/inject": "true", "outrigger.dev/service": "files"})));
    let warnings = answer["warnings"].to_string();
    assert!(warnings.contains("kubernetes.rules") && warnings.contains("could not be read"), "{warnings}");

    for (body, expected) in [("{}".to_owned(), 400), ("[".repeat(100_000), 400), (" ".repeat(5 << 20), 413)] {
        assert_eq!(ask(&injector, &bundle, &body).0, expected);
    }
    for (outcome, count) in [
        ("injected", 2.0),
        ("present", 1.0),
        ("not_asked", 2.0),
        ("exempt", 1.0),
        ("refused", 2.0),
        ("unanswered", 1.0),
    ] {
        let line = format!("outrigger_injections_total{{outcome=\"{outcome}\"}}");
        assert_eq!(injector.metric(&line), count, "{outcome}");
    }
    assert!(injector.log().contains("may not"), "{}", injector.log());

    // The authority is replaced; both are believed meanwhile.
    world.ca(&["rotate", "begin"]);
    until("the next authority is known as well", || cluster.bundle().unwrap() != bundle);
    assert_eq!(ask(&injector, &cluster.bundle().unwrap(), &review("tools", &plain)).0, 200);
}

#[test]
fn certificates_may_come_from_files_and_clusters_may_be_old() {
    let world = World::new();
    let cluster = Cluster::start(&world, "28+");
    let issue = |life: &str| {
        let args = ["ca", "issue", "api", "--host", HOST, "--dir", "cluster", "--out", "tls", "--life", life];
        assert!(crate::support::run(world.dir.path(), &args).status.success());
    };
    issue("1d");
    let mesh = format!("mesh: {{ trust_domain: {DOMAIN}, ca_url: \"https://ca\", ca_sha256: {} }}\n", "ab".repeat(32));
    let settings = cluster.settings(&format!("{mesh}tls: {{ cert: tls/api.pem, key: tls/api.key }}\n"));
    let injector = world.start("inject", &["inject", "serve"], &settings, true);
    until("the webhook is ready", || injector.admin("/readyz") == "ready\n");
    let bundle = std::fs::read(world.path("cluster/ca.pem")).unwrap();
    let plain = pod(&json!({}));
    // Not ready before the version is known: a native sidecar would keep this pod from starting.
    let (_, answer) = ask(&injector, &bundle, &review("tools", &plain));
    assert_eq!(patched(&plain, &answer["response"]).unwrap()["spec"]["containers"][0]["name"], "outrigger-sidecar");
    // Somebody else keeps the bundle then.
    assert_eq!(cluster.bundle(), None);
    let before = injector.metric("outrigger_certificate_expiry_timestamp_seconds{name=\"webhook\"}");
    issue("2d");
    until("the renewed certificate is taken up", || {
        injector.metric("outrigger_certificate_expiry_timestamp_seconds{name=\"webhook\"}") > before
    });
    assert_eq!(ask(&injector, &bundle, &review("tools", &plain)).0, 200);
}

#[test]
fn what_is_missing_is_said() {
    let world = World::new();
    let cluster = Cluster::start(&world, "36");
    let mesh = format!("mesh: {{ trust_domain: {DOMAIN}, ca_url: \"https://127.0.0.1:9\", ca: ca/ca.pem }}\n");
    let mut none = world.start("none", &["inject", "serve"], &cluster.settings(&mesh), false);
    assert_eq!(none.wait(), Some(2));
    assert!(none.log().contains("OUTRIGGER_KUBERNETES_TOKEN_FILE"), "{}", none.log());
    // An authority that is away is waited for.
    std::fs::write(world.path("token"), "x").unwrap();
    let settings = cluster.settings(&format!("{mesh}tls: {{ token_file: token }}\n"));
    let injector = world.start("waits", &["inject", "serve"], &settings, true);
    until("it says what it waits for", || injector.admin("/readyz").contains("waiting for the authority at"));
}
