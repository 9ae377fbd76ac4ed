//! The proxy variables, without touching the real environment.

use super::*;

fn proxies(vars: &[(&str, &str)]) -> Result<Proxies, ProxyError> {
    let vars: Vec<(String, String)> = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Proxies::from_env(move |name| vars.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()))
}

fn port(proxies: &Proxies, url: &str) -> Option<u16> {
    proxies.for_url(&Url::parse(url).unwrap()).map(|proxy| proxy.port)
}

#[test]
fn each_scheme_has_its_variable_and_lower_case_wins() {
    let set = proxies(&[("HTTP_PROXY", "http://a:1"), ("http_proxy", "http://a:2"), ("HTTPS_PROXY", "b:3")]).unwrap();
    assert_eq!(port(&set, "http://x/"), Some(2));
    assert_eq!(port(&set, "https://x/"), Some(3));
    let fallback = proxies(&[("ALL_PROXY", "http://[::1]:4"), ("HTTP_PROXY", "")]).unwrap();
    assert_eq!(port(&fallback, "http://x/"), Some(4));
    assert_eq!(fallback.http.unwrap().host, "::1");
    assert_eq!(port(&proxies(&[]).unwrap(), "http://x/"), None);
}

#[test]
fn credentials_become_a_header_that_debug_hides() {
    let set = proxies(&[("HTTP_PROXY", "http://me:p%40ss@proxy:8080")]).unwrap();
    let proxy = set.for_url(&Url::parse("http://x/").unwrap()).unwrap();
    let header = proxy.authorization.as_ref().unwrap();
    assert_eq!(header.to_str().unwrap(), format!("Basic {}", BASE64_STANDARD.encode("me:p@ss")));
    let shown = format!("{set:?}");
    assert!(!shown.contains(&BASE64_STANDARD.encode("me:p@ss")) && !shown.contains("p@ss"), "{shown}");
}

#[test]
fn wrong_values_name_the_variable_and_not_the_value() {
    let error = proxies(&[("HTTPS_PROXY", "socks5://u:secret@h:1")]).unwrap_err();
    assert_eq!(error, ProxyError::Scheme("HTTPS_PROXY", "socks5".into()));
    let error = proxies(&[("HTTP_PROXY", "http://u:secret@h:notaport")]).unwrap_err();
    assert_eq!(error, ProxyError::NotAUrl("HTTP_PROXY"));
    assert!(!error.to_string().contains("secret"));
}

#[test]
fn no_proxy_matches_names_addresses_and_networks() {
    let covered = |list: &str, url: &str| {
        let set = proxies(&[("ALL_PROXY", "http://p:1"), ("NO_PROXY", list)]).unwrap();
        port(&set, url).is_none()
    };
    assert!(covered("*", "http://anything/"));
    assert!(covered("example.com", "http://example.com/"));
    assert!(covered(" .Example.com , x", "https://a.b.EXAMPLE.com/"));
    assert!(covered("*.example.com", "https://a.example.com/"));
    assert!(!covered("example.com", "http://badexample.com/"));
    assert!(!covered("example.com:8080", "http://example.com/"));
    assert!(covered("example.com:80", "http://example.com/"));
    assert!(covered("127.0.0.1", "http://127.0.0.1:9/"));
    assert!(covered("127.0.0.1:9", "http://127.0.0.1:9/"));
    assert!(covered("::1", "http://[::1]:9/"));
    assert!(covered("[::1]:9", "http://[::1]:9/"));
    assert!(covered("10.0.0.0/8", "http://10.9.8.7/"));
    assert!(!covered("10.0.0.0/8", "http://11.0.0.1/"));
    assert!(covered("0.0.0.0/0", "http://1.2.3.4/"));
    assert!(!covered("0.0.0.0/0", "http://[::1]/"));
    assert!(!covered("10.0.0.0/99,,", "http://10.0.0.1/"));
    // An address must be covered as an address, not by a name that happens to end alike.
    assert!(!covered("0.0.1", "http://127.0.0.1/"));
}
