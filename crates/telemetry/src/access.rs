//! The access log: one JSON line per HTTP request, lossy under overload and never in its way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::egress::EgressOfCall;
use crate::json_log::{JsonLog, Line};
use crate::metrics::Outcome;
use crate::render;
use crate::trace::TraceContext;

/// Records that may wait for the writer: 0.4 s of the highest rate that one process serves.
const QUEUE_RECORDS: usize = 8192;

/// One HTTP request that ended. Strings are shared with snapshots where they come from there.
#[derive(Debug, Clone, Serialize)]
pub struct AccessRecord {
    /// When it ended.
    #[serde(serialize_with = "render::time")]
    pub time: SystemTime,
    /// The caller's address as the socket has it.
    pub client: Option<SocketAddr>,
    /// Who called, proven; never a token.
    #[serde(serialize_with = "render::optional_text")]
    pub principal: Option<Arc<str>>,
    /// `HTTP/1.1`, `HTTP/2`.
    pub http_version: &'static str,
    /// The HTTP method.
    #[serde(serialize_with = "render::text")]
    pub http_method: Arc<str>,
    /// The path; a query is cut off.
    #[serde(serialize_with = "render::path")]
    pub path: Arc<str>,
    /// The status that was sent.
    pub status: u16,
    /// The MCP method, from the closed set.
    pub method: Option<&'static str>,
    /// The service, when one was chosen.
    #[serde(serialize_with = "render::optional_text")]
    pub service: Option<Arc<str>>,
    /// The capability, without the service's prefix.
    #[serde(serialize_with = "render::optional_text")]
    pub capability: Option<Arc<str>>,
    /// How it ended.
    pub outcome: Outcome,
    /// From the head of the request to the end of the reply.
    #[serde(rename = "duration_us", serialize_with = "render::micros")]
    pub duration: Duration,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the reply's body.
    pub bytes_out: u64,
    /// This hop's span.
    #[serde(rename = "trace_id", serialize_with = "render::trace_id")]
    pub trace: TraceContext,
    /// What the server dialled for it, where it dialled anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Box<EgressOfCall>>,
}

/// The access log of a process.
pub type AccessLog = JsonLog<AccessRecord>;

impl Line for AccessRecord {
    const LOG: &'static str = "access";
    const QUEUE: usize = QUEUE_RECORDS;
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::metrics::{Metrics, Role};
    use crate::sink::Sink;

    fn record(path: &str) -> AccessRecord {
        AccessRecord {
            time: UNIX_EPOCH + Duration::from_micros(1_795_230_245_000_120),
            client: None,
            principal: None,
            http_version: "HTTP/2",
            http_method: "POST".into(),
            path: path.into(),
            status: 200,
            method: Some("tools/call"),
            service: Some("fs".into()),
            capability: None,
            outcome: Outcome::Ok,
            duration: Duration::from_micros(77),
            bytes_in: 10,
            bytes_out: 20,
            egress: None,
            trace: TraceContext::parse(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap(),
        }
    }

    #[test]
    fn the_line_has_every_field_and_no_query() {
        assert_eq!(
            serde_json::to_string(&record("/mcp?access_token=secret")).unwrap(),
            concat!(
                r#"{"time":"2026-11-21T03:04:05.000120Z","client":null,"principal":null,"http_version":"HTTP/2","#,
                r#""http_method":"POST","path":"/mcp","status":200,"method":"tools/call","service":"fs","#,
                r#""capability":null,"outcome":"ok","duration_us":77,"bytes_in":10,"bytes_out":20,"#,
                r#""trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"}"#,
            )
        );
    }

    #[test]
    fn a_line_break_in_a_path_stays_in_its_line() {
        let line = serde_json::to_string(&record("/a\n{\"status\":500}")).unwrap();
        assert!(!line.contains('\n'), "{line}");
    }

    #[test]
    fn records_reach_the_file_and_off_takes_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.jsonl");
        let dropped = Metrics::new(Role::Sidecar).unwrap().access_dropped();
        let log = AccessLog::start(&Sink::File(path.clone()), dropped.clone()).unwrap();
        log.record(record("/mcp"));
        log.close();
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 1);
        assert!(!AccessLog::start(&Sink::Off, dropped).unwrap().enabled());
    }
}
