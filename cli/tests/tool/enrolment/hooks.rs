//! What a kubelet asks of a sidecar: probes of a server that only the sidecar reaches, and a drain before the signal to end.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;

use super::world::{DOMAIN, World};
use crate::support::{tool, until};

/// A page and its status line.
fn ask(address: &str, request: &str, headers: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    let text = format!("{request} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n{headers}\r\n");
    socket.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

/// Answers every request with a status, and tells its head.
fn server(status: &'static str) -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, heads) = mpsc::channel();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                let mut byte = [0];
                if socket.read_exact(&mut byte).is_err() {
                    break;
                }
                head.push(char::from(byte[0]));
            }
            let _ = tell.send(head);
            let _ = socket.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes());
        }
    });
    (port, heads)
}

#[test]
fn a_kubelet_probes_through_the_sidecar_and_waits_for_its_drain() {
    let world = World::new();
    let authority = world.authority("");
    let (good, heads) = server("204 No Content");
    let (bad, _) = server("500 Broken");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let log = std::fs::File::create(world.path("hooks.log")).unwrap();
    // By variables alone, and the server as words: as an injector writes it. The tool itself takes the first `--`.
    let words = ["sidecar", "--", "--", env!("CARGO_BIN_EXE_outrigger"), "example", "fs", "--root", "a 'directory'"];
    std::fs::create_dir(world.path("a 'directory'")).unwrap();
    let probes = format!(
        "server/startup=http://127.0.0.1:{good}/a?b=c,server/readiness=http://127.0.0.1:{bad}/,server/liveness=tcp://127.0.0.1:{good},\
         helper/liveness=tcp://{nobody}"
    );
    let mut sidecar = tool(world.dir.path(), &words)
        .env("OUTRIGGER_SERVICE", "fs")
        .env("OUTRIGGER_TRUST_DOMAIN", DOMAIN)
        .env("OUTRIGGER_CA_URL", authority.url())
        .env("OUTRIGGER_ENROLL_CA", "ca/ca.pem")
        .env("OUTRIGGER_JOIN_TOKEN", world.token("fs", "1"))
        .env("OUTRIGGER_LISTEN", "127.0.0.1:0")
        .env("OUTRIGGER_ADMIN_LISTEN", "127.0.0.1:0")
        .env("OUTRIGGER_PROBES", probes)
        .env("OUTRIGGER_ADMIN_DRAIN", "true")
        .env("OUTRIGGER_REPORT", world.path("hooks.at"))
        .stderr(log)
        .spawn()
        .unwrap();
    until("the sidecar listens", || {
        let log = || std::fs::read_to_string(world.path("hooks.log")).unwrap();
        assert_eq!(sidecar.try_wait().unwrap(), None, "{}", log());
        world.path("hooks.at").exists()
    });
    let at: serde_json::Value = serde_json::from_slice(&std::fs::read(world.path("hooks.at")).unwrap()).unwrap();
    let admin = at["admin"].as_str().unwrap();
    until("its server is there", || ask(admin, "GET /readyz", "").starts_with("HTTP/1.1 200"));

    let status = |path: &str| ask(admin, &format!("GET /probe/{path}"), "X-Probe: yes\r\n")[9..12].to_owned();
    assert_eq!(status("server/startup"), "204");
    let head = heads.recv().unwrap();
    assert!(head.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("x-probe: yes\r\n") && head.contains("host: x\r\n"), "{head}");
    assert_eq!((status("server/readiness"), status("server/liveness")), ("500".to_owned(), "200".to_owned()));
    assert_eq!((status("helper/liveness"), status("server/other")), ("502".to_owned(), "404".to_owned()));

    // The hook of the server waits in vain where nobody drains.
    assert!(ask(admin, "GET /drain", "").starts_with("HTTP/1.1 503"));
    let (waiting, address) = (admin.to_owned(), admin.to_owned());
    let server_hook = std::thread::spawn(move || ask(&waiting, "GET /drain", ""));
    let drain = tool(world.dir.path(), &["sidecar", "drain"])
        .env("OUTRIGGER_SERVICE", "fs")
        .env("OUTRIGGER_UPSTREAM", "http://127.0.0.1:1/")
        .env("OUTRIGGER_TRUST_DOMAIN", DOMAIN)
        .env("OUTRIGGER_CA_URL", authority.url())
        .env("OUTRIGGER_ENROLL_CA", "ca/ca.pem")
        .env("OUTRIGGER_JOIN_TOKEN", "x")
        .env("OUTRIGGER_ADMIN_LISTEN", &address)
        .status()
        .unwrap();
    assert!(drain.success());
    assert!(server_hook.join().unwrap().starts_with("HTTP/1.1 200"));
    // It is there until it is told to end: the server may still have something to say to others.
    assert!(ask(admin, "GET /healthz", "").starts_with("HTTP/1.1 200"));
    assert_eq!(sidecar.try_wait().unwrap(), None);
    crate::support::kill(sidecar.id(), "TERM");
    assert!(sidecar.wait().unwrap().success());
}
