// Stands in for Dex, where no registry can be asked: npm's certified oidc-provider, told what Dex's own configuration file says
// (issuer, clients, users). What it does not understand of the file it refuses. Passwords are bcrypt there and not judged here
// beyond being `password`, as the quick start says.
import { readFileSync } from "node:fs";
import { generateKeyPairSync } from "node:crypto";
import http from "node:http";
import Provider from "oidc-provider";

const [, , verb, file] = process.argv;
if (verb !== "serve") throw new Error(`expected: dex serve FILE, got ${process.argv.slice(2).join(" ")}`);
const text = readFileSync(file, "utf8");
const one = (pattern) => {
  const found = text.match(pattern);
  if (!found) throw new Error(`${file}: nothing fits ${pattern}`);
  return found[1];
};
const issuer = one(/^issuer: (\S+)$/m);
const [host, port] = one(/^web: \{ http: (\S+) \}$/m).split(":");
const path = new URL(issuer).pathname;
const client = {
  client_id: one(/^- id: (\S+)$/m),
  client_secret: one(/^ {2}secret: (\S+)$/m),
  redirect_uris: JSON.parse(one(/^ {2}redirectURIs: (\[.*\])$/m)),
  response_types: ["code"],
  grant_types: ["authorization_code", "refresh_token"],
};
const users = [...text.matchAll(/^- email: (\S+)\n {2}username: (\S+)\n {2}userID: (\S+)$/gm)]
  .map(([, email, username, id]) => ({ email, username, id }));
if (!users.length) throw new Error(`${file}: no users`);

const jwk = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "jwk" });
const provider = new Provider(issuer, {
  jwks: { keys: [{ ...jwk, kid: "dex", use: "sig", alg: "RS256" }] },
  clients: [client],
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"] },
  conformIdTokenClaims: false,
  findAccount: async (_, id) => {
    const user = users.find((one) => one.id === id);
    return user && {
      accountId: id,
      claims: async () => ({ sub: id, email: user.email, email_verified: true, name: user.username }),
    };
  },
  features: { devInteractions: { enabled: false } },
  interactions: { url: (_, interaction) => `${path}/interaction/${interaction.uid}` },
  // skipApprovalScreen: true
  loadExistingGrant: async (ctx) => {
    const grant = new provider.Grant({ clientId: ctx.oidc.client.clientId, accountId: ctx.oidc.session.accountId });
    grant.addOIDCScope("openid profile email offline_access");
    await grant.save();
    return grant;
  },
  cookies: { keys: ["k"] },
});
const callback = provider.callback();

async function interaction(request, response) {
  if (request.method === "GET") {
    await provider.interactionDetails(request, response);
    response.setHeader("content-type", "text/html");
    response.end(`<!doctype html><title>Log in to Your Account</title><form method="post" action="${request.originalUrl}">
<input name="login"><input name="password" type="password"><button type="submit">Login</button></form>`);
    return;
  }
  let body = "";
  for await (const part of request) body += part;
  const form = new URLSearchParams(body);
  const user = users.find((one) => one.email === form.get("login") && form.get("password") === "password");
  const result = user ? { login: { accountId: user.id } } : { error: "access_denied", error_description: "wrong" };
  await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false });
}

http.createServer((request, response) => {
  if (!request.url.startsWith(`${path}/`)) {
    response.statusCode = 404;
    response.end();
    return;
  }
  request.originalUrl = request.url;
  request.url = request.url.slice(path.length);
  if (request.url.startsWith("/interaction/")) {
    interaction(request, response).catch((error) => {
      response.statusCode = 500;
      response.end(String(error));
    });
    return;
  }
  callback(request, response);
}).listen(Number(port), host, () => console.log(`stand-in for Dex at ${issuer}`));
process.on("SIGTERM", () => process.exit(0));
