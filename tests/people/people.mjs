// People who log in at real identity providers (oidc-provider, samlp), without a browser: a cookie jar and forms are enough.
// Speaks with the test by lines: `> word` asks for something, `ok` goes on.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { generateKeyPairSync } from "node:crypto";
import { readFileSync } from "node:fs";
import http from "node:http";
import { pathToFileURL } from "node:url";
import { Person } from "./person.mjs";

// { url, oidc_port, saml_port, certificate, key, modules } from the test.
const given = JSON.parse(process.argv[2]);
const require = createRequire(pathToFileURL(`${given.modules}/x.js`));
const { default: Provider } = await import(pathToFileURL(`${given.modules}/oidc-provider/lib/index.js`));
const express = require("express");
const samlp = require("samlp");
const PATIENCE = 60_000;

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
async function tell(word) {
  console.log(`> ${word}`);
  await lines.next();
}
function must(what, is) {
  if (!is) throw new Error(what);
}

const users = {
  ana: { name: "Ana", email: "ana@example.com", email_verified: true, groups: ["dba", "staff"] },
  bob: { name: "Bob", email: "bob@example.com", email_verified: true, groups: ["staff"] },
  eve: { name: "Eve", email: "eve@example.com", email_verified: true },
};

/** An OpenID provider whose signing key has this name. */
async function openid(kid) {
  const jwk = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "jwk" });
  const issuer = `http://127.0.0.1:${given.oidc_port}`;
  const provider = new Provider(issuer, {
    jwks: { keys: [{ ...jwk, kid, use: "sig", alg: "RS256" }] },
    clients: [{
      client_id: "lockgate", client_secret: "s3cret-s3cret-s3cret", redirect_uris: [`${given.url}/login/corp/callback`],
      post_logout_redirect_uris: [`${given.url}/login`], response_types: ["code"],
      grant_types: ["authorization_code", "refresh_token"], backchannel_logout_uri: `${given.url}/login/corp/backchannel`,
      backchannel_logout_session_required: true,
    }],
    claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"], groups: ["groups"] },
    scopes: ["openid", "email", "profile", "groups"],
    conformIdTokenClaims: false,
    findAccount: async (_, id) => users[id] && { accountId: id, claims: async () => ({ sub: id, ...users[id] }) },
    features: { devInteractions: { enabled: true }, backchannelLogout: { enabled: true } },
    issueRefreshToken: async () => true,
    // Its own way refuses to speak to this host, where everything is here.
    fetch: (url, { method, headers, body }) => fetch(url, { method, headers, body, signal: AbortSignal.timeout(PATIENCE) }),
    cookies: { keys: ["k"] },
    pkce: { required: () => true },
  });
  provider.on("backchannel.error", (_, error) => console.error("back-channel logout:", error));
  const server = http.createServer(provider.callback());
  await new Promise((up) => server.listen(given.oidc_port, "127.0.0.1", up));
  return server;
}

async function saml() {
  const acs = `${given.url}/login/adfs/acs`;
  const user = { id: "carl", emails: [{ value: "carl@example.com" }], groups: ["dba"] };
  class Claims {
    constructor(of) { this.of = of; }
    getClaims() { return { mail: this.of.emails[0].value, groups: this.of.groups }; }
    getNameIdentifier() { return { nameIdentifier: this.of.id }; }
  }
  const settings = {
    issuer: "urn:test:idp", cert: readFileSync(given.certificate), key: readFileSync(given.key), audience: "urn:lockgate",
    recipient: acs, destination: acs, signResponse: false, getPostURL: (_a, _d, _r, done) => done(null, acs),
    profileMapper: (of) => new Claims(of), getUserFromRequest: () => user,
  };
  const app = express();
  app.get("/sso", (request, response, next) => { request.user = user; samlp.auth(settings)(request, response, next); });
  await new Promise((up) => app.listen(given.saml_port, "127.0.0.1", up));
}

/** Somebody with a browser at these providers. */
class Guest extends Person {
  constructor() {
    super(given.url);
  }

  log_in(name, next) {
    return super.log_in("corp", name, "x", next);
  }

  async saml_answer() {
    const page = await this.go(`${given.url}/login/adfs?next=/me`);
    const value = page.text.match(/name="SAMLResponse"\s+value="([^"]*)"/)?.[1] ?? "";
    return value.replace(/&#x([0-9a-f]+);/gi, (_, code) => String.fromCharCode(parseInt(code, 16)));
  }
}

async function decide(person) {
  const me = await person.api("/v1/whoami");
  const waiting = await person.api("/v1/approvals?state=pending");
  must(`one waits: ${JSON.stringify(waiting)}`, waiting.items?.length === 1);
  const path = `/v1/approvals/${waiting.items[0].id}/approve`;
  const bare = await person.api(path, { reason: "planned" });
  must(`without the word: ${JSON.stringify(bare)}`, bare.status === 403 && bare.code === "foreign_request");
  return person.api(path, { reason: "planned" }, { "x-csrf-token": me.csrf });
}

