//! Arguments of `outrigger token`.

use std::path::PathBuf;

/// Makes a bearer token for a client of an ingress.
///
/// The token goes into a file of its own, for the client; what the ingress needs (`tokens_file`), with its hash alone, is printed, or
/// written with `--tokens-file`. A token that is there already stays.
#[derive(Debug, clap::Args)]
pub(crate) struct TokenArgs {
    /// Who presents it, for policy and audit.
    #[arg(long, value_name = "NAME", default_value = "local")]
    pub(crate) subject: String,
    /// A role that it grants. Repeatable.
    #[arg(long = "role", value_name = "ROLE")]
    pub(crate) roles: Vec<String>,
    /// A scope that it grants. Repeatable.
    #[arg(long = "scope", value_name = "SCOPE")]
    pub(crate) scopes: Vec<String>,
    /// The file for the token.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: PathBuf,
    /// The file for what the ingress needs. One that is there must have this token already.
    #[arg(long, value_name = "FILE")]
    pub(crate) tokens_file: Option<PathBuf>,
}
