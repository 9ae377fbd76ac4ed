//! An agent of the SPIFFE Workload API, honest or not: gRPC on a Unix socket, with an authority that nothing here shares code with.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use time::OffsetDateTime;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};

/// What an agent says to everybody who asks.
#[derive(Clone)]
pub(super) enum Say {
    /// A message, then nothing until there is something else to say.
    Message(Vec<u8>),
    /// These bytes, whatever they are, and then the end.
    Bytes(Vec<u8>),
    /// The same message without a rest.
    Endlessly(Vec<u8>),
    /// A failure of gRPC, with this code.
    Code(u8, &'static str),
    /// No answer at all.
    Nothing,
}

/// A running agent. It ends, and its socket is gone, when dropped.
pub(super) struct Agent {
    socket: PathBuf,
    said: watch::Sender<Say>,
    _runtime: tokio::runtime::Runtime,
}

impl Agent {
    pub(super) fn start(socket: &Path, say: Say) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // Of an earlier one.
        let _ = std::fs::remove_file(socket);
        let (said, hears) = watch::channel(say);
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(socket).unwrap()
        };
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let hears = hears.clone();
                let serve = service_fn(move |request| answer(request, hears.clone()));
                tokio::spawn(async move {
                    let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    // Whoever asks may be killed.
                    let _ = http2.serve_connection(TokioIo::new(stream), serve).await;
                });
            }
        });
        Self { socket: socket.to_owned(), said, _runtime: runtime }
    }

    /// Says something else from now on, also to those that listen already.
    pub(super) fn say(&self, say: Say) {
        self.said.send_replace(say);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

async fn answer(request: Request<Incoming>, mut hears: watch::Receiver<Say>) -> Result<Response<Spoken>, Infallible> {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(head.uri.path(), "/SpiffeWorkloadAPI/FetchX509SVID");
    assert_eq!(header("content-type").as_deref(), Some("application/grpc"));
    assert_eq!(header("te").as_deref(), Some("trailers"));
    assert_eq!(header("workload.spiffe.io").as_deref(), Some("true"));
    assert_eq!(body.collect().await.unwrap().to_bytes(), vec![0; 5]);
    let (speak, spoken) = mpsc::channel(1);
    let mut response = Response::new(Spoken(spoken));
    response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let first = hears.borrow_and_update().clone();
    match &first {
        Say::Nothing => std::future::pending().await,
        Say::Code(code, words) => {
            response.headers_mut().insert("grpc-status", code.to_string().parse().unwrap());
            response.headers_mut().insert("grpc-message", words.parse().unwrap());
            return Ok(response);
        }
        Say::Message(_) | Say::Bytes(_) | Say::Endlessly(_) => {}
    }
    tokio::spawn(speak_on(first, hears, speak));
    Ok(response)
}

/// Ends when nobody listens any more.
async fn speak_on(first: Say, mut hears: watch::Receiver<Say>, speak: mpsc::Sender<Frame<Bytes>>) -> Option<()> {
    let mut say = first;
    loop {
        match say {
            Say::Message(message) => speak.send(Frame::data(framed(&message).into())).await.ok()?,
            Say::Bytes(bytes) => {
                speak.send(Frame::data(bytes.into())).await.ok()?;
                return None;
            }
            Say::Endlessly(message) => loop {
                speak.send(Frame::data(framed(&message).into())).await.ok()?;
            },
            Say::Code(code, words) => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", code.to_string().parse().unwrap());
                trailers.insert("grpc-message", words.parse().unwrap());
                speak.send(Frame::trailers(trailers)).await.ok()?;
                return None;
            }
            Say::Nothing => {}
        }
        hears.changed().await.ok()?;
        say = hears.borrow_and_update().clone();
    }
}

struct Spoken(mpsc::Receiver<Frame<Bytes>>);

impl Body for Spoken {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

/// A message with what gRPC puts before it.
fn framed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

/// A trust domain: its root in memory, and what an agent of it hands out.
pub(super) struct Domain {
    name: &'static str,
    root: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, in DER.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) id: String,
    pub(super) chain: Vec<u8>,
    pub(super) key: Vec<u8>,
}

impl Domain {
    pub(super) fn new(name: &'static str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::OrganizationName, name);
        params.subject_alt_names = vec![uri(&format!("spiffe://{name}"))];
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().to_vec();
        Self { name, root, issuer: Issuer::new(params, key) }
    }

    pub(super) fn root(&self) -> &[u8] {
        &self.root
    }

    /// A certificate that lives for so long, with a key of a kind that our own authority never uses.
    pub(super) fn issue(&self, path: &str, life: Duration) -> Identity {
        self.issue_id(&format!("spiffe://{}{path}", self.name), life)
    }

    /// The same for any id.
    pub(super) fn issue_id(&self, id: &str, life: Duration) -> Identity {
        let mut params = CertificateParams::default();
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - Duration::from_secs(60), now + life);
        params.subject_alt_names = vec![uri(id)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let chain = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        Identity { id: id.to_owned(), chain, key: key.serialize_der() }
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// An `X509SVIDResponse` with these identities, all with the same roots, and with other trust domains.
pub(super) fn response(identities: &[&Identity], roots: &[u8], federated: &[(&str, &[u8])]) -> Vec<u8> {
    let svid = |it: &&Identity| {
        let parts = [field(1, it.id.as_bytes()), field(2, &it.chain), field(3, &it.key), field(4, roots)];
        field(1, &parts.concat())
    };
    let foreign = |(name, roots): &(&str, &[u8])| field(3, &[field(1, name.as_bytes()), field(2, roots)].concat());
    identities.iter().map(svid).chain(federated.iter().map(foreign)).collect::<Vec<_>>().concat()
}

/// A field of protobuf with a length.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = value.len();
    while length >= 0x80 {
        out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap());
    out.extend_from_slice(value);
    out
}
