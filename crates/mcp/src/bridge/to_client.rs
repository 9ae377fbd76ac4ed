//! A legacy client on the modern mesh: its requests gain what modern MCP requires, replies become what it knows.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    apps,
    edit::{Edits, MetaEdit, insert_member, rebuild_object},
    envelope::{Field, Message, Meta, Shape},
    error::{
        self, HEADER_MISMATCH, INTERNAL, INVALID_PARAMS, LEGACY_RESOURCE_NOT_FOUND, MISSING_CAPABILITY,
        UNSUPPORTED_VERSION,
    },
    json::{Span, decode_string, member, members},
    method::Method,
    revision::Revision,
};

use super::meta_keys::{CLIENT_CAPABILITIES, CLIENT_INFO, LOG_LEVEL, PROTOCOL_VERSION, mesh_only};

/// How often a server may ask again within one call before we call it a loop.
pub const MAX_ROUNDS: u8 = 8;

/// What a legacy client said of itself in `initialize`.
#[derive(Debug, Clone)]
pub struct Client {
    /// The negotiated revision.
    pub revision: Revision,
    /// Its capabilities as the mesh should see them, raw.
    pub capabilities: Bytes,
    /// Its `clientInfo`, raw.
    pub info: Bytes,
    /// The level it set with `logging/setLevel`, raw (with quotes).
    pub log_level: Option<Bytes>,
}

impl Client {
    /// Reads an `initialize` request: the revision is the client's when we speak it, else our newest legacy one.
    pub fn from_initialize(request: &Message) -> Self {
        use crate::envelope::Param;
        let revision = request
            .text(Param::ProtocolVersion)
            .and_then(|version| Revision::parse(&version))
            .filter(|revision| !revision.is_modern())
            .unwrap_or(Revision::NEWEST_LEGACY);
        let object = |field| {
            request
                .params()
                .get(field)
                .filter(|span| request.raw(*span).first() == Some(&b'{'))
                .map(|span| request.slice(span))
        };
        let mut capabilities = object(Param::Capabilities).unwrap_or_else(|| Bytes::from_static(b"{}"));
        // Elicitation does not exist before 2025-06-18: asking such a client would only time out. Tasks of clients have no
        // form in the middle.
        let cannot = |name: &str| name == "tasks" || (name == "elicitation" && revision < Revision::V2025_06_18);
        if ["tasks", "elicitation"]
            .iter()
            .any(|name| cannot(name) && member(&capabilities, whole(&capabilities), name).is_some())
        {
            capabilities = rebuild_object(&capabilities, whole(&capabilities), cannot, &[]).into();
        }
        Self {
            revision,
            capabilities,
            info: object(Param::ClientInfo)
                .unwrap_or_else(|| Bytes::from_static(b"{\"name\":\"unknown\",\"version\":\"0\"}")),
            log_level: None,
        }
    }

    /// The `_meta` that makes a request of this client a modern one. Members that only the mesh may set are left out.
    pub fn modern_meta(&self) -> MetaEdit<'static> {
        let mut meta = MetaEdit { drop: Some(mesh_only), set: Vec::new() }
            .text(PROTOCOL_VERSION, Revision::MODERN.as_str())
            .raw(CLIENT_INFO, self.info.clone())
            .raw(CLIENT_CAPABILITIES, self.capabilities.clone());
        if let Some(level) = &self.log_level {
            meta = meta.raw(LOG_LEVEL, level.clone());
        }
        meta
    }

    /// The same for a request whose answer may be a task: the tasks extension is declared on the client's behalf.
    pub fn modern_meta_with_tasks(&self) -> MetaEdit<'static> {
        let mut meta = self.modern_meta();
        let capabilities = super::tasks::with_extension(&self.capabilities);
        meta.set.retain(|(key, _)| *key != CLIENT_CAPABILITIES);
        meta.raw(CLIENT_CAPABILITIES, capabilities)
    }

    /// Whether the client declared that it answers such a question; else the capability that it lacks.
    ///
    /// # Errors
    /// The name of the missing capability.
    pub fn can_answer(&self, method: Method, params: &[u8]) -> Result<(), &'static str> {
        can_answer(&self.capabilities, method, params)
    }
}

