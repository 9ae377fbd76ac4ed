use outrigger_identity::{Authority, AuthorityOptions, CredentialOptions, IdentityFiles, TrustDomain};
use tempfile::TempDir;

use super::*;

struct Domain {
    dir: TempDir,
    authority: Authority,
}

impl Domain {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let domain = TrustDomain::parse("demo.outrigger.local").unwrap();
        let authority = Authority::init(dir.path(), &domain, &AuthorityOptions::default()).unwrap();
        Self { dir, authority }
    }

    fn files(&self, name: &str) -> IdentityFiles {
        let path = |file: String| self.dir.path().join(file);
        IdentityFiles {
            cert: path(format!("{name}.pem")),
            key: path(format!("{name}.key")),
            ca: path("ca.pem".into()),
            crl: Some(path("crl.pem".into())),
        }
    }

    fn issue(&self, name: &str) {
        let issued = self.authority.issue(name, Duration::from_secs(3600), &[]).unwrap();
        outrigger_identity::write_leaf(self.dir.path(), name, &issued).unwrap();
    }

    fn member(&self, name: &str) -> Arc<Credentials> {
        self.issue(name);
        Credentials::load(self.files(name), &CredentialOptions::default()).unwrap()
    }
}

fn workload(credentials: &Credentials) -> Principal {
    Principal::workload(credentials.id().as_str()).unwrap()
}

fn ada() -> Principal {
    let ada = Principal::user("ada").unwrap().with_grants(["admin"], ["read", "write"]).unwrap();
    ada.with_claims([("department", ["research", "legal"])]).unwrap()
}

fn sent(value: &HeaderValue) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static(HEADER), value.clone())])
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Whatever a member signs, well made or not.
fn claim(signer: &Credentials, change: impl FnOnce(&mut serde_json::Value)) -> HeaderMap {
    let exp = seconds(SystemTime::now()) + 60;
    let mut contents = serde_json::json!({ "aud": "spiffe://demo.outrigger.local/fs", "sub": "eve", "exp": exp });
    change(&mut contents);
    sent(&HeaderValue::try_from(signer.sign(contents.to_string().as_bytes()).unwrap()).unwrap())
}

#[test]
fn what_the_ingress_knows_of_a_user_arrives_at_the_service() {
    let domain = Domain::new();
    let (ingress, fs) = (domain.member("ingress"), domain.member("fs"));
    let (assertions, from) = (Assertions::new(&ingress, fs.id()), workload(&ingress));
    let who = ada();
    let value = assertions.of(&who, None).unwrap().unwrap();
    assert_eq!(assertions.of(&who, None).unwrap().unwrap(), value, "made once");
    let user = user(&fs, &sent(&value), &from).unwrap().unwrap();
    assert_eq!(user, who.through(&from));
    assert_eq!((user.id(), user.via().map(Principal::id)), ("user:ada", Some("spiffe://demo.outrigger.local/ingress")));
    assert!(super::user(&fs, &sent(&value), &from).unwrap().unwrap().is_same(&user), "checked once");
    assert_eq!(super::user(&fs, &HeaderMap::new(), &from), Ok(None));
    for nobody in [Principal::anonymous(), from] {
        assert_eq!(assertions.of(&nobody, None), Ok(None));
    }
}

#[test]
fn an_assertion_is_worth_nothing_to_anybody_else() {
    let domain = Domain::new();
    let [ingress, fs, notes, eve] = ["ingress", "fs", "notes", "eve"].map(|name| domain.member(name));
    let from = workload(&ingress);
    let value = Assertions::new(&ingress, fs.id()).of(&ada(), None).unwrap().unwrap();
    let replayed = user(&notes, &sent(&value), &from);
    assert_eq!(replayed, Err(AssertionError::Audience(fs.id().to_string())), "at another service");
    assert_eq!(user(&fs, &sent(&value), &from).unwrap().unwrap().id(), "user:ada");
    let stolen = user(&fs, &sent(&value), &workload(&eve));
    assert_eq!(stolen, Err(AssertionError::Signer(ingress.id().clone())), "brought by another member");
    let forged = user(&fs, &claim(&eve, |_| ()), &from);
    assert_eq!(forged, Err(AssertionError::Signer(eve.id().clone())), "made by another member");
    let other = Domain::new().member("ingress");
    let foreign = user(&fs, &claim(&other, |_| ()), &from);
    assert!(matches!(foreign, Err(AssertionError::Statement(StatementError::Signer(_)))), "{foreign:?}");
    let mut twice = sent(&value);
    twice.append(HEADER, value.clone());
    assert_eq!(user(&fs, &twice, &from), Err(AssertionError::Several));
}

