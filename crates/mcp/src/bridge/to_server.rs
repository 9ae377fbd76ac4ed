//! A modern call on a legacy server: what is sent, and what its replies become on the modern leg. Modern servers on a
//! shared channel (stdio) need a little of the same: ids, progress tokens and subscription ids of our own.

use bytes::Bytes;

use crate::{
    edit::{Edits, MetaEdit, insert_member, rebuild_object},
    envelope::{Field, Message, Meta, Param, Shape},
    error::{INVALID_PARAMS, LEGACY_RESOURCE_NOT_FOUND, error_reply, result_reply},
    json::{Span, member, members, quote},
    method::Method,
    revision::Revision,
};

use super::{
    log_level::LogLevel,
    meta_keys::{CLIENT_SESSION, PROGRESS_TOKEN, RELATED_TASK, SERVER_INFO, internal, mesh_only},
};

/// Asked by 2025-11-25 servers with an error instead of a request: the call needs the user to visit a URL. A client of that
/// era knows the error, waits for `notifications/elicitation/complete` in its session and calls again.
const URL_ELICITATION_REQUIRED: i64 = -32042;

/// One call in flight on a legacy server.
#[derive(Debug, Clone)]
pub struct Call {
    /// The id on the server's side, unique in its session.
    pub upstream_id: u64,
    /// What is called.
    pub method: Method,
    client_id: Bytes,
    progress_token: Option<Bytes>,
    log_level: Option<LogLevel>,
    modern: bool,
    wants_task: bool,
    legacy_client: bool,
    /// The client can be asked to visit a URL.
    visits: bool,
}

/// A request of the server to the client, met during a call.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The server's id, raw: the answer must carry it.
    pub id: Bytes,
    /// `elicitation/create`, `sampling/createMessage` or `roots/list`.
    pub method: Method,
    /// Its params, raw; `{}` when absent.
    pub params: Bytes,
}

/// What a client says to a question, raw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What it was asked for.
    Result(Bytes),
    /// Why it does not say. Only legacy clients can.
    Error(Bytes),
}

impl Answer {
    /// The answer of a retry to the question of this key, if there is one.
    pub(super) fn given(retry: &Message, key: &str) -> Option<Self> {
        if let Some(error) = super::refused::error(retry, key) {
            return Some(Self::Error(error));
        }
        let span = member(retry.body(), retry.params().get(Param::InputResponses)?, key)?;
        (retry.raw(span).first() == Some(&b'{')).then(|| Self::Result(retry.slice(span)))
    }
}

/// How a call ended, for metrics and audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With a result.
    Ok,
    /// With a result that says `isError`.
    ToolError,
    /// With a JSON-RPC error of this code.
    RpcError(i64),
}