async function scenario() {
  let provider = await openid("k1");
  await saml();

  // Nobody, then Eve without groups, then Bob who may look and not decide.
  const [ana, bob, eve] = [new Guest(), new Guest(), new Guest()];
  must("nobody", (await ana.api("/v1/whoami")).code === "login_required");
  await eve.log_in("eve");
  must("no group is no role", (await eve.api("/v1/whoami")).roles.length === 0);
  must("and sees nothing", (await eve.api("/v1/grants")).code === "role_required");
  await bob.log_in("bob");
  await tell("hold");
  const refused = await decide(bob);
  must(`bob: ${JSON.stringify(refused)}`, refused.status === 403 && refused.code === "not_authorized");

  // Ana decides, logs out, and is nobody; the way back never leads elsewhere.
  const page = await ana.log_in("ana", "//evil.example.com/");
  must(`ana came to ${page.url}`, page.url.startsWith(given.url));
  const me = await ana.api("/v1/whoami");
  must(JSON.stringify(me), me.id === "oidc:corp:ana" && me.groups.includes("dba") && me.roles.includes("approver"));
  const decided = await decide(ana);
  must(`ana: ${JSON.stringify(decided)}`, decided.status === "counted" && decided.state === "approved");
  await tell("decided");
  const out = await ana.post(`${given.url}/logout`, { csrf: me.csrf });
  must("the provider's logout is offered", out.status === 200 && out.text.includes("/session/end"));
  must("logged out", (await ana.api("/v1/whoami")).code === "login_required");

  // The provider changes its key: logins go on, without a restart.
  await new Promise((down) => { provider.close(down); provider.closeAllConnections(); });
  provider = await openid("k2");
  const until = Date.now() + PATIENCE;
  for (;;) {
    const again = new Guest();
    await again.log_in("ana");
    if ((await again.api("/v1/whoami")).id === "oidc:corp:ana") break;
    must("a login with the new key", Date.now() < until);
    await new Promise((soon) => setTimeout(soon, 5_000));
  }

  // SAML: the same assertion twice, a changed one, one without its browser, and the right one.
  const carl = new Guest();
  const answer = await carl.saml_answer();
  const acs = `${given.url}/login/adfs/acs`;
  const changed = Buffer.from(Buffer.from(answer, "base64").toString().replace(">carl<", ">root<")).toString("base64");
  const forged = await carl.post(acs, { SAMLResponse: changed });
  must(`changed: ${forged.text}`, forged.status === 403 && forged.text.includes("bad_signature"));
  await carl.saml_answer();
  const stolen = await carl.saml_answer();
  const thief = await new Guest().post(acs, { SAMLResponse: stolen });
  must(`stolen: ${thief.text}`, thief.status === 403 && thief.text.includes("other_browser"));
  const mine = await carl.saml_answer();
  const came = await carl.post(acs, { SAMLResponse: mine });
  must(`carl came to ${came.url}`, came.status === 200 && came.url === `${given.url}/me`);
  const twice = await carl.post(acs, { SAMLResponse: mine });
  must(`twice: ${twice.text}`, twice.status === 403 && twice.text.includes("replayed"));
  const who = await carl.api("/v1/whoami");
  must(JSON.stringify(who), who.id === "saml:adfs:carl" && who.groups.includes("dba"));
  await tell("hold");
  const by_saml = await decide(carl);
  must(`carl: ${JSON.stringify(by_saml)}`, by_saml.state === "approved");
  await tell("decided");
}

/** Asks until it is so; what is asked last goes into the error. */
async function until(what, ask) {
  const end = Date.now() + 2 * PATIENCE;
  for (;;) {
    const [is, seen] = await ask();
    if (is) return;
    must(`${what}: ${JSON.stringify(seen)}`, Date.now() < end);
    await new Promise((soon) => setTimeout(soon, 500));
  }
}

/** Ends somebody's login at the provider, as its own pages do. */
async function end_at_provider(person, url) {
  const page = await person.go(url);
  const action = page.text.match(/action="([^"]+)"/)?.[1];
  const xsrf = page.text.match(/name="xsrf" value="([^"]+)"/)?.[1];
  must(`the provider asks: ${page.text}`, action && xsrf);
  return person.post(new URL(action, page.url).href, { xsrf, logout: "yes" });
}