/// Whether a client with these capabilities answers such a question; else the capability that it lacks, as a path.
///
/// # Errors
/// The name of the missing capability, such as `elicitation.url`.
pub fn can_answer(capabilities: &[u8], method: Method, params: &[u8]) -> Result<(), &'static str> {
    let name = match method {
        Method::ElicitationCreate => "elicitation",
        Method::SamplingCreateMessage => "sampling",
        Method::RootsList => "roots",
        _ => return Err("of answering this kind of request"),
    };
    let declared = member(capabilities, whole(capabilities), name).ok_or(name)?;
    let modes = members(capabilities, declared);
    let has = |mode: &str| modes.iter().any(|(key, _)| key.decode(capabilities) == mode);
    if method == Method::SamplingCreateMessage {
        let offers = ["tools", "toolChoice"].iter().any(|name| member(params, whole(params), name).is_some());
        return if offers && !has("tools") { Err("sampling.tools") } else { Ok(()) };
    }
    if method != Method::ElicitationCreate {
        return Ok(());
    }
    // An empty declaration means forms alone (2025-11-25, client/elicitation).
    match is_url(params) {
        true if !has("url") => Err("elicitation.url"),
        false if has("url") && !has("form") => Err("elicitation.form"),
        _ => Ok(()),
    }
}

fn whole(value: &[u8]) -> Span {
    Span { start: 0, end: value.len() as u32 }
}

fn is_url(params: &[u8]) -> bool {
    member(params, whole(params), "mode").is_some_and(|mode| mode.of(params) == b"\"url\"")
}

/// The capabilities that mean something to a legacy client; most extensions need both ends of one era.
const LEGACY_CAPABILITIES: [&str; 5] = ["completions", "logging", "prompts", "resources", "tools"];

/// The reply to `initialize` from the result of `server/discover`. `None` when that is no result.
pub fn initialize_reply(id: &[u8], revision: Revision, discovered: &Message) -> Option<Bytes> {
    discovered.result_span()?;
    let body = discovered.body();
    let part = |field| discovered.results().get(field).map(|span| discovered.raw(span));
    let capabilities = discovered.results().get(Field::Capabilities).map_or_else(
        || b"{}".to_vec(),
        |span| {
            // Tasks are the only extension that 2025-11-25 has a form for.
            let tasks = revision >= Revision::V2025_11_25 && super::tasks::has_extension(body, span);
            let mut set: Vec<(&str, &[u8])> = Vec::new();
            if tasks {
                set.push(("tasks", super::tasks::to_client::CAPABILITY));
            }
            // Pages of apps are resources: hosts of every revision show them.
            let pages = member(body, span, "extensions").and_then(|list| member(body, list, apps::EXTENSION));
            let pages = pages.map(|says| [b"{\"", apps::EXTENSION.as_bytes(), b"\":", says.of(body), b"}"].concat());
            set.extend(pages.as_deref().map(|pages| ("extensions", pages)));
            rebuild_object(body, span, |name| !LEGACY_CAPABILITIES.contains(&name), &set)
        },
    );
    let info =
        discovered.meta().get(Meta::ServerInfo).map(|span| discovered.raw(span)).or_else(|| part(Field::ServerInfo));
    let mut result = format!("{{\"protocolVersion\":\"{}\",\"capabilities\":", revision.as_str()).into_bytes();
    result.extend_from_slice(&capabilities);
    result.extend_from_slice(b",\"serverInfo\":");
    result.extend_from_slice(info.unwrap_or(b"{\"name\":\"outrigger\",\"version\":\"0\"}"));
    if let Some(instructions) = part(Field::Instructions).filter(|text| text.first() == Some(&b'"')) {
        result.extend_from_slice(b",\"instructions\":");
        result.extend_from_slice(instructions);
    }
    result.push(b'}');
    Some(error::result_reply(id, &result))
}

