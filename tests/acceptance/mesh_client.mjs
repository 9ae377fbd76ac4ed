#!/usr/bin/env node
// MCP acceptance client (Node, @modelcontextprotocol/client). Same environment variables as mesh_client.py;
// last line: "N passed, M failed". stdio: node mesh_client.mjs -- CMD ARGS...
// MESH_MODE: auto (default: probe 2026-07-28, fall back) | legacy | 2026-07-28
import fs from 'node:fs';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, SSEClientTransport, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';

const E = (k, d = '') => process.env[k] || d;
const PRE = E('MESH_TOOL_PREFIX'),
  DEMO = E('MESH_URI_PREFIX') + 'demo:',
  CALLS = +E('MESH_CALLS', '50'),
  SESS = +E('MESH_SESSIONS', '5');
const TMO = +E('MESH_TIMEOUT', '30') * 1000,
  MODE = E('MESH_MODE', 'auto'),
  GENERIC = E('MESH_PROFILE') === 'generic';
const i = process.argv.indexOf('--'),
  stdio = i > 0 ? process.argv.slice(i + 1) : null;
if (!stdio && !E('MESH_INGRESS_URL')) {
  console.log('set MESH_INGRESS_URL, or give -- CMD ARGS');
  process.exit(2);
}

let passed = 0,
  failed = 0;
const check = (name, ok, note = '') => {
  ok ? passed++ : failed++;
  console.log(`${ok ? 'ok  ' : 'FAIL'} ${name}${note ? '  -- ' + note : ''}`);
  return ok;
};
const step = async (name, fn) => {
  let timer;
  try {
    const r = await Promise.race([
      fn(),
      new Promise((_, no) => {
        timer = setTimeout(() => no(new Error('step timed out')), TMO + 30000);
      }),
    ]);
    Array.isArray(r) ? check(name, r[0], r[1]) : check(name, r === true);
  } catch (e) {
    check(name, false, `${e?.name}: ${e?.message}`.slice(0, 300));
  } finally {
    clearTimeout(timer);
  }
};
const text = (r) => (r.content || []).map((c) => c.text || '').join('');
const seen = { elicit: 0, sample: 0, roots: 0, log: 0, updated: 0 };

let fetchFn;
if (!stdio && (E('MESH_CA') || E('MESH_CLIENT_CERT'))) {
  const { Agent, fetch: ufetch } = await import('undici');
  const rd = (k) => (E(k) ? fs.readFileSync(E(k)) : undefined);
  const dispatcher = new Agent({
    connect: { ca: rd('MESH_CA'), cert: rd('MESH_CLIENT_CERT'), key: rd('MESH_CLIENT_KEY') },
    bodyTimeout: 0,
  });
  fetchFn = (u, o) => ufetch(u, { ...o, dispatcher });
}
function transport() {
  if (stdio) {
    const keep = E('MESH_CHILD_ENV', 'PATH,HOME')
      .split(',')
      .filter((k) => process.env[k]);
    return new StdioClientTransport({
      command: stdio[0],
      args: stdio.slice(1),
      stderr: 'ignore',
      env: Object.fromEntries(keep.map((k) => [k, process.env[k]])),
    });
  }
  const headers = JSON.parse(E('MESH_HEADERS', '{}'));
  if (E('MESH_TOKEN')) headers.Authorization = 'Bearer ' + E('MESH_TOKEN');
  const url = new URL(E('MESH_INGRESS_URL'));
  const Transport = url.pathname.endsWith('/sse') ? SSEClientTransport : StreamableHTTPClientTransport;
  return new Transport(url, {
    requestInit: { headers },
    ...(fetchFn ? { fetch: fetchFn } : {}),
  });
}
async function open() {
  const mode = MODE === 'auto' || MODE === 'legacy' ? MODE : { pin: MODE };
  const c = new Client(
    { name: 'mesh-acceptance-node', version: '1' },
    {
      capabilities: { elicitation: { form: {}, url: {} }, sampling: {}, roots: { listChanged: true } },
      versionNegotiation: { mode },
    },
  );
  c.setRequestHandler('elicitation/create', async (rq) => {
    seen.elicit++;
    if (rq.params.mode === 'url') return { action: 'accept' };
    const content = {};
    for (const [k, s] of Object.entries(rq.params.requestedSchema?.properties || {})) {
      if ('default' in s) content[k] = s.default;
      else if (s.enum) content[k] = s.enum[0];
      else if (s.oneOf) content[k] = s.oneOf[0].const;
      else if (s.type === 'string')
        content[k] =
          {
            email: 'a@example.com',
            uri: 'https://example.com/',
            date: '2026-01-02',
            'date-time': '2026-01-02T03:04:05Z',
          }[s.format] || 'mesh-check';
      else if (s.type === 'number' || s.type === 'integer') content[k] = s.minimum ?? 1;
      else if (s.type === 'boolean') content[k] = true;
      else if (s.type === 'array')
        content[k] = [(s.items?.enum || (s.items?.anyOf || []).map((o) => o.const))[0] ?? 'x'];
    }
    return { action: 'accept', content };
  });
  c.setRequestHandler('sampling/createMessage', async () => {
    seen.sample++;
    return { role: 'assistant', model: 'mesh-check', content: { type: 'text', text: 'SAMPLED-BY-MESH-CHECK' } };
  });
  c.setRequestHandler('roots/list', async () => {
    seen.roots++;
    return { roots: [{ uri: 'file:///mesh-root', name: 'mesh-root' }] };
  });
  c.setNotificationHandler('notifications/message', async () => {
    seen.log++;
  });
  c.setNotificationHandler('notifications/resources/updated', async () => {
    seen.updated++;
  });
  const tr = transport();
  await c.connect(tr, { timeout: TMO });
  return [c, tr];
}

