//! Identities from an agent of the SPIFFE Workload API: rotation under load, an agent that is away, and one that lies.

use std::time::Duration;

use super::agent::{Agent, Domain, Identity, Say, response};
use super::mesh::{RENEWED, under_load, works};
use super::world::{DOMAIN, World, get};
use crate::support::until;

const HOUR: Duration = Duration::from_secs(3600);
const FAILED: &str = "outrigger_certificate_renewals_total{outcome=\"failed\"}";

fn source(world: &World, socket: &str) -> String {
    format!("spiffe_endpoint_socket: \"unix://{}\"", world.path(socket).display())
}

fn message(domain: &Domain, identity: &Identity) -> Say {
    Say::Message(response(&[identity], domain.root(), &[]))
}

#[test]
fn members_take_up_what_an_agent_hands_out_under_load() {
    let (world, domain) = (World::new(), Domain::new(DOMAIN));
    let (fs, edge) = (|| domain.issue("/ns/tools/sa/fs", HOUR), || domain.issue("/ingress", HOUR));
    // An agent gives all that a process may be; the setting chooses.
    let other = domain.issue("/other", HOUR);
    let said = |own: &Identity| Say::Message(response(&[&other, own], domain.root(), &[]));
    let of_fs = Agent::start(&world.path("fs.sock"), said(&fs()));
    let of_edge = Agent::start(&world.path("edge.sock"), message(&domain, &edge()));
    let named = format!("{}\n  spiffe_id: spiffe://{DOMAIN}/ns/tools/sa/fs", source(&world, "fs.sock"));
    let sidecar = world.sidecar_as("fs", &named, true);
    // The ingress calls it by the id that it has.
    let address = format!(
        "services: {{ fs: {{ spiffe_id: \"spiffe://{DOMAIN}/ns/tools/sa/fs\", addresses: [{}] }} }}",
        sidecar.at["mesh"]
    );
    let ingress = world.ingress_with(&address, &source(&world, "edge.sock"));
    until("a call works", || works(&ingress));
    // What both have taken up so far.
    let mut taken = 1.0;
    let mut hand_out = |fs: &[u8], edge: &[u8]| {
        of_fs.say(Say::Message(fs.to_vec()));
        of_edge.say(Say::Message(edge.to_vec()));
        taken += 1.0;
        until("both have taken it up", || sidecar.metric(RENEWED) >= taken && ingress.metric(RENEWED) >= taken);
    };
    let next = Domain::new(DOMAIN);
    let both = [domain.root(), next.root()].concat();
    let (new_fs, new_edge) = (|| next.issue("/ns/tools/sa/fs", HOUR), || next.issue("/ingress", HOUR));
    under_load(&ingress, || {
        for _ in 0..5 {
            hand_out(&response(&[&other, &fs()], domain.root(), &[]), &response(&[&edge()], domain.root(), &[]));
        }
        // The authority is replaced: both are believed, then both sides have certificates of the new one.
        hand_out(&response(&[&fs()], &both, &[]), &response(&[&edge()], &both, &[]));
        for _ in 0..2 {
            hand_out(&response(&[&new_fs()], &both, &[]), &response(&[&new_edge()], &both, &[]));
        }
    });
    // A call that began on a connection of the old one would be cut now.
    hand_out(&response(&[&new_fs()], next.root(), &[]), &response(&[&new_edge()], next.root(), &[]));
    assert!(works(&ingress));
    for (path, content) in world.files() {
        let own = path.starts_with(world.path("ca"));
        assert!(own || !String::from_utf8_lossy(&content).contains("PRIVATE KEY"), "{} has a key", path.display());
    }
}

#[test]
fn an_agent_that_is_away_is_waited_for_and_survived() {
    let (world, domain) = (World::new(), Domain::new(DOMAIN));
    let mut sidecar = world.sidecar_as("fs", &source(&world, "fs.sock"), false);
    until("it says what it waits for", || sidecar.log().contains("waiting for the agent at unix:///"));
    let admin = sidecar.log();
    let admin = admin.split("admin=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap().to_owned();
    let page = get(&admin, "/readyz");
    assert!(page.contains("identity: waiting for the agent") && page.contains("is the agent running"), "{page}");
    // It runs, and knows nothing of us.
    let agent = Agent::start(&world.path("fs.sock"), Say::Code(7, "no identity issued"));
    until("it says what to do", || {
        get(&admin, "/readyz").contains("make a registration entry whose selectors fit this process")
    });
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait(), Some(0), "it ends when asked to, also while it waits");

    let life = Duration::from_secs(15);
    agent.say(message(&domain, &domain.issue("/fs", life)));
    let of_edge = Agent::start(&world.path("edge.sock"), message(&domain, &domain.issue("/ingress", life)));
    let sidecar = world.sidecar_as("fs", &source(&world, "fs.sock"), true);
    let ingress = world.ingress_as(&sidecar, &source(&world, "edge.sock"));
    until("a call works", || works(&ingress));
    drop((agent, of_edge));
    under_load(&ingress, || until("it was missed", || sidecar.metric(FAILED) >= 1.0));
    until("the end is said", || {
        sidecar.admin("/readyz").contains("identity: the certificate has ended; waiting for the agent")
    });
    until("nothing works", || !works(&ingress));
    // It is back, at first with nothing for us.
    let of_edge = Agent::start(&world.path("edge.sock"), message(&domain, &domain.issue("/ingress", HOUR)));
    let agent = Agent::start(&world.path("fs.sock"), Say::Code(7, "no identity issued"));
    until("that is said", || sidecar.admin("/readyz").contains("make a registration entry"));
    agent.say(message(&domain, &domain.issue("/fs", HOUR)));
    until("it works again", || works(&ingress));
    until("and says so", || !sidecar.admin("/readyz").contains("identity"));
    drop(of_edge);
}

