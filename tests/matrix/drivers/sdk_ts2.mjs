// Drives the client of a 2.x release of the TypeScript SDK: sdk_ts2.mjs NODE_MODULES/PACKAGE MODE, with MODE `legacy` or a
// revision. See sdk.py for the commands.
import path from 'node:path';
import process from 'node:process';
import readline from 'node:readline';
import { pathToFileURL } from 'node:url';

const [folder, mode] = process.argv.slice(2);
const load = (file) => import(pathToFileURL(path.join(folder, 'dist', file)));
const { Client, StreamableHTTPClientTransport } = await load('index.mjs');
const { StdioClientTransport } = await load('stdio.mjs');

const LEVEL = 'io.modelcontextprotocol/logLevel';
const SPOKEN = /^(tools|prompts|resources|completion|ping|logging)/;
// A schema that takes whatever comes.
const any = { '~standard': { version: 1, vendor: 'matrix', validate: (value) => ({ value }) } };
const out = (event) => process.stdout.write(JSON.stringify(event) + '\n');
const aborts = new Map();
let client, transport, level;

async function connect({ url, headers, command, capabilities, answers }) {
  const versionNegotiation = { mode: mode === 'legacy' ? mode : { pin: mode } };
  client = new Client({ name: 'matrix', version: '1' }, { capabilities, versionNegotiation });
  level = undefined;
  const handle = (method, answer) =>
    client.setRequestHandler(method, async (request) => {
      out({ question: method });
      return answer(request.params ?? {});
    });
  handle('roots/list', () => answers['roots/list']);
  handle('sampling/createMessage', (p) => (p.tools ? answers.tools : answers['sampling/createMessage']));
  handle('elicitation/create', (p) => ({ action: 'accept', ...(p.mode !== 'url' && { content: answers.form }) }));
  for (const method of ['message', 'resources/updated', 'elicitation/complete'].map((m) => `notifications/${m}`))
    client.setNotificationHandler(method, async (n) => out({ note: method, params: n.params }));
  transport = command
    ? new StdioClientTransport({ command: command[0], args: command.slice(1), stderr: 'inherit' })
    : new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
  await client.connect(transport);
  return { revision: client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion ?? null };
}

const act = {
  connect,
  async request({ id, method, params, progress }) {
    const abort = new AbortController();
    aborts.set(id, abort);
    const options = { signal: abort.signal };
    if (progress) options.onprogress = (p) => out({ progress: id, params: p });
    if (level) params = { ...params, _meta: { [LEVEL]: level } };
    if (SPOKEN.test(method)) return client.request({ method, params }, options);
    return client.request({ method, params }, any, options);
  },
  async subscribe({ uri }) {
    if (mode === 'legacy') return client.subscribeResource({ uri });
    const { honoredFilter } = await client.listen({ resourceSubscriptions: [uri] });
    return honoredFilter;
  },
  async level(command) {
    if (mode === 'legacy') return client.setLoggingLevel(command.level);
    level = command.level;
    return {};
  },
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
    const message = String(error.message ?? error);
    out({ id: command.id, error: { code: Number.isInteger(error.code) ? error.code : 0, message, data: error.data } });
  }
}).on('close', () => process.exit(0));
