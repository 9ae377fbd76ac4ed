// Reference MCP server for the conformance suite and for bridge tests. No dependencies, node >= 18.
//   PORT=4001 ERA=dual|modern|legacy node backend.mjs            Streamable HTTP on 127.0.0.1:PORT/mcp
//   ERA=... node backend.mjs --stdio                             the same server over stdio
//   ALWAYS_SSE=1 answers every request with an SSE stream (default: JSON unless something must be streamed)
// Tools that need client input use MRTR towards modern clients and server-to-client requests towards legacy ones, so
// one fixture serves: same-era runs, a modern client on a legacy server, a legacy client on a modern server.
import http from 'node:http';
import readline from 'node:readline';
import { createHmac, randomBytes, randomUUID } from 'node:crypto';

const ERA = process.env.ERA || 'dual',
  MODERN = '2026-07-28';
const LEGACY = ['2024-11-05', '2025-03-26', '2025-06-18', '2025-11-25'];
const P = 'io.modelcontextprotocol/';
const INFO = { name: 'mesh-conformance-backend', version: '1.0.0' };
const CAPS = {
  tools: { listChanged: true },
  prompts: { listChanged: true },
  resources: { listChanged: true, subscribe: true },
  logging: {},
  completions: {},
};
const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';
const WAV = 'UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=';
const LEVELS = ['debug', 'info', 'notice', 'warning', 'error', 'critical', 'alert', 'emergency'];
const sleep = (ms) => new Promise((r) => setTimeout(r, ms));
const text = (t) => ({ content: [{ type: 'text', text: t }] });

class Rpc extends Error {
  constructor(code, message, data, status) {
    super(message);
    Object.assign(this, { code, data, status });
  }
}
class NeedInput extends Error {
  constructor(inputRequests, requestState) {
    super('input required');
    this.result = {
      resultType: 'input_required',
      ...(inputRequests && { inputRequests }),
      ...(requestState && { requestState }),
    };
  }
}

const SECRET = randomBytes(32);
const seal = (o) => {
  const b = Buffer.from(JSON.stringify(o)).toString('base64url');
  return b + '.' + createHmac('sha256', SECRET).update(b).digest('base64url');
};
const open = (s) => {
  const [b, m] = String(s).split('.');
  if (!m || createHmac('sha256', SECRET).update(b).digest('base64url') !== m)
    throw new Rpc(-32602, 'requestState failed verification');
  return JSON.parse(Buffer.from(b, 'base64url'));
};

const obj = (properties, required) => ({ type: 'object', properties, ...(required && { required }) });
const NAME = obj({ name: { type: 'string' } }, ['name']);
const elicit = (message, requestedSchema = NAME) => ({
  method: 'elicitation/create',
  params: { message, requestedSchema },
});
const sample = (t, maxTokens = 100) => ({
  method: 'sampling/createMessage',
  params: { messages: [{ role: 'user', content: { type: 'text', text: t } }], maxTokens },
});
const ROOTS = { method: 'roots/list', params: {} };
const okAnswer = (r, a) =>
  a &&
  typeof a === 'object' &&
  (r.method !== 'elicitation/create' || typeof a.action === 'string') &&
  (r.method !== 'roots/list' || Array.isArray(a.roots)) &&
  (r.method !== 'sampling/createMessage' || a.content);
const show = (a) => `action=${a.action}, content=${JSON.stringify(a.content || {})}`;
// asks the client for several inputs, era independent
async function ask(c, requests, state) {
  if (!c.modern)
    return Object.fromEntries(
      await Promise.all(Object.entries(requests).map(async ([k, r]) => [k, await c.request(r.method, r.params)])),
    );
  const got = c.params.inputResponses;
  if (got !== undefined && (got === null || typeof got !== 'object' || Array.isArray(got)))
    throw new Rpc(-32602, 'inputResponses must be an object');
  if (Object.entries(requests).every(([k, r]) => okAnswer(r, got?.[k]))) return got;
  throw new NeedInput(requests, state && seal(state));
}
const state = (c) => (c.modern && c.params.requestState !== undefined ? open(c.params.requestState) : null);

const tools = new Map(),
  extra = { tool: false, prompt: false };
