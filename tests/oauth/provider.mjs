// An identity provider for tests: `oidc-provider` as published, with a person who agrees to everything at once.
//
//   node provider.mjs PORT jwt|opaque SECRET
//
// Clients register themselves. Tokens are for the resource that was asked for (RFC 8707), as JWTs or opaque; whoever logs in is
// named by the header X-Test-User. SECRET is that of the client `outrigger`, which may introspect tokens.
import http from 'node:http';
import Provider from 'oidc-provider';

const [port, format, secret] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const people = {
  ada: { roles: ['analyst'], org: { department: 'research' }, level: 3 },
  bob: { roles: [], org: { department: 'sales' }, level: 1 },
};

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: 'outrigger',
      client_secret: secret,
      grant_types: [],
      response_types: [],
      redirect_uris: [],
      token_endpoint_auth_method: 'client_secret_basic',
    },
  ],
  clientDefaults: { id_token_signed_response_alg: 'ES256' },
  scopes: ['openid', 'offline_access', 'files:list', 'files:read'],
  features: {
    devInteractions: { enabled: false },
    registration: { enabled: true },
    revocation: { enabled: true, allowedPolicy: () => true },
    introspection: { enabled: true, allowedPolicy: (_ctx, client) => client.clientId === 'outrigger' },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      useGrantedResource: () => true,
      getResourceServerInfo: (_ctx, resource) => ({
        audience: resource,
        scope: 'files:list files:read',
        accessTokenFormat: format,
        accessTokenTTL: 300,
        jwt: { sign: { alg: 'ES256' } },
      }),
    },
  },
  jwks: { keys: [await signingKey()] },
  // A client registers with the scopes that it asks for first; here it may ask for others later.
  extraClientMetadata: {
    properties: ['any_scope'],
    validator: (_ctx, _key, _value, metadata) => delete metadata.scope,
  },
  cookies: { keys: ['only for tests'] },
  pkce: { required: () => true },
  issueRefreshToken: () => true,
  findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  extraTokenClaims: (_ctx, token) => people[token.accountId],
  interactions: { url: (_ctx, interaction) => `/login/${interaction.uid}` },
  // Consent: whatever the client asks for.
  loadExistingGrant: async (ctx) => {
    const { client, session, params } = ctx.oidc;
    const grant = new ctx.oidc.provider.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope(params.scope ?? '');
    const resources = [params.resource ?? []].flat();
    for (const resource of resources) grant.addResourceScope(resource, params.scope ?? '');
    await grant.save();
    return grant;
  },
});

async function signingKey() {
  const pair = await crypto.subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, true, ['sign', 'verify']);
  const { kty, crv, x, y, d } = await crypto.subtle.exportKey('jwk', pair.privateKey);
  return { kty, crv, x, y, d, kid: 'test', use: 'sig', alg: 'ES256' };
}

const serve = provider.callback();
http
  .createServer(async (request, response) => {
    if (!request.url.startsWith('/login/')) return serve(request, response);
    try {
      const login = { accountId: request.headers['x-test-user'] ?? 'ada' };
      await provider.interactionFinished(request, response, { login, consent: {} });
    } catch (error) {
      response.writeHead(500).end(String(error));
    }
  })
  .listen(Number(port), '127.0.0.1', () => console.log(`listening as ${issuer}`));
