//! An HTTP+SSE server (2024-11-05) in this process, with tools that do what their names say.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::Response;
use outrigger_proxy::body::OutBody;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::http_server::{HttpServer, Received, event, status, stream};

/// A running server. Its tools:
///
/// | tool | what it does |
/// |---|---|
/// | `echo` | answers with its arguments |
/// | `session` | answers with the number of its event stream |
/// | `ask` | asks for a sample, and answers with what came back |
/// | `progress` | tells of progress, then answers |
/// | `late` | as `ask`, but its POST is accepted only when all is done |
/// | `hang` | answers nothing |
/// | `cut` | closes the event stream |
/// | `huge` | answers with 200,000 bytes |
/// | `storm` | says 1,000 times that the list of tools has changed, then answers |
pub struct SseServer {
    http: HttpServer,
    streams: Streams,
}

#[derive(Clone, Default)]
struct Streams {
    open: Arc<Mutex<HashMap<usize, mpsc::Sender<Bytes>>>>,
    opened: Arc<Mutex<usize>>,
    /// Calls that wait for the answer to the question with this id.
    asking: Arc<Mutex<HashMap<String, Value>>>,
    answered: Arc<tokio::sync::Notify>,
}

impl SseServer {
    /// Starts a server whose `endpoint` event is `endpoint`, with `{n}` for the number of the stream. Without one there
    /// is no such event.
    pub fn start(endpoint: Option<&'static str>) -> Self {
        let streams = Streams::default();
        let serving = streams.clone();
        let http = HttpServer::start(move |received| serve(serving.clone(), endpoint, received));
        Self { http, streams }
    }

    /// The `upstream:` setting.
    pub fn setting(&self) -> String {
        format!("upstream: {}\n", self.http.url)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.http.url.split([':', '/']).filter_map(|part| part.parse().ok()).next_back().unwrap()
    }

    /// Everything that arrived.
    pub fn received(&self) -> Vec<Received> {
        self.http.received()
    }

    /// What arrived of one JSON-RPC method.
    pub fn received_of(&self, method: &str) -> Vec<Received> {
        self.http.received_of(method)
    }

    /// How many event streams were opened so far.
    pub fn opened(&self) -> usize {
        *self.streams.opened.lock().unwrap()
    }

    /// How many event streams somebody reads.
    pub fn open(&self) -> usize {
        self.streams.open.lock().unwrap().len()
    }

    /// Closes every event stream.
    pub fn cut(&self) {
        self.streams.open.lock().unwrap().clear();
    }

    /// Says something on every event stream.
    pub async fn say(&self, message: &Value) {
        let all: Vec<_> = self.streams.open.lock().unwrap().values().cloned().collect();
        for one in all {
            let _ = one.send(event(message)).await;
        }
    }
}

async fn serve(streams: Streams, endpoint: Option<&'static str>, received: Received) -> Response<OutBody> {
    if received.method == "GET" && received.path == "/mcp" {
        let (body, response) = stream();
        let number = {
            let mut opened = streams.opened.lock().unwrap();
            *opened += 1;
            *opened
        };
        let (sender, mut queue) = mpsc::channel(16);
        if let Some(endpoint) = endpoint {
            let value = endpoint.replace("{n}", &number.to_string());
            sender.send(Bytes::from(format!("event: endpoint\ndata: {value}\n\n"))).await.unwrap();
        }
        streams.open.lock().unwrap().insert(number, sender);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    next = queue.recv() => match next {
                        Some(event) => drop(body.send(event).await),
                        None => return drop(body.finish().await),
                    },
                    () = body.gone() => return drop(streams.open.lock().unwrap().remove(&number)),
                }
            }
        });
        return response;
    }
    let Some(number) = received.path.strip_prefix("/messages?s=").and_then(|n| n.parse().ok()) else {
        return status(404);
    };
    if received.method != "POST" || !streams.open.lock().unwrap().contains_key(&number) {
        return status(404);
    }
    if received.json().pointer("/params/name") == Some(&json!("late")) {
        on_message(&streams, number, &received).await;
        streams.answered.notified().await;
        return status(202);
    }
    tokio::spawn(async move { on_message(&streams, number, &received).await });
    status(202)
}

async fn on_message(streams: &Streams, number: usize, received: &Received) {
    let message = received.json();
    let reply = |result: Value| json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
    let text = |text: String| reply(json!({"content": [{"type": "text", "text": text}]}));
    let arguments = message.pointer("/params/arguments").cloned().unwrap_or_default();
    let tool = message.pointer("/params/name").and_then(Value::as_str).unwrap_or_default();
    match (message["method"].as_str().unwrap_or_default(), tool) {
        ("initialize", _) => {
            let result = json!({"protocolVersion": "2024-11-05", "capabilities": {"tools": {"listChanged": true}, "logging": {}},
                                "serverInfo": {"name": "sse", "version": "1"}});
            streams.say(number, &reply(result)).await;
        }
        ("ping", _) => streams.say(number, &reply(json!({}))).await,
        ("tools/list", _) => {
            let names = ["echo", "session", "ask", "progress", "late", "hang", "cut", "huge", "storm"];
            let tools: Vec<Value> =
                names.iter().map(|name| json!({"name": name, "inputSchema": {"type": "object"}})).collect();
            streams.say(number, &reply(json!({ "tools": tools }))).await;
        }
        ("tools/call", "echo") => streams.say(number, &text(arguments.to_string())).await,
        ("tools/call", "session") => streams.say(number, &text(number.to_string())).await,
        ("tools/call", "ask" | "late") => {
            let id = format!("q{}", message["id"]);
            let params =
                json!({"messages": [{"role": "user", "content": {"type": "text", "text": "hi"}}], "maxTokens": 5});
            streams.asking.lock().unwrap().insert(id.clone(), message["id"].clone());
            let ask = json!({"jsonrpc": "2.0", "id": id, "method": "sampling/createMessage", "params": params});
            streams.say(number, &ask).await;
        }
        ("tools/call", "progress") => {
            let token = &message["params"]["_meta"]["progressToken"];
            let params = json!({"progressToken": token, "progress": 1});
            streams.say(number, &json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})).await;
            streams.say(number, &text("done".into())).await;
        }
        ("tools/call", "cut") => drop(streams.open.lock().unwrap().remove(&number)),
        ("tools/call", "huge") => streams.say(number, &text("x".repeat(200_000))).await,
        ("tools/call", "storm") => {
            let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
            for _ in 0..1000 {
                streams.say(number, &changed).await;
            }
            streams.say(number, &text("over".into())).await;
        }
        ("", _) => {
            let id = message["id"].as_str().unwrap_or_default();
            let asked = streams.asking.lock().unwrap().remove(id);
            if let Some(call) = asked {
                let told = message.get("result").or(message.get("error")).cloned().unwrap_or_default();
                let result = json!({"content": [{"type": "text", "text": told.to_string()}]});
                streams.say(number, &json!({"jsonrpc": "2.0", "id": call, "result": result})).await;
                streams.answered.notify_waiters();
            }
        }
        _ => {}
    }
}

impl Streams {
    async fn say(&self, number: usize, message: &Value) {
        let sender = self.open.lock().unwrap().get(&number).cloned();
        if let Some(sender) = sender {
            let _ = sender.send(event(message)).await;
        }
    }
}