try {
  const [c, tr] = await open();
  const rev = (c.getNegotiatedProtocolVersion?.() ?? tr.protocolVersion) || '?';
  const caps = c.getServerCapabilities() || {},
    o = { timeout: TMO };
  check(
    'connect and negotiate',
    !E('MESH_EXPECT_VERSION') || rev === E('MESH_EXPECT_VERSION'),
    `revision ${rev}, server ${c.getServerVersion()?.name}`,
  );
  let names = new Set();
  if (caps.tools)
    await step('tools/list', async () => {
      const r = await c.listTools({}, o);
      names = new Set(r.tools.map((t) => t.name));
      return [true, `${r.tools.length} tools`];
    });
  if (caps.resources)
    await step('resources/list', async () => [true, `${(await c.listResources({}, o)).resources.length} resources`]);
  if (caps.prompts)
    await step('prompts/list', async () => [true, `${(await c.listPrompts({}, o)).prompts.length} prompts`]);
  const T = (n) => PRE + n;
  const call = (name, args = {}, opt = {}) => c.callTool({ name: T(name), arguments: args }, { timeout: TMO, ...opt });
  if (!GENERIC) {
    check('expected tools present', names.has(T('echo')) && names.has(T('get-sum')));
    await step(
      'tools/call echo',
      async () =>
        text(await call('echo', { message: 'h\u00e9llo \u{1F980} \u2028' })) === 'Echo: h\u00e9llo \u{1F980} \u2028',
    );
    await step('large message', async () => {
      const m = 'x'.repeat(512 * 1024);
      return [text(await call('echo', { message: m })) === 'Echo: ' + m, '512 KiB both ways'];
    });
    await step('tools/call get-sum', async () => text(await call('get-sum', { a: 19, b: 23 })).includes('42'));
    await step('structuredContent', async () => {
      const r = await call('get-structured-content', { location: 'New York' });
      return [r.structuredContent && 'temperature' in r.structuredContent, JSON.stringify(r.structuredContent)];
    });
    await step('unknown tool is an error, not a hang', async () => {
      try {
        const r = await call('no-such-tool-xyz');
        return [!!r.isError, text(r)];
      } catch (e) {
        return [!/timed out/i.test(e.message), e.message];
      }
    });
    await step('concurrent calls, answers not mixed', async () => {
      const t0 = Date.now(),
        r = await Promise.all(Array.from({ length: CALLS }, (_, k) => call('echo', { message: 'm' + k })));
      return [r.every((x, k) => text(x) === 'Echo: m' + k), `${CALLS} calls in ${Date.now() - t0} ms`];
    });
    await step('progress arrives while running', async () => {
      const at = [],
        t0 = Date.now();
      await call(
        'trigger-long-running-operation',
        { duration: 3, steps: 3 },
        { onprogress: () => at.push(Date.now() - t0) },
      );
      return [at.length >= 2 && at[0] < 2200 && at.at(-1) - at[0] > 800, `at ${at} ms`];
    });
    await step('cancel', async () => {
      const ac = new AbortController(),
        t0 = Date.now();
      setTimeout(() => ac.abort('stop'), 1000);
      let cut = false;
      try {
        await call('trigger-long-running-operation', { duration: 20, steps: 20 }, { signal: ac.signal });
      } catch {
        cut = true;
      }
      return [
        cut && Date.now() - t0 < 5000 && text(await call('echo', { message: 'after' })) === 'Echo: after',
        'session usable after a cancelled call',
      ];
    });
    if (names.has(T('trigger-elicitation-request')))
      await step('elicitation round trip', async () => {
        const n = seen.elicit,
          r = await call('trigger-elicitation-request');
        return [seen.elicit > n && !r.isError, text(r).slice(0, 80).replace(/\n/g, ' ')];
      });
    if (names.has(T('trigger-sampling-request')))
      await step('sampling round trip', async () =>
        text(await call('trigger-sampling-request', { prompt: 'hi', maxTokens: 10 })).includes('SAMPLED-BY-MESH-CHECK'),
      );
    if (names.has(T('get-roots-list')))
      await step('roots round trip', async () => text(await call('get-roots-list')).includes('mesh-root'));
    await step('resources/read text', async () => {
      const r = await c.readResource({ uri: DEMO + '//resource/dynamic/text/7' }, o);
      const { text: body, uri } = r.contents[0];
      return [(body || '').includes('7') && uri.endsWith('demo://resource/dynamic/text/7'), uri];
    });
    await step('resources/read blob', async () => {
      const { blob, uri } = (await c.readResource({ uri: DEMO + '//resource/dynamic/blob/8' }, o)).contents[0];
      return [!!blob && uri.endsWith('demo://resource/dynamic/blob/8'), uri];
    });
    await step('prompts/get with arguments', async () =>
      JSON.stringify(await c.getPrompt({ name: PRE + 'args-prompt', arguments: { city: 'Oslo' } }, o)).includes('Oslo'),
    );
    await step(
      'completion/complete',
      async () =>
        (
          await c.complete(
            {
              ref: { type: 'ref/prompt', name: PRE + 'completable-prompt' },
              argument: { name: 'department', value: 'E' },
            },
            o,
          )
        ).completion.values.length >= 1,
    );
    if (rev < '2026' && names.has(T('toggle-subscriber-updates')))
      await step('subscription: server-initiated notification', async () => {
        const n = seen.updated;
        await c.subscribeResource({ uri: DEMO + '//resource/dynamic/text/1' }, o);
        await call('toggle-subscriber-updates');
        for (let k = 0; k < 60 && seen.updated === n; k++) await sleep(200);
        const ok = seen.updated > n;
        await call('toggle-subscriber-updates');
        return ok;
      });
    if (!stdio)
      await step('parallel sessions, answers not mixed', async () => {
        const all = await Promise.all(
          Array.from({ length: SESS }, async (_, k) => {
            const [s] = await open();
            const r = [];
            for (let j = 0; j < 5; j++)
              r.push(
                text(await s.callTool({ name: T('echo'), arguments: { message: `s${k}-${j}` } }, o)) ===
                  `Echo: s${k}-${j}`,
              );
            await s.close();
            return r;
          }),
        );
        return [all.flat().every(Boolean), `${SESS} sessions x 5 calls`];
      });
  }
  await c.close();
} catch (e) {
  check(
    'run',
    false,
    `${e?.name}: ${e?.message}${e?.cause ? ' / ' + (e.cause.message || e.cause.code) : ''}`.slice(0, 300),
  );
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed || !passed ? 1 : 0);
