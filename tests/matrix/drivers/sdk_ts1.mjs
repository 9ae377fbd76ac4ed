// Drives the client of a 1.x release of the TypeScript SDK: sdk_ts1.mjs NODE_MODULES/PACKAGE. See sdk.py for the commands.
import path from 'node:path';
import process from 'node:process';
import readline from 'node:readline';
import { pathToFileURL } from 'node:url';

const load = (file) => import(pathToFileURL(path.join(process.argv[2], 'dist/esm', file)));
const { Client } = await load('client/index.js');
const { StdioClientTransport } = await load('client/stdio.js');
const { StreamableHTTPClientTransport } = await load('client/streamableHttp.js').catch(() => ({}));
const { SSEClientTransport } = await load('client/sse.js');
const types = await load('types.js');

const out = (event) => process.stdout.write(JSON.stringify(event) + '\n');
const aborts = new Map();
let client, transport;

function reach({ url, headers, command }) {
  if (command) return new StdioClientTransport({ command: command[0], args: command.slice(1), stderr: 'inherit' });
  if (!url.endsWith('/sse')) return new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
  const withHeaders = (u, init) => fetch(u, { ...init, headers: { ...init?.headers, ...headers } });
  return new SSEClientTransport(new URL(url), { requestInit: { headers }, eventSourceInit: { fetch: withHeaders } });
}

async function connect(command) {
  const { capabilities, answers } = command;
  client = new Client({ name: 'matrix', version: '1' }, { capabilities });
  const handle = (schema, answer) =>
    schema &&
    client.setRequestHandler(schema, async (request) => {
      out({ question: request.method });
      return answer(request.params ?? {});
    });
  handle(types.ListRootsRequestSchema, () => answers['roots/list']);
  handle(types.CreateMessageRequestSchema, (p) => (p.tools ? answers.tools : answers['sampling/createMessage']));
  if (capabilities.elicitation)
    handle(types.ElicitRequestSchema, (p) => ({ action: 'accept', ...(p.mode !== 'url' && { content: answers.form }) }));
  client.fallbackNotificationHandler = async (n) => out({ note: n.method, params: n.params });
  transport = reach(command);
  await client.connect(transport);
  return { revision: transport.protocolVersion ?? null };
}

const act = {
  connect,
  async request({ id, method, params, progress }) {
    const abort = new AbortController();
    aborts.set(id, abort);
    const onprogress = progress ? (p) => out({ progress: id, params: p }) : undefined;
    return client.request({ method, params }, types.ResultSchema, { onprogress, signal: abort.signal });
  },
  subscribe: ({ uri }) => client.subscribeResource({ uri }),
  level: ({ level }) => client.setLoggingLevel(level),
  async close() {
    await transport.terminateSession?.().catch(() => {});
    await client.close();
    return {};
  },
};

readline.createInterface({ input: process.stdin }).on('line', async (line) => {
  const command = JSON.parse(line);
  if (command.do === 'cancel') return aborts.get(command.id)?.abort('not wanted');
  try {
    out({ id: command.id, result: await act[command.do](command) });
  } catch (error) {
    // The SDK writes the code in front of the message.
    const message = String(error.message ?? error).replace(/^MCP error -?\d+: /, '');
    out({ id: command.id, error: { code: Number.isInteger(error.code) ? error.code : 0, message, data: error.data } });
  }
}).on('close', () => process.exit(0));