impl Call {
    /// Takes note of a modern request that will be sent under `upstream_id`.
    pub fn new(request: &Message, upstream_id: u64) -> Self {
        let mut call = Self {
            upstream_id,
            method: request.method,
            client_id: Bytes::new(),
            progress_token: None,
            log_level: None,
            modern: false,
            wants_task: request.method == Method::ToolsCall && request.params().get(Param::Task).is_some(),
            legacy_client: request.meta_text(Meta::Session).is_some_and(|tag| tag.starts_with(CLIENT_SESSION)),
            visits: request.meta().get(Meta::ClientCapabilities).is_some_and(|span| {
                super::to_client::can_answer(request.raw(span), Method::ElicitationCreate, br#"{"mode":"url"}"#).is_ok()
            }),
        };
        call.reattach(request);
        call
    }

    /// The revision that the server speaks; a legacy one unless said otherwise.
    #[must_use]
    pub fn on(mut self, revision: Revision) -> Self {
        self.modern = revision.is_modern();
        self
    }

    /// Whether the request asks for a task, in the form of 2025-11-25.
    pub fn wants_task(&self) -> bool {
        self.wants_task
    }

    /// Whether the server may ask something on its stream. Of a task it asks where its result is waited for.
    pub fn may_be_asked(&self) -> bool {
        self.method.may_ask() || self.method == Method::TasksResult
    }

    /// From now on the call answers to this request (a retry that brings the answers to its questions).
    pub fn reattach(&mut self, request: &Message) {
        self.client_id = request.id().unwrap_or_default();
        self.progress_token = request.meta().get(Meta::ProgressToken).map(|span| request.slice(span));
        self.log_level = request.meta_text(Meta::LogLevel).and_then(|level| LogLevel::parse(&level));
    }

    /// The request as a legacy server reads it, in pieces that share the original's memory. `trace` holds members
    /// to set in `_meta`.
    pub fn request(&self, request: &Message, trace: &[(&str, Bytes)]) -> Vec<Bytes> {
        let mut edits = Edits::new();
        edits.set_id(request, self.upstream_id.to_string());
        let drop = if self.modern { mesh_only } else { internal };
        let mut meta = MetaEdit { drop: Some(drop), set: trace.to_vec() };
        if self.progress_token.is_some() {
            meta = meta.raw(PROGRESS_TOKEN, self.upstream_id.to_string());
        }
        meta.params(request, &mut edits);
        edits.apply(request.body())
    }

    /// The cancellation to send when the caller went away.
    pub fn cancelled(&self, reason: &str) -> Bytes {
        cancelled(self.upstream_id, reason)
    }

    /// A notification of the server as the caller should see it on this call's stream; `None` when it should not.
    pub fn notification(&self, message: &Message) -> Option<Bytes> {
        match message.method {
            Method::Progress => {
                let token = self.progress_token.clone()?;
                let mut edits = Edits::new();
                edits.replace(message.params().get(Param::ProgressToken)?, token);
                Some(edits.apply_flat(message.body()))
            }
            _ if self.modern => {
                let mut edits = Edits::new();
                if let Some(span) = message.meta().get(Meta::SubscriptionId) {
                    edits.replace(span, self.client_id.clone());
                }
                Some(edits.apply_flat(message.body()))
            }
            Method::LogMessage => {
                let level = LogLevel::parse(&message.text(Param::Level)?)?;
                (level >= self.log_level?).then(|| message.body().clone())
            }
            _ => None,
        }
    }

    /// The final reply as a modern client reads it.
    pub fn reply(&self, reply: &Message, server_info: &Bytes) -> (Vec<Bytes>, Ended) {
        if reply.shape == Shape::Error {
            return self.error_reply(reply, server_info);
        }
        let mut edits = Edits::new();
        edits.set_id(reply, self.client_id.clone());
        if let Some(span) = reply.meta().get(Meta::SubscriptionId).filter(|_| self.modern) {
            edits.replace(span, self.client_id.clone());
        }
        let ended = match reply.results().get(Field::IsError) {
            Some(span) if reply.raw(span) == b"true" => Ended::ToolError,
            _ => Ended::Ok,
        };
        if let Some(result) = reply.results().object().filter(|_| !self.modern) {
            let mut head = Vec::with_capacity(64);
            match reply.results().get(Field::ResultType) {
                None => head.extend_from_slice(b"\"resultType\":\"complete\""),
                // In the server's revision the member says nothing, and a reply is the end of a call: what a client would do
                // about `input_required` or `task` leads nowhere.
                Some(kind) if reply.raw(kind) != b"\"complete\"" => edits.replace(kind, &b"\"complete\""[..]),
                Some(_) => {}
            }
            if self.method.cacheable() {
                for (field, text) in
                    [(Field::TtlMs, &b"\"ttlMs\":0"[..]), (Field::CacheScope, b"\"cacheScope\":\"private\"")]
                {
                    if reply.results().get(field).is_none() {
                        if !head.is_empty() {
                            head.push(b',');
                        }
                        head.extend_from_slice(text);
                    }
                }
            }
            if !head.is_empty() {
                insert_member(reply.body(), result, "", &head, &mut edits);
            }
            if reply.meta().get(Meta::ServerInfo).is_none() {
                self.stamp_server(reply, result, server_info, !head.is_empty(), &mut edits);
            }
        }
        (edits.apply(reply.body()), ended)
    }

    /// Puts `serverInfo` into the result's `_meta`. Creating `_meta` must not collide with a member inserted just
    /// before it: into an object that was empty both would lack the comma between them.
    fn stamp_server(&self, reply: &Message, result: Span, info: &Bytes, headed: bool, edits: &mut Edits) {
        if reply.meta().object().is_some() {
            // The name of a task there is the server's own, and nobody's here.
            let meta = MetaEdit { drop: Some(|key| key == RELATED_TASK), set: vec![(SERVER_INFO, info.clone())] };
            meta.result(reply, edits);
        } else {
            let at = result.end - 1;
            let inside = reply.raw(Span { start: result.start + 1, end: at });
            let comma = headed || !inside.iter().all(u8::is_ascii_whitespace);
            let mut text = Vec::with_capacity(info.len() + 64);
            if comma {
                text.push(b',');
            }
            text.extend_from_slice(b"\"_meta\":{\"");
            text.extend_from_slice(SERVER_INFO.as_bytes());
            text.extend_from_slice(b"\":");
            text.extend_from_slice(info);
            text.push(b'}');
            edits.insert(at, text);
        }
    }

    fn error_reply(&self, reply: &Message, server_info: &Bytes) -> (Vec<Bytes>, Ended) {
        let questions = self.url_questions(reply);
        if !questions.is_empty() {
            // The call is over at the server, so there is no state to come back to: the retry calls again.
            return (vec![self.input_required(&questions, &[], None, server_info)], Ended::Ok);
        }
        let code = reply.error_code().unwrap_or(crate::error::INTERNAL);
        let error = reply.error_span().unwrap_or_default();
        let mut ended = Ended::RpcError(code);
        let mut object = reply.slice(error);
        if code == LEGACY_RESOURCE_NOT_FOUND && !self.modern && self.method == Method::ResourcesRead {
            ended = Ended::RpcError(INVALID_PARAMS);
            object = rebuild_object(reply.body(), error, |_| false, &[("code", b"-32602")]).into();
        }
        (vec![error_reply(&self.client_id, &object)], ended)
    }

    /// The URL questions of a reply that says -32042, so that it can become `input_required`.
    fn url_questions(&self, reply: &Message) -> Vec<Ask> {
        let passes = self.modern || self.legacy_client || !self.visits;
        if passes || reply.error_code() != Some(URL_ELICITATION_REQUIRED) || !self.method.may_ask() {
            return Vec::new();
        }
        let body = reply.body();
        let list = reply
            .error_span()
            .and_then(|error| member(body, error, "data"))
            .and_then(|data| member(body, data, "elicitations"))
            .and_then(|list| crate::json::elements(body, list))
            .unwrap_or_default();
        list.into_iter()
            .map(|span| Ask {
                id: Bytes::new(),
                method: Method::ElicitationCreate,
                params: rebuild_object(body, span, |name| name == "elicitationId", &[]).into(),
            })
            .collect()
    }

    /// The reply that asks the caller for input (basic/patterns/mrtr): questions get the keys `r1`, `r2`, ... by their
    /// place in `asks`; those that `answered` already holds an answer for are left out. Without a state the retry is a
    /// call like any other.
    pub fn input_required(
        &self,
        asks: &[Ask],
        answered: &[Option<Answer>],
        request_state: Option<&str>,
        server_info: &[u8],
    ) -> Bytes {
        let mut out = b"{\"resultType\":\"input_required\",\"inputRequests\":{".to_vec();
        let open = asks.iter().enumerate().filter(|(i, _)| !matches!(answered.get(*i), Some(Some(_))));
        for (i, ask) in open {
            if out.last() != Some(&b'{') {
                out.push(b',');
            }
            out.extend_from_slice(
                format!("\"{}\":{{\"method\":\"{}\",\"params\":", ask_key(i), ask.method.as_str()).as_bytes(),
            );
            out.extend_from_slice(&ask.params);
            out.push(b'}');
        }
        out.push(b'}');
        if let Some(state) = request_state {
            out.extend_from_slice(b",\"requestState\":");
            out.extend_from_slice(quote(state).as_bytes());
        }
        out.extend_from_slice(b",\"_meta\":{\"");
        out.extend_from_slice(SERVER_INFO.as_bytes());
        out.extend_from_slice(b"\":");
        out.extend_from_slice(server_info);
        out.extend_from_slice(b"}}");
        result_reply(&self.client_id, &out)
    }
}

/// The key of a question in `inputRequests`.
pub fn ask_key(index: usize) -> String {
    format!("r{}", index + 1)
}

impl Ask {
    /// Makes a question of a server's request, when it is one that a client can be asked.
    pub fn from_request(message: &Message) -> Option<Self> {
        let askable =
            matches!(message.method, Method::ElicitationCreate | Method::SamplingCreateMessage | Method::RootsList);
        if !askable || message.shape != Shape::Request {
            return None;
        }
        let params = match message.params().object() {
            // A progress token in there names a stream that ends with this round.
            Some(span) if message.meta().get(Meta::ProgressToken).is_some() => {
                let mut edits = Edits::new();
                MetaEdit { drop: Some(|key| key == PROGRESS_TOKEN), set: Vec::new() }.params(message, &mut edits);
                let flat = edits.apply_flat(message.body());
                Message::parse(flat)
                    .ok()
                    .and_then(|m| m.params().object().map(|s| m.slice(s)))
                    .unwrap_or_else(|| message.slice(span))
            }
            Some(span) => message.slice(span),
            None => Bytes::from_static(b"{}"),
        };
        Some(Self { id: message.id()?, method: message.method, params })
    }

