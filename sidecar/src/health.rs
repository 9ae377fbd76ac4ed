//! `GET /mesh/v1/health`: how the server is and what it offers, for the ingress and other members of the mesh.
//!
//! With `?wait=30s` and `If-None-Match` the reply comes when something changed or the time is over, so that a change
//! travels at once and nobody polls.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use outrigger_mcp::json::quote;
use outrigger_proxy::{body::OutBody, reply};
use tokio::sync::watch;

use crate::keeper::{Offer, Status};

/// The longest that a poll may wait.
const MAX_WAIT: Duration = Duration::from_secs(120);

/// What does not change while the process runs.
pub struct HealthDocument {
    /// Name of the service.
    pub service: String,
    /// Tells this process from the one before it; part of every ETag.
    pub replica: String,
    /// Calls at once.
    pub limit: usize,
}

impl HealthDocument {
    /// Answers a request, at once or when something changed.
    pub async fn respond(
        &self,
        request: &http::request::Parts,
        mut offers: watch::Receiver<Arc<Offer>>,
        in_flight: impl Fn() -> usize,
        drain: impl Future<Output = ()>,
    ) -> Response<OutBody> {
        let known = request.headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let mut offer = offers.borrow_and_update().clone();
        if known.as_deref() == Some(self.etag(&offer).as_str()) {
            let wait = wait_of(request.uri.query().unwrap_or_default());
            tokio::select! {
                _ = offers.changed() => {}
                () = tokio::time::sleep(wait) => {}
                // A drain publishes itself as a change; this is for the case that it did so before.
                () = drain => {}
            }
            // Whatever ended the wait: a change that came at the same moment is told now.
            offer = offers.borrow_and_update().clone();
        }
        let etag = self.etag(&offer);
        let mut response = if known.as_deref() == Some(etag.as_str()) {
            let mut response = Response::new(OutBody::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            reply::json_pieces(StatusCode::OK, self.pieces(&offer, in_flight()))
        };
        if let Ok(value) = HeaderValue::from_str(&etag) {
            response.headers_mut().insert(header::ETAG, value);
        }
        response
    }

    fn etag(&self, offer: &Offer) -> String {
        format!("\"{}.{}\"", self.replica, offer.version)
    }

    /// The document; the catalog in it is shared, not copied.
    pub fn pieces(&self, offer: &Offer, in_flight: usize) -> Vec<Bytes> {
        let mut head = format!(
            "{{\"service\":{},\"version\":\"{}\",\"replica\":{},\"status\":\"{}\",",
            quote(&self.service),
            env!("CARGO_PKG_VERSION"),
            quote(&self.replica),
            offer.status.as_str()
        );
        if let Some(reason) = &offer.reason {
            head.push_str(&format!("\"reason\":{},", quote(reason)));
        }
        head.push_str(&format!("\"load\":{{\"in_flight\":{in_flight},\"limit\":{}}},", self.limit));
        if let Some(greeted) = &offer.greeted {
            let name = member_text(&greeted.info, "name");
            let version = member_text(&greeted.info, "version");
            head.push_str(&format!(
                "\"server\":{{\"name\":{name},\"version\":{version},\"revision\":\"{}\"}},",
                greeted.revision.as_str()
            ));
        }
        if offer.varies {
            head.push_str("\"lists\":\"per_caller\",");
        }
        head.push_str("\"catalog\":");
        vec![head.into(), offer.catalog_json.clone(), Bytes::from_static(b"}")]
    }
}

/// A string member of a raw object, still quoted; `null` when it is none.
fn member_text(object: &Bytes, name: &str) -> String {
    let whole = outrigger_mcp::json::Span { start: 0, end: object.len() as u32 };
    let token = outrigger_mcp::json::member(object, whole, name).map(|span| span.of(object));
    match token {
        Some(text @ [b'"', ..]) => String::from_utf8_lossy(text).into_owned(),
        _ => "null".into(),
    }
}

/// `wait=30s`, `wait=500ms` or `wait=30`; without it there is no waiting.
fn wait_of(query: &str) -> Duration {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("wait=")).unwrap_or_default();
    let (digits, unit) = value.split_at(value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len()));
    let number = digits.parse().unwrap_or(0);
    let wait = if unit == "ms" { Duration::from_millis(number) } else { Duration::from_secs(number) };
    wait.min(MAX_WAIT)
}

/// Whether a sidecar with this offer is ready for traffic.
pub fn ready(offer: &Offer) -> Result<(), String> {
    match offer.status {
        Status::Serving | Status::Degraded => Ok(()),
        Status::Down | Status::Draining => {
            Err(offer.reason.clone().unwrap_or_else(|| offer.status.as_str().to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use outrigger_mcp::catalog::Catalog;

    use super::*;

    #[test]
    fn waits_are_read_and_bounded() {
        assert_eq!(wait_of("a=1&wait=30s"), Duration::from_secs(30));
        assert_eq!(wait_of("wait=250ms"), Duration::from_millis(250));
        assert_eq!(wait_of("wait=99999"), MAX_WAIT);
        assert_eq!(wait_of(""), Duration::ZERO);
        assert_eq!(wait_of("wait=x"), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_change_is_told_that_comes_with_what_ends_the_wait() {
        let offer = |version| {
            Arc::new(Offer {
                status: Status::Serving,
                reason: None,
                catalog: Arc::new(Catalog::empty()),
                catalog_json: Bytes::from_static(b"{}"),
                greeted: None,
                varies: false,
                version,
            })
        };
        let document = HealthDocument { service: "a".into(), replica: "r".into(), limit: 1 };
        let (offers, seen) = watch::channel(offer(1));
        let request = http::Request::get("/?wait=30s").header(header::IF_NONE_MATCH, "\"r.1\"").body(()).unwrap();
        let drain = async { drop(offers.send_replace(offer(2))) };
        let told = document.respond(&request.into_parts().0, seen, || 0, drain).await;
        assert_eq!((told.status(), told.headers()[header::ETAG].to_str().unwrap()), (StatusCode::OK, "\"r.2\""));
    }
}
