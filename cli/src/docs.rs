//! Pages of documentation that the code writes: every setting is described where it is declared and nowhere else.

use clap::ValueEnum;
use outrigger_config::Settings;

use crate::manifest::Manifest;

/// A page that the code writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Page {
    /// Every setting of `outrigger up`, the sidecar, the ingress, the authority and the injector (docs/CONFIGURATION.md).
    Configuration,
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Written by `UPDATE_DOCS=1 cargo test -p outrigger --test configuration_doc`. Do not edit by hand. -->

Every setting has one name, one default, and a reason for it. Five programs have settings: `outrigger up` reads
`mesh.yaml` and writes the files of ingress and sidecar, which are configured directly where something else starts them;
`outrigger ca serve` and `outrigger inject` have files of their own.

- A file is YAML. A setting's name is its path: `timeouts.drain` is `drain` inside `timeouts`.
- A setting with an environment variable can be given there instead, and the variable wins over the file. A list is then
  separated by commas, a command is one line with quotes, and an empty variable counts as unset.
- Durations are a number and a unit: `250ms`, `30s`, `5m`, `2h`, `1d`. Sizes: `512B`, `32KiB`, `4MiB`, `1GiB`. Booleans are
  `true` and `false`, nothing else.
- A wrong file gives every mistake at once, each with line, column and a hint, and nothing starts. An unknown setting is a
  mistake.
- A file may have 1 MiB, 100,000 values and 32 levels. Anchors work; merge keys (`<<`) do not.

";

/// The programs that have settings, in the order of the page, each with a line about its file.
pub fn programs() -> [(&'static str, &'static str, Settings); 5] {
    [
        (
            "outrigger up",
            "`mesh.yaml` (`-f FILE`): a whole mesh on one machine. Without a file the bundled example services run.",
            Manifest::describe(),
        ),
        (
            "outrigger-sidecar",
            "`--config sidecar.yaml`, or wholly by environment variables, which is how it is dropped into a compose file.",
            outrigger_sidecar::config::Config::describe(),
        ),
        (
            "outrigger-ingress",
            "`--config ingress.yaml`, and environment variables for what differs between places.",
            outrigger_ingress::config::Config::describe(),
        ),
        (
            "outrigger ca serve",
            "`--config ca.yaml`, and environment variables: an authority that signs over the network.",
            crate::authority::config::Config::describe(),
        ),
        (
            "outrigger inject",
            "`--config inject.yaml`, and environment variables: sidecars in pods of Kubernetes ([KUBERNETES](KUBERNETES.md)).",
            crate::inject::config::Config::describe(),
        ),
    ]
}

/// The whole of docs/CONFIGURATION.md.
pub fn configuration() -> String {
    let mut page = INTRODUCTION.to_owned();
    for (program, about, settings) in programs() {
        page.push_str(&format!("## `{program}`\n\n{about}\n\n{}", settings.to_markdown(3)));
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}
