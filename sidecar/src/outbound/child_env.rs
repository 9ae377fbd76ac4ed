//! The variables by which a child process finds its proxy, in every spelling that runtimes read.

use std::collections::BTreeMap;
use std::path::Path;

/// Adds the variables to `env`, where the settings do not say something else about them.
///
/// curl reads `http_proxy` in lower case only, because a CGI server would let a request set the other; Go, Python and Rust
/// read both; `ALL_PROXY` serves what has a scheme of its own. Node reads none of them before it is told to.
/// `NO_PROXY` is empty: connections to loopback must not be an exception, and what is set outside is not ours.
pub fn proxy_variables(url: &str, env: &mut BTreeMap<String, String>) {
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        for spelling in [name.to_owned(), name.to_ascii_lowercase()] {
            env.entry(spelling).or_insert_with(|| url.to_owned());
        }
    }
    for name in ["NO_PROXY", "no_proxy"] {
        let list = env.entry(name.to_owned()).or_default();
        *list = without_services(list);
    }
    env.entry("NODE_USE_ENV_PROXY".to_owned()).or_insert_with(|| "1".to_owned());
}

/// The variables by which runtimes find the certificates that they believe. Most of them replace the system's, which the file
/// therefore holds too.
const CERTIFICATES: [&str; 11] = [
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "DENO_CERT",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "NIX_SSL_CERT_FILE",
];

/// Adds the variables that name the certificates to believe, where the settings do not say something else.
pub fn certificate_variables(bundle: &Path, env: &mut BTreeMap<String, String>) {
    for name in CERTIFICATES {
        env.entry(name.to_owned()).or_insert_with(|| bundle.display().to_string());
    }
}

/// An exception for names of the mesh would only hide services: nobody else knows these names.
fn without_services(exceptions: &str) -> String {
    let kept = exceptions.split(',').filter(|entry| {
        let name = entry.trim().trim_start_matches('*').to_ascii_lowercase();
        let name = name.split(':').next().unwrap_or_default();
        name.trim_start_matches('.') != "mesh" && !name.ends_with(".mesh")
    });
    kept.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_never_an_exception() {
        for (given, kept) in [
            ("localhost,.mesh", "localhost"),
            ("*.mesh:80, b.MESH,mesh", ""),
            ("a.meshes,10.0.0.1", "a.meshes,10.0.0.1"),
        ] {
            assert_eq!(without_services(given), kept, "{given}");
        }
    }

    #[test]
    fn every_spelling_is_there_and_settings_win() {
        let mut env = BTreeMap::from([("https_proxy".to_owned(), "http://other:1".to_owned())]);
        proxy_variables("http://127.0.0.1:15001", &mut env);
        for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"] {
            assert_eq!(env[name], "http://127.0.0.1:15001", "{name}");
        }
        assert_eq!(env["https_proxy"], "http://other:1");
        assert_eq!((env["NO_PROXY"].as_str(), env["NODE_USE_ENV_PROXY"].as_str()), ("", "1"));
    }
}
