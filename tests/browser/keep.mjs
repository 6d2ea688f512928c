// What keepers of the log and of policy do: check all of it and see how far that is, with and without script; ask policy what it
// would say and run its tests; register a target of either protocol and take it away.
import { PHONE, check, context, given, open, run, shot } from "./lib.mjs";

async function verify(made, name) {
  const page = await open(made, "/audit");
  await page.click("form[action='/audit/verify'] button");
  // However short the log is: it ends, and the page says so without being asked.
  for (let tries = 0; !(await page.textContent("#verification")).includes("Intact"); tries += 1) {
    check(tries < 200, await page.textContent("#verification"));
    await page.waitForTimeout(300);
  }
  check((await page.textContent("#verification")).includes("lockgate audit verify"), "the shell's way is not told");
  await shot(page, name);
  await page.close();
}

async function policy(made) {
  const page = await open(made, "/policies");
  await page.fill("#statement", "alter table orders add column x int");
  await page.fill("#target", "orders-db");
  await page.fill("#tags", "env: production");
  await page.click("button:has-text('Explain')");
  await page.waitForSelector("#explain ~ .body .stack[role=status]");
  const said = await page.textContent("#explain ~ .body");
  for (const word of ["require approval", "schema-change-dba", "match.sql.class"]) check(said.includes(word), `${word}: ${said}`);
  check((await page.inputValue("#statement")).startsWith("alter table"), "the form forgets what was asked");
  await page.fill("#statement", "delete from orders");
  await page.click("button:has-text('Explain')");
  await page.waitForFunction(() => document.querySelector("#explain ~ .body").textContent.includes("no-unbounded-write"));
  await page.fill("#tags", "no colon here");
  await page.click("a:has-text('Run them')");
  await page.waitForFunction(() => document.querySelector("#tests ~ .body, #tests").closest("section").textContent.includes("1 of 1 test passes"));
  await page.click("a.chip:has-text('schema-change-dba')");
  await page.waitForURL(/\/search\?rule=schema-change-dba/);
  await page.close();
}

async function register(made) {
  const page = await open(made, "/targets");
  for (const [name, protocol, address, fill] of [
    ["billing-db", "postgres", "203.0.113.9:5432", async () => { await page.selectOption("#credential", "password"); await page.fill("#user", "app"); await page.fill("#reference", given.secret); }],
    ["shop-api", "http", "203.0.113.9:80", async () => { await page.selectOption("#credential", "bearer"); await page.fill("#reference", given.secret); await page.fill("#remove_headers", "cookie"); }],
  ]) {
    await page.fill("#name", name);
    await page.selectOption("#protocol", protocol);
    await page.fill("#addresses", address);
    await page.fill("#tags", "env: staging");
    await page.selectOption("#tls", "disable");
    await fill();
    if (name === "shop-api") await shot(page, "targets-register");
    await page.click("button:has-text('Register this target')");
    await page.waitForSelector(`#target-${name}`);
    check((await page.textContent(".flash")).includes(`${name} is registered`), await page.textContent("main"));
    check((await page.textContent(`#target-${name}`)).includes(protocol), "its protocol is not shown");
  }
  // What cannot be used says why, and nothing is registered.
  await page.fill("#name", "wrong");
  await page.selectOption("#protocol", "http");
  await page.fill("#addresses", "not an address");
  await page.selectOption("#credential", "none");
  await page.click("button:has-text('Register this target')");
  check((await page.textContent("main")).includes("HTTP 422"), await page.textContent("main"));
  await page.goto(`${given.url}/targets`);
  for (const name of ["billing-db", "shop-api"]) {
    await page.click(`#target-${name} button.danger`);
    await page.waitForFunction((name) => document.querySelector(`#target-${name}`) === null, name);
  }
  await page.close();
}

await run(async () => {
  const made = await context();
  await verify(made, "audit-verified");
  await policy(made);
  await register(made);
  await made.close();
  const plain = await context({ javaScriptEnabled: false, viewport: PHONE });
  await verify(plain, "audit-verified-phone-plain");
  await plain.close();
});