const tool = (name, description, run, inputSchema = obj({}), more = {}) =>
  tools.set(name, { def: { name, description, inputSchema, ...more }, run });
tool('test_simple_text', 'text', () => text('This is a simple text response for testing.'));
tool('test_image_content', 'image', () => ({ content: [{ type: 'image', data: PNG, mimeType: 'image/png' }] }));
tool('test_audio_content', 'audio', () => ({ content: [{ type: 'audio', data: WAV, mimeType: 'audio/wav' }] }));
const res = (uri, mimeType, t) => ({ type: 'resource', resource: { uri, mimeType, text: t } });
tool('test_embedded_resource', 'embedded resource', () => ({
  content: [res('test://embedded-resource', 'text/plain', 'This is an embedded resource content.')],
}));
tool('test_multiple_content_types', 'mixed content', () => ({
  content: [
    { type: 'text', text: 'Multiple content types test:' },
    { type: 'image', data: PNG, mimeType: 'image/png' },
    res('test://mixed-content-resource', 'application/json', '{"test":"data","value":123}'),
  ],
}));
const logs = async (c) => {
  for (const m of ['Tool execution started', 'Tool processing data', 'Tool execution completed']) {
    c.log('info', m);
    await sleep(40);
  }
  return text('Tool with logging executed successfully');
};
tool('test_tool_with_logging', 'emits logs', logs);
tool('test_logging_tool', 'emits logs', logs);
tool('test_tool_with_progress', 'emits progress', async (c) => {
  for (const p of [0, 50, 100]) {
    c.progress(p, 100, `Completed step ${p} of 100`);
    await sleep(40);
  }
  return text(String(c.meta.progressToken ?? 0));
});
tool('test_error_handling', 'fails', () => ({
  isError: true,
  ...text('This tool intentionally returns an error for testing'),
}));
tool(
  'test_sampling',
  'samples',
  async (c) => text('LLM response: ' + ((await ask(c, { s: sample(c.args.prompt) })).s.content?.text ?? '')),
  obj({ prompt: { type: 'string' } }, ['prompt']),
);
tool(
  'test_elicitation',
  'elicits',
  async (c) =>
    text(
      'User response: ' +
        show(
          (
            await ask(c, {
              e: elicit(
                c.args.message,
                obj({ response: { type: 'string', description: "User's response" } }, ['response']),
              ),
            })
          ).e,
        ),
    ),
  obj({ message: { type: 'string' } }, ['message']),
);
tool('test_elicitation_sep1034_defaults', 'elicits with defaults', async (c) =>
  text(
    'Elicitation completed: ' +
      show(
        (
          await ask(c, {
            e: elicit(
              'Please provide user information',
              obj({
                name: { type: 'string', default: 'John Doe' },
                age: { type: 'integer', default: 30 },
                score: { type: 'number', default: 95.5 },
                status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' },
                verified: { type: 'boolean', default: true },
              }),
            ),
          })
        ).e,
      ),
  ),
);
tool('test_elicitation_sep1330_enums', 'elicits with enums', async (c) =>
  text(
    'Elicitation completed: ' +
      show(
        (
          await ask(c, {
            e: elicit(
              'Please choose',
              obj({
                untitledSingle: { type: 'string', enum: ['option1', 'option2', 'option3'] },
                titledSingle: {
                  type: 'string',
                  oneOf: [1, 2, 3].map((i) => ({ const: 'value' + i, title: 'Option ' + i })),
                },
                legacyEnum: {
                  type: 'string',
                  enum: ['opt1', 'opt2', 'opt3'],
                  enumNames: ['Option One', 'Option Two', 'Option Three'],
                },
                untitledMulti: { type: 'array', items: { type: 'string', enum: ['option1', 'option2', 'option3'] } },
                titledMulti: {
                  type: 'array',
                  items: { anyOf: [1, 2, 3].map((i) => ({ const: 'value' + i, title: 'Choice ' + i })) },
                },
              }),
            ),
          })
        ).e,
      ),
  ),
);
tool('test_reconnection', 'closes its SSE stream once', async (c) => {
  await c.dropStream?.();
  await sleep(100);
  return text('Reconnection test completed successfully');
});
tool('json_schema_2020_12_tool', 'JSON Schema 2020-12 keywords', (c) => text(JSON.stringify(c.args)), {
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  type: 'object',
  $defs: {
    address: {
      $anchor: 'addressDef',
      type: 'object',
      properties: { street: { type: 'string' }, city: { type: 'string' } },
    },
  },
  properties: {
    name: { type: 'string' },
    address: { $ref: '#/$defs/address' },
    contactMethod: { type: 'string', enum: ['phone', 'email'] },
    phone: { type: 'string' },
    email: { type: 'string' },
  },
  allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }],
  if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] },
  then: { required: ['phone'] },
  else: { required: ['email'] },
  additionalProperties: false,
});
tool(
  'test_x_mcp_header',
  'mirrored argument',
  (c) => text('region=' + (c.args.region ?? '<none>')),
  obj({ region: { type: 'string', 'x-mcp-header': 'Region' } }),
);
tool('test_echo_meta', 'returns the request _meta and arguments as the server saw them', (c) =>
  text(JSON.stringify({ _meta: c.meta, arguments: c.args, headers: c.headers })),
);
tool(
  'test_sleep',
  'sleeps ms, reports progress',
  async (c) => {
    const n = Number(c.args.ms) || 0;
    for (let i = 0; i < n && !c.cancelled(); i += 50) {
      c.progress(i, n, 'sleeping');
      await sleep(Math.min(50, n - i));
    }
    return text(c.cancelled() ? 'cancelled' : 'slept');
  },
  obj({ ms: { type: 'integer' } }),
);
tool(
  'test_big_result',
  'returns bytes of text',
  (c) => text('x'.repeat(Number(c.args.bytes) || 0)),
  obj({ bytes: { type: 'integer' } }),
);
tool('test_missing_capability', 'needs sampling', (c) => {
  if (!c.caps.sampling)
    throw new Rpc(-32021, 'client must declare sampling', { requiredCapabilities: { sampling: {} } }, 400);
  return text('ok');
});
tool('test_streaming_elicitation', 'progress, then needs input', async (c) => {
  c.progress(1, 2, 'before input');
  await ask(c, { user_name: elicit('What is your name?') });
  return text('done');
});
tool('test_trigger_tool_change', 'changes the tool list', (c) => {
  extra.tool = !extra.tool;
  changed('tools');
  return text('changed');
});
tool('test_trigger_prompt_change', 'changes the prompt list', (c) => {
  extra.prompt = !extra.prompt;
  changed('prompts');
  return text('changed');
});
const ir = 'test_input_required_result_';
tool(ir + 'elicitation', 'MRTR', async (c) =>
  text(`Hello, ${(await ask(c, { user_name: elicit('What is your name?') })).user_name.content?.name}!`),
);
tool(ir + 'sampling', 'MRTR', async (c) =>
  text(
    'Model said: ' +
      (await ask(c, { capital_question: sample('What is the capital of France?') })).capital_question.content?.text,
  ),
);
tool(ir + 'list_roots', 'MRTR', async (c) =>
  text('Roots: ' + (await ask(c, { client_roots: ROOTS })).client_roots.roots.length),
);
const confirm = () => ({ confirm: elicit('Please confirm', obj({ ok: { type: 'boolean' } }, ['ok'])) });
const withState = async (c) => {
  const s = state(c);
  await ask(c, confirm(), { r: 1 });
  if (c.modern && s?.r !== 1) throw new Rpc(-32602, 'requestState missing');
  return text('state-ok');
};
tool(ir + 'request_state', 'MRTR', withState);
tool(ir + 'tampered_state', 'MRTR', withState);
tool(ir + 'multiple_inputs', 'MRTR', async (c) => {
  state(c);
  await ask(
    c,
    { user_name: elicit('What is your name?'), greeting: sample('Generate a greeting', 50), client_roots: ROOTS },
    { r: 1 },
  );
  return text('all inputs received');
});
tool(ir + 'multi_round', 'MRTR', async (c) => {
  const s = state(c),
    one = { step1: elicit('Step 1: What is your name?') },
    two = { step2: elicit('Step 2: What is your favorite color?', obj({ color: { type: 'string' } }, ['color'])) };
  if (!c.modern) {
    const a = await ask(c, one),
      b = await ask(c, two);
    return text(`${a.step1.content?.name} likes ${b.step2.content?.color}`);
  }
  if (s?.r === 2) {
    const b = await ask(c, two, s);
    return text(`${s.name} likes ${b.step2.content?.color}`);
  }
  const a = await ask(c, one, { r: 1 });
  throw new NeedInput(two, seal({ r: 2, name: a.step1.content?.name }));
});
tool(ir + 'capabilities', 'MRTR', async (c) => {
  const q = {};
  if (c.caps.elicitation) q.e = elicit('Name?');
  if (c.caps.sampling) q.s = sample('Hi');
  if (c.caps.roots) q.r = ROOTS;
  if (Object.keys(q).length) await ask(c, q);
  return text('ok');
});