/// What a modern reply means for a legacy client.
#[derive(Debug)]
pub enum Reply {
    /// The final reply, ready to send.
    Final(Bytes),
    /// The server wants input: ask the client these things.
    Ask(Questions),
}

/// Questions of one round, by the server's key.
#[derive(Debug)]
pub struct Questions {
    /// key -> (method, raw params).
    pub asks: Vec<(String, Method, Bytes)>,
    /// Raw `requestState` to give back.
    pub state: Option<Bytes>,
}

/// Translates the final reply to a request of a legacy client. `asked_uri` is the URI of a `resources/read`.
pub fn reply(message: &Message, asked_uri: Option<&str>) -> Reply {
    if message.shape == Shape::Error {
        return Reply::Final(error_reply(message, asked_uri));
    }
    match message.result_text(Field::ResultType).as_deref() {
        Some("input_required") => Reply::Ask(questions(message)),
        None | Some("complete") => Reply::Final(message.body().clone()),
        Some(other) => Reply::Final(
            error::RpcError::new(
                INTERNAL,
                format!("the server answered with a result type unknown to this client: {other}"),
            )
            .with("reason", "unknown_result_type")
            .reply(message.id().as_deref()),
        ),
    }
}

fn error_reply(message: &Message, asked_uri: Option<&str>) -> Bytes {
    let (Some(code), Some(span)) = (message.error_code(), message.error_span()) else { return message.body().clone() };
    let body = message.body();
    let new = match code {
        HEADER_MISMATCH | MISSING_CAPABILITY | UNSUPPORTED_VERSION => INTERNAL,
        INVALID_PARAMS if asked_uri.is_some() => {
            let uri = member(body, span, "data").and_then(|data| member(body, data, "uri"));
            let named = uri.and_then(|uri| decode_string(uri.of(body)));
            if named.as_deref() != asked_uri {
                return body.clone();
            }
            LEGACY_RESOURCE_NOT_FOUND
        }
        _ => return body.clone(),
    };
    let mut edits = Edits::new();
    if let Some(at) = member(body, span, "code") {
        edits.replace(at, new.to_string());
    }
    edits.apply_flat(body)
}

fn questions(message: &Message) -> Questions {
    let body = message.body();
    let requests = message.results().get(Field::InputRequests).map(|span| members(body, span)).unwrap_or_default();
    let asks = requests
        .into_iter()
        .filter_map(|(key, value)| {
            let method = member(body, value, "method").and_then(|m| decode_string(m.of(body)))?;
            let params = member(body, value, "params").map_or_else(|| Bytes::from_static(b"{}"), |p| message.slice(p));
            Some((key.decode(body).into_owned(), Method::parse(method.as_bytes()), params))
        })
        .collect();
    Questions { asks, state: message.results().get(Field::RequestState).map(|span| message.slice(span)) }
}

/// Answers as they come in for one round of questions.
#[derive(Debug)]
pub struct Round {
    waiting: BTreeMap<String, (String, Method)>,
    answers: Vec<(String, Bytes)>,
    errors: Vec<(String, Method, Bytes)>,
    state: Option<Bytes>,
}

impl Round {
    /// Starts a round. `name` gives each question an id of ours; the requests to send to the client come back.
    pub fn start(questions: Questions, mut name: impl FnMut() -> String) -> (Self, Vec<Bytes>) {
        let mut round =
            Self { waiting: BTreeMap::new(), answers: Vec::new(), errors: Vec::new(), state: questions.state };
        let mut requests = Vec::new();
        for (key, method, params) in questions.asks {
            let id = name();
            let params = if method == Method::ElicitationCreate { named_elicitation(params, &id) } else { params };
            requests.push(error::request(crate::json::quote(&id).as_bytes(), method.as_str(), &params));
            round.waiting.insert(id, (key, method));
        }
        (round, requests)
    }

    /// The ids still open.
    pub fn open_ids(&self) -> impl Iterator<Item = &str> {
        self.waiting.keys().map(String::as_str)
    }

