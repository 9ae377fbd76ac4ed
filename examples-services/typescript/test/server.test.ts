/** Contract tests: the official client drives the built server over stdio (both protocol eras) and over HTTP. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';

const SERVER = fileURLToPath(new URL('../src/server.js', import.meta.url));
type Mode = 'legacy' | { pin: string };
const MODERN: Mode = { pin: '2026-07-28' };

function client(mode: Mode): Client {
  return new Client({ name: 'contract', version: '1' }, { versionNegotiation: { mode } });
}

/** Runs `body` against a fresh server process. */
async function withServer(mode: Mode, body: (client: Client) => Promise<void>): Promise<void> {
  const connection = client(mode);
  await connection.connect(new StdioClientTransport({ command: process.execPath, args: [SERVER] }));
  try {
    await body(connection);
  } finally {
    await connection.close();
  }
}

/** The text of a tool result. */
function textOf(result: { content?: unknown }): string {
  return (result.content as { text?: string }[]).map(block => block.text ?? '').join('');
}

for (const mode of ['legacy', MODERN] as const) {
  test(`lists the same in era ${JSON.stringify(mode)}`, () =>
    withServer(mode, async client => {
      const { tools } = await client.listTools();
      assert.deepEqual(tools.map(tool => tool.name).sort(), ['countWords', 'slugify']);
      assert.ok(tools.every(tool => tool.annotations?.readOnlyHint));
      assert.deepEqual((await client.listResources()).resources.map(resource => resource.uri), ['info://about']);
      assert.deepEqual((await client.listPrompts()).prompts.map(prompt => prompt.name), ['shorten']);
    }));
}

test('tools answer', () =>
  withServer(MODERN, async client => {
    const counts = await client.callTool({ name: 'countWords', arguments: { text: 'one two\nthree' } });
    assert.deepEqual(counts.structuredContent, { characters: 13, words: 3, lines: 2 });
    assert.equal(textOf(await client.callTool({ name: 'slugify', arguments: { text: 'Café del Mar!' } })), 'cafe-del-mar');
  }));

test('wrong arguments are tool errors', () =>
  withServer(MODERN, async client => {
    for (const args of [{ text: '?!' }, {}, { text: 'x'.repeat(100_001) }]) {
      const result = await client.callTool({ name: 'slugify', arguments: args });
      assert.equal(result.isError, true, JSON.stringify(args).slice(0, 40));
    }
  }));

test('resource and prompt', () =>
  withServer(MODERN, async client => {
    const about = await client.readResource({ uri: 'info://about' });
    assert.match(JSON.stringify(about.contents), /countWords/);
    const prompt = await client.getPrompt({ name: 'shorten', arguments: { text: 'long', words: '7' } });
    assert.match(JSON.stringify(prompt.messages), /at most 7 words/);
  }));

test('serves HTTP, and refuses a foreign Origin', async () => {
  const child = spawn(process.execPath, [SERVER, '--port', '0'], { stdio: ['ignore', 'ignore', 'pipe'] });
  try {
    const [line] = (await once(createInterface(child.stderr), 'line')) as [string];
    const url = new URL(line.replace('listening on ', ''));
    const connection = client(MODERN);
    await connection.connect(new StreamableHTTPClientTransport(url));
    assert.equal((await connection.listTools()).tools.length, 2);
    await connection.close();
    const refused = await fetch(url, { method: 'POST', headers: { origin: 'https://evil.example' }, body: '{}' });
    assert.equal(refused.status, 403);
  } finally {
    child.kill();
  }
});
