//! One request of a modern client, right unless a test spoils it.

use outrigger_mcp::{headers, json::quote};

/// A request being made up. Members are raw JSON, so that a test decides every byte.
#[derive(Debug, Clone)]
pub struct Call {
    path: &'static str,
    method: String,
    id: Option<String>,
    params: String,
    meta: String,
    capabilities: String,
    headers: Vec<(String, Vec<u8>)>,
    without: Vec<String>,
    body: Option<Vec<u8>>,
}

impl Call {
    /// A request without parameters beyond the required `_meta`.
    pub fn new(method: &str) -> Self {
        Self {
            path: "/mcp",
            method: method.to_owned(),
            id: Some("1".into()),
            params: String::new(),
            meta: String::new(),
            capabilities: "{}".into(),
            headers: Vec::new(),
            without: Vec::new(),
            body: None,
        }
    }

    /// `tools/call` with raw arguments.
    pub fn tool(name: &str, arguments: &str) -> Self {
        Self::new("tools/call")
            .params(&format!("\"name\":{},\"arguments\":{arguments}", quote(name)))
            .header(headers::NAME, &headers::encode(name))
    }

    /// `resources/read`.
    pub fn read(uri: &str) -> Self {
        Self::new("resources/read")
            .params(&format!("\"uri\":{}", quote(uri)))
            .header(headers::NAME, &headers::encode(uri))
    }

    /// The path of another endpoint.
    #[must_use]
    pub fn at(mut self, path: &'static str) -> Self {
        self.path = path;
        self
    }

    /// Where it goes.
    pub fn path(&self) -> &'static str {
        self.path
    }

    /// The raw id; without one the message is a notification.
    #[must_use]
    pub fn id(mut self, raw: Option<&str>) -> Self {
        self.id = raw.map(str::to_owned);
        self
    }

    /// More members of `params`.
    #[must_use]
    pub fn params(mut self, members: &str) -> Self {
        self.params.push(',');
        self.params.push_str(members);
        self
    }

    /// More members of `_meta`.
    #[must_use]
    pub fn meta(mut self, members: &str) -> Self {
        self.meta.push(',');
        self.meta.push_str(members);
        self
    }

    /// What the client declares; a raw object.
    #[must_use]
    pub fn capabilities(mut self, raw: &str) -> Self {
        self.capabilities = raw.to_owned();
        self
    }

    /// The log level that is asked for.
    #[must_use]
    pub fn log_level(self, level: &str) -> Self {
        self.meta(&format!("\"io.modelcontextprotocol/logLevel\":\"{level}\""))
    }

    /// A header in addition to those that belong to the message.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }

    /// A header whose value is not text.
    #[must_use]
    pub fn header_bytes(mut self, name: &str, value: &[u8]) -> Self {
        self.headers.push((name.to_owned(), value.to_vec()));
        self
    }

    /// Leaves out a header that belongs to the message, or one that was added before.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.without.push(name.to_ascii_lowercase());
        self
    }

    /// Sends these bytes instead of the message.
    #[must_use]
    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.body = Some(bytes.into());
        self
    }

    /// The body's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        if let Some(body) = &self.body {
            return body.clone();
        }
        let id = self.id.as_ref().map(|id| format!("\"id\":{id},")).unwrap_or_default();
        let meta = format!(
            "{{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\",\"io.modelcontextprotocol/clientCapabilities\":{}{}}}",
            self.capabilities, self.meta
        );
        let method = quote(&self.method);
        format!("{{\"jsonrpc\":\"2.0\",{id}\"method\":{method},\"params\":{{\"_meta\":{meta}{}}}}}", self.params)
            .into_bytes()
    }

    /// All headers.
    pub fn fields(&self) -> http::HeaderMap {
        let defaults = [
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", self.method.as_str()),
        ];
        let mut fields = http::HeaderMap::new();
        for (name, value) in defaults.into_iter().filter(|(name, _)| !self.without.iter().any(|w| w == name)) {
            fields.insert(http::HeaderName::from_static(name), value.parse().unwrap());
        }
        for (name, value) in &self.headers {
            let name: http::HeaderName = name.parse().unwrap();
            fields.append(name, http::HeaderValue::from_bytes(value).unwrap());
        }
        fields
    }
}
