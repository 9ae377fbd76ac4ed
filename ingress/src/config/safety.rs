//! What keeps a service, and everybody who calls it, safe when things go wrong.

use std::time::Duration;

use outrigger_config::sections::{HOUR, MINUTE, SECOND, how_many};
use outrigger_config::{Fields, doc, kinds};
use outrigger_policy::glob::Glob;

/// The safety controls of one service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Safety {
    /// When a replica is left alone.
    pub breaker: Breaker,
    /// How many calls at once.
    pub concurrency: Concurrency,
    /// What may be sent again that was sent already; nothing where absent.
    pub retries: Option<Retries>,
    /// What holds for some tools; the first that names one counts.
    pub tools: Vec<Tool>,
}

/// How many calls may be at work at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concurrency {
    /// At most; as `limits.in_flight` where absent.
    pub limit: Option<usize>,
    /// Percent of them that may be one client's.
    pub per_client: u8,
    /// Where fewer are tried, by how long calls take.
    pub adaptive: Option<Adaptive>,
}

/// Where the number of calls at once is found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adaptive {
    /// At least.
    pub min: usize,
    /// At first.
    pub start: usize,
}

/// What may be sent again although it was sent already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// How often one call at most.
    pub attempts: u32,
    /// Percent of the calls of a service.
    pub share: u8,
    /// Further ones at once after a rest.
    pub burst: usize,
}

/// What holds for some tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// Which ones, by the service's own names.
    pub names: Vec<Glob>,
    /// How long one call may take.
    pub deadline: Option<Duration>,
    /// Whether calls may run twice.
    pub repeat: Repeat,
}

/// Whether calls of a tool may run twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Repeat {
    /// If its hints say that it only reads, or that twice is as once.
    #[default]
    Hints,
    /// No.
    Never,
    /// Yes.
    Always,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self { limit: None, per_client: 75, adaptive: None }
    }
}

impl Safety {
    /// What holds for a tool.
    pub fn tool(&self, name: &str) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.names.iter().any(|glob| glob.matches(name)))
    }
}

/// When a replica is left alone, for how long, and how it comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// Failed calls in a row; 0: no breaker.
    pub failures: u32,
    /// Percent of the calls of a window.
    pub share: u8,
    /// Calls that a window must have for its share to mean anything.
    pub calls: u32,
    /// How long calls are counted together.
    pub window: Duration,
    /// How long a replica is left alone the first time.
    pub rest: Duration,
    /// How long at most, after many times.
    pub longest_rest: Duration,
    /// Over how long its share of calls grows when it is back.
    pub recovery: Duration,
    /// Percent of the replicas that may be left alone at once.
    pub most_out: u8,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failures: 5,
            share: 50,
            calls: 20,
            window: 10 * SECOND,
            rest: 5 * SECOND,
            longest_rest: 5 * MINUTE,
            recovery: 30 * SECOND,
            most_out: 50,
        }
    }
}

/// The keys of a service that [`read`] declares.
pub const KEYS: [&str; 4] = ["breaker", "concurrency", "retries", "tools"];

/// Declares the safety controls of one service.
pub fn read(f: &mut Fields<'_>) -> Option<Safety> {
    let text = "When a replica (a sidecar) is left alone because calls at it fail, and how it comes back.";
    let breaker = f.section("breaker", text, read_breaker);
    let concurrency = f.section("concurrency", "How many of its calls are at work at once.", read_concurrency);
    let text = "Calls that are sent again although they were sent already, because they may run twice.";
    let retries = f.optional_section("retries", text, |f| Some(read_retries(f)));
    let text = "What holds for some tools; the first entry that names a tool counts.";
    let tools = f.list("tools", text, read_tool);
    Some(Safety { breaker: breaker?, concurrency: concurrency?, retries, tools })
}

fn read_concurrency(f: &mut Fields<'_>) -> Option<Concurrency> {
    let text = doc("Calls at work at once; without it, `limits.in_flight` of the ingress.");
    let limit = f.optional("limit", text, how_many());
    let text = doc("The share of them that may be one client's; at least one call.")
        .because("one client that runs wild leaves room for the others, and one that is alone hardly notices");
    let per_client = f.with_default("per_client", text, kinds::percent(1..=100), 75);
    let text = "Fewer at once while calls take longer than usual; `limit` is then the most.";
    let adaptive = f.optional_section("adaptive", text, |f| {
        let text = doc("At least so many.").because("with fewer nothing can be learned");
        let min = f.with_default("min", text, how_many(), 4);
        let text =
            doc("So many at first.").because("most servers bear it, and more are tried as soon as they are used");
        let start = f.with_default("start", text, how_many(), 20);
        Some(Adaptive { min, start: start.max(min) })
    });
    Some(Concurrency { limit, per_client, adaptive })
}