const prompts = new Map();
const prompt = (name, description, args, run) =>
  prompts.set(name, {
    def: {
      name,
      description,
      ...(args.length && { arguments: args.map((n) => ({ name: n, description: n, required: true })) }),
    },
    run,
  });
const user = (content) => ({ messages: [{ role: 'user', content }] });
prompt('test_simple_prompt', 'simple', [], () => user({ type: 'text', text: 'This is a simple prompt for testing.' }));
prompt('test_prompt_with_arguments', 'arguments', ['arg1', 'arg2'], (c) =>
  user({ type: 'text', text: `Prompt with arguments: arg1='${c.args.arg1}', arg2='${c.args.arg2}'` }),
);
prompt('test_prompt_with_embedded_resource', 'resource', ['resourceUri'], (c) => ({
  messages: [
    { role: 'user', content: res(c.args.resourceUri, 'text/plain', 'Embedded resource content for testing.') },
    { role: 'user', content: { type: 'text', text: 'Please process the embedded resource above.' } },
  ],
}));
prompt('test_prompt_with_image', 'image', [], () => ({
  messages: [
    { role: 'user', content: { type: 'image', data: PNG, mimeType: 'image/png' } },
    { role: 'user', content: { type: 'text', text: 'Please analyze the image above.' } },
  ],
}));
prompt(ir + 'prompt', 'MRTR', [], async (c) =>
  user({
    type: 'text',
    text:
      'Context: ' +
      JSON.stringify(
        (
          await ask(c, {
            user_context: elicit(
              'What context should the prompt use?',
              obj({ context: { type: 'string' } }, ['context']),
            ),
          })
        ).user_context.content,
      ),
  }),
);

