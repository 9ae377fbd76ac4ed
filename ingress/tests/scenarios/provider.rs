//! An identity provider that tests command.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub const PUBLIC: &str = "https://mcp.example.com";

/// A provider that serves its metadata and keys over plain HTTP.
pub struct Provider {
    address: SocketAddr,
    pub state: Arc<State>,
}

#[derive(Default)]
pub struct State {
    pub keys: Mutex<Vec<Value>>,
    pub fetches: AtomicUsize,
    pub broken: AtomicBool,
    /// It takes requests and answers none.
    pub silent: AtomicBool,
    /// Requests that it took while it was.
    pub unanswered: AtomicUsize,
    /// What it says of opaque tokens; nothing is known of others.
    pub opaque: Mutex<HashMap<String, Value>>,
    /// Questions about them.
    pub asked: AtomicUsize,
}

pub struct Key {
    id: &'static str,
    pub key: EncodingKey,
}

impl Key {
    pub fn new(id: &'static str) -> Self {
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        Self { id, key: EncodingKey::from_ec_der(der.as_ref()) }
    }

    pub fn public(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some(self.id.to_owned());
        serde_json::to_value(jwk).unwrap()
    }

    pub fn sign(&self, claims: &Value) -> &'static str {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.id.to_owned());
        encode(&header, claims, &self.key).unwrap().leak()
    }
}

impl Provider {
    pub async fn start(keys: &[&Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let provider = Self { address, state: Arc::clone(&state) };
        provider.show(keys);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let state = Arc::clone(&state);
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                        if state.silent.load(Ordering::SeqCst) {
                            state.unanswered.fetch_add(1, Ordering::SeqCst);
                            std::future::pending::<()>().await;
                        }
                        Ok::<_, Infallible>(state.answer(address, &head, &body))
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service),
                );
            }
        });
        provider
    }

    pub fn issuer(&self) -> String {
        format!("http://{}/realm", self.address)
    }

    pub fn show(&self, keys: &[&Key]) {
        *self.state.keys.lock().unwrap() = keys.iter().map(|key| key.public()).collect();
    }

    /// Claims that are good at the merged endpoint.
    pub fn claims(&self) -> Value {
        json!({ "iss": self.issuer(), "sub": "carla", "aud": format!("{PUBLIC}/mcp"), "exp": now() + 300, "scope": "all" })
    }

    pub fn settings(&self) -> String {
        self.settings_with("clock_skew: 0s")
    }

    /// The same, with these settings of the issuer.
    pub fn settings_with(&self, more: &str) -> String {
        let issuer = format!("{{ issuer: \"{}\", {more} }}", self.issuer());
        format!("public_url: {PUBLIC}\noauth: {{ scopes: [all], issuers: [ {issuer} ] }}\n")
    }
}

impl State {
    fn answer(&self, address: SocketAddr, head: &http::request::Parts, form: &[u8]) -> Response<Full<bytes::Bytes>> {
        let body = match head.uri.path() {
            _ if self.broken.load(Ordering::SeqCst) => None,
            "/.well-known/openid-configuration/realm" => Some(json!({
                "issuer": format!("http://{address}/realm"),
                "jwks_uri": format!("http://{address}/keys"),
                "introspection_endpoint": format!("http://{address}/introspect"),
            })),
            "/introspect" => Some(self.introspect(head, form)),
            "/keys" => {
                self.fetches.fetch_add(1, Ordering::SeqCst);
                Some(json!({ "keys": *self.keys.lock().unwrap() }))
            }
            _ => None,
        };
        let status = match &body {
            // A token at which it does not look.
            Some(Value::Number(status)) => StatusCode::from_u16(status.as_u64().unwrap().try_into().unwrap()).unwrap(),
            Some(_) => StatusCode::OK,
            None => StatusCode::NOT_FOUND,
        };
        let body = body.unwrap_or_default().to_string();
        Response::builder().status(status).body(Full::from(body)).unwrap()
    }

    fn introspect(&self, head: &http::request::Parts, form: &[u8]) -> Value {
        self.asked.fetch_add(1, Ordering::SeqCst);
        assert_eq!(head.headers["authorization"], format!("Basic {}", STANDARD.encode("mesh:s%26cret")));
        let form = str::from_utf8(form).unwrap();
        let token = form.strip_prefix("token=").unwrap().split('&').next().unwrap();
        self.opaque.lock().unwrap().get(token).cloned().unwrap_or(json!({ "active": false }))
    }
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