    /// Whether a client with these capabilities can be asked it.
    ///
    /// # Errors
    /// The capability that it lacks.
    pub fn can_be_answered(&self, capabilities: &[u8]) -> Result<(), &'static str> {
        super::to_client::can_answer(capabilities, self.method, &self.params)
    }

    /// The answer to send to the server.
    pub fn answer(&self, answer: &Answer) -> Bytes {
        match answer {
            Answer::Result(result) => result_reply(&self.id, result),
            Answer::Error(object) => error_reply(&self.id, object),
        }
    }

    /// What the server is told when nobody will answer any more.
    pub fn abandon(&self) -> Bytes {
        if self.method == Method::ElicitationCreate {
            return result_reply(&self.id, b"{\"action\":\"cancel\"}");
        }
        crate::error::RpcError::new(crate::error::INTERNAL, "the client did not answer").reply(Some(&self.id))
    }

    /// What the server is told when the question turned out to belong to no call.
    pub fn stray(&self) -> Bytes {
        stray(self.method.as_str(), Some(&self.id))
    }
}

/// What a server is told that asks something outside the calls of a client.
pub fn stray(method: &str, id: Option<&[u8]>) -> Bytes {
    let text = format!("{method} cannot be tied to one call of one client");
    crate::error::RpcError::new(crate::error::METHOD_NOT_FOUND, text).reply(id)
}

