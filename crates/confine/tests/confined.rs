//! Real Python and Node children that try every way out, and what must go on working.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests state what they expect by failing")]

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr as UnixAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use outrigger_confine::{Kernel, Plan, inside};
use tempfile::TempDir;

/// What stands around the child: what it may reach, and what it must not.
struct World {
    dir: TempDir,
    plan: Plan,
    allowed: SocketAddr,
    other: SocketAddr,
    abstract_name: String,
    /// Connections that came where none may come.
    trespasses: Arc<AtomicU64>,
    told: Arc<Mutex<Vec<String>>>,
}

impl World {
    fn new() -> Self {
        let missing = Kernel::look().missing();
        assert!(missing.is_empty(), "this machine cannot run these tests: {missing:?}");
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["own", "scripts", "scripts/closed", "private"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("private/secret"), "the key").unwrap();
        fs::write(at("own/another's"), "text").unwrap();
        // Only root can give it away, and only root's child could want it back.
        let _ = std::os::unix::fs::chown(at("own/another's"), Some(65534), Some(65534));
        fs::write(at("scripts/readable"), "text").unwrap();
        fs::write(at("scripts/closed/key"), "the key").unwrap();
        let trespasses = Arc::new(AtomicU64::new(0));
        let (allowed, twin) = twins();
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addresses = (allowed.local_addr().unwrap(), other.local_addr().unwrap());
        echo(allowed);
        count(trespasses.clone(), move || twin.accept().map(drop));
        count(trespasses.clone(), move || other.accept().map(drop));
        let abstract_name = format!("outrigger-test-{}", std::process::id());
        let hidden = UnixListener::bind_addr(&UnixAddr::from_abstract_name(&abstract_name).unwrap());
        // The tests of one process share the name; whoever was first listens.
        if let Ok(hidden) = hidden {
            count(trespasses.clone(), move || hidden.accept().map(drop));
        }
        let outside = UnixListener::bind(at("socket")).unwrap();
        count(trespasses.clone(), move || outside.accept().map(drop));
        let named = UnixListener::bind(at("named")).unwrap();
        count(Arc::default(), move || named.accept().map(drop));
        let plan = Plan {
            strict: true,
            read: readable(&at("scripts")),
            closed: vec![at("scripts/closed")],
            write: vec![at("own")],
            devices: ["/dev/null", "/dev/urandom"].map(PathBuf::from).to_vec(),
            connect: vec![addresses.0],
            listen: Vec::new(),
            sockets: vec![at("named")],
            own: Some(at("own")),
        };
        let (allowed, other) = addresses;
        Self { dir, plan, allowed, other, abstract_name, trespasses, told: Arc::default() }
    }

    /// Runs a script inside and returns what it found: attempt, and why it failed.
    fn run(&self, program: &str, script: &str, text: &str) -> BTreeMap<String, String> {
        let path = self.dir.path().join("scripts").join(script);
        fs::write(&path, text).unwrap();
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let given = format!(
            r#"{{"allowed": {}, "other": {}, "own": "{}", "named_socket": "{}", "readable": "{}", "abstract": "{}", "socket": "{}", "secret": "{}"}}"#,
            self.allowed.port(),
            self.other.port(),
            at("own"),
            at("named"),
            at("scripts/readable"),
            self.abstract_name,
            at("socket"),
            at("private/secret"),
        );
        let mut command = Command::new(program);
        command.arg(&path).arg(given).stdin(Stdio::null()).stdout(Stdio::piped()).env("TMPDIR", at("own"));
        let told = self.told.clone();
        let tell = move |line: &str| told.lock().unwrap().push(line.to_owned());
        let child = inside(&self.plan, tell, || command.spawn()).unwrap().unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{program}: {}: {text}", output.status);
        let found: BTreeMap<String, String> = serde_json::from_str(text.trim()).unwrap();
        assert!(found.len() > 10, "{found:?}");
        found
    }
}

/// What programs need, and these scripts.
fn readable(scripts: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        ["/usr", "/bin", "/lib", "/lib64", "/etc", "/proc", "/sys/devices/system/cpu", "/opt"]
            .map(PathBuf::from)
            .to_vec();
    paths.push(scripts.to_owned());
    if let Some(path) = std::env::var_os("PATH") {
        paths.extend(
            std::env::split_paths(&path)
                .filter_map(|bin| bin.parent().map(Path::to_owned))
                .filter(|prefix| prefix != Path::new("/")),
        );
    }
    paths
}

/// Two listeners on one port, of two addresses of this machine.
fn twins() -> (TcpListener, TcpListener) {
    loop {
        let one = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        if let Ok(two) = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 2), one.local_addr().unwrap().port())) {
            return (one, two);
        }
    }
}

fn echo(listener: TcpListener) {
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                let mut bytes = [0; 5];
                if stream.read_exact(&mut bytes).is_ok() {
                    let _ = stream.write_all(&bytes);
                }
            });
        }
    });
}

fn count(counter: Arc<AtomicU64>, mut accept: impl FnMut() -> std::io::Result<()> + Send + 'static) {
    thread::spawn(move || {
        while accept().is_ok() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
}

/// What begins with `+` must have worked, and nothing else.
fn judge(found: &BTreeMap<String, String>) {
    let wrong: Vec<_> = found.iter().filter(|(name, why)| name.starts_with('+') != why.is_empty()).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn python_works_and_finds_no_way_out() {
    let world = World::new();
    let mut found = world.run("python3", "attacks.py", include_str!("attacks.py"));
    let race = found.remove("race").unwrap();
    assert!(!race.starts_with("0 "), "the race never reached the allowed address: {race}");
    judge(&found);
    let changing = found.get("a path that changes while it is looked at").unwrap();
    assert!(!changing.starts_with("RuntimeError"), "{changing}");
    assert_eq!(world.trespasses.load(Ordering::SeqCst), 0, "something arrived where nothing may");
    assert_eq!(fs::read_to_string(world.dir.path().join("private/secret")).unwrap(), "the key");
    for untouched in ["private/secret", "scripts/readable", "own/another's"] {
        let mode = fs::metadata(world.dir.path().join(untouched)).unwrap().permissions().mode();
        assert_ne!(mode & 0o777, 0o777, "{untouched}");
    }
    let told = world.told.lock().unwrap();
    assert!(told.iter().any(|line| line.contains(&format!("connect to {}", world.other))), "{told:?}");
    assert!(told.len() <= 101, "bounded");
}

#[test]
fn node_works_and_finds_no_way_out() {
    let world = World::new();
    judge(&world.run("node", "attacks.mjs", include_str!("attacks.mjs")));
    assert_eq!(world.trespasses.load(Ordering::SeqCst), 0, "something arrived where nothing may");
}

#[test]
fn whoever_confines_a_child_stays_free() {
    let world = World::new();
    let spawned = inside(&world.plan, |_| {}, || Command::new("true").spawn()).unwrap();
    assert!(spawned.unwrap().wait().unwrap().success());
    assert!(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).is_ok());
    assert!(fs::read(world.dir.path().join("private/secret")).is_ok());
}

#[test]
fn ports_that_are_named_may_be_listened_on() {
    let mut world = World::new();
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    world.plan.listen = vec![free];
    let script = format!("import socket; s = socket.create_server(('127.0.0.1', {free})); s.close()");
    let run = |script: &str| {
        let mut command = Command::new("python3");
        command.args(["-c", script]).stderr(Stdio::null());
        inside(&world.plan, |_| {}, || command.status()).unwrap().unwrap().success()
    };
    assert!(run(&script));
    assert!(!run("import socket; socket.create_server(('127.0.0.1', 0))"), "any other");
}