const RES = [
  ['test://static-text', 'static text', 'text/plain'],
  ['test://static-binary', 'static binary', 'image/png'],
  ['test://watched-resource', 'watched', 'text/plain'],
].map(([uri, name, mimeType]) => ({ uri, name, mimeType }));
function read(uri) {
  const t = /^test:\/\/template\/([^/]+)\/data$/.exec(uri);
  if (t)
    return {
      uri,
      mimeType: 'application/json',
      text: JSON.stringify({ id: t[1], templateTest: true, data: `Data for ID: ${t[1]}` }),
    };
  if (uri === 'test://static-binary') return { uri, mimeType: 'image/png', blob: PNG };
  if (uri === 'test://static-text')
    return { uri, mimeType: 'text/plain', text: 'This is the content of the static text resource.' };
  if (uri === 'test://watched-resource') return { uri, mimeType: 'text/plain', text: 'Watched resource content' };
  return null;
}

const listens = new Map(); // modern listens: key -> {filter, send, id}
const sessions = new Map(); // legacy sessions
const stdioSession = { notify: null };
function changed(kind) {
  const n = { jsonrpc: '2.0', method: `notifications/${kind}/list_changed` };
  for (const l of listens.values())
    if (l.filter[kind + 'ListChanged']) l.send({ ...n, params: { _meta: { [P + 'subscriptionId']: l.id } } });
  for (const s of [...sessions.values(), stdioSession]) s.notify?.(n);
}
const cache = (r) => ({ ...r, ttlMs: 60000, cacheScope: 'public' });

