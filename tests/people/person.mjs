// One person's browser, as far as logging in needs one: a cookie jar and forms, no scripts.
const PATIENCE = 60_000;

export class Person {
  jars = new Map();

  /** `base` is lockgate's address. */
  constructor(base) {
    this.base = base;
  }

  async go(url, options = {}) {
    for (let hops = 0; hops < 15; hops++) {
      const host = new URL(url).host;
      const jar = this.jars.get(host) ?? new Map();
      this.jars.set(host, jar);
      const headers = { accept: "text/html", ...options.headers };
      if (jar.size) headers.cookie = [...jar].map(([name, value]) => `${name}=${value}`).join("; ");
      const response = await fetch(url, { ...options, headers, redirect: "manual", signal: AbortSignal.timeout(PATIENCE) });
      for (const cookie of response.headers.getSetCookie()) {
        const [pair, ...rest] = cookie.split(";");
        const [name, value] = [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)];
        if (!value || /max-age=0|1970/i.test(rest.join(";"))) jar.delete(name);
        else jar.set(name, value);
      }
      const to = response.headers.get("location");
      if (!to || response.status < 300 || response.status > 399) {
        return { status: response.status, url: String(url), text: await response.text(), headers: response.headers };
      }
      url = new URL(to, url).href;
      options = {};
    }
    throw new Error("redirected without end");
  }

  post(url, fields) {
    const headers = { "content-type": "application/x-www-form-urlencoded" };
    return this.go(url, { method: "POST", headers, body: new URLSearchParams(fields) });
  }

  async api(path, body, more = {}) {
    const headers = { accept: "application/json", "content-type": "application/json", ...more };
    const options = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) };
    const answer = await this.go(this.base + path, options);
    return { status: answer.status, ...JSON.parse(answer.text || "{}") };
  }

  /** Through the forms of an OpenID provider: who, then consent where it asks. */
  async log_in(provider, name, password = "x", next = "/me") {
    let page = await this.go(`${this.base}/login/${provider}?next=${encodeURIComponent(next)}`);
    for (const fields of [{ prompt: "login", login: name, password }, { prompt: "consent" }]) {
      const action = page.text.match(/action="([^"]+)"/)?.[1];
      if (!action || page.url.startsWith(this.base)) break;
      page = await this.post(new URL(action, page.url).href, fields);
    }
    return page;
  }
}
