//! How often messages are read as envelopes on their way: once at the ingress and once at the sidecar, and at most once more
//! for each message that one of the two translates.

use std::sync::atomic::Ordering;

use outrigger_mcp::envelope::READS;
use outrigger_tests::{
    http_server::{HttpServer, text},
    subjects::scripted,
};
use serde_json::json;

use crate::world::{World, call, legacy, modern, tools};

/// A call and its answer at the ingress, and both again at the sidecar.
const UNTRANSLATED: u64 = 4;

/// What is read during one call of a tool. Sidecars and ingress ask and tell one another things all the time: the least of
/// several tries is the call alone.
async fn reads(world: &World, client: &str, tool: &str) -> u64 {
    let session = match client {
        "2026-07-28" => None,
        older => Some(world.session(older).await),
    };
    let mut least = u64::MAX;
    for _ in 0..10 {
        let before = READS.load(Ordering::Relaxed);
        let answered = match &session {
            None => call(world, tool, "{}").await.json(),
            Some(session) => session.tool(tool, &json!({})).await,
        };
        least = least.min(READS.load(Ordering::Relaxed) - before);
        assert!(answered["result"]["content"].is_array(), "{answered}");
    }
    least
}

fn servers() -> [HttpServer; 2] {
    let answer = |received| async move { text(&received, "x") };
    [modern(tools(&["seen"]), answer), legacy("2025-11-25", tools(&["seen"]), answer)]
}

#[tokio::test]
async fn translation_reads_each_message_at_most_once_more() {
    let [modern, legacy] = servers();
    let (piped, old_piped) = (scripted(&["--era", "modern"]), scripted(&[]));
    // What is translated for a server is spliced, and its answers are read anyway: that costs nothing more.
    let servers = [
        ("2026-07-28 over HTTP", modern.setting()),
        ("2025-11-25 over HTTP", legacy.setting()),
        ("2026-07-28 over stdio", piped),
        ("2025-11-25 over stdio", old_piped),
    ];
    // A client, and how many more reads it costs: its call becomes another one, and so does the answer.
    let clients = [("2026-07-28", 0), ("2025-11-25", 2), ("2025-06-18", 2), ("2025-03-26", 2), ("2024-11-05", 2)];
    let mut told = Vec::new();
    for (server, setting) in servers {
        let world = World::one(&setting).await;
        for (client, of_client) in clients {
            let (seen, most) = (reads(&world, client, "fs__seen").await, UNTRANSLATED + of_client);
            told.push((seen <= most, format!("{client} to {server}: {seen} reads, {most} at most")));
        }
        world.stop().await;
    }
    assert!(told.iter().all(|(fine, _)| *fine), "{told:#?}");
}