#[test]
fn changed_bytes_are_noticed() {
    let domain = Domain::new();
    let (ingress, fs) = (domain.member("ingress"), domain.member("fs"));
    let from = workload(&ingress);
    let value = Assertions::new(&ingress, fs.id()).of(&ada(), None).unwrap().unwrap();
    let text = value.to_str().unwrap();
    for at in 0..text.len() {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = sent(&HeaderValue::from_bytes(&bytes).unwrap());
        assert!(user(&fs, &changed, &from).is_err(), "byte {at}");
    }
    for cut in [0, 1, text.len() / 2, text.len() - 1] {
        let cut = sent(&HeaderValue::from_str(&text[..cut]).unwrap());
        assert!(user(&fs, &cut, &from).is_err());
    }
    // The parts of two that are good by themselves.
    let other = claim(&ingress, |_| ());
    let parts: Vec<&str> = text.split('.').collect();
    let others: Vec<&str> = other[HEADER].to_str().unwrap().split('.').collect();
    let mixed = [others[0], parts[1], parts[2]].join(".");
    let mixed = user(&fs, &sent(&HeaderValue::from_str(&mixed).unwrap()), &from);
    assert_eq!(mixed, Err(AssertionError::Statement(StatementError::Signature)));
}

#[test]
fn it_lives_shortly_and_no_longer_than_the_proof_of_the_user() {
    let domain = Domain::new();
    let (ingress, fs) = (domain.member("ingress"), domain.member("fs"));
    let from = workload(&ingress);
    let now = seconds(SystemTime::now());
    let at = |exp: u64| user(&fs, &claim(&ingress, |contents| contents["exp"] = exp.into()), &from);
    assert!(at(now + 100).is_ok() && at(now - 10).is_ok(), "clocks differ");
    for wrong in [0, now - 40, now + 600, u64::MAX] {
        assert_eq!(at(wrong), Err(AssertionError::Time), "{wrong}");
    }
    let soon = SystemTime::now() + Duration::from_secs(5);
    let value = Assertions::new(&ingress, fs.id()).of(&ada(), Some(soon)).unwrap().unwrap();
    let payload = ingress.statement(value.as_bytes()).unwrap().1;
    let contents: Contents = serde_json::from_slice(&payload).unwrap();
    assert_eq!(contents.exp, seconds(soon));
}

#[test]
fn what_cannot_be_is_refused() {
    let domain = Domain::new();
    let (ingress, fs) = (domain.member("ingress"), domain.member("fs"));
    let from = workload(&ingress);
    for (name, value) in [
        ("sub", serde_json::json!("")),
        ("sub", serde_json::json!("a\nb")),
        ("sub", serde_json::json!(7)),
        ("roles", serde_json::json!("admin")),
        ("roles", serde_json::json!(vec!["x"; 300].iter().enumerate().map(|(n, _)| n.to_string()).collect::<Vec<_>>())),
        ("claims", serde_json::json!([["a", ["b"]], ["a", ["c"]]])),
    ] {
        let refused = user(&fs, &claim(&ingress, |contents| contents[name] = value.clone()), &from);
        assert!(refused.is_err(), "{name}: {value}");
    }
    let long = ada().with_claims([("a", (0..200).map(|n| format!("{n:0>100}")))]).unwrap();
    let refused = Assertions::new(&ingress, fs.id()).of(&long, None);
    assert!(matches!(refused, Err(StatementError::TooLong(_))), "{refused:?}");
}

#[test]
fn a_new_certificate_signs_anew_and_a_revoked_one_is_believed_no_longer() {
    let domain = Domain::new();
    let (ingress, fs) = (domain.member("ingress"), domain.member("fs"));
    let (assertions, from, who) = (Assertions::new(&ingress, fs.id()), workload(&ingress), ada());
    let old = assertions.of(&who, None).unwrap().unwrap();
    assert!(user(&fs, &sent(&old), &from).is_ok());
    domain.authority.revoke_file(&domain.files("ingress").cert).unwrap();
    assert!(matches!(fs.reload_if_changed(), outrigger_identity::Reload::Swapped { .. }));
    let refused = user(&fs, &sent(&old), &from);
    assert!(matches!(refused, Err(AssertionError::Statement(StatementError::Signer(_)))), "{refused:?}");
    domain.issue("ingress");
    assert!(matches!(ingress.reload_if_changed(), outrigger_identity::Reload::Swapped { .. }));
    let new = assertions.of(&who, None).unwrap().unwrap();
    assert_ne!(new, old);
    assert_eq!(user(&fs, &sent(&new), &from).unwrap().unwrap().id(), "user:ada");
}
