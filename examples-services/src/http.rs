//! The `http` service: fetches one textual page by GET, within limits.

mod client;
mod connection;
mod error;
mod proxy;
mod text;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{Implementation, RequestMetaObject, ServerCapabilities, ServerConfig};
use rmcp::service::RequestContext;
use rmcp::{Json, RoleServer, ServerHandler, schemars, tool, tool_handler, tool_router};
use serde::Deserialize;

use crate::transport::TransportArgs;
use client::{Fetcher, Limits, Page};
use connection::TraceHeaders;
use proxy::Proxies;

/// Flags of `http`.
#[derive(Debug, clap::Parser)]
#[command(
    about = "Fetches web pages as text, over MCP",
    after_help = "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY (either case) are honoured; SSL_CERT_FILE replaces the system's trusted roots."
)]
pub(crate) struct HttpArgs {
    /// Most bytes of a page that are returned; longer pages are cut and say so.
    #[arg(long, default_value_t = 512 * 1024, value_name = "BYTES")]
    max_bytes: usize,
    /// Most redirects that are followed.
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    max_redirects: usize,
    /// Seconds for one fetch, redirects included.
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    timeout: u64,
    #[command(flatten)]
    transport: TransportArgs,
}

/// Reads the proxy variables and the trusted roots, then serves.
///
/// # Errors
/// A proxy variable is malformed, or the transport fails.
pub(crate) async fn run(args: HttpArgs) -> anyhow::Result<()> {
    let proxies = Proxies::from_env(|name| std::env::var(name).ok()).context("cannot use the proxy environment")?;
    let limits = Limits {
        max_bytes: args.max_bytes,
        max_redirects: args.max_redirects,
        timeout: Duration::from_secs(args.timeout),
    };
    let fetcher = Fetcher::new(proxies, limits).context("cannot set up TLS")?;
    crate::transport::serve(
        &args.transport,
        HttpService { tools: Arc::new(HttpService::tool_router()), fetcher: Arc::new(fetcher) },
    )
    .await
}

#[derive(Clone)]
struct HttpService {
    /// Built once: building it derives every schema.
    tools: Arc<ToolRouter<Self>>,
    fetcher: Arc<Fetcher>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct FetchTextArgs {
    /// An absolute http or https URL, without a user name or password in it.
    url: String,
}

#[tool_router]
impl HttpService {
    #[tool(
        name = "fetchText",
        title = "Fetch a page as text",
        description = "Fetches an http or https URL by GET and returns its status and text. Follows a few redirects; refuses content that is not text.",
        annotations(read_only_hint = true, idempotent_hint = true, open_world_hint = true)
    )]
    async fn fetch_text(
        &self,
        Parameters(args): Parameters<FetchTextArgs>,
        context: RequestContext<RoleServer>,
    ) -> Result<Json<Page>, String> {
        let trace = trace_headers(&context.meta);
        let page = tokio::select! {
            page = self.fetcher.fetch(&args.url, &trace) => page.map_err(|error| error.to_string())?,
            () = context.ct.cancelled() => return Err("the call was cancelled".to_owned()),
        };
        Ok(Json(page))
    }
}

/// The trace context of the call, so that what we dial joins the caller's trace (SEP-414).
fn trace_headers(meta: &RequestMetaObject) -> TraceHeaders {
    TraceHeaders::new(meta.get_traceparent(), meta.get_tracestate())
}

#[tool_handler(router = self.tools)]
impl ServerHandler for HttpService {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("outrigger-example-http", env!("CARGO_PKG_VERSION")))
            .with_instructions("Fetches web pages as text. Only GET, only http and https.")
    }
}
