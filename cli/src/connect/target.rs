//! Where the mesh is and how to be let in: from the command line, or from the `up.json` of a mesh on this machine.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use outrigger_proxy::dial::{ClientTls, Endpoint};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;

use crate::args::{ConnectArgs, IngressArgs, UrlArgs};
use crate::{files, up::token};

/// A mesh to talk to.
#[derive(Clone)]
pub(crate) struct Target {
    /// Where to connect.
    pub(crate) endpoint: Endpoint,
    /// The path of the MCP endpoint.
    pub(crate) path: PathAndQuery,
    /// Sent with every request; the token among them.
    pub(crate) headers: HeaderMap,
}

/// What we need of `up.json`.
#[derive(Deserialize)]
struct Up {
    mcp: String,
    admin: Option<String>,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
}

impl Target {
    /// Reads everything that the arguments name.
    ///
    /// # Errors
    /// A wrong URL, header or file, or no mesh that runs.
    pub(crate) fn resolve(args: &ConnectArgs) -> anyhow::Result<Self> {
        let mut asked = args.asked.clone();
        let url = match &args.url {
            Some(url) => url.clone(),
            None => {
                let up = running(&args.dir, "--url")?;
                asked.token_file = asked.token_file.or(up.token_file);
                asked.ca_file = asked.ca_file.or(up.ca_file);
                up.mcp
            }
        };
        Self::of(&url, &asked)
    }

    /// Where a URL is, and how to be let in.
    ///
    /// # Errors
    /// A wrong URL, header or file.
    pub(crate) fn of(url: &str, asked: &UrlArgs) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("`{url}` is not a URL"))?;
        let endpoint = endpoint(&uri, asked.ca_file.as_deref()).with_context(|| format!("cannot use the URL {url}"))?;
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        Ok(Self { endpoint, path, headers: headers(&asked.headers, asked.token_file.as_deref())? })
    }

    /// Whether a token is sent over a network without TLS.
    pub(crate) fn sends_token_in_the_clear(&self) -> bool {
        let here = match &self.endpoint.target {
            outrigger_proxy::dial::Target::Tcp { host, .. } => {
                host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
            outrigger_proxy::dial::Target::Unix(_) => true,
        };
        self.headers.contains_key(AUTHORIZATION) && self.endpoint.tls.is_none() && !here
    }
}

/// A path at the admin port of an ingress.
///
/// # Errors
/// No mesh runs where it should.
pub(crate) fn at_admin(ingress: &IngressArgs, path: &str) -> anyhow::Result<String> {
    let base = match &ingress.admin {
        Some(url) => url.clone(),
        None => running(&ingress.dir, "--admin")?
            .admin
            .with_context(|| format!("the mesh in {} says no admin port", ingress.dir.display()))?,
    };
    Ok(format!("{}{path}", base.trim_end_matches('/')))
}

/// What a mesh says of itself. `option` would name it without a directory.
fn running(dir: &Path, option: &str) -> anyhow::Result<Up> {
    let path = dir.join("up.json");
    let missing = || {
        format!("no mesh runs in {}: give its {option}, or its --dir, or start it with `outrigger up`", dir.display())
    };
    let text = files::read(&path).with_context(missing)?;
    serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))
}

fn endpoint(uri: &Uri, ca_file: Option<&Path>) -> anyhow::Result<Endpoint> {
    let authority = uri.authority().ok_or_else(|| anyhow!("write http://host:port/mcp or https://host/mcp"))?;
    if authority.as_str().contains('@') {
        bail!("a user name or password in the URL is not sent; use --token-file or --header");
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    match uri.scheme_str() {
        Some("http") => Ok(Endpoint::tcp(host, authority.port_u16().unwrap_or(80))),
        Some("https") => {
            let server_name = ServerName::try_from(host.to_owned()).context("no name that a certificate could have")?;
            let config = Arc::new(tls(ca_file)?);
            let tls = ClientTls { provider: Arc::new(move || Arc::clone(&config)), server_name };
            Ok(Endpoint::tcp(host, authority.port_u16().unwrap_or(443)).with_tls(tls))
        }
        _ => bail!("the scheme must be http or https"),
    }
}

/// Believes the authorities of the system and those of the file.
fn tls(ca_file: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    // Some systems carry certificates that nobody can read; the others are good.
    roots.add_parsable_certificates(system.certs);
    if let Some(path) = ca_file {
        outrigger_identity::add_roots(&mut roots, path)?;
    }
    if roots.is_empty() {
        bail!("this system has no certificates of authorities; name one with --ca-file");
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(outrigger_identity::provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The headers of every request. Values may be secrets, so errors do not repeat them.
fn headers(given: &[String], token_file: Option<&Path>) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    if let Some(path) = token_file {
        let token = token::read(path)?;
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.reveal()))
            .map_err(|_| anyhow!("{} holds no token", path.display()))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    for (index, header) in given.iter().enumerate() {
        let wrong = || anyhow!("--header number {} is not `Name: value`", index + 1);
        let (name, value) = header.split_once(':').ok_or_else(wrong)?;
        let name: HeaderName = name.trim().parse().map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(url: Option<&str>, dir: &Path) -> ConnectArgs {
        ConnectArgs { url: url.map(str::to_owned), asked: UrlArgs::default(), dir: dir.to_owned() }
    }

    #[test]
    fn a_mesh_on_this_machine_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Target::resolve(&args(None, dir.path())).err().unwrap();
        assert!(format!("{missing:#}").contains("outrigger up"), "{missing:#}");
        let token = dir.path().join("token");
        std::fs::write(&token, "abc\n").unwrap();
        let up = serde_json::json!({"mcp": "http://127.0.0.1:4711/mcp", "token_file": token, "ca_file": "/none"});
        std::fs::write(dir.path().join("up.json"), up.to_string()).unwrap();
        let target = Target::resolve(&args(None, dir.path())).unwrap();
        assert_eq!(target.endpoint.target, Endpoint::tcp("127.0.0.1", 4711).target);
        assert_eq!(target.path.as_str(), "/mcp");
        assert_eq!(target.headers[AUTHORIZATION], "Bearer abc");
        assert!(!target.sends_token_in_the_clear());
    }

    #[test]
    fn wrong_urls_and_headers_are_refused_without_their_secrets() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["127.0.0.1:1", "ftp://a/", "/mcp", "http://u:hunter2@a/", "http://a b/"] {
            assert!(Target::resolve(&args(Some(bad), dir.path())).is_err(), "{bad}");
        }
        let mut with_header = args(Some("http://example.com/mcp"), dir.path());
        with_header.asked.headers = vec!["X-Key hunter2".to_owned()];
        let refused = format!("{:#}", Target::resolve(&with_header).err().unwrap());
        assert!(refused.contains("number 1") && !refused.contains("hunter2"), "{refused}");
        with_header.asked.headers = vec!["Authorization: Bearer x".to_owned()];
        assert!(Target::resolve(&with_header).unwrap().sends_token_in_the_clear());
    }
}