/// A key that stands twice in the answers of a retry: what we read and what somebody else did could differ.
pub fn repeated_answer(retry: &Message) -> Option<Vec<u8>> {
    let list = members(retry.body(), retry.params().get(Param::InputResponses)?);
    let mut keys: Vec<_> = list.iter().map(|(key, _)| key.decode(retry.body())).collect();
    keys.sort_unstable();
    keys.windows(2).find_map(|pair| match pair {
        [one, next] if one == next => Some(one.as_bytes().to_vec()),
        _ => None,
    })
}

/// Splits the answers of a retry: what was answered, by index, and whether all were.
pub fn answers(retry: &Message, asks: &[Ask]) -> Vec<Option<Answer>> {
    asks.iter().enumerate().map(|(i, _)| Answer::given(retry, &ask_key(i))).collect()
}

/// The cancellation of a call, by its id at the server.
pub fn cancelled(upstream_id: u64, reason: &str) -> Bytes {
    let params = format!("{{\"requestId\":{upstream_id},\"reason\":{}}}", quote(reason));
    crate::error::notification("notifications/cancelled", Some(params.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edit::concat;

    fn message(text: &str) -> Message {
        Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    const CALL: &str = r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"t","arguments":{"n":1.0},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/logLevel":"warning","progressToken":"p","x":1}}}"#;

    #[test]
    fn the_request_loses_only_what_the_modern_leg_added() {
        let request = message(CALL);
        let call = Call::new(&request, 9);
        let sent = concat(&call.request(&request, &[("traceparent", Bytes::from_static(b"\"tp\""))]));
        assert_eq!(
            sent,
            br#"{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"t","arguments":{"n":1.0},"_meta":{"x":1,"traceparent":"tp","progressToken":9}}}"#[..]
        );
    }

    #[test]
    fn replies_gain_what_modern_results_need() {
        let call = Call::new(&message(CALL), 9);
        let info = Bytes::from_static(b"{\"name\":\"s\"}");
        for (result, expected) in [
            ("{}", r#"{"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s"}}}"#),
            (
                r#"{"content":[],"isError":true}"#,
                r#"{"resultType":"complete","content":[],"isError":true,"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s"}}}"#,
            ),
            (
                r#"{"_meta":{"a":1}}"#,
                r#"{"resultType":"complete","_meta":{"a":1,"io.modelcontextprotocol/serverInfo":{"name":"s"}}}"#,
            ),
        ] {
            let reply = message(&format!(r#"{{"jsonrpc":"2.0","id":9,"result":{result}}}"#));
            let (pieces, _) = call.reply(&reply, &info);
            assert_eq!(
                String::from_utf8_lossy(&concat(&pieces)),
                format!(r#"{{"jsonrpc":"2.0","id":"a","result":{expected}}}"#)
            );
        }
    }

    #[test]
    fn what_a_legacy_server_calls_its_result_is_its_own_affair() {
        const LIST: &str = r#"{"jsonrpc":"2.0","id":"a","method":"tools/list","params":{}}"#;
        for kind in [r#""input_required""#, r#""task""#, "7", r#""complete""#] {
            let reply = message(&format!(r#"{{"jsonrpc":"2.0","id":9,"result":{{"resultType":{kind},"x":1}}}}"#));
            for (request, more) in [(CALL, ""), (LIST, r#""ttlMs":0,"cacheScope":"private","#)] {
                let (pieces, ended) = Call::new(&message(request), 9).reply(&reply, &Bytes::from_static(b"{}"));
                let expected = format!(
                    r#"{{"jsonrpc":"2.0","id":"a","result":{{{more}"resultType":"complete","x":1,"_meta":{{"io.modelcontextprotocol/serverInfo":{{}}}}}}}}"#
                );
                assert_eq!((String::from_utf8_lossy(&concat(&pieces)).as_ref(), ended), (&*expected, Ended::Ok));
            }
        }
    }

    #[test]
    fn a_key_that_answers_twice_is_found() {
        let retry = |responses: &str| {
            message(&format!(
                r#"{{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{{"name":"t","inputResponses":{responses}}}}}"#
            ))
        };
        assert_eq!(repeated_answer(&retry(r#"{"r1":{},"r2":{},"\u0072\u0031":{}}"#)), Some(b"r1".to_vec()));
        for fine in [r#"{"r1":{},"r2":{"r1":1,"r1":2}}"#, "{}", "7"] {
            assert_eq!(repeated_answer(&retry(fine)), None);
        }
    }

    #[test]
    fn notifications_get_the_callers_token_and_level() {
        let call = Call::new(&message(CALL), 9);
        let progress =
            message(r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":9,"progress":1}}"#);
        assert_eq!(
            call.notification(&progress).unwrap(),
            br#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":1}}"#[..]
        );
        let log = |level: &str| {
            message(&format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"{level}","data":1}}}}"#
            ))
        };
        assert!(call.notification(&log("info")).is_none());
        assert!(call.notification(&log("error")).is_some());
    }

    #[test]
    fn a_missing_resource_changes_its_code() {
        let read = message(r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"x:y"}}"#);
        let (pieces, ended) = Call::new(&read, 2).reply(
            &message(r#"{"jsonrpc":"2.0","id":2,"error":{"code":-32002,"message":"no","data":{"uri":"x:y"}}}"#),
            &Bytes::new(),
        );
        assert_eq!(ended, Ended::RpcError(-32602));
        assert_eq!(
            concat(&pieces),
            br#"{"jsonrpc":"2.0","id":1,"error":{"message":"no","data":{"uri":"x:y"},"code":-32602}}"#[..]
        );
    }

    #[test]
    fn an_error_that_asks_for_a_visit_becomes_a_question_for_clients_that_do_not_know_it() {
        let refusal = r#"{"jsonrpc":"2.0","id":9,"error":{"code":-32042,"message":"m","data":{"elicitations":[{"mode":"url","elicitationId":"e","url":"https://a"}]}}}"#;
        let unable = Call::new(&message(CALL), 9).reply(&message(refusal), &Bytes::from_static(b"{}"));
        assert_eq!(unable.1, Ended::RpcError(-32042));
        let able = CALL.replace("clientCapabilities\":{}", "clientCapabilities\":{\"elicitation\":{\"url\":{}}}");
        let (pieces, ended) = Call::new(&message(&able), 9).reply(&message(refusal), &Bytes::from_static(b"{}"));
        assert_eq!(ended, Ended::Ok);
        let expected = r#"{"jsonrpc":"2.0","id":"a","result":{"resultType":"input_required","inputRequests":{"r1":{"method":"elicitation/create","params":{"mode":"url","url":"https://a"}}},"_meta":{"io.modelcontextprotocol/serverInfo":{}}}}"#;
        assert_eq!(concat(&pieces), expected.as_bytes());
        let modern = Call::new(&message(CALL), 9).on(Revision::MODERN);
        assert_eq!(modern.reply(&message(refusal), &Bytes::new()).1, Ended::RpcError(-32042));
        let legacy = CALL.replace("\"_meta\":{", "\"_meta\":{\"outrigger.dev/session\":\"c.1\",");
        assert_ne!(legacy, CALL);
        let (pieces, ended) = Call::new(&message(&legacy), 9).reply(&message(refusal), &Bytes::new());
        assert_eq!(ended, Ended::RpcError(-32042));
        assert_eq!(concat(&pieces), refusal.replace("\"id\":9", "\"id\":\"a\"").as_bytes());
    }

    #[test]
    fn questions_and_answers_meet_by_key() {
        let ask = |id: &str| {
            Ask::from_request(&message(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"roots/list"}}"#))).unwrap()
        };
        let asks = [ask("7"), ask("\"q\"")];
        let reply = message(
            std::str::from_utf8(&Call::new(&message(CALL), 9).input_required(&asks, &[], Some("st"), b"{}")).unwrap(),
        );
        assert_eq!(reply.result_text(Field::ResultType).unwrap(), "input_required");
        let retry = message(
            r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","requestState":"st","inputResponses":{"r2":{"roots":[]},"zz":1}}}"#,
        );
        let got = answers(&retry, &asks);
        assert_eq!(got, [None, Some(Answer::Result(Bytes::from_static(br#"{"roots":[]}"#)))]);
        assert_eq!(
            asks[1].answer(got[1].as_ref().unwrap()),
            br#"{"jsonrpc":"2.0","id":"q","result":{"roots":[]}}"#[..]
        );
        let refused = message(
            r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","inputResponses":{"r1":{"action":"cancel"}},"_meta":{"outrigger.dev/errors":{"r1":{"method":"roots/list","error":{"code":-5,"message":"m","data":[1.0]}}}}}}"#,
        );
        let got = answers(&refused, &asks);
        assert_eq!(got[1], None);
        assert_eq!(
            asks[0].answer(got[0].as_ref().unwrap()),
            br#"{"jsonrpc":"2.0","id":7,"error":{"code":-5,"message":"m","data":[1.0]}}"#[..]
        );
    }
}
