//! What it costs that an ingress says for whom it calls: CPU time of one call's share, at the ingress and at the sidecar, beside
//! a call for nobody:
//!
//! ```console
//! cargo run --release -p outrigger-proxy --example assertion_cost
//! ```
#![expect(clippy::print_stdout, reason = "it is what it is for")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_identity::{
    Authority, AuthorityOptions, CredentialOptions, Credentials, IdentityFiles, TrustDomain, install_provider,
    write_leaf,
};
use outrigger_policy::Principal;
use outrigger_proxy::assertion::{Assertions, HEADER, user};

/// Calls that a figure is the mean of, where nothing is signed; and where something is.
const CALLS: (u32, u32) = (200_000, 2_000);

/// How long the certificates live.
const HOUR: Duration = Duration::from_secs(3600);

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    install_provider();
    let dir = std::env::temp_dir().join(format!("assertion-cost-{}", std::process::id()));
    let measured = measure(&dir);
    std::fs::remove_dir_all(&dir)?;
    measured
}

fn measure(dir: &std::path::Path) -> Result<(), Failure> {
    let domain = TrustDomain::parse("demo.outrigger.local")?;
    let authority = Authority::init(dir, &domain, &AuthorityOptions::default())?;
    let (ingress, sidecar) = (member(&authority, "ingress")?, member(&authority, "fs")?);
    let from = Principal::workload(ingress.id().as_str())?;
    let nobody = Principal::anonymous();
    let ada = || -> Result<Principal, Failure> {
        let ada = Principal::user("ada")?.with_grants(["admin"], ["files:read", "files:list"])?;
        Ok(ada.with_claims([("department", ["research"])])?)
    };

    let assertions = Assertions::new(&ingress, sidecar.id());
    let known = ada()?;
    let made = assertions.of(&known, None)?.ok_or("no assertion of a user")?;
    println!("the header has {} bytes", made.len());

    let none = HeaderMap::new();
    show("ingress, for nobody", CALLS.0, || Ok(assertions.of(black_box(&nobody), None)?))?;
    show("ingress, for a user", CALLS.0, || Ok(assertions.of(black_box(&known), None)?))?;
    // Another principal each time is what a user's first call is, and one call of each minute.
    show("ingress, when it signs", CALLS.1, || Ok(assertions.of(&ada()?, None)?))?;

    show("sidecar, for nobody", CALLS.0, || Ok(user(&sidecar, black_box(&none), &from)?))?;
    let said = sent(&made);
    show("sidecar, for a user", CALLS.0, || Ok(user(&sidecar, black_box(&said), &from)?))?;
    let unseen: Vec<HeaderMap> =
        (0..CALLS.1).map(|_| Ok(sent(&signed(&ingress, &sidecar, &ada()?)?))).collect::<Result<_, Failure>>()?;
    let mut next = unseen.iter();
    show("sidecar, when it verifies", CALLS.1, || Ok(user(&sidecar, next.next().ok_or("none left")?, &from)?))
}

/// Prints what one of so many costs. The process has one thread and nothing to wait for, so that time is CPU time.
fn show<T>(what: &str, times: u32, mut one: impl FnMut() -> Result<T, Failure>) -> Result<(), Failure> {
    #[expect(clippy::disallowed_methods, reason = "a measurement is of real time")]
    let begun = std::time::Instant::now();
    for _ in 0..times {
        black_box(one()?);
    }
    println!("{what:26} {:8.3} us", (begun.elapsed() / times).as_nanos() as f64 / 1000.0);
    Ok(())
}

/// A new assertion, which nobody has seen.
fn signed(ingress: &Arc<Credentials>, sidecar: &Arc<Credentials>, who: &Principal) -> Result<HeaderValue, Failure> {
    Ok(Assertions::new(ingress, sidecar.id()).of(who, None)?.ok_or("no assertion of a user")?)
}

fn sent(value: &HeaderValue) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(HEADER), value.clone())])
}

fn member(authority: &Authority, service: &str) -> Result<Arc<Credentials>, Failure> {
    write_leaf(authority.dir(), service, &authority.issue(service, HOUR, &[])?)?;
    Ok(Credentials::load(IdentityFiles::in_dir(authority.dir(), service), &CredentialOptions::default())?)
}