    /// Takes a response of the client; unknown ids are ignored. Returns whether the round is complete.
    pub fn answer(&mut self, response: &Message) -> bool {
        let id = response.id().and_then(|id| decode_string(&id).map(std::borrow::Cow::into_owned));
        if let Some((key, method)) = id.and_then(|id| self.waiting.remove(&id)) {
            match response.result_span() {
                Some(span) => self.answers.push((key, response.slice(span))),
                None => {
                    // To a server of the stateless revision a form that nobody fills in is one that was put away.
                    if method == Method::ElicitationCreate {
                        self.answers.push((key.clone(), Bytes::from_static(b"{\"action\":\"cancel\"}")));
                    }
                    self.errors.push((key, method, error_object(response)));
                }
            }
        }
        self.complete()
    }

    /// Whether nothing is open any more.
    pub fn complete(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The value of [`ANSWER_ERRORS`](super::meta_keys::ANSWER_ERRORS) on the retry: what was asked and the client's error,
    /// by the server's key. `None` when the client refused nothing. `bridge::refused` reads it.
    pub fn errors(&self) -> Option<Vec<u8>> {
        if self.errors.is_empty() {
            return None;
        }
        let mut out = b"{".to_vec();
        for (key, method, error) in &self.errors {
            if out.len() > 1 {
                out.push(b',');
            }
            crate::json::write_string(&mut out, key);
            out.extend_from_slice(b":{\"method\":\"");
            out.extend_from_slice(method.as_str().as_bytes());
            out.extend_from_slice(b"\",\"error\":");
            out.extend_from_slice(error);
            out.push(b'}');
        }
        out.push(b'}');
        Some(out)
    }

    /// The retry: the same request with the answers and the server's state.
    pub fn retry(&self, request: &Message) -> Bytes {
        let Some(params) = request.params().object() else { return request.body().clone() };
        let mut responses = b"{".to_vec();
        for (i, (key, value)) in self.answers.iter().enumerate() {
            if i > 0 {
                responses.push(b',');
            }
            crate::json::write_string(&mut responses, key);
            responses.push(b':');
            responses.extend_from_slice(value);
        }
        responses.push(b'}');
        let mut edits = Edits::new();
        let mut extra = Vec::new();
        if !self.answers.is_empty() {
            extra.extend_from_slice(b"\"inputResponses\":");
            extra.extend_from_slice(&responses);
        }
        if let Some(state) = &self.state {
            if !extra.is_empty() {
                extra.push(b',');
            }
            extra.extend_from_slice(b"\"requestState\":");
            extra.extend_from_slice(state);
        }
        if !extra.is_empty() {
            insert_member(request.body(), params, "", &extra, &mut edits);
        }
        edits.apply_flat(request.body())
    }
}

/// The `error` of a response. What is no error object would not be one to the server either.
fn error_object(response: &Message) -> Bytes {
    match response.error_span() {
        Some(span) if response.error_code().is_some() && response.error_message().is_some() => response.slice(span),
        _ => error::RpcError::new(INTERNAL, "the client answered with an error that says nothing").object().into(),
    }
}

/// Elicitation by URL has an id in 2025-11-25 and none since; ours serves as one.
fn named_elicitation(params: Bytes, id: &str) -> Bytes {
    if !is_url(&params) || member(&params, whole(&params), "elicitationId").is_some() {
        return params;
    }
    rebuild_object(&params, whole(&params), |_| false, &[("elicitationId", crate::json::quote(id).as_bytes())]).into()
}

/// Whether a modern notification is for this legacy client's call stream as it stands; listen bookkeeping is not.
pub fn passes_notification(message: &Message) -> bool {
    message.method != Method::SubscriptionsAcknowledged
}

/// Takes the subscription id, and what only the mesh reads, out of a notification that travels on a session's stream.
pub fn strip_subscription(message: &Message) -> Bytes {
    if message.meta().object().is_none() {
        return message.body().clone();
    }
    let mut edits = Edits::new();
    let drop = |key: &str| key == super::meta_keys::SUBSCRIPTION_ID || mesh_only(key);
    MetaEdit { drop: Some(drop), set: Vec::new() }.params(message, &mut edits);
    edits.apply_flat(message.body())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Message {
        Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    #[test]
    fn the_revision_is_the_clients_or_our_newest() {
        let init = |version: &str| {
            Client::from_initialize(&message(&format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{{"elicitation":{{}},"roots":{{}}}},"clientInfo":{{"name":"c","version":"1"}}}}}}"#
            )))
        };
        assert_eq!(init("2025-06-18").revision, Revision::V2025_06_18);
        assert_eq!(init("1999-01-01").revision, Revision::V2025_11_25);
        assert_eq!(init("2026-07-28").revision, Revision::V2025_11_25);
        assert_eq!(init("2025-03-26").capabilities, br#"{"roots":{}}"#[..]);
        let hosts = client("2025-11-25", r#"{"tasks":{"list":{}},"sampling":{"tools":{}}}"#);
        assert_eq!(hosts.capabilities, br#"{"sampling":{"tools":{}}}"#[..]);
        assert_eq!(hosts.can_answer(Method::SamplingCreateMessage, br#"{"tools":[]}"#), Ok(()));
        let plain = client("2025-11-25", r#"{"sampling":{}}"#);
        assert_eq!(plain.can_answer(Method::SamplingCreateMessage, br#"{"messages":[]}"#), Ok(()));
        assert_eq!(plain.can_answer(Method::SamplingCreateMessage, br#"{"toolChoice":{}}"#), Err("sampling.tools"));
    }

    #[test]
    fn a_round_of_questions_becomes_a_retry() {
        let request = message(r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"t","arguments":{}}}"#);
        let asked = message(
            r#"{"jsonrpc":"2.0","id":5,"result":{"resultType":"input_required","inputRequests":{"k":{"method":"elicitation/create","params":{"message":"m"}},"r":{"method":"roots/list"}},"requestState":"s"}}"#,
        );
        let Reply::Ask(questions) = reply(&asked, None) else { panic!("should ask") };
        let mut n = 0;
        let (mut round, requests) = Round::start(questions, || {
            n += 1;
            format!("o{n}")
        });
        assert_eq!(
            requests[0],
            br#"{"jsonrpc":"2.0","id":"o1","method":"elicitation/create","params":{"message":"m"}}"#[..]
        );
        assert!(!round.answer(&message(r#"{"jsonrpc":"2.0","id":"o1","error":{"code":-1,"message":"x"}}"#)));
        assert!(!round.answer(&message(r#"{"jsonrpc":"2.0","id":"zz","result":{}}"#)));
        assert!(round.answer(&message(r#"{"jsonrpc":"2.0","id":"o2","result":{"roots":[]}}"#)));
        assert_eq!(
            round.errors().unwrap(),
            br#"{"k":{"method":"elicitation/create","error":{"code":-1,"message":"x"}}}"#[..]
        );
        assert_eq!(
            round.retry(&request),
            br#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"inputResponses":{"k":{"action":"cancel"},"r":{"roots":[]}},"requestState":"s","name":"t","arguments":{}}}"#[..]
        );
    }

    #[test]
    fn codes_that_legacy_clients_do_not_know_are_changed() {
        let Reply::Final(bytes) =
            reply(&message(r#"{"jsonrpc":"2.0","id":5,"error":{"code":-32021,"message":"m"}}"#), None)
        else {
            panic!()
        };
        assert_eq!(message(std::str::from_utf8(&bytes).unwrap()).error_code(), Some(-32603));
        let missing = message(r#"{"jsonrpc":"2.0","id":5,"error":{"code":-32602,"message":"m","data":{"uri":"a:b"}}}"#);
        let Reply::Final(bytes) = reply(&missing, Some("a:b")) else { panic!() };
        assert_eq!(message(std::str::from_utf8(&bytes).unwrap()).error_code(), Some(-32002));
        let Reply::Final(bytes) = reply(&missing, Some("other:uri")) else { panic!() };
        assert_eq!(message(std::str::from_utf8(&bytes).unwrap()).error_code(), Some(-32602));
    }

    fn client(version: &str, capabilities: &str) -> Client {
        Client::from_initialize(&message(&format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{capabilities}}}}}"#
        )))
    }

    #[test]
    fn a_client_is_asked_only_what_it_declared() {
        let plain = client("2025-06-18", r#"{"elicitation":{},"roots":{"listChanged":true}}"#);
        assert_eq!(plain.can_answer(Method::ElicitationCreate, b"{\"message\":\"m\"}"), Ok(()));
        assert_eq!(plain.can_answer(Method::ElicitationCreate, b"{\"mode\":\"url\"}"), Err("elicitation.url"));
        assert_eq!(plain.can_answer(Method::RootsList, b"{}"), Ok(()));
        assert_eq!(plain.can_answer(Method::SamplingCreateMessage, b"{}"), Err("sampling"));
        assert!(plain.can_answer(Method::ToolsCall, b"{}").is_err());
        let links = client("2025-11-25", r#"{"elicitation":{"url":{}}}"#);
        assert_eq!(links.can_answer(Method::ElicitationCreate, b"{\"mode\":\"url\"}"), Ok(()));
        assert_eq!(links.can_answer(Method::ElicitationCreate, b"{}"), Err("elicitation.form"));
        assert!(client("2025-03-26", r#"{"elicitation":{}}"#).can_answer(Method::ElicitationCreate, b"{}").is_err());
    }

    #[test]
    fn initialize_is_answered_from_what_was_discovered() {
        let discovered = message(
            r#"{"jsonrpc":"2.0","id":9,"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true},"extensions":{"x":{}},"resources":{"subscribe":true}},"instructions":"do","ttlMs":1,"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s","version":"2"}}}}"#,
        );
        let reply = initialize_reply(b"\"a\"", Revision::V2025_06_18, &discovered).unwrap();
        let expected = r#"{"jsonrpc":"2.0","id":"a","result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true}},"serverInfo":{"name":"s","version":"2"},"instructions":"do"}}"#;
        assert_eq!(std::str::from_utf8(&reply).unwrap(), expected);
        let tasks = message(
            r#"{"jsonrpc":"2.0","id":9,"result":{"capabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}}"#,
        );
        let told = |revision| String::from_utf8(initialize_reply(b"1", revision, &tasks).unwrap().to_vec()).unwrap();
        assert!(
            told(Revision::V2025_11_25).contains(r#""tasks":{"list":{},"cancel":{},"requests":{"tools":{"call":{}}}}"#)
        );
        assert!(!told(Revision::V2025_06_18).contains("tasks"));
        let error = message(r#"{"jsonrpc":"2.0","id":9,"error":{"code":-32603,"message":"m"}}"#);
        assert!(initialize_reply(b"1", Revision::V2025_06_18, &error).is_none());
    }

    #[test]
    fn an_elicitation_by_url_gets_an_id() {
        let asks = vec![(
            "k".to_owned(),
            Method::ElicitationCreate,
            Bytes::from_static(br#"{"mode":"url","url":"https://x"}"#),
        )];
        let (_, requests) = Round::start(Questions { asks, state: None }, || "q1".to_owned());
        assert_eq!(
            requests[0],
            br#"{"jsonrpc":"2.0","id":"q1","method":"elicitation/create","params":{"mode":"url","url":"https://x","elicitationId":"q1"}}"#[..]
        );
    }

    #[test]
    fn a_client_cannot_speak_for_the_mesh() {
        let request = message(
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"outrigger.dev/session":"c.other","a":1}}}"#,
        );
        let mut edits = Edits::new();
        client("2025-06-18", "{}").modern_meta().params(&request, &mut edits);
        let modern = String::from_utf8(edits.apply_flat(request.body()).to_vec()).unwrap();
        assert!(!modern.contains("outrigger.dev") && modern.contains("\"a\":1"), "{modern}");
    }
}