fn read_retries(f: &mut Fields<'_>) -> Retries {
    let text = doc("How often one call is sent again at most.").because("what fails twice fails a third time");
    let attempts = f.with_default("attempts", text, kinds::count(1..=5), 1);
    let text = doc("The share of the service's calls that is sent again at most.")
        .because("a service in trouble must not get twice the calls");
    let share = f.with_default("share", text, kinds::percent(1..=100), 10);
    let text =
        doc("So many further ones at once after a rest.").because("a service with few calls has no share to speak of");
    let burst = f.with_default("burst", text, kinds::count(1..=1000), 10);
    Retries { attempts: u32::try_from(attempts).unwrap_or(u32::MAX), share, burst }
}

fn read_tool(f: &mut Fields<'_>) -> Option<Tool> {
    let text = doc("The service's own names of the tools; `*` stands for anything.").example("[\"search*\"]");
    let names = f.required("names", text, kinds::list_of(kinds::text()));
    let globs: Vec<Glob> = names.iter().flatten().filter_map(|name| Glob::new(name).ok()).collect();
    if names.as_ref().is_some_and(|names| names.is_empty() || names.len() != globs.len()) {
        f.mistake("names", "no tool could be named so", "names, with `*` for anything: `[\"read*\", list]`");
    }
    let text = doc("How long one call may take in all; then it is cancelled at its server.").example("30s");
    let deadline = f.optional("deadline", text, kinds::duration(Duration::from_millis(1)..=24 * HOUR));
    let words = &[("hints", Repeat::Hints), ("never", Repeat::Never), ("always", Repeat::Always)];
    let text = doc("Whether a call may run twice, where `retries` are on: `hints` asks the tool's `readOnlyHint` and `idempotentHint`.")
        .because("a tool knows best what it does, if its server is trusted");
    let repeat = f.with_default("repeat", text, kinds::choice(words), Repeat::Hints);
    names.map(|_| Tool { names: globs, deadline, repeat })
}

fn read_breaker(f: &mut Fields<'_>) -> Option<Breaker> {
    let usual = Breaker::default();
    let text =
        doc("Failed calls in a row after which a replica is left alone; 0: no breaker at all, `share` included.")
            .because("a failure or two is chance, and each one is a caller's");
    let failures = f.with_default("failures", text, kinds::count(0..=1000), usual.failures as usize);
    let text = doc("The share of failed calls within `window` at which a replica is left alone too.")
        .because("half of the calls lost is worse than one replica less");
    let share = f.with_default("share", text, kinds::percent(1..=100), usual.share);
    let text = doc("Calls within `window` that `share` needs.").because("of three calls two may fail by chance");
    let calls = f.with_default("calls", text, kinds::count(1..=1_000_000), usual.calls as usize);
    let long = kinds::duration(SECOND..=HOUR);
    let text = doc("How long calls are counted together for `share`.").because("as fast as somebody would notice");
    let window = f.with_default("window", text, long, usual.window);
    let span = || kinds::duration(Duration::from_millis(10)..=HOUR);
    let text = doc("How long a replica is left alone; then one call tries it. Twice as long each further time.")
        .because("a restart takes seconds");
    let rest = f.with_default("rest", text, span(), usual.rest);
    let text = doc("How long it is left alone at most.").because("a replica that is mended is used again soon");
    let longest_rest = f.with_default("longest_rest", text, span(), usual.longest_rest).max(rest);
    let text = doc("How long its share of the calls grows from a tenth to a whole one when it is back.")
        .because("caches are cold, and what failed under load may fail again");
    let recovery = f.with_default("recovery", text, kinds::duration(Duration::ZERO..=HOUR), usual.recovery);
    let text = doc("The share of a service's replicas that may be left alone at once; further ones are used although calls at them fail.")
        .because("when most of them fail the cause lies elsewhere, and the rest could not bear all calls");
    let most_out = f.with_default("most_out", text, kinds::percent(0..=100), usual.most_out);
    let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let (failures, calls) = (small(failures), small(calls));
    Some(Breaker { failures, share, calls, window, rest, longest_rest, recovery, most_out })
}