/** Answers that come back to another provider's door, to another browser, twice, or in another provider's name. */
async function mixed_up() {
  const began = async (provider) => {
    const response = await fetch(`${given.url}/login/${provider}`, { redirect: "manual" });
    const to = new URL(response.headers.get("location"));
    for (const name of ["code_challenge", "nonce", "state"]) must(`${name} in ${to}`, to.searchParams.get(name)?.length >= 16);
    must("S256", to.searchParams.get("code_challenge_method") === "S256");
    return { state: to.searchParams.get("state"), cookie: response.headers.getSetCookie()[0].split(";")[0] };
  };
  const answered = async (provider, fields, cookie) => {
    const url = `${given.url}/login/${provider}/callback?${new URLSearchParams(fields)}`;
    const response = await fetch(url, { redirect: "manual", headers: cookie ? { cookie } : {} });
    must("nobody is logged in by it", !response.headers.getSetCookie().some((set) => /^(__Host-)?lockgate=[^;]/.test(set)));
    return `${response.status} ${await response.text()}`;
  };
  const issuer = `http://127.0.0.1:${given.oidc_port}`;
  for (const [code, provider, change, with_cookie] of [
    ["other_provider", "corp", {}, true],
    ["other_browser", "spare", {}, false],
    ["bad_issuer", "spare", { iss: "https://evil.example.com" }, true],
    ["bad_issuer", "spare", { iss: undefined }, true],
    ["unknown_attempt", "spare", { state: "A".repeat(43) }, true],
    ["code_refused", "spare", {}, true],
  ]) {
    const { state, cookie } = await began("spare");
    const fields = Object.entries({ code: "stolen", state, iss: issuer, ...change }).filter(([, value]) => value !== undefined);
    const said = await answered(provider, fields, with_cookie && cookie);
    must(`${code}: ${said}`, said.startsWith("403") && said.includes(code));
    const again = await answered("spare", { code: "stolen", state, iss: issuer }, cookie);
    must(`used up: ${again}`, code === "unknown_attempt" || again.includes("unknown_attempt"));
  }
}

/** What a login gives follows what its provider says, and what configuration says. */
async function rights() {
  await openid("k1");
  const [ana, bob] = [new Guest(), new Guest()];
  const gone = (person) => async () => {
    const me = await person.api("/v1/whoami");
    return [me.code === "login_required", me];
  };

  // A group is taken away and an account is closed at the provider; nobody logs in or out.
  await ana.log_in("ana");
  await bob.log_in("bob");
  const first = await ana.api("/v1/whoami");
  must(JSON.stringify(first), first.groups.includes("dba") && first.roles.includes("approver"));
  users.ana.groups = ["staff"];
  const was = users.bob;
  delete users.bob;
  await until("ana is no DBA any more", async () => {
    const me = await ana.api("/v1/whoami");
    return [me.groups?.length === 0 && !me.roles.includes("approver"), me];
  });
  const second = await ana.api("/v1/whoami");
  must("it is the same login", second.login === first.login && second.csrf === first.csrf);
  await until("bob is nobody any more", gone(bob));
  users.bob = was;

  // Configuration gives staff another role, for logins that are open.
  await tell("roles");
  await until("staff audit", async () => {
    const me = await ana.api("/v1/whoami");
    return [me.roles.includes("auditor") && me.login === first.login, me];
  });

  // The provider ends ana's login, and says so behind the browser's back; bob's goes on.
  await bob.log_in("bob");
  const issuer = `http://127.0.0.1:${given.oidc_port}`;
  await end_at_provider(ana, `${issuer}/session/end?client_id=lockgate`);
  await until("the provider ended it", gone(ana));
  must("bob goes on", (await bob.api("/v1/whoami")).id === "oidc:corp:bob");
  const made_up = await bob.post(`${given.url}/login/corp/backchannel`, { logout_token: "a.b.c" });
  must(`made up: ${made_up.text}`, made_up.status === 400 && JSON.parse(made_up.text).error === "invalid_request");

  // Ana's own logout goes on to the provider, which asks for her again then.
  await ana.log_in("ana");
  const me = await ana.api("/v1/whoami");
  const out = await ana.post(`${given.url}/logout`, { csrf: me.csrf });
  const next = out.text.match(/href="([^"]*session\/end[^"]*)"/)?.[1].replaceAll("&amp;", "&");
  must(`it goes on: ${out.text}`, next?.includes("id_token_hint=") && next.includes("post_logout_redirect_uri="));
  const back = await end_at_provider(ana, next);
  must(`back at ${back.url}`, back.url.startsWith(`${given.url}/login`) && back.status === 200);
  const again = await ana.go(`${given.url}/login/corp`);
  must("the provider asks who she is", again.url.startsWith(issuer) && again.text.includes('name="login"'));

  await mixed_up();

  // The provider is taken from the configuration.
  must("bob is there", (await bob.api("/v1/whoami")).id === "oidc:corp:bob");
  await tell("remove");
  await until("its logins are over", gone(bob));
  const page = await bob.go(`${given.url}/login`);
  must(`no way in by it: ${page.text}`, !page.text.includes("/login/corp") && page.text.includes("/login/spare"));
}

try {
  await (given.scenario === "rights" ? rights() : scenario());
  console.log("> done");
} catch (error) {
  console.log(`> failed ${JSON.stringify(String(error.stack ?? error))}`);
}
process.exit(0);
