//! How the server is reached, and what a program that the sidecar starts does not get: secrets, and files of the sidecar.

use std::{collections::BTreeMap, ffi::OsString, sync::Arc};

use outrigger_proxy::{
    dial::Endpoint,
    pool::{Pool, PoolSettings},
};

use super::StartError;
use crate::{
    child::ChildSpec,
    config::{Command, Config, Egress, SessionScope, Source, Upstream as UpstreamConfig},
    outbound::{Outbound, child_env::certificate_variables, passes::WayOut},
    sandbox::{self, Confinement, Kept},
    upstream::{Reach, http::HttpServer},
};

/// How the server is reached; one that is a program is started by whoever has this.
pub(super) fn reach(
    config: &Config,
    outbound: Option<&Outbound>,
    guard: Option<Vec<OsString>>,
) -> Result<Reach, StartError> {
    match &config.upstream {
        UpstreamConfig::Command(command) => {
            let mut env: BTreeMap<_, _> =
                command.env.iter().map(|(name, value)| (name.clone(), value.reveal().to_owned())).collect();
            if let Some(bundle) = outbound.and_then(Outbound::bundle) {
                certificate_variables(bundle, &mut env);
            }
            let way_out = outbound.map(|outbound| WayOut {
                proxy: outbound.listen_address(),
                passes: (config.session != SessionScope::Shared).then(|| Arc::clone(&outbound.passes)),
            });
            let stop = config.timeouts.child_stop;
            let confinement = confinement(config, command, outbound)?;
            let join_token = std::iter::once("OUTRIGGER_JOIN_TOKEN".to_owned());
            let without = config.egress.iter().flat_map(secret_variables).chain(join_token).collect();
            let (command, cwd) = (command.words.clone(), command.cwd.clone());
            Ok(Reach::Stdio(ChildSpec { command, env, way_out, without, cwd, confinement, guard, stop }))
        }
        UpstreamConfig::Url(url) => {
            use outrigger_config::kinds::Scheme;
            let endpoint = match &url.scheme {
                Scheme::Http => Endpoint::tcp(url.authority.host.clone(), url.authority.port),
                Scheme::Unix(path) => Endpoint::unix(path.clone()),
                Scheme::Https => {
                    return Err(StartError::Other("upstream: https is not supported yet; the server runs beside its sidecar, so use http on loopback or a unix socket".into()));
                }
            };
            let pool = PoolSettings {
                connect_timeout: config.timeouts.common.connect,
                idle_timeout: config.timeouts.upstream_idle,
                ..PoolSettings::default()
            };
            let path =
                url.path.parse().map_err(|e| StartError::Other(format!("upstream: the path cannot be used: {e}")))?;
            Ok(Reach::Http(HttpServer {
                service: config.service.clone(),
                pool: Pool::new(endpoint, pool),
                path,
                event_bytes: config.limits.entrance.event_bytes,
                request_timeout: config.timeouts.common.request,
                finds_ping_bad: Arc::default(),
            }))
        }
    }
}

/// Variables with secrets that go out for the server, which must not have them.
fn secret_variables(egress: &Egress) -> impl Iterator<Item = String> {
    egress.credentials.iter().filter_map(|credential| match &credential.source {
        Source::Variable(name) => Some(name.clone()),
        Source::File(_) => None,
    })
}

/// The variables that a server which we start does not inherit; nothing where we start none.
pub(super) fn withheld(config: &Config) -> Option<Vec<String>> {
    matches!(config.upstream, UpstreamConfig::Command(_))
        .then(|| config.egress.iter().flat_map(secret_variables).collect())
}

/// Whether the server has none of the secrets that changed settings name.
pub(super) fn not_inherited(egress: &Egress, withheld: Option<&[String]>) -> Result<(), String> {
    let inherited = |name: &String| withheld.is_some_and(|withheld| !withheld.contains(name));
    match secret_variables(egress).find(inherited) {
        Some(name) => Err(format!(
            "restart needed, because the server has inherited the variable `{name}`, which `credentials` did not name when it started"
        )),
        None => Ok(()),
    }
}

fn confinement(
    config: &Config,
    command: &Command,
    outbound: Option<&Outbound>,
) -> Result<Option<Arc<Confinement>>, StartError> {
    let proxy = outbound.map(Outbound::listen_address);
    let bundle = outbound.and_then(Outbound::bundle);
    let confinement =
        sandbox::confinement(&config.sandbox, command, proxy, bundle, &kept(config)).map_err(StartError::Other)?;
    Ok(confinement.map(Arc::new))
}

/// The files of this sidecar that are none of its server's business.
fn kept(config: &Config) -> Kept {
    let identity = &config.identity;
    let secrets = config.egress.iter().flat_map(|egress| &egress.credentials).filter_map(|each| match &each.source {
        Source::File(path) => Some(path.clone()),
        Source::Variable(_) => None,
    });
    let authorities = config.egress.iter().flat_map(|egress| &egress.inspection.ca);
    Kept {
        secret: config.file.iter().cloned().chain(identity.secret_files()).chain(secrets).collect(),
        trusted: identity
            .trusted_files()
            .into_iter()
            .chain(config.policy.iter().chain(&config.mesh.file).chain(authorities).cloned())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EgressOnly;

    #[test]
    fn a_secret_that_the_server_has_inherited_is_none_any_more() {
        let text = "egress: { rules: [ { name: a, hosts: [a.test], inspect: true, credentials: [ { header: X, env: KEY } ] } ] }";
        let egress = EgressOnly::from_sources(Some(("x", text)), &|_| None).unwrap().egress;
        let refused = not_inherited(&egress, Some(&[])).unwrap_err();
        assert!(refused.contains("restart needed") && refused.contains("`KEY`"), "{refused}");
        assert_eq!(not_inherited(&egress, Some(&["KEY".to_owned()])), Ok(()));
        assert_eq!(not_inherited(&egress, None), Ok(()), "no server that could inherit");
    }
}