async function dispatch(method, c) {
  const p = c.params;
  switch (method) {
    case 'server/discover':
      if (c.modern)
        return cache({
          supportedVersions: ERA === 'dual' ? [MODERN, ...LEGACY] : [MODERN],
          capabilities: CAPS,
          instructions: 'Fixture server.',
        });
      break;
    case 'tools/list':
      return cache({
        tools: [
          ...[...tools.values()].map((t) => t.def),
          ...(extra.tool ? [{ name: 'test_dynamic_tool', description: 'dynamic', inputSchema: obj({}) }] : []),
        ],
      });
    case 'prompts/list':
      return cache({
        prompts: [
          ...[...prompts.values()].map((t) => t.def),
          ...(extra.prompt ? [{ name: 'test_dynamic_prompt', description: 'dynamic' }] : []),
        ],
      });
    case 'resources/list':
      return cache({ resources: RES });
    case 'resources/templates/list':
      return cache({
        resourceTemplates: [
          { uriTemplate: 'test://template/{id}/data', name: 'template', mimeType: 'application/json' },
        ],
      });
    case 'tools/call': {
      const t = tools.get(p.name);
      if (!t) throw new Rpc(-32602, `Unknown tool: ${p.name}`);
      c.args = p.arguments || {};
      return t.run(c);
    }
    case 'prompts/get': {
      const t = prompts.get(p.name);
      if (!t) throw new Rpc(-32602, `Unknown prompt: ${p.name}`);
      c.args = p.arguments || {};
      return t.run(c);
    }
    case 'resources/read': {
      const r = read(p.uri);
      if (!r) throw new Rpc(c.modern ? -32602 : -32002, 'Resource not found', { uri: p.uri });
      return cache({ contents: [r] });
    }
    case 'completion/complete':
      return {
        completion: {
          values: ['python', 'pytorch', 'paris'].filter((v) => v.startsWith(p.argument?.value || '')),
          hasMore: false,
        },
      };
  }
  if (!c.modern)
    switch (method) {
      case 'ping':
        return {};
      case 'logging/setLevel':
        if (!LEVELS.includes(p.level)) throw new Rpc(-32602, 'bad level');
        c.session.level = p.level;
        return {};
      case 'resources/subscribe':
      case 'resources/unsubscribe':
        return {};
    }
  throw new Rpc(-32601, `Method not found: ${method}`, undefined, 404);
}

// runs one request; io = {notify(msg), request?(method, params), dropStream?, session?, headers?}; resolves to a JSON-RPC response plus status
async function run(msg, modern, io) {
  const params = msg.params && typeof msg.params === 'object' ? msg.params : {},
    meta = params._meta || {};
  const c = {
    modern,
    params,
    meta,
    session: io.session || {},
    headers: io.headers,
    caps: (modern ? meta[P + 'clientCapabilities'] : io.session?.caps) || {},
    cancelled: () => io.cancelled?.() || false,
    request: io.request,
    dropStream: modern ? undefined : io.dropStream,
  };
  c.progress = (progress, total, message) =>
    meta.progressToken !== undefined &&
    io.notify({
      jsonrpc: '2.0',
      method: 'notifications/progress',
      params: { progressToken: meta.progressToken, progress, total, message },
    });
  const min = modern ? meta[P + 'logLevel'] : c.session.level || 'debug';
  c.log = (level, data) =>
    min !== undefined &&
    LEVELS.indexOf(level) >= LEVELS.indexOf(min) &&
    io.notify({ jsonrpc: '2.0', method: 'notifications/message', params: { level, logger: 'fixture', data } });
  try {
    if (modern) {
      const v = meta[P + 'protocolVersion'];
      if (typeof v !== 'string' || !meta[P + 'clientCapabilities'])
        throw new Rpc(-32602, 'missing required _meta fields', undefined, 400);
      if (v !== MODERN)
        throw new Rpc(-32022, 'Unsupported protocol version', { supported: [MODERN], requested: v }, 400);
      if (min !== undefined && !LEVELS.includes(min)) throw new Rpc(-32602, 'bad log level');
    }
    let result = await dispatch(msg.method, c);
    if (modern) result = { resultType: 'complete', ...result, _meta: { [P + 'serverInfo']: INFO } };
    return { body: { jsonrpc: '2.0', id: msg.id, result }, status: 200 };
  } catch (e) {
    if (e instanceof NeedInput)
      return {
        body: { jsonrpc: '2.0', id: msg.id, result: { ...e.result, _meta: { [P + 'serverInfo']: INFO } } },
        status: 200,
      };
    const err =
      e instanceof Rpc
        ? { code: e.code, message: e.message, ...(e.data && { data: e.data }) }
        : { code: -32603, message: String(e.message) };
    return { body: { jsonrpc: '2.0', id: msg.id, error: err }, status: (modern && e.status) || 200 };
  }
}
function initialize(msg) {
  const want = msg.params?.protocolVersion,
    v = LEGACY.includes(want) ? want : LEGACY.at(-1);
  return {
    session: { version: v, caps: msg.params?.capabilities || {}, pending: new Map(), streams: new Map(), seq: 0 },
    body: {
      jsonrpc: '2.0',
      id: msg.id,
      result: { protocolVersion: v, capabilities: CAPS, serverInfo: INFO, instructions: 'Fixture server.' },
    },
  };
}
function listen(msg, send) {
  const f = msg.params?.notifications || {},
    key = randomUUID(),
    filter = {};
  for (const k of ['toolsListChanged', 'promptsListChanged', 'resourcesListChanged']) if (f[k]) filter[k] = true;
  if (f.resourceSubscriptions) filter.resourceSubscriptions = f.resourceSubscriptions;
  send({
    jsonrpc: '2.0',
    method: 'notifications/subscriptions/acknowledged',
    params: { _meta: { [P + 'subscriptionId']: msg.id }, notifications: filter },
  });
  listens.set(key, { filter, send, id: msg.id });
  return () => listens.delete(key);
}

