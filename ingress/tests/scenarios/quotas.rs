//! Limits that ingresses share, in a real Redis or Valkey: counted once for all, and what happens while it is away.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use outrigger_ingress::Running;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::json;

use crate::fake::{health, tools};
use crate::mesh::{Client, Mesh, eventually};

/// A store of its own, on a socket in this directory; killed when dropped.
struct Store {
    child: Child,
    socket: PathBuf,
}

impl Store {
    async fn start(dir: &Path, options: &[&str]) -> Self {
        let socket = dir.join("quota.sock");
        let program = ["valkey-server", "redis-server"].into_iter().find(|program| {
            let tried = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            tried.is_ok_and(|status| status.success())
        });
        let program = program.expect("valkey-server or redis-server is missing; install it with `make subjects`");
        let mut command = Command::new(program);
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]).arg(&socket).args(options);
        let child = command.current_dir(dir).stdout(Stdio::null()).spawn().unwrap();
        eventually("the store listens", || async { tokio::net::UnixStream::connect(&socket).await.is_ok() }).await;
        Self { child, socket }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }

    /// What is in it, and how long each lasts still at most, in milliseconds.
    async fn keys(&self) -> Vec<(String, i64)> {
        let client = redis::Client::open(format!("unix://{}", self.socket.display())).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let names: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
        let mut keys = Vec::new();
        for name in names {
            let left = redis::cmd("PTTL").arg(&name).query_async(&mut connection).await.unwrap();
            keys.push((name, left));
        }
        keys
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.kill();
    }
}