#[test]
fn an_agent_that_lies_changes_nothing() {
    let (world, domain, eve) = (World::new(), Domain::new(DOMAIN), Domain::new(DOMAIN));
    let good = domain.issue("/fs", HOUR);
    let agent = Agent::start(&world.path("fs.sock"), message(&domain, &good));
    let sidecar = world.sidecar_as("fs", &source(&world, "fs.sock"), true);
    let of_edge = Agent::start(&world.path("edge.sock"), message(&domain, &domain.issue("/ingress", HOUR)));
    let ingress = world.ingress_as(&sidecar, &source(&world, "edge.sock"));
    until("a call works", || works(&ingress));

    let whole = response(&[&good], domain.root(), &[]);
    let other_key = Identity { key: domain.issue("/fs", HOUR).key, ..good.clone() };
    let misnamed = Identity { id: format!("spiffe://{DOMAIN}/fs"), ..domain.issue("/eve", HOUR) };
    let elsewhere = Domain::new("elsewhere");
    let lies = [
        (Say::Bytes([&[0][..], &u32::MAX.to_be_bytes()].concat()), "its message has 4294967295 bytes"),
        (Say::Bytes(vec![1, 0, 0, 0, 0]), "compressed"),
        (Say::Bytes([&[0, 0, 0, 1, 0][..], &whole[..20]].concat()), "it ended the stream"),
        (Say::Message(whole[..whole.len() - 1].to_vec()), "it ends within a field"),
        (
            message(&domain, &domain.issue("/eve", HOUR)),
            "it gives `spiffe://demo.outrigger.local/eve`, but this process is",
        ),
        (message(&elsewhere, &elsewhere.issue("/fs", HOUR)), "it gives `spiffe://elsewhere/fs`"),
        (message(&domain, &misnamed), "names `spiffe://demo.outrigger.local/eve`"),
        (message(&domain, &other_key), "do not belong together"),
        (message(&eve, &good), "would be refused by its peers"),
        (Say::Message(response(&[&good], domain.root(), &[(DOMAIN, eve.root())])), "not another trust domain's alone"),
        (Say::Message(response(&[&good], domain.root(), &[("partner", b"")])), "is empty or not certificates"),
        (Say::Code(12, "unknown service"), "is no agent of the Workload API"),
        (Say::Code(14, "still starting"), "gRPC status 14: still starting"),
    ];
    for (lie, wanted) in lies {
        let before = sidecar.log().len();
        agent.say(lie);
        until(wanted, || sidecar.log()[before..].contains(wanted));
        assert!(works(&ingress), "after: {wanted}");
        // So that the next one is heard soon, and not after the longest of pauses.
        agent.say(message(&domain, &good));
        until("it is heard again", || {
            let renewed = sidecar.metric(RENEWED);
            agent.say(message(&domain, &domain.issue("/fs", HOUR)));
            std::thread::sleep(Duration::from_millis(300)); // the least time between two messages
            sidecar.metric(RENEWED) > renewed
        });
    }
    // One that never stops talking is not listened to all the time.
    agent.say(Say::Endlessly(response(&[&domain.issue("/fs", HOUR)], domain.root(), &[])));
    for _ in 0..20 {
        assert!(works(&ingress));
    }
    assert!(!sidecar.log().contains("PRIVATE"));
    drop(of_edge);
}

#[test]
fn what_listens_at_the_socket_may_be_something_else() {
    let world = World::new();
    // It takes connections and says nothing.
    let _silent = std::os::unix::net::UnixListener::bind(world.path("silent.sock")).unwrap();
    let mute = world.sidecar_as("mute", &source(&world, "silent.sock"), false);
    let agent = Agent::start(&world.path("nothing.sock"), Say::Nothing);
    let slow = world.sidecar_as("slow", &source(&world, "nothing.sock"), false);
    until("the one is missed", || {
        mute.log().contains("it did not answer within 20 s") || mute.log().contains("it cannot be reached")
    });
    until("the other is missed", || slow.log().contains("it did not answer within 20 s"));
    drop(agent);
}
