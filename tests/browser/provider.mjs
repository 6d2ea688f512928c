// An OpenID provider (oidc-provider) in this process, for scenarios in which people log in. It can be told to say that somebody
// proved who they are some time ago.
import { generateKeyPairSync } from "node:crypto";
import http from "node:http";
import { pathToFileURL } from "node:url";

/** Seconds since each person proved who they are, beyond the truth. */
const ages = {};

/** users: { name: { groups: […] } } */
export async function openid({ url, port, modules, users }) {
  const { default: Provider } = await import(pathToFileURL(`${modules}/oidc-provider/lib/index.js`));
  const jwk = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "jwk" });
  const issuer = `http://127.0.0.1:${port}`;
  const provider = new Provider(issuer, {
    jwks: { keys: [{ ...jwk, kid: "k1", use: "sig", alg: "RS256" }] },
    clients: [{
      client_id: "lockgate", client_secret: "s3cret-s3cret-s3cret", redirect_uris: [`${url}/login/corp/callback`],
      response_types: ["code"], grant_types: ["authorization_code"], require_auth_time: true,
    }],
    claims: { openid: ["sub"], profile: ["name"], groups: ["groups"] },
    scopes: ["openid", "profile", "groups"],
    conformIdTokenClaims: false,
    findAccount: async (_, id) => users[id] && { accountId: id, claims: async () => ({ sub: id, name: id, ...users[id] }) },
    features: { devInteractions: { enabled: true } },
    cookies: { keys: ["k"] },
    pkce: { required: () => true },
  });
  const proved = provider.Session.prototype.authTime;
  provider.Session.prototype.authTime = function authTime() {
    return proved.call(this) - (ages[this.accountId] ?? 0);
  };
  const server = http.createServer(provider.callback());
  await new Promise((up) => server.listen(port, "127.0.0.1", up));
}

/** Logs in at the provider's own pages, from the page to log in; `age` seconds ago. */
export async function log_in(page, name, age = 0) {
  ages[name] = age;
  await page.click("a[href^='/login/corp']");
  await page.waitForSelector("input[name=login]");
  await page.fill("input[name=login]", name);
  await page.fill("input[name=password]", "x");
  await page.click("button[type=submit]");
  // Either it asks for consent now, or it had it before.
  await page.waitForFunction(() => location.pathname.startsWith("/interaction/") === false || document.querySelector("input[name=prompt][value=consent]"));
  if (await page.$("input[name=prompt][value=consent]")) await page.click("button[type=submit]");
}