// ---------------------------------------------------------------- HTTP
const unwrap = (v) => {
  const m = /^=\?base64\?(.*)\?=$/.exec(v);
  if (!m) return v;
  if (!/^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(m[1])) return null;
  return Buffer.from(m[1], 'base64').toString('utf8');
};
function headerError(msg, h) {
  const p = msg.params || {},
    v = p._meta?.[P + 'protocolVersion'];
  if (h['mcp-protocol-version'] === undefined) return 'missing MCP-Protocol-Version';
  if (v !== undefined && h['mcp-protocol-version'] !== v) return 'MCP-Protocol-Version mismatch';
  if (h['mcp-method'] !== msg.method) return 'Mcp-Method mismatch';
  const name = { 'tools/call': p.name, 'prompts/get': p.name, 'resources/read': p.uri }[msg.method];
  if (name !== undefined && (h['mcp-name'] === undefined || unwrap(h['mcp-name']) !== name)) return 'Mcp-Name mismatch';
  if (msg.method === 'tools/call')
    for (const [k, s] of Object.entries(tools.get(p.name)?.def.inputSchema.properties || {})) {
      const x = s['x-mcp-header'];
      if (!x) continue;
      const hv = h['mcp-param-' + x.toLowerCase()],
        bv = p.arguments?.[k];
      if (
        bv === undefined || bv === null
          ? hv !== undefined
          : hv === undefined || /[^\t\x20-\x7e]/.test(hv) || unwrap(hv) !== String(bv)
      )
        return `Mcp-Param-${x} mismatch`;
    }
  return null;
}
function httpServer(port) {
  const local = (a) => /^(localhost|127\.0\.0\.1|\[::1\])(:\d+)?$/i.test(a);
  http
    .createServer(async (q, s) => {
      const fail = (status, code, message, id, data) => {
        s.writeHead(status, { 'content-type': 'application/json', ...(status === 405 && { allow: 'POST' }) });
        s.end(
          JSON.stringify({
            jsonrpc: '2.0',
            ...(id !== undefined && { id }),
            error: { code, message, ...(data && { data }) },
          }),
        );
      };
      if (!local(q.headers.host || '') || (q.headers.origin && !local(q.headers.origin.replace(/^https?:\/\//, ''))))
        return fail(403, -32600, 'Host or Origin not allowed');
      if (q.url.split('?')[0] !== '/mcp') {
        s.writeHead(404);
        return s.end();
      }
      const sid = q.headers['mcp-session-id'],
        sess = ERA === 'modern' ? undefined : sessions.get(sid);
      let sse = false,
        seq,
        strm;
      const begin = (key, after) => {
        sse = true;
        strm = key;
        s.writeHead(200, {
          'content-type': 'text/event-stream',
          'cache-control': 'no-cache',
          'x-accel-buffering': 'no',
        });
        if (sess) {
          const st = sess.streams.get(key) || { events: [], out: null };
          sess.streams.set(key, st);
          st.out = s;
          if (after === undefined) {
            if (sess.version >= '2025-11-25') s.write(`id: ${key}:${++sess.seq}\nretry: 300\ndata: \n\n`);
          } else for (const [n, d] of st.events) if (n > after) s.write(`id: ${key}:${n}\ndata: ${d}\n\n`);
          if (st.done) s.end();
        }
      };
      const emit = (m) => {
        const d = JSON.stringify(m);
        if (!sess) return void s.write(`event: message\ndata: ${d}\n\n`);
        const st = sess.streams.get(strm),
          n = ++sess.seq;
        st.events.push([n, d]);
        if (st.out && !st.out.writableEnded) st.out.write(`id: ${strm}:${n}\ndata: ${d}\n\n`);
      };
      if (q.method !== 'POST') {
        if (ERA === 'modern' || !['GET', 'DELETE'].includes(q.method)) return fail(405, -32600, 'Method not allowed');
        if (!sess)
          return sid ? fail(404, -32600, 'Session not found') : fail(ERA === 'dual' ? 405 : 400, -32600, 'No session');
        if (q.method === 'DELETE') {
          sessions.delete(sid);
          for (const st of sess.streams.values()) st.out?.end();
          s.writeHead(200);
          return s.end();
        }
        const last = /^(.*):(\d+)$/.exec(q.headers['last-event-id'] || '');
        if (last && sess.streams.has(last[1])) return begin(last[1], Number(last[2]));
        const key = 'get' + ++sess.seq;
        begin(key);
        const prev = sess.notify;
        sess.notify = emit;
        s.on('close', () => {
          if (sess.notify === emit) sess.notify = null;
        });
        return;
      }
      const chunks = [];
      for await (const b of q) chunks.push(b);
      let msg;
      try {
        msg = JSON.parse(Buffer.concat(chunks));
      } catch {
        return fail(400, -32700, 'Parse error');
      }
      if (Array.isArray(msg) || msg?.jsonrpc !== '2.0') return fail(400, -32600, 'Invalid request');
      const meta = msg.params?._meta;
      const modern =
        ERA === 'modern' ||
        (ERA === 'dual' &&
          !sess &&
          (meta?.[P + 'protocolVersion'] !== undefined ||
            q.headers['mcp-protocol-version'] === MODERN ||
            (q.headers['mcp-method'] !== undefined && msg.method !== 'initialize')));
      if (modern) {
        if (msg.id === undefined) {
          s.writeHead(202);
          return s.end();
        }
        if (typeof msg.method !== 'string') return fail(400, -32600, 'Invalid request');
        if (typeof meta?.[P + 'protocolVersion'] !== 'string' || !meta[P + 'clientCapabilities'])
          return fail(
            400,
            msg.method === 'initialize' ? -32601 : -32602,
            `missing required _meta fields; supported versions: ${MODERN}`,
            msg.id,
          );
        if (
          meta[P + 'protocolVersion'] === q.headers['mcp-protocol-version'] &&
          q.headers['mcp-protocol-version'] !== MODERN
        )
          return fail(400, -32022, 'Unsupported protocol version', msg.id, {
            supported: [MODERN],
            requested: q.headers['mcp-protocol-version'],
          });
        const he = headerError(msg, q.headers);
        if (he) return fail(400, -32020, `Header mismatch: ${he}`, msg.id);
        if (msg.method === 'subscriptions/listen') {
          begin();
          const stop = listen(msg, emit);
          s.on('close', stop);
          return;
        }
        let gone = false;
        s.on('close', () => {
          gone = true;
        });
        if (process.env.ALWAYS_SSE) begin();
        const r = await run(msg, true, {
          notify: (m) => {
            if (!sse) begin();
            emit(m);
          },
          headers: q.headers,
          cancelled: () => gone,
        });
        if (sse) {
          emit(r.body);
          return s.end();
        }
        s.writeHead(r.status, { 'content-type': 'application/json' });
        return s.end(JSON.stringify(r.body));
      }
      if (msg.method === 'initialize') {
        const { session, body } = initialize(msg);
        const id = randomUUID();
        sessions.set(id, session);
        s.writeHead(200, { 'content-type': 'application/json', 'mcp-session-id': id });
        return s.end(JSON.stringify(body));
      }
      if (!sess)
        return sid
          ? fail(404, -32600, 'Session not found', msg.id ?? null)
          : fail(400, -32600, 'Session required', msg.id ?? null);
      if (msg.method === undefined) {
        sess.pending.get(msg.id)?.(msg);
        sess.pending.delete(msg.id);
        s.writeHead(202);
        return s.end();
      }
      if (msg.id === undefined) {
        if (msg.method === 'notifications/cancelled')
          (sess.cancelled ??= new Set()).add(JSON.stringify(msg.params?.requestId));
        s.writeHead(202);
        return s.end();
      }
      const key = 'p' + ++sess.seq,
        start = () => sse || begin(key);
      if (process.env.ALWAYS_SSE) start();
      const r = await run(msg, false, {
        session: sess,
        headers: q.headers,
        notify: (m) => {
          start();
          emit(m);
        },
        cancelled: () => sess.cancelled?.has(JSON.stringify(msg.id)) || false,
        request: (method, params) =>
          new Promise((ok, no) => {
            start();
            const id = 'srv-' + ++sess.seq;
            sess.pending.set(id, (m) => (m.error ? no(new Error(m.error.message)) : ok(m.result)));
            emit({ jsonrpc: '2.0', id, method, params });
          }),
        dropStream: async () => {
          if (sess.version < '2025-11-25') return;
          start();
          const st = sess.streams.get(key);
          st.out.end();
          st.out = null;
        },
      });
      if (!sse) {
        s.writeHead(200, { 'content-type': 'application/json' });
        return s.end(JSON.stringify(r.body));
      }
      emit(r.body);
      const st = sess.streams.get(key);
      st.done = true;
      st.out?.end();
    })
    .listen(port, '127.0.0.1', () => console.error(`backend ${ERA} on http://127.0.0.1:${port}/mcp`));
}

// ---------------------------------------------------------------- stdio
function stdioServer() {
  const out = (m) => process.stdout.write(JSON.stringify(m) + '\n');
  let sess = null;
  const stops = new Map(),
    cancelled = new Set();
  let seq = 0;
  readline
    .createInterface({ input: process.stdin })
    .on('line', async (line) => {
      let msg;
      try {
        msg = JSON.parse(line);
      } catch {
        return out({ jsonrpc: '2.0', error: { code: -32700, message: 'Parse error' } });
      }
      if (msg.method === undefined) {
        sess?.pending.get(msg.id)?.(msg);
        sess?.pending.delete(msg.id);
        return;
      }
      if (msg.id === undefined) {
        if (msg.method === 'notifications/cancelled') {
          const k = JSON.stringify(msg.params?.requestId);
          cancelled.add(k);
          stops.get(k)?.();
        }
        return;
      }
      if (msg.method === 'initialize' && ERA !== 'modern') {
        const i = initialize(msg);
        sess = i.session;
        stdioSession.notify = out;
        return out(i.body);
      }
      const modern = ERA === 'modern' || (ERA === 'dual' && msg.params?._meta?.[P + 'protocolVersion'] !== undefined);
      if (!modern && !sess)
        return out({ jsonrpc: '2.0', id: msg.id, error: { code: -32600, message: 'not initialized' } });
      if (modern && msg.method === 'subscriptions/listen') {
        stops.set(JSON.stringify(msg.id), listen(msg, out));
        return;
      }
      const r = await run(msg, modern, {
        session: sess || {},
        notify: out,
        cancelled: () => cancelled.has(JSON.stringify(msg.id)),
        request: (method, params) =>
          new Promise((ok, no) => {
            const id = 'srv-' + ++seq;
            sess.pending.set(id, (m) => (m.error ? no(new Error(m.error.message)) : ok(m.result)));
            out({ jsonrpc: '2.0', id, method, params });
          }),
      });
      if (!cancelled.has(JSON.stringify(msg.id))) out(r.body);
    })
    .on('close', () => process.exit(0));
}
if (process.argv.includes('--stdio')) stdioServer();
else httpServer(Number(process.env.PORT) || 4001);
