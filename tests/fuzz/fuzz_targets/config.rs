//! A settings file. Every mistake has a place inside the file and can be shown.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use outrigger_config::{Diagnostics, Fields, doc, kinds, load, sections};

fuzz_target!(|text: &str| {
    let file = ("settings.yaml", text);
    // The environment wins over the file, so each value is tried in both places.
    let first_line = text.lines().next().unwrap_or_default().to_owned();
    let environment = |_: &str| Some(first_line.clone());
    for outcome in [load(Some(file), &|_| None, read), load(Some(file), &environment, read)] {
        if let Err(mistakes) = outcome {
            check(&mistakes, text);
        }
    }
});

fn check(mistakes: &Diagnostics, text: &str) {
    assert!(!mistakes.0.is_empty(), "refused without a reason");
    // In YAML a carriage return ends a line as well; the end of a file counts as one more.
    let lines = text.bytes().filter(|byte| matches!(byte, b'\r' | b'\n')).count() + 1;
    for mistake in &mistakes.0 {
        assert!(mistake.line as usize <= lines, "{mistake:?}");
    }
    mistakes.to_string();
}

/// One setting of every kind, as the programs declare theirs.
fn read(f: &mut Fields<'_>) -> Option<()> {
    f.required("service", doc("A name.").env("SERVICE"), sections::service_name());
    f.optional("listen", doc("An address.").env("LISTEN"), kinds::listen());
    f.optional("upstream", doc("A URL.").env("UPSTREAM"), kinds::url());
    f.optional("peer", doc("A place.").env("PEER"), kinds::host_port());
    f.optional("command", doc("A program.").env("COMMAND"), kinds::command());
    f.optional("patience", doc("A time.").env("PATIENCE"), kinds::duration(Duration::ZERO..=Duration::MAX));
    f.optional("size", doc("A size.").env("SIZE"), kinds::bytes(0..=usize::MAX));
    f.optional("rate", doc("A rate.").env("RATE"), kinds::rate());
    f.optional("count", doc("A number.").env("COUNT"), kinds::count(1..=256));
    f.optional("on", doc("A switch.").env("ON"), kinds::boolean());
    f.optional("digest", doc("A digest.").env("DIGEST"), kinds::sha256());
    f.optional("secret", doc("A secret.").env("SECRET"), kinds::secret());
    f.optional("callers", doc("Ids.").env("CALLERS"), kinds::list_of(sections::spiffe_id(true)));
    f.optional("labels", doc("Pairs."), kinds::map_of(kinds::text(), kinds::text()));
    f.section("identity", "Files.", sections::identity)?;
    f.section("log", "The log.", sections::log).map(drop)
}
