//! Where definitions come from: the admin port of an ingress, or one server that is asked itself.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::HeaderMap;
use outrigger_mcp::catalog::Catalog;
use outrigger_proxy::body::read_bounded;
use outrigger_runtime::Exit;
use outrigger_telemetry::log::{self, LogFormat};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::args::{DoctorArgs, SourceArgs, UrlArgs};
use crate::connect::client::Client;
use crate::connect::target::{Target, at_admin};
use crate::doctor;

/// Largest answer of an ingress: the largest catalogs of many services.
const MAX_ANSWER: usize = 512 << 20;
/// For the whole of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A service, and what it offers if that is known.
pub(super) struct Offered {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) catalog: Option<Catalog>,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    services: BTreeMap<String, OnPage<'a>>,
}

#[derive(Deserialize)]
struct OnPage<'a> {
    state: String,
    #[serde(borrow)]
    catalog: &'a RawValue,
}

/// Everything that is offered there.
///
/// # Errors
/// It cannot be asked.
pub(super) fn offered(args: &SourceArgs) -> anyhow::Result<Vec<Offered>> {
    log::init(LogFormat::Text, "warn")?;
    let mut got = Err(anyhow::anyhow!("interrupted"));
    outrigger_runtime::run(1, async {
        got = if args.server.is_empty() { of_ingress(args).await } else { of_server(args).await };
        Exit::Clean
    });
    got
}

async fn of_ingress(args: &SourceArgs) -> anyhow::Result<Vec<Offered>> {
    let url = at_admin(&args.ingress, "/definitions")?;
    // The rest is for the URL of a server.
    let asked = UrlArgs { ca_file: args.asked.ca_file.clone(), ..UrlArgs::default() };
    let client = Client::new(Target::of(&url, &asked)?);
    let answer = client.get(HeaderMap::new()).await.map_err(|error| anyhow::anyhow!("{}", error.message))?;
    if !answer.status().is_success() {
        bail!("{url} answered with HTTP status {}: is it the admin port of an ingress?", answer.status().as_u16());
    }
    let body = read_bounded(answer.into_body(), MAX_ANSWER, PATIENCE).await;
    let body: Bytes = body.map_err(|error| anyhow::anyhow!("{error}")).with_context(|| format!("cannot read {url}"))?;
    let page: Page<'_> = serde_json::from_slice(&body).with_context(|| format!("cannot read {url}"))?;
    let read = |(name, on): (String, OnPage<'_>)| {
        let catalog = Catalog::from_health_json(&body.slice_ref(on.catalog.get().as_bytes()))?;
        let known = on.state != "missing";
        Ok(Offered { name, state: on.state, catalog: known.then_some(catalog) })
    };
    page.services.into_iter().map(read).collect()
}

/// A server that no mesh is needed for.
async fn of_server(args: &SourceArgs) -> anyhow::Result<Vec<Offered>> {
    let Some(name) = &args.service else {
        bail!("say with --service NAME which service of the mesh this server is");
    };
    let asked = DoctorArgs {
        server: args.server.clone(),
        asked: args.asked.clone(),
        service: name.clone(),
        timeout: args.timeout,
        json: false,
    };
    let catalog = doctor::catalog_of(&asked).await?;
    Ok(vec![Offered { name: name.clone(), state: "fresh".to_owned(), catalog: Some(catalog) }])
}
