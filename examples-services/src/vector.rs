//! The `vector` service: keeps short documents in memory and finds the closest ones to a query.

mod index;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    ErrorData, Implementation, JsonObject, ListResourcesResult, PaginatedRequestParams, PromptMessage,
    ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, Resource, ResourceContents, Role,
    ServerCapabilities, ServerConfig,
};
use rmcp::service::RequestContext;
use rmcp::{
    Json, RoleServer, ServerHandler, prompt, prompt_handler, prompt_router, schemars, tool, tool_handler, tool_router,
};
use serde::{Deserialize, Serialize};

use crate::transport::TransportArgs;
use index::{Caps, Hit, Index};

/// Documents on one page of resources/list.
const PAGE: usize = 100;
/// Most hits that one search returns, and how many the prompt quotes.
const MAX_HITS: usize = 100;
const PROMPT_HITS: usize = 5;
const URI_PREFIX: &str = "vector://documents/";

/// Flags of `vector`.
#[derive(Debug, clap::Parser)]
#[command(about = "A small in-memory document index with cosine search, over MCP")]
pub(crate) struct VectorArgs {
    /// Most documents that are kept.
    #[arg(long, default_value_t = 10_000, value_name = "COUNT")]
    max_documents: usize,
    /// Most text and metadata that is kept in all documents together, in bytes.
    #[arg(long, default_value_t = 16 * 1024 * 1024, value_name = "BYTES")]
    max_total_bytes: usize,
    #[command(flatten)]
    transport: TransportArgs,
}

/// Serves an empty index.
///
/// # Errors
/// The transport fails.
pub(crate) async fn run(args: VectorArgs) -> anyhow::Result<()> {
    let caps = Caps { documents: args.max_documents, total_bytes: args.max_total_bytes };
    let service =
        VectorService { tools: Arc::new(VectorService::tool_router()), index: Arc::new(Mutex::new(Index::new(caps))) };
    crate::transport::serve(&args.transport, service).await
}

#[derive(Clone)]
struct VectorService {
    /// Built once: building it derives every schema.
    tools: Arc<ToolRouter<Self>>,
    /// Shared by all sessions and calls. Held for microseconds to milliseconds, never across an await.
    index: Arc<Mutex<Index>>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct AddDocumentArgs {
    /// Name of the document, 1 to 200 characters. An existing document of that name is replaced.
    id: String,
    /// The text to index, at most 65536 bytes.
    text: String,
    /// Anything worth getting back with a hit, at most 4096 bytes as JSON.
    #[serde(default)]
    metadata: JsonObject,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct Added {
    /// The document's name.
    id: String,
    /// True if a document of that name was there before.
    replaced: bool,
    /// Documents in the index now.
    documents: usize,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct SearchArgs {
    /// Words to look for.
    query: String,
    /// How many hits to return, 1 to 100.
    #[serde(default = "default_k")]
    #[schemars(range(min = 1, max = 100))]
    k: usize,
}

fn default_k() -> usize {
    5
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct SearchResult {
    /// Best first. Documents that share no word with the query are left out.
    hits: Vec<Hit>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
struct AnswerArgs {
    /// The question to answer from the indexed documents.
    question: String,
}

#[tool_router]
impl VectorService {
    #[tool(
        name = "addDocument",
        title = "Add a document",
        description = "Indexes a document in memory under an id, replacing any document of the same id.",
        annotations(read_only_hint = false, destructive_hint = true, idempotent_hint = true, open_world_hint = false)
    )]
    async fn add_document(&self, Parameters(args): Parameters<AddDocumentArgs>) -> Result<Json<Added>, String> {
        let mut index = self.index();
        let replaced = index.add(&args.id, args.text, args.metadata).map_err(|error| error.to_string())?;
        Ok(Json(Added { id: args.id, replaced, documents: index.len() }))
    }

    #[tool(
        name = "search",
        title = "Search documents",
        description = "Finds the documents closest to a query by cosine similarity over word counts.",
        annotations(read_only_hint = true, idempotent_hint = true, open_world_hint = false)
    )]
    async fn search(&self, Parameters(args): Parameters<SearchArgs>) -> Result<Json<SearchResult>, String> {
        if !(1..=MAX_HITS).contains(&args.k) {
            return Err(format!("k is {}: give 1 to {MAX_HITS}", args.k));
        }
        Ok(Json(SearchResult { hits: self.index().search(&args.query, args.k) }))
    }
}

#[prompt_router]
impl VectorService {
    #[prompt(
        name = "answerFromDocuments",
        description = "Asks for an answer that rests only on the closest indexed documents."
    )]
    async fn answer_from_documents(&self, Parameters(args): Parameters<AnswerArgs>) -> Vec<PromptMessage> {
        let mut text = String::from("Answer only from these documents and name the ids that you used.\n\n");
        for hit in self.index().search(&args.question, PROMPT_HITS) {
            text.push_str(&format!("[{}]\n{}\n\n", hit.id, hit.excerpt));
        }
        text.push_str(&format!("Question: {}", args.question));
        vec![PromptMessage::new_text(Role::User, text)]
    }
}

impl VectorService {
    /// The index; a panic in another call leaves it consistent, because every change is one map operation.
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tool_handler(router = self.tools)]
#[prompt_handler]
impl ServerHandler for VectorService {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().enable_prompts().enable_resources().build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("outrigger-example-vector", env!("CARGO_PKG_VERSION")))
            .with_instructions("Documents live in memory and are gone when the service ends. Add some, then search.")
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let cursor = request.and_then(|request| request.cursor);
        let (ids, next) = self.index().page(cursor.as_deref(), PAGE);
        let resources =
            ids.into_iter().map(|id| Resource::new(document_uri(&id), id).with_mime_type("text/plain")).collect();
        let mut result = ListResourcesResult::with_all_items(resources);
        result.next_cursor = next;
        Ok(result)
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let text = document_id(&request.uri).and_then(|id| self.index().text(&id));
        match text {
            Some(text) => {
                let contents = ResourceContents::text(text, request.uri).with_mime_type("text/plain");
                Ok(ReadResourceResult::new(vec![contents]).into())
            }
            None => Err(ErrorData::resource_not_found(format!("there is no document {:?}", request.uri), None)),
        }
    }
}

/// The URI of a document; the id is percent-encoded so that any id makes one path segment.
fn document_uri(id: &str) -> String {
    let mut uri = String::from(URI_PREFIX);
    for byte in id.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => uri.push(char::from(byte)),
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri
}

/// The inverse of [`document_uri`]; `None` for any URI that it cannot have made.
fn document_id(uri: &str) -> Option<String> {
    let mut rest = uri.strip_prefix(URI_PREFIX)?.as_bytes();
    let mut id = Vec::with_capacity(rest.len());
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            id.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail.get(2..)?;
        } else {
            id.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(id).ok()
}

#[cfg(test)]
mod tests {
    use super::{document_id, document_uri};

    #[test]
    fn any_id_survives_its_uri() {
        for id in ["plain", "a b/c?d#e", "日本", "%41", "..", "a%2Fb"] {
            let uri = document_uri(id);
            assert!(uri.is_ascii() && !uri.contains(' '), "{uri}");
            assert_eq!(document_id(&uri).as_deref(), Some(id));
        }
        for bad in ["vector://documents/%4", "vector://documents/%ff", "file:///x"] {
            assert_eq!(document_id(bad), None, "{bad}");
        }
    }
}
