// What every scenario stands on: a browser, a login, and looks that a person would give a page.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// { url, token, shots, modules, … } from the test.
export const given = JSON.parse(process.argv[2]);
const require = createRequire(pathToFileURL(`${given.modules}/x.js`));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

/** How long anything may take on a loaded machine. */
export const PATIENCE = 60_000;

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
/** Tells the test something, and waits for its answer. */
export async function tell(word) {
  console.log(`> ${word}`);
  const answer = await lines.next();
  if (answer.done) throw new Error("the test has gone");
  return answer.value;
}
export function check(fact, words) {
  if (!fact) throw new Error(words);
}

export const PHONE = { width: 360, height: 740 };
export const DESKTOP = { width: 1360, height: 860 };

let browser;
export async function launch() {
  browser = await chromium.launch({
    executablePath: "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"],
  });
  return browser;
}

/** A logged-in context. What pages complain of is an error of the test. */
export async function context(options = {}) {
  const made = await browser.newContext({ viewport: DESKTOP, colorScheme: "light", reducedMotion: "reduce", ...options });
  made.setDefaultTimeout(PATIENCE);
  if (given.cookies) await made.addCookies(given.cookies);
  return made;
}

export const complaints = [];
export async function open(made, path) {
  const page = await made.newPage();
  page.on("console", (message) => {
    if (message.type() === "error" && !/Failed to load resource/.test(message.text())) complaints.push(`${page.url()}: ${message.text()}`);
  });
  page.on("pageerror", (error) => complaints.push(`${page.url()}: ${error}`));
  if (path) await page.goto(given.url + path);
  return page;
}

/** Logs in by the bootstrap administrator's one-time token; the cookies are for later contexts. */
export async function login() {
  const made = await context();
  const page = await open(made, "/approvals");
  check(new URL(page.url()).pathname === "/login", `nobody was sent to log in, but to ${page.url()}`);
  if (given.shots) await page.screenshot({ path: `${given.shots}/login.png` });
  await page.fill("input[name=token]", given.token);
  await Promise.all([page.waitForURL((url) => url.pathname !== "/login"), page.click("form:has(input[name=token]) button")]);
  given.cookies = await made.cookies();
  await made.close();
}

export async function shot(page, name) {
  if (given.shots) await page.screenshot({ path: `${given.shots}/${name}.png`, fullPage: true });
}

/** Serious faults of a page for people who see, hear or move otherwise, contrast of all its text included. */
export async function faults(page) {
  await page.evaluate(axe);
  const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"], runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
  return found.violations
    .filter((it) => ["serious", "critical", "moderate"].includes(it.impact))
    .map((it) => `${it.id} (${it.impact}): ${it.nodes.slice(0, 3).map((node) => `${node.target} ${node.failureSummary}`).join(" | ")}`);
}

/** How far a page goes beyond the screen's edge; and what does. */
export async function overflow(page) {
  return page.evaluate(() => {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width) return [];
    return [...document.querySelectorAll("body *")].filter((one) => !one.closest("nav, .table") && one.getBoundingClientRect().right > width + 1).slice(0, 5).map((one) => `${one.tagName}.${one.className}`);
  });
}

export async function run(scenario) {
  let code = 0;
  try {
    await launch();
    if (given.token) await login();
    await scenario();
    check(complaints.length === 0, `pages complained: ${complaints.join("\n")}`);
    console.log("> done");
  } catch (error) {
    console.log(`> failed ${JSON.stringify(String(error.stack || error))}`);
    code = 1;
  } finally {
    await browser?.close();
    process.exit(code);
  }
}
