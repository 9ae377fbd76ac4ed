// The official TypeScript client logs in at a real identity provider, knowing nothing but the URL of an endpoint.
//
//   node client.mjs ENDPOINT auto|legacy
//
// Its OAuth provider is what the SDK asks an application for, and nothing more: it keeps what it is given, and its browser is a
// loop over redirections of a person who agrees to everything. Prints `ok`/`FAIL` lines; last line: `N passed, M failed`.
import process from 'node:process';
import { Client, StreamableHTTPClientTransport, UnauthorizedError } from '@modelcontextprotocol/client';

const [endpoint, mode] = process.argv.slice(2);
const REDIRECT = 'http://127.0.0.1:9/callback';
let passed = 0,
  failed = 0;
const check = (name, ok, note) => {
  ok ? passed++ : failed++;
  console.log(`${ok ? 'ok  ' : 'FAIL'} TypeScript, ${mode}: ${name}${ok || note === undefined ? '' : '  -- ' + JSON.stringify(note)}`);
};

class Person {
  logins = [];
  seen = [];
  get redirectUrl() {
    return REDIRECT;
  }
  get clientMetadata() {
    return {
      client_name: 'test',
      redirect_uris: [REDIRECT],
      grant_types: ['authorization_code', 'refresh_token'],
      response_types: ['code'],
      token_endpoint_auth_method: 'client_secret_post',
    };
  }
  clientInformation() {
    return this.client;
  }
  saveClientInformation(client) {
    this.client = client;
  }
  tokens() {
    return this.kept;
  }
  saveTokens(tokens) {
    this.kept = tokens;
  }
  saveCodeVerifier(verifier) {
    this.verifier = verifier;
  }
  codeVerifier() {
    return this.verifier;
  }
  saveDiscoveryState(state) {
    this.discovered = state;
  }
  discoveryState() {
    return this.discovered;
  }
  // The browser, with cookies.
  async redirectToAuthorization(url) {
    this.logins.push(Object.fromEntries(url.searchParams));
    const cookies = new Map();
    for (let step = 0; step < 10; step++) {
      const headers = { 'X-Test-User': 'ada', Cookie: [...cookies].map(([name, value]) => `${name}=${value}`).join('; ') };
      const answer = await fetch(url, { redirect: 'manual', headers });
      for (const cookie of answer.headers.getSetCookie()) {
        const [, name, value] = /^([^=]+)=([^;]*)/.exec(cookie);
        cookies.set(name, value);
      }
      const next = answer.headers.get('location');
      if (!next) throw new Error(`the provider asks something: ${answer.status} ${(await answer.text()).slice(0, 500)}`);
      url = new URL(next, url);
      if (url.href.startsWith(REDIRECT)) {
        this.callback = url.searchParams;
        return;
      }
    }
    throw new Error('the provider redirects without an end');
  }
  challenges(status) {
    return this.seen.filter(([found, challenge]) => found === status && challenge).map(([, challenge]) => challenge);
  }
}

const person = new Person();
const transport = () =>
  new StreamableHTTPClientTransport(new URL(endpoint), {
    authProvider: person,
    fetch: async (url, init) => {
      const answer = await fetch(url, init);
      if (String(url) === endpoint) person.seen.push([answer.status, answer.headers.get('www-authenticate')]);
      return answer;
    },
  });

// As an application does it: what needs a person ends with an error, and is done again after the person came back.
async function connected() {
  for (let attempt = 0; attempt < 2; attempt++) {
    const client = new Client({ name: 'test', version: '1' }, { versionNegotiation: { mode } });
    const over = transport();
    try {
      await client.connect(over);
      return [client, over];
    } catch (error) {
      if (!(error instanceof UnauthorizedError)) throw error;
      await over.finishAuth(person.callback);
      await over.close();
    }
  }
  throw new Error('no connection after a login');
}

const text = (result) => result.content.map((part) => part.text ?? '').join('');
const names = async (client) => (await client.listTools()).tools.map((tool) => tool.name).sort();

try {
  const [client, over] = await connected();
  const listed = await names(client);
  check('logs in and lists what its scope allows', `${listed}` === 'listDir', listed);
  const first = person.challenges(401)[0] ?? '';
  check('the challenge leads to the metadata', first.includes('resource_metadata=') && first.includes('files:list'), first);
  const asked = person.logins[0] ?? {};
  const right = asked.resource === endpoint && asked.code_challenge_method === 'S256' && asked.scope?.startsWith('files:list');
  check('asks for this resource and this scope, with PKCE', right, asked);
  const list = { name: 'listDir', arguments: { path: '.' } };
  check('calls', text(await client.callTool(list)).includes('hello.txt'));

  person.kept = { ...person.kept, access_token: 'no longer good' };
  const found = text(await client.callTool(list));
  check('refreshes', found.includes('hello.txt') && person.logins.length === 1 && person.kept.access_token !== 'no longer good', found);

  const read = { name: 'readFileText', arguments: { path: 'hello.txt' } };
  let more;
  try {
    more = await client.callTool(read);
  } catch (error) {
    if (!(error instanceof UnauthorizedError)) throw error;
    await over.finishAuth(person.callback);
    more = await client.callTool(read);
  }
  check('gets a further scope when a call needs it', text(more).includes('good morning'), more);
  const step = person.challenges(403)[0] ?? '';
  const named = ['error="insufficient_scope"', 'scope="files:read"', 'resource_metadata='].every((part) => step.includes(part));
  check('which the challenge names', named && person.logins.length === 2, [step, person.logins]);
  const grown = await names(client);
  check('and then sees more', `${grown}` === 'listDir,readFileText', grown);
  await client.close();
} catch (error) {
  check('goes the whole way', false, String(error?.stack ?? error));
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
