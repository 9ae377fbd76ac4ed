//! The egress log: one JSON line per outbound connection, or per request where requests can be read.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::json_log::{JsonLog, Line};
use crate::metrics::labels::EgressVerdict;
use crate::render;
use crate::trace::TraceContext;

/// Records that may wait for the writer.
const QUEUE_RECORDS: usize = 4096;

/// One outbound connection or request that ended. Nothing of what was sent or received is in it.
#[derive(Debug, Clone, Serialize)]
pub struct EgressRecord {
    /// When it ended.
    #[serde(serialize_with = "render::time")]
    pub time: SystemTime,
    /// Always `egress`, to tell the line from others in the same stream.
    pub event: &'static str,
    /// The service that wanted it.
    #[serde(serialize_with = "render::text")]
    pub service: Arc<str>,
    /// How it came: `connect`, `http`, `socks5`, `transparent`, `dns`.
    pub way: &'static str,
    /// The host in its one form, or as it was written where it has none.
    #[serde(serialize_with = "render::text")]
    pub host: Arc<str>,
    /// The port; 0 where none was understood.
    pub port: u16,
    /// The address that was dialled.
    pub address: Option<IpAddr>,
    /// The HTTP method, where it can be read.
    #[serde(serialize_with = "render::optional_text")]
    pub method: Option<Arc<str>>,
    /// The tools of the calls that it may belong to; one is certainty.
    pub tools: Vec<Arc<str>>,
    /// What became of it.
    pub verdict: EgressVerdict,
    /// Why it did not go well, or would have been refused.
    pub reason: Option<&'static str>,
    /// The rule that allowed it, or came nearest to it.
    #[serde(serialize_with = "render::optional_text")]
    pub rule: Option<Arc<str>>,
    /// The name mixes letters of scripts that look alike.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mixed_scripts: bool,
    /// Bytes to the destination.
    pub bytes_up: u64,
    /// Bytes from it.
    pub bytes_down: u64,
    /// From the request to the end.
    #[serde(rename = "duration_us", serialize_with = "render::micros")]
    pub duration: Duration,
    /// Of the call behind it where that is certain, else of its own.
    #[serde(rename = "trace_id", serialize_with = "render::trace_id")]
    pub trace: TraceContext,
    /// Its own span, of the same trace.
    #[serde(rename = "span_id", serialize_with = "render::span_id")]
    pub span: TraceContext,
    /// The span of the call behind it, where that is certain.
    #[serde(rename = "parent_id", serialize_with = "render::optional_span_id")]
    pub parent: Option<TraceContext>,
}

/// What a call's server dialled meanwhile, as the call's own records tell it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct EgressOfCall {
    /// Connections and requests that went out.
    pub allowed: u32,
    /// Those that were refused.
    pub denied: u32,
    /// The first few that were refused.
    pub refused: Vec<RefusedEgress>,
    /// Other calls were at work too, so that some of it may be theirs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

/// One connection or request that was refused.
#[derive(Debug, Clone, Serialize)]
pub struct RefusedEgress {
    /// The host in its one form.
    #[serde(serialize_with = "render::text")]
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
    /// Why.
    pub reason: &'static str,
    /// The rule that came nearest.
    #[serde(serialize_with = "render::optional_text")]
    pub rule: Option<Arc<str>>,
}

/// The egress log of a process.
pub type EgressLog = JsonLog<EgressRecord>;

impl Line for EgressRecord {
    const LOG: &'static str = "egress";
    const QUEUE: usize = QUEUE_RECORDS;
}
