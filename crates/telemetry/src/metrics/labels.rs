//! The closed sets of label values. A value that is not listed here cannot reach a metric.

// The macro keeps variant, label text and the list of all together: written by hand, three places per value
// drift apart, and a value missing from `ALL` would be a series that is never removed.
macro_rules! closed_label {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$value_doc])* $variant,)* }

        impl $name {
            /// Every value, in the order of the enum.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The label text.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

closed_label! {
    /// How a request ended; the same words in metrics, access log and audit.
    Outcome {
        /// Answered with a result.
        Ok = "ok",
        /// A tool result with `isError`.
        ToolError = "tool_error",
        /// The server answered with a JSON-RPC error.
        RpcError = "rpc_error",
        /// Policy said no, or what was asked for is hidden from the caller.
        Denied = "denied",
        /// A rate, budget, concurrency or size limit was passed.
        Limited = "limited",
        /// The request broke a rule of the protocol.
        BadRequest = "bad_request",
        /// No valid credential.
        Unauthenticated = "unauthenticated",
        /// The service cannot be reached or is draining.
        Unavailable = "unavailable",
        /// A deadline passed.
        Timeout = "timeout",
        /// The caller went away or cancelled.
        Cancelled = "cancelled",
        /// Our own fault.
        Internal = "internal",
    }
}

closed_label! {
    /// Why an ingress sends a call once more, or does not.
    Retry {
        /// No byte of it had been sent.
        Unsent = "unsent",
        /// The sidecar says that its server never got it.
        Refused = "refused",
        /// It may run twice: a read, or a tool that says so.
        Repeatable = "repeatable",
        /// It would have been, but too many calls were sent once more already.
        OverBudget = "over_budget",
    }
}

closed_label! {
    /// What became of asking the shared store of limits.
    QuotaOutcome {
        /// It decided.
        Ok = "ok",
        /// It did not answer in time.
        Timeout = "timeout",
        /// It cannot be reached, or answered with an error.
        Failed = "failed",
    }
}

closed_label! {
    /// Why an ingress leaves a replica alone.
    Ejection {
        /// Calls at it failed, one after the other.
        Failures = "failures",
        /// Too many of its calls failed.
        Share = "share",
        /// It does not answer, and no other one is left.
        Circuit = "circuit",
    }
}

closed_label! {
    /// Which process.
    Role {
        /// `outrigger-sidecar`.
        Sidecar = "sidecar",
        /// `outrigger-ingress`.
        Ingress = "ingress",
        /// `outrigger ca serve`.
        Authority = "authority",
        /// `outrigger inject serve`.
        Injector = "injector",
    }
}

closed_label! {
    /// Where an ingress looks something up.
    DiscoverySource {
        /// Services of a cluster.
        Kubernetes = "kubernetes",
        /// Policies of a cluster.
        Policies = "policies",
        /// A Consul catalog.
        Consul = "consul",
    }
}

closed_label! {
    /// Which listening socket.
    Listener {
        /// The ingress's listener for clients.
        Public = "public",
        /// The sidecar's mTLS listener.
        Mesh = "mesh",
        /// The ingress's mTLS listener for sidecars that register.
        Registration = "registration",
        /// The sidecar's listener for what its server dials out.
        Outbound = "outbound",
        /// The plaintext admin listener.
        Admin = "admin",
        /// The authority's listener for workloads that want certificates.
        Authority = "authority",
        /// The injector's listener for API servers.
        Webhook = "webhook",
    }
}

closed_label! {
    /// What came of asking the authority for a certificate.
    RenewalOutcome {
        /// There is one.
        Renewed = "renewed",
        /// The authority said no.
        Refused = "refused",
        /// No usable answer.
        Failed = "failed",
    }
}

closed_label! {
    /// What a workload showed to the authority.
    ProofKind {
        /// A join token.
        Token = "token",
        /// A service-account token.
        Kubernetes = "kubernetes",
        /// Its present certificate.
        Certificate = "certificate",
        /// Nothing.
        None = "none",
    }
}

closed_label! {
    /// What the authority answered.
    IssueOutcome {
        /// A certificate.
        Issued = "issued",
        /// A refusal.
        Refused = "refused",
        /// That it cannot, because of a fault of its own.
        Failed = "failed",
    }
}

closed_label! {
    /// What became of a pod that an injector was asked about.
    InjectionOutcome {
        /// It gets a sidecar.
        Injected = "injected",
        /// It asks for none.
        NotAsked = "not_asked",
        /// It has one already.
        Present = "present",
        /// It is in a namespace, or of a kind, that is left alone.
        Exempt = "exempt",
        /// It asks for what it cannot have.
        Refused = "refused",
        /// What its namespace says is not known: `failurePolicy` decides.
        Unanswered = "unanswered",
        /// The question was none.
        Invalid = "invalid",
    }
}

closed_label! {
    /// What became of an incoming connection.
    ConnectionOutcome {
        /// Served.
        Accepted = "accepted",
        /// Refused because the listener holds its limit of connections.
        Limited = "limited",
        /// Refused while draining.
        Draining = "draining",
        /// Broke before a request was read.
        Failed = "failed",
        /// Cut after it was served: the peer's certificate is no longer accepted.
        Untrusted = "untrusted",
    }
}

closed_label! {
    /// How a TLS handshake ended.
    HandshakeOutcome {
        /// Full handshake.
        Ok = "ok",
        /// Resumed from a ticket.
        Resumed = "resumed",
        /// The peer sent no certificate where one is required.
        NoCertificate = "no_certificate",
        /// A certificate of another authority.
        UnknownAuthority = "unknown_authority",
        /// Expired, or not valid yet.
        Expired = "expired",
        /// On the revocation list.
        Revoked = "revoked",
        /// A valid certificate of somebody else.
        WrongIdentity = "wrong_identity",
        /// No common version, cipher or protocol, or not TLS at all.
        Protocol = "protocol",
        /// Not finished in time.
        Timeout = "timeout",
        /// The connection broke.
        Closed = "closed",
    }
}

closed_label! {
    /// What became of asking an identity provider for its keys.
    KeyFetchOutcome {
        /// They came.
        Ok = "ok",
        /// They did not, or were none.
        Failed = "failed",
    }
}

closed_label! {
    /// What became of what an ingress says of its user.
    AssertionOutcome {
        /// Policy decided about the user.
        Believed = "believed",
        /// It was forged, old, or for another service.
        Refused = "refused",
        /// Somebody said it who is no ingress.
        Ignored = "ignored",
    }
}

closed_label! {
    /// What came of asking an identity provider about a token.
    IntrospectionOutcome {
        /// It is good.
        Active = "active",
        /// It is not, or is not known there.
        Inactive = "inactive",
        /// There was no answer, or none that can be understood.
        Failed = "failed",
        /// It was not asked, because it failed too often.
        Paused = "paused",
    }
}

closed_label! {
    /// What is known of a service's catalog. One of these is 1 per service, the others 0.
    CatalogState {
        /// Never fetched.
        Unknown = "unknown",
        /// As the server has it.
        Fresh = "fresh",
        /// The last good one, served in the grace period.
        Stale = "stale",
        /// Older than the grace period, no longer served.
        Dropped = "dropped",
    }
}

closed_label! {
    /// Which limit was passed.
    LimitKind {
        /// Requests per client.
        ClientRate = "client_rate",
        /// Requests per service.
        ServiceRate = "service_rate",
        /// Calls per tool.
        ToolRate = "tool_rate",
        /// Calls of a client that one rule of policy allows.
        RuleRate = "rule_rate",
        /// Requests at once per service.
        Concurrency = "concurrency",
        /// Requests at once of one client at a service.
        ClientConcurrency = "client_concurrency",
        /// Calls or cost in a period.
        Budget = "budget",
        /// Waiting requests or messages.
        Queue = "queue",
        /// Open sessions with a server.
        Sessions = "sessions",
        /// Open sessions of clients.
        ClientSessions = "client_sessions",
        /// Requests at work in one session of a client.
        SessionRequests = "session_requests",
        /// Questions that one session of a client has not answered.
        SessionQuestions = "session_questions",
        /// Resources that one session or listen subscribes to.
        Subscriptions = "subscriptions",
        /// Lists of one caller: kept, or of one.
        CallerLists = "caller_lists",
        /// Child processes.
        Children = "children",
        /// Calls that wait for their client's answer.
        ParkedCalls = "parked_calls",
        /// Streams on which callers listen.
        Listens = "listens",
        /// Tasks that are followed.
        Tasks = "tasks",
        /// Bytes of headers.
        HeaderBytes = "header_bytes",
        /// Bytes of a body.
        BodyBytes = "body_bytes",
        /// Bytes of one event or line.
        EventBytes = "event_bytes",
        /// Items of a catalog.
        CatalogItems = "catalog_items",
        /// Connections or bytes that a server sends out.
        Egress = "egress",
        /// Calls that wait for a person.
        Approvals = "approvals",
    }
}

closed_label! {
    /// Why policy refused.
    DenyReason {
        /// No rule allows it (the default).
        NoRule = "no_rule",
        /// A rule forbids it.
        Rule = "rule",
        /// A rule would allow it with a scope, role or claim that the caller lacks.
        Requirement = "requirement",
        /// The condition of a rule does not hold.
        Condition = "condition",
        /// The condition of a rule could not be evaluated.
        ConditionFailed = "condition_failed",
        /// The caller has no identity that policy accepts here.
        Identity = "identity",
        /// A destination outside the allowlist.
        Egress = "egress",
        /// An address that is never dialled (loopback, link-local, metadata).
        Address = "address",
        /// The definition has changed since it was approved.
        DefinitionChanged = "definition_changed",
        /// Nobody approved the definition.
        DefinitionNotApproved = "definition_not_approved",
        /// No person approved the call.
        Approval = "approval",
    }
}

closed_label! {
    /// What became of an outbound connection or request; the same words in metrics and the egress log.
    EgressVerdict {
        /// A rule let it through.
        Allowed = "allowed",
        /// No rule did; it went through because rules are only observed.
        Observed = "observed",
        /// Refused by the rules or by the guard over addresses.
        Denied = "denied",
        /// A limit was passed.
        Limited = "limited",
        /// What was asked is no valid request, or took too long.
        Invalid = "invalid",
        /// Allowed, and the destination could not be reached or broke its protocol.
        Failed = "failed",
    }
}

closed_label! {
    /// How looking a name up went.
    LookupOutcome {
        /// It was known already.
        Cached = "cached",
        /// A resolver said its addresses.
        Found = "found",
        /// It has none, says a resolver.
        NoAddress = "no_address",
        /// No resolver could say.
        Failed = "failed",
        /// None answered in time.
        Timeout = "timeout",
    }
}

closed_label! {
    /// Limits of looking names up that were passed.
    DnsLimit {
        /// More questions at once than are looked into.
        Busy = "busy",
        /// A question longer than is read.
        Question = "question",
        /// More bytes before the suffix of a wildcard than names have.
        WildcardBytes = "wildcard_bytes",
        /// More different names below a wildcard than an hour has.
        WildcardNames = "wildcard_names",
        /// More addresses of one name than are looked at.
        Addresses = "addresses",
        /// More names than are remembered.
        Cache = "cache",
    }
}

closed_label! {
    /// Which way bytes went.
    Direction {
        /// From the server to the destination.
        Up = "up",
        /// Back.
        Down = "down",
    }
}

closed_label! {
    /// What was loaded again.
    ReloadKind {
        /// The configuration file.
        Config = "config",
        /// The policy file.
        Policy = "policy",
        /// Certificates and keys.
        Certificates = "certificates",
        /// The revocation list.
        Revocations = "revocations",
        /// Client tokens.
        Tokens = "tokens",
        /// Keys of session ids.
        SessionKeys = "session_keys",
        /// Services and their addresses.
        Services = "services",
        /// What a server may reach.
        Egress = "egress",
        /// Approved definitions.
        Lock = "lock",
    }
}

closed_label! {
    /// What became of a call that a person has to approve.
    ApprovalOutcome {
        /// It began to wait.
        Asked = "asked",
        /// Somebody said yes.
        Approved = "approved",
        /// Somebody said no.
        Refused = "refused",
        /// The call went on.
        Used = "used",
        /// Nobody said enough in time.
        Expired = "expired",
    }
}

closed_label! {
    /// How a definition differs from what was approved.
    Deviates {
        /// It was approved as something else.
        Changed = "changed",
        /// Nobody approved it.
        New = "new",
        /// It was approved and is not offered.
        Gone = "gone",
    }
}

closed_label! {
    /// What is suspicious about a definition.
    Suspicion {
        /// Characters that do not show.
        HiddenCharacters = "hidden-characters",
        /// Words to the model.
        InstructsModel = "instructs-model",
        /// Names of files where secrets are kept.
        NamesSecrets = "names-secrets",
        /// It says what to do with another service's capability.
        OtherService = "other-service",
        /// A name that looks like another one.
        LookAlike = "look-alike",
    }
}

closed_label! {
    /// How a reload ended.
    ReloadOutcome {
        /// The new one is in force.
        Applied = "applied",
        /// Nothing had changed.
        Unchanged = "unchanged",
        /// Refused; the last good one stays.
        Failed = "failed",
    }
}

closed_label! {
    /// Which rule of the protocol a request broke.
    BadRequestReason {
        /// Not JSON, or not a JSON-RPC message.
        Malformed = "malformed",
        /// The same member twice in the envelope.
        DuplicateKey = "duplicate_key",
        /// A JSON array where the revision has no batches.
        Batch = "batch",
        /// Nested too deep.
        TooDeep = "too_deep",
        /// A body, header or line over its limit.
        TooLarge = "too_large",
        /// The request did not arrive in time.
        TooSlow = "too_slow",
        /// Wrong or missing `Content-Type`.
        ContentType = "content_type",
        /// `Accept` excludes what we may answer with.
        Accept = "accept",
        /// A required header is missing or invalid.
        Header = "header",
        /// A header and the body disagree.
        HeaderMismatch = "header_mismatch",
        /// A revision that is not served.
        Revision = "revision",
        /// No credential, or one that is not valid.
        Credential = "credential",
        /// A session id that is missing, unknown or ended.
        Session = "session",
        /// `Origin` or `Host` is not allowed.
        Origin = "origin",
        /// No such path.
        Path = "path",
        /// An HTTP method that the path does not have.
        HttpMethod = "http_method",
        /// Parameters that the method does not allow.
        Params = "params",
        /// Broken HTTP.
        Http = "http",
    }
}

closed_label! {
    /// What went wrong towards a service.
    UpstreamErrorKind {
        /// No connection.
        Connect = "connect",
        /// The TLS handshake failed.
        Tls = "tls",
        /// The peer is not the service that it should be.
        Identity = "identity",
        /// No answer in time.
        Timeout = "timeout",
        /// The connection broke during an exchange.
        Reset = "reset",
        /// The answer is not HTTP, SSE or MCP as it should be.
        Protocol = "protocol",
        /// The answer or one event of it is over its limit.
        TooLarge = "too_large",
        /// The service says that it is overloaded or draining.
        Overloaded = "overloaded",
        /// The child process ended.
        ChildExited = "child_exited",
        /// A message that belongs to nobody: a late or second reply, or a request that no call asked for.
        Stray = "stray",
    }
}

closed_label! {
    /// Why a listen of ours at a service did not begin, or not for long.
    ListenFailure {
        /// All places there are taken.
        Limited = "limited",
        /// The rules in force do not allow it.
        Denied = "denied",
        /// It was answered with an error, or with no stream.
        Refused = "refused",
        /// The service cannot be reached, or did not answer in time.
        Unavailable = "unavailable",
        /// It was ended at once.
        Ended = "ended",
    }
}

closed_label! {
    /// Who holds a session.
    SessionKind {
        /// A client of an older revision, with us.
        Client = "client",
        /// We, with a server of an older revision.
        Upstream = "upstream",
        /// A client's session that pins one upstream session or child.
        Pinned = "pinned",
    }
}
