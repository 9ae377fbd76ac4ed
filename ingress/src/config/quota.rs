//! Where limits are counted that several ingresses share.

use std::path::PathBuf;
use std::time::Duration;

use outrigger_config::kinds::Checked;
use outrigger_config::sections::{MINUTE, SECOND};
use outrigger_config::{Fields, doc, kinds};

/// Has limits counted in a store.
pub(super) const VARIABLE: &str = "OUTRIGGER_QUOTA_STORE";

/// A store that several ingresses share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaStore {
    /// Where it is.
    pub url: String,
    /// A file with its password.
    pub password_file: Option<PathBuf>,
    /// Who signs its certificate, instead of those that the machine believes.
    pub ca: Option<PathBuf>,
    /// Certificate and key that are shown to it.
    pub client: Option<(PathBuf, PathBuf)>,
    /// What its keys begin with.
    pub prefix: String,
    /// How long one question may take.
    pub timeout: Duration,
    /// How long connecting may take.
    pub connect: Duration,
    /// What happens while it does not answer.
    pub when_away: WhenAway,
}

/// What happens while the shared store does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenAway {
    /// Each ingress counts for itself.
    Local,
    /// Nothing is limited.
    Open,
    /// What would be counted is refused.
    Closed,
}

/// Reads the `quota_store` section.
pub(super) fn read(f: &mut Fields<'_>) -> Option<QuotaStore> {
    let rule = Checked {
        name: "address of a Redis or Valkey",
        pattern: "^(rediss?://[^@]+|unix:///.+)$",
        accepts: |text| {
            let plain = ["redis://", "rediss://"]
                .iter()
                .any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
            let known = plain || text.starts_with("unix:///");
            known && !text.contains('@') && redis::parse_redis_url(text).is_some()
        },
        hint: "redis://host:6379/0, rediss://host:6379 for TLS, or unix:///run/redis.sock; the password goes into `password_file`",
    };
    let text = doc("Where it is: one Redis or Valkey that every ingress reaches; `rediss` for TLS.");
    let url = f.required("url", text.env(VARIABLE).example("rediss://quota.internal:6379/0"), kinds::checked(rule));
    let text = doc("A file with its password.").env("OUTRIGGER_QUOTA_PASSWORD_FILE");
    let password_file = f.optional("password_file", text, kinds::path());
    let text = doc("Who signs its certificate (PEM); without it, those that the machine believes.");
    let ca = f.optional("ca", text, kinds::path());
    let text = doc("Certificate (PEM) that is shown to a store that asks for one, with `key`.");
    let cert = f.optional("cert", text, kinds::path());
    let key = f.optional("key", doc("Private key (PEM) of `cert`."), kinds::path());
    let tls = [("ca", ca.is_some()), ("cert", cert.is_some()), ("key", key.is_some())];
    let plain = url.as_ref().is_some_and(|url: &String| !url.starts_with("rediss://"));
    if let Some((name, _)) = tls.iter().find(|(_, given)| *given && plain) {
        f.mistake(
            name,
            "this is for TLS, which the store is not spoken to with",
            "write `rediss://` in `url`, or remove this",
        );
    }
    if cert.is_some() != key.is_some() {
        let missing = if cert.is_some() { "key" } else { "cert" };
        f.mistake(missing, "a certificate and its key belong together", "give both, or neither");
    }
    let text = doc("What its keys begin with: meshes that share a store need one each.").because("one mesh, one store");
    let prefix = f.with_default("prefix", text, kinds::text(), "outrigger".to_owned());
    let text = doc("How long one question may take; then it counts as away.")
        .because("it is one hop away and answers in a millisecond; each limited call waits for it");
    let span = || kinds::duration(Duration::from_millis(1)..=MINUTE);
    let timeout = f.with_default("timeout", text, span(), Duration::from_millis(50));
    let text = doc("How long connecting to it may take.").because("calls do not wait so long: they count it as away");
    let connect = f.with_default("connect", text, span(), SECOND);
    let text = doc("While it is away: `local` has each ingress count for itself, `open` limits nothing, `closed` refuses what would be counted (503).")
        .because("limits then hold for each ingress, and no call fails");
    let words = &[("local", WhenAway::Local), ("open", WhenAway::Open), ("closed", WhenAway::Closed)];
    let when_away = f.with_default("when_away", text, kinds::choice(words), WhenAway::Local);
    Some(QuotaStore { url: url?, password_file, ca, client: cert.zip(key), prefix, timeout, connect, when_away })
}