const POLICY: &str = "apiVersion: mcpx.io/v1
kind: SecurityPolicy
metadata: { name: test }
spec:
  authorization:
    rules:
      - { name: reads, services: [a], capabilities: [\"read*\"] }
      - { name: buys, services: [a], capabilities: [\"buy\", \"steal\"], limits: { rate: 100/s, burst: 100 }, budget: { cost: 10, per: 1h } }
  limits:
    - { name: each, per: client, services: [a], capabilities: [readSlowly], rate: 1/h, burst: 6 }
  costs:
    - { services: [a], capabilities: [buy], cost: 4 }
    - { services: [a], capabilities: [steal], cost: 0 }
";

/// Two ingresses before `a`, that share a store with these settings.
struct Pair {
    mesh: Mesh,
    _other: Running,
    clients: [Client; 2],
}

async fn pair(settings: impl Fn(&Path) -> String) -> (Pair, Store) {
    let mesh = Mesh::with(&[("a", health(tools(&["readSlowly", "read", "buy", "steal"])))], POLICY, "").await;
    let store = Store::start(mesh.dir.path(), &[]).await;
    let settings = settings(&store.socket);
    let mut mesh = mesh.another_ingress(&settings).await;
    let (first, other) = (mesh.client.clone(), mesh.ingress.take().unwrap());
    let mesh = mesh.another_ingress(&settings).await;
    let clients = [first, mesh.client.clone()];
    (Pair { mesh, _other: other, clients }, store)
}

fn store(when_away: &'static str) -> impl Fn(&Path) -> String {
    move |socket| {
        format!("quota_store: {{ url: \"unix://{}\", timeout: 5s, when_away: {when_away} }}", socket.display())
    }
}

async fn status(client: &Client, tool: &str) -> u16 {
    client.call(&format!("a__{tool}")).await.status.as_u16()
}

#[tokio::test]
async fn ingresses_grant_one_limit_together() {
    let (pair, store) = pair(store("closed")).await;
    let mut granted = 0;
    for _ in 0..6 {
        for client in &pair.clients {
            granted += u32::from(status(client, "readSlowly").await == 200);
        }
    }
    assert_eq!(granted, 6, "as many as the burst, of both together");
    let refused = pair.clients[0].call("a__readSlowly").await;
    let error = refused.json()["error"].clone();
    assert_eq!((refused.status.as_u16(), &error["data"]["limit"]), (429, &json!("test/each")));
    let wait = error["data"]["retryAfterMs"].as_u64().unwrap();
    assert!((3_000_000..=3_600_000).contains(&wait), "{wait}");
    assert_eq!(status(&pair.clients[1].as_bob(), "readSlowly").await, 200, "others have their own");
    let keys = store.keys().await;
    assert_eq!(keys.len(), 2);
    for (key, left) in keys {
        assert!(key.starts_with("{outrigger}:") && !key.contains("ada") && key.len() == 44, "{key}");
        assert!(left > 0 && left <= 6 * 3_600_000 + 10, "everything ends: {left}");
    }
}

#[tokio::test]
async fn a_budget_is_spent_whole_and_by_both() {
    let (pair, _store) = pair(store("closed")).await;
    let [first, second] = &pair.clients;
    assert_eq!([status(first, "buy").await, status(second, "buy").await], [200, 200]);
    let refused = second.call("a__buy").await;
    assert_eq!((refused.status.as_u16(), &refused.json()["error"]["data"]["limit"]), (429, &json!("test/buys")));
    assert_eq!(status(second, "steal").await, 200, "what is free still is");
    let page = String::from_utf8_lossy(&pair.mesh.admin("/metrics").await.body).into_owned();
    let line = "outrigger_limited_total{limit=\"budget\",service=\"a\"} 1";
    assert!(page.lines().any(|each| each == line), "{page}");
}

#[tokio::test]
async fn calls_that_race_each_other_never_pass_the_limit_together() {
    let (pair, _store) = pair(store("closed")).await;
    let calls = (0..40).map(|at| {
        let client = pair.clients[at % 2].clone();
        tokio::spawn(async move { status(&client, "readSlowly").await })
    });
    let mut granted = 0;
    for call in calls.collect::<Vec<_>>() {
        granted += u32::from(call.await.unwrap() == 200);
    }
    assert_eq!(granted, 6);
}

#[tokio::test]
async fn what_happens_without_the_store_is_a_choice_and_its_return_is_noticed() {
    for (when_away, expected) in
        [("local", [200, 200, 200, 200, 200, 200, 429]), ("open", [200; 7]), ("closed", [503; 7])]
    {
        let (pair, mut store) = pair(store(when_away)).await;
        let client = &pair.clients[1];
        assert_eq!(status(client, "readSlowly").await, 200);
        store.kill();
        let mut statuses = Vec::new();
        for _ in 0..7 {
            statuses.push(status(client, "readSlowly").await);
        }
        assert_eq!(statuses, expected, "{when_away}");
        assert_eq!(status(client, "read").await, 200, "what no limit is about needs no store");
        let page = String::from_utf8_lossy(&pair.mesh.admin("/metrics").await.body).into_owned();
        let failed = page.lines().any(|line| {
            let counted = line.strip_prefix("outrigger_quota_store_total{outcome=\"failed\"} ");
            counted
                .or_else(|| line.strip_prefix("outrigger_quota_store_total{outcome=\"timeout\"} "))
                .is_some_and(|n| n != "0")
        });
        assert!(failed, "{page}");
        if when_away == "closed" {
            let error = client.call("a__readSlowly").await.json()["error"].clone();
            assert_eq!(error["data"]["reason"], json!("unavailable"));
            assert!(error["message"].as_str().unwrap().contains("limits cannot be counted"), "{error}");
            // It forgot everything, and is asked again.
            let _store = Store::start(pair.mesh.dir.path(), &[]).await;
            eventually("it counts again", || async { status(client, "readSlowly").await == 200 }).await;
        }
    }
}

#[tokio::test]
async fn a_password_comes_from_its_file() {
    let mesh = Mesh::with(&[("a", health(tools(&["readSlowly"])))], POLICY, "").await;
    let store = Store::start(mesh.dir.path(), &["--requirepass", "open sesame"]).await;
    std::fs::write(mesh.path("password"), "open sesame\n").unwrap();
    let url = format!("url: \"unix://{}\", timeout: 5s, when_away: closed", store.socket.display());
    let mesh = mesh.another_ingress(&format!("quota_store: {{ {url} }}")).await;
    assert_eq!(status(&mesh.client, "readSlowly").await, 503);
    let with = format!("quota_store: {{ {url}, password_file: {} }}", mesh.path("password").display());
    let mesh = mesh.another_ingress(&with).await;
    assert_eq!(status(&mesh.client, "readSlowly").await, 200);
}

/// An authority, and the files of a store: `NAME-ca.pem`, `NAME.pem` and `NAME.key`, for a host.
fn certificates(dir: &Path, name: &str, host: &str) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Another name than the certificate's, which would pass for one that signed itself.
    params.distinguished_name.push(DnType::OrganizationName, name);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![host.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let write = |file: String, text: String| std::fs::write(dir.join(file), text).unwrap();
    write(format!("{name}-ca.pem"), authority.pem());
    write(format!("{name}.pem"), leaf.pem());
    write(format!("{name}.key"), key.serialize_pem());
}

/// A store that speaks TLS with these files, at a port that was free a moment ago.
async fn over_tls(dir: &Path, name: &str, options: &[&str]) -> (Store, u16) {
    loop {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (number, cert, key, ca) =
            (port.to_string(), format!("{name}.pem"), format!("{name}.key"), format!("{name}-ca.pem"));
        let tls = ["--tls-port", &number, "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
        let mut store = Store::start(dir, &[&tls[..], options].concat()).await;
        if store.child.try_wait().unwrap().is_none()
            && tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        {
            return (store, port);
        }
    }
}

#[tokio::test]
async fn a_store_over_tls_is_the_one_whose_certificate_is_believed() {
    let mesh = Mesh::with(&[("a", health(tools(&["readSlowly"])))], POLICY, "").await;
    let dir = mesh.dir.path().to_owned();
    certificates(&dir, "store", "127.0.0.1");
    certificates(&dir, "other", "127.0.0.1");
    let (store, port) = over_tls(&dir, "store", &["--tls-auth-clients", "no"]).await;
    let settings = |port: u16, more: &str| {
        format!(
            "quota_store: {{ url: \"rediss://127.0.0.1:{port}\", timeout: 5s, connect: 5s, when_away: closed{more} }}"
        )
    };
    let ca = |name: &str| format!(", ca: {}", dir.join(format!("{name}-ca.pem")).display());
    // Nobody vouches for it: not the authorities of the machine, nor another one.
    let mesh = mesh.another_ingress(&settings(port, "")).await;
    assert_eq!(status(&mesh.client, "readSlowly").await, 503);
    let mesh = mesh.another_ingress(&settings(port, &ca("other"))).await;
    assert_eq!(status(&mesh.client, "readSlowly").await, 503);
    let mesh = mesh.another_ingress(&settings(port, &ca("store"))).await;
    for _ in 0..6 {
        assert_eq!(status(&mesh.client, "readSlowly").await, 200);
    }
    assert_eq!(status(&mesh.client, "readSlowly").await, 429);
    assert_eq!(store.keys().await.len(), 1, "it is counted there");
    drop(store);

    // A certificate for another host.
    certificates(&dir, "elsewhere", "192.0.2.1");
    let (store, port) = over_tls(&dir, "elsewhere", &["--tls-auth-clients", "no"]).await;
    let mesh = mesh.another_ingress(&settings(port, &ca("elsewhere"))).await;
    assert_eq!(status(&mesh.client, "readSlowly").await, 503);
    drop(store);

    // It wants to know who asks.
    let (_store, port) = over_tls(&dir, "store", &["--tls-auth-clients", "yes"]).await;
    let mesh = mesh.another_ingress(&settings(port, &ca("store"))).await;
    assert_eq!(status(&mesh.client, "readSlowly").await, 503);
    let own =
        format!("{}, cert: {}, key: {}", ca("store"), dir.join("store.pem").display(), dir.join("store.key").display());
    let mesh = mesh.another_ingress(&settings(port, &own)).await;
    assert_eq!(status(&mesh.client, "readSlowly").await, 200);
}
