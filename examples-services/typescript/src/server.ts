#!/usr/bin/env node
/**
 * The {{name}} service: two small text tools, a resource and a prompt, over MCP.
 *
 *   node dist/src/server.js                  stdio: what a sidecar or a desktop client starts
 *   node dist/src/server.js --port 9001      Streamable HTTP on http://127.0.0.1:9001/mcp
 *
 * Standard output belongs to the protocol, so log with `console.error` and never with `console.log`.
 */
import { createServer } from 'node:http';
import { parseArgs } from 'node:util';
import { hostHeaderValidation, originValidation, toNodeHandler } from '@modelcontextprotocol/node';
import { createMcpHandler, McpServer } from '@modelcontextprotocol/server';
import { serveStdio } from '@modelcontextprotocol/server/stdio';
import * as z from 'zod';

/** Characters; a caller's mistake must not become our memory problem. */
const MAX_TEXT = 100_000;

const text = z.string().max(MAX_TEXT).describe('The text to look at.');
const readOnly = { readOnlyHint: true, idempotentHint: true, openWorldHint: false };

/** A server with everything registered; both protocol eras get theirs from here. */
function build(): McpServer {
  const server = new McpServer({ name: '{{name}}', version: '0.1.0' }, { instructions: 'Small text utilities.' });

  server.registerTool(
    'countWords',
    {
      description: 'Counts the characters, words and lines of a text.',
      inputSchema: z.object({ text }),
      outputSchema: z.object({ characters: z.int(), words: z.int(), lines: z.int() }),
      annotations: readOnly,
    },
    async ({ text }) => {
      const counts = {
        characters: [...text].length,
        words: text.split(/\s+/u).filter(Boolean).length,
        lines: text === '' ? 0 : text.replace(/\n$/u, '').split('\n').length,
      };
      return { content: [{ type: 'text', text: JSON.stringify(counts) }], structuredContent: counts };
    },
  );

  server.registerTool(
    'slugify',
    {
      description: 'Turns a title into a short name that is safe in URLs and file names.',
      inputSchema: z.object({ text }),
      annotations: readOnly,
    },
    async ({ text }) => {
      const plain = text.normalize('NFKD').replace(/\p{M}/gu, '').toLowerCase();
      const slug = plain.replace(/[^a-z0-9]+/gu, '-').replace(/^-|-$/gu, '');
      if (slug === '') throw new Error('the text has no letter or digit that a slug could keep');
      return { content: [{ type: 'text', text: slug }] };
    },
  );

  server.registerResource(
    'about',
    'info://about',
    { description: 'What this service is.', mimeType: 'text/plain' },
    async uri => ({
      contents: [
        { uri: uri.href, mimeType: 'text/plain', text: '{{name}}: countWords and slugify, made from the Outrigger TypeScript template.' },
      ],
    }),
  );

  server.registerPrompt(
    'shorten',
    {
      description: 'Asks for a shorter version of a text.',
      argsSchema: z.object({ text: z.string(), words: z.string().default('50') }),
    },
    ({ text, words }) => ({
      messages: [
        { role: 'user', content: { type: 'text', text: `Rewrite the following in at most ${words} words and keep its meaning.\n\n${text}` } },
      ],
    }),
  );
  return server;
}

/** Serves HTTP at /mcp; only Host and Origin headers that name this host pass, against DNS rebinding. */
function serveHttp(host: string, port: number): void {
  const names = ['localhost', '127.0.0.1', '[::1]', host];
  const hostPasses = hostHeaderValidation(names);
  const originPasses = originValidation(names);
  const handle = toNodeHandler(createMcpHandler(build));
  const listener = createServer((request, response) => {
    if (!hostPasses(request, response) || !originPasses(request, response)) return;
    if (request.url?.split('?')[0] !== '/mcp') {
      response.writeHead(404).end('the MCP endpoint is /mcp\n');
      return;
    }
    void handle(request, response);
  });
  listener.listen(port, host, () => {
    const bound = listener.address();
    const actual = typeof bound === 'object' && bound ? bound.port : port;
    console.error(`listening on http://${host}:${actual}/mcp`);
  });
}

const { values } = parseArgs({ options: { port: { type: 'string' }, host: { type: 'string', default: '127.0.0.1' } } });
if (values.port === undefined) serveStdio(build);
else serveHttp(values.host, Number(values.port));
