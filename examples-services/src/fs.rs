//! The `fs` service: lists directories and reads text files beneath one root. It never writes.

mod tree;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    ErrorData, Implementation, ListResourceTemplatesResult, PaginatedRequestParams, ReadResourceRequestParams,
    ReadResourceResponse, ReadResourceResult, ResourceContents, ResourceTemplate, ServerCapabilities, ServerConfig,
};
use rmcp::service::RequestContext;
use rmcp::{Json, RoleServer, ServerHandler, schemars, tool, tool_handler, tool_router};
use serde::Deserialize;
use url::Url;

use crate::transport::TransportArgs;
use tree::{Listing, Tree, TreeError};

/// Flags of `fs`.
#[derive(Debug, clap::Parser)]
#[command(about = "Read-only files beneath one directory, over MCP")]
pub(crate) struct FsArgs {
    /// The directory to offer. Nothing outside it can be reached.
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Largest file that readFileText returns, in bytes.
    #[arg(long, default_value_t = 256 * 1024, value_name = "BYTES")]
    max_bytes: u64,
    /// Most entries that listDir returns.
    #[arg(long, default_value_t = 1000, value_name = "COUNT")]
    max_entries: usize,
    /// Offer names that begin with a dot as well.
    #[arg(long)]
    hidden: bool,
    #[command(flatten)]
    transport: TransportArgs,
}

/// Opens the root and serves it.
///
/// # Errors
/// The root is not a directory that we may open, or the transport fails.
pub(crate) async fn run(args: FsArgs) -> anyhow::Result<()> {
    let tree = Tree::open(&args.root, args.max_bytes, args.max_entries, args.hidden)
        .with_context(|| format!("cannot open --root {}", args.root.display()))?;
    crate::transport::serve(
        &args.transport,
        FsService { tools: Arc::new(FsService::tool_router()), tree: Arc::new(tree) },
    )
    .await
}

#[derive(Clone)]
struct FsService {
    /// Built once: building it derives every schema.
    tools: Arc<ToolRouter<Self>>,
    tree: Arc<Tree>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListDirArgs {
    /// Directory relative to the root, for example "notes/2026". Leave out for the root itself.
    #[serde(default = "root_path")]
    path: String,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReadFileTextArgs {
    /// File relative to the root, for example "notes/today.md".
    path: String,
}

fn root_path() -> String {
    ".".to_owned()
}

#[tool_router]
impl FsService {
    #[tool(
        name = "listDir",
        title = "List a directory",
        description = "Lists the entries of a directory beneath the root, sorted by name, with kind and size.",
        annotations(read_only_hint = true, idempotent_hint = true, open_world_hint = false)
    )]
    async fn list_dir(&self, Parameters(args): Parameters<ListDirArgs>) -> Result<Json<Listing>, String> {
        let listing = self.blocking(move |tree| tree.list(&args.path)).await;
        listing.map(Json).map_err(|error| error.to_string())
    }

    #[tool(
        name = "readFileText",
        title = "Read a text file",
        description = "Returns the text of one UTF-8 file beneath the root. Binary and oversized files are refused.",
        annotations(read_only_hint = true, idempotent_hint = true, open_world_hint = false)
    )]
    async fn read_file_text(&self, Parameters(args): Parameters<ReadFileTextArgs>) -> Result<String, String> {
        let text = self.blocking(move |tree| tree.read_text(&args.path)).await;
        text.map_err(|error| error.to_string())
    }
}

impl FsService {
    /// Runs file system work off the async threads.
    async fn blocking<T, F>(&self, work: F) -> Result<T, TreeError>
    where
        T: Send + 'static,
        F: FnOnce(&Tree) -> Result<T, TreeError> + Send + 'static,
    {
        let tree = Arc::clone(&self.tree);
        tokio::task::spawn_blocking(move || work(&tree)).await.unwrap_or(Err(TreeError::Interrupted))
    }
}

#[tool_handler(router = self.tools)]
impl ServerHandler for FsService {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().enable_resources().build())
            .with_server_info(Implementation::new("outrigger-example-fs", env!("CARGO_PKG_VERSION")))
            .with_instructions("Read-only access to one directory. Paths are relative to it; start with listDir.")
    }

    async fn list_resource_templates(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let template = ResourceTemplate::new("file:///{+path}", "file")
            .with_description("A text file; the path is relative to the root of the service.")
            .with_mime_type("text/plain");
        Ok(ListResourceTemplatesResult::with_all_items(vec![template]))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let path = path_of(&request.uri)
            .ok_or_else(|| ErrorData::invalid_params(format!("{:?} is not a file:///path URI", request.uri), None))?;
        match self.blocking(move |tree| tree.read_text(&path)).await {
            Ok(text) => {
                let contents = ResourceContents::text(text, request.uri).with_mime_type("text/plain");
                Ok(ReadResourceResult::new(vec![contents]).into())
            }
            Err(error @ TreeError::NotFound(_)) => Err(ErrorData::resource_not_found(error.to_string(), None)),
            Err(error) => Err(ErrorData::invalid_params(error.to_string(), None)),
        }
    }
}

/// The path inside the root that a `file:///` URI means; the root of the service stands for `/`.
fn path_of(uri: &str) -> Option<String> {
    let url = Url::parse(uri).ok().filter(|url| url.scheme() == "file")?;
    let path = url.to_file_path().ok()?;
    path.to_str()?.strip_prefix('/').map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::path_of;

    #[test]
    fn file_uris_become_paths_beneath_the_root() {
        assert_eq!(path_of("file:///a/b.txt").as_deref(), Some("a/b.txt"));
        assert_eq!(path_of("file:///a%20b.txt").as_deref(), Some("a b.txt"));
        assert_eq!(path_of("file:///../../etc/passwd").as_deref(), Some("etc/passwd"));
        assert_eq!(path_of("file:///a/%2e%2e/%2E%2E/etc/passwd").as_deref(), Some("etc/passwd"));
        for bad in ["file://host/a", "http://x/a", "a/b.txt", ""] {
            assert_eq!(path_of(bad), None, "{bad}");
        }
    }
}
