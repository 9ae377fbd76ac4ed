//! Where a certificate comes from: files, or an authority that is asked, and nothing in between.

use super::*;
use crate::fields::load;
use crate::sections::Anchor;

fn read(text: &str, variables: &[(&str, &str)]) -> Result<Identity, String> {
    let env = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let file = format!("identity: {text}\n");
    let loaded = load(Some(("x.yaml", &file)), &env, |f| f.section("identity", "Who we are.", identity));
    loaded.map(|loaded| loaded.value).map_err(|mistakes| mistakes.to_string())
}

const DIGEST: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

#[test]
fn files_stay_what_they_were() {
    let identity = read("{ trust_domain: demo, cert: c, key: k, ca: a }", &[]).unwrap();
    assert_eq!(identity.secret_files(), ["k".into()] as [PathBuf; 1]);
    assert_eq!(identity.files(), ["k".into(), "c".into(), "a".into()] as [PathBuf; 3]);
    let missing = read("{ trust_domain: demo, cert: c }", &[]).unwrap_err();
    assert!(
        missing.contains("identity.key") && missing.contains("OUTRIGGER_CA") && missing.contains("enroll"),
        "{missing}"
    );
}

#[test]
fn an_authority_is_asked_with_one_proof_and_known_by_one_thing() {
    let good =
        read("{ trust_domain: demo, enroll: { url: \"https://ca\", token_file: t, ca: a, dir: d } }", &[]).unwrap();
    let IdentitySource::Enroll(enroll) = &good.source else { panic!("not asked") };
    assert_eq!((enroll.url().as_str(), &enroll.known_by), ("https://ca:443", &Anchor::File("a".into())));
    assert_eq!(good.secret_files(), ["t".into(), "d".into()] as [PathBuf; 2]);
    for (settings, wanted) in [
        ("url: \"https://ca\", ca: a", "none is given"),
        ("url: \"https://ca\", token_file: t", "none is given"),
        ("url: \"https://ca\", token: x, token_file: t, ca: a", "several are given"),
        ("url: \"http://ca\", token: x, ca: a", "over TLS"),
        ("url: \"https://ca/x\", token: x, ca: a", "over TLS"),
        ("token: x, ca: a", "enroll.url"),
        ("url: \"https://ca\", token: x, ca_sha256: abc", "not a SHA-256"),
    ] {
        let mistakes = read(&format!("{{ trust_domain: demo, enroll: {{ {settings} }} }}"), &[]).unwrap_err();
        assert!(mistakes.contains(wanted), "{settings}: {mistakes}");
    }
    let both = "{ trust_domain: demo, cert: c, enroll: { url: \"https://ca\", token: x, ca: a } }";
    assert!(read(both, &[]).unwrap_err().contains("identity.cert"));
}

#[test]
fn the_environment_alone_is_enough_and_hides_the_token() {
    let digest = format!("sha256:{DIGEST}");
    let variables = [
        ("OUTRIGGER_CA_URL", "https://ca.example:8440"),
        ("OUTRIGGER_JOIN_TOKEN", "sesame"),
        ("OUTRIGGER_CA_SHA256", digest.as_str()),
    ];
    let identity = read("{ trust_domain: demo }", &variables).unwrap();
    let IdentitySource::Enroll(enroll) = &identity.source else { panic!("not asked") };
    assert!(matches!(enroll.known_by, Anchor::Digest(digest) if digest[1] == 0x11));
    assert!(!format!("{identity:?}").contains("sesame"));
}

#[test]
fn another_trust_domain_is_another() {
    let with = |domain: &str| {
        read(
            &format!(
                "{{ trust_domain: demo, cert: c, key: k, ca: a, federation: [ {{ trust_domain: {domain}, bundle: b }} ] }}"
            ),
            &[],
        )
    };
    let identity = with("partner").unwrap();
    assert_eq!(identity.federation[0].bundle, PathBuf::from("b"));
    assert!(identity.trusted_files().contains(&"b".into()));
    assert!(with("demo").unwrap_err().contains("own trust domain"));
}

#[test]
fn an_agent_gives_what_files_would() {
    let agent = |socket: &str| read(&format!("{{ trust_domain: demo, spiffe_endpoint_socket: \"{socket}\" }}"), &[]);
    for (text, wanted) in [
        ("unix:///run/a.sock", AgentSocket::Unix("/run/a.sock".into())),
        ("unix:/run/a.sock", AgentSocket::Unix("/run/a.sock".into())),
        ("tcp://127.0.0.1:8081", AgentSocket::Tcp("127.0.0.1:8081".parse().unwrap())),
        ("tcp://[::1]:8081", AgentSocket::Tcp("[::1]:8081".parse().unwrap())),
    ] {
        assert_eq!(agent(text).unwrap().source, IdentitySource::Agent(wanted), "{text}");
    }
    for text in
        ["/run/a.sock", "unix://run/a.sock", "unix:///", "tcp://agent:8081", "tcp://127.0.0.1", "http://127.0.0.1:1"]
    {
        assert!(agent(text).unwrap_err().contains("no address of a SPIFFE Workload API"), "{text}");
    }
    assert_eq!(agent("unix:///run/a.sock").unwrap().secret_files(), [PathBuf::from("/run/a.sock")]);
    let both = "{ trust_domain: demo, cert: c, key: k, ca: a, spiffe_endpoint_socket: \"unix:///run/a.sock\" }";
    assert!(read(both, &[]).unwrap_err().contains("from an agent, or from elsewhere"));
}

#[test]
fn the_variable_of_an_agent_takes_nothing_away_from_files() {
    let ambient = [("SPIFFE_ENDPOINT_SOCKET", "unix:///run/a.sock")];
    let files = read("{ trust_domain: demo, cert: c, key: k, ca: a }", &ambient).unwrap();
    assert!(matches!(files.source, IdentitySource::Files { .. }));
    let agent = read("{ trust_domain: demo }", &ambient).unwrap();
    assert_eq!(agent.source, IdentitySource::Agent(AgentSocket::Unix("/run/a.sock".into())));
}

#[test]
fn who_we_are_is_of_our_trust_domain() {
    let with = |id: &str| read(&format!("{{ trust_domain: demo, cert: c, key: k, ca: a, spiffe_id: \"{id}\" }}"), &[]);
    assert_eq!(with("spiffe://demo/ns/x/sa/fs").unwrap().spiffe_id.as_deref(), Some("spiffe://demo/ns/x/sa/fs"));
    assert!(with("spiffe://demo.other/fs").unwrap_err().contains("not a workload of the trust domain `demo`"));
}
