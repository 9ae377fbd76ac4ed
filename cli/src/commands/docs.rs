//! `outrigger docs`: pages that are made from the code.

use outrigger_runtime::Exit;

use crate::docs::{Page, configuration};
use crate::output;

/// Prints a page.
pub(crate) fn main(page: Page) -> anyhow::Result<Exit> {
    match page {
        Page::Configuration => output::result(configuration().trim_end()),
    }
    Ok(Exit::Clean)
}
