//! From the settings, and what they name, to what every pod gets.

use anyhow::Context;
use outrigger_inject::{Anchor, Authority, Settings};

use super::config::{self, Config};
use crate::files;

/// Reads the files that the settings name. `roots` are those that the authority gave to this process, which are newer.
pub(crate) fn compile(config: &Config, roots: Option<String>, native: bool) -> anyhow::Result<Settings> {
    let mesh = &config.mesh;
    let authority = mesh.authority.as_ref().map(|authority| {
        let url = format!("https://{}", authority.at);
        anyhow::Ok(Authority { url, anchor: anchor(&authority.anchor, roots)? })
    });
    let policy = config.policy.as_deref().map(|path| {
        let text = files::read(path)?;
        let name = path.display().to_string();
        let reader = outrigger_policy::Reader { engine: None, service: None };
        reader.compile(&[(&name, &text)]).with_context(|| format!("a policy for sidecars: {name}"))?;
        anyhow::Ok(text)
    });
    Ok(Settings {
        trust_domain: mesh.trust_domain.clone(),
        authority: authority.transpose()?,
        workload_api: config.workload_api.clone(),
        ingress: mesh.ingress.iter().map(ToString::to_string).collect(),
        audience: config.audience.clone(),
        token_seconds: config.token_life.as_secs(),
        address: mesh.address,
        images: config.images.clone(),
        resources: config.resources.clone(),
        native,
        egress: config.egress,
        policy: policy.transpose()?,
    })
}

fn anchor(configured: &config::Anchor, roots: Option<String>) -> anyhow::Result<Anchor> {
    Ok(match (configured, roots) {
        (config::Anchor::Digest(digest), None) => {
            Anchor::Digest(digest.iter().map(|byte| format!("{byte:02x}")).collect())
        }
        (_, Some(roots)) => Anchor::Bundle(roots),
        (config::Anchor::File(path), None) => {
            let text = files::read(path)?;
            anyhow::ensure!(text.contains("-----BEGIN CERTIFICATE-----"), "{} has no certificate", path.display());
            Anchor::Bundle(text)
        }
    })
}
