// The glass is broken by a person who has just logged in: a login that is too old is refused and says what to do; a fresh one
// breaks it, everybody sees it, it is ended, and its review blocks the next use.
import { DESKTOP, PHONE, check, context, faults, given, open, overflow, run, shot, tell } from "./lib.mjs";
import { log_in, openid } from "./provider.mjs";

const users = {
  ana: { groups: ["commander", "staff"] },
  sam: { groups: ["security", "staff"] },
  bob: { groups: ["staff"] },
};

async function person(name, age) {
  const made = await context();
  const page = await open(made, "/breakglass");
  await log_in(page, name, age);
  await page.waitForURL(`${given.url}/breakglass`);
  return { made, page };
}

async function ask(page, ticket = "INC-4711") {
  await page.fill("#reason", "checkout is down");
  await page.fill("#ticket", ticket);
  await page.fill("#for", "10m");
  await page.fill("#principal", given.principal);
  await page.click("#ask ~ .body button.danger");
}

/** Looks at the page as everybody does who has other eyes, screens and colours. */
async function looked(page, name) {
  const found = [];
  for (const [scheme, viewport, what] of [["light", DESKTOP, "light"], ["dark", DESKTOP, "dark"], ["light", PHONE, "phone"], ["dark", PHONE, "phone-dark"]]) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.setViewportSize(viewport);
    found.push(...(await faults(page)).map((fault) => `${name} ${what}: ${fault}`));
    const beyond = await overflow(page);
    if (beyond.length > 0) found.push(`${name} ${what}: goes beyond the edge: ${beyond.join(", ")}`);
    await shot(page, `${name}-${what}`);
  }
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize(DESKTOP);
  check(found.length === 0, found.join("\n"));
}

await run(async () => {
  await openid({ url: given.url, port: given.oidc_port, modules: given.people, users });

  // Twenty minutes ago is too long.
  const stale = await person("ana", 20 * 60);
  check((await stale.page.textContent("main")).includes("Log in again"), await stale.page.textContent("main"));
  await looked(stale.page, "breakglass-stale");
  await ask(stale.page);
  const refused = await stale.page.textContent("main");
  check(refused.includes("login_required") && refused.includes("log in again"), refused);
  await tell("refused");
  // The page leads to the provider, which asks anew; then it is fresh.
  await stale.page.goto(`${given.url}/breakglass`);
  await stale.page.click("a[href*='fresh=1']");
  await log_in(stale.page, "ana");
  await stale.page.waitForURL(`${given.url}/breakglass`);
  check((await stale.page.textContent("main")).includes("has just logged in"), await stale.page.textContent("main"));

  // Nobody without the group, and nothing without the ticket that the block requires.
  const bob = await person("bob");
  await ask(bob.page);
  check((await bob.page.textContent("main")).includes("HTTP 403"), await bob.page.textContent("main"));
  await ask((await stale.page.goto(`${given.url}/breakglass`), stale.page), "soon");
  check((await stale.page.textContent("main")).includes("ticket_required"), await stale.page.textContent("main"));

  await stale.page.goto(`${given.url}/breakglass`);
  await ask(stale.page);
  await stale.page.waitForSelector(".chip.bad");
  check((await stale.page.textContent(".flash")).includes("The glass is broken"), await stale.page.textContent(".flash"));
  await looked(stale.page, "breakglass-broken");
  await tell("broken");
  await stale.page.click("li.card button.danger");
  await stale.page.waitForSelector("li.card textarea");
  check((await stale.page.textContent("li.card")).includes("Ended by hand"), await stale.page.textContent("li.card"));
  await looked(stale.page, "breakglass-review");
  await tell("ended");

  // Not again before somebody else has looked.
  await ask(stale.page);
  const owed = await stale.page.textContent("main");
  check(owed.includes("review_pending"), owed);
  await stale.page.goto(`${given.url}/breakglass`);
  await stale.page.fill("li.card textarea", "my own look");
  await stale.page.click("li.card button.primary");
  check((await stale.page.textContent("main")).includes("HTTP 403"), await stale.page.textContent("main"));
  const sam = await person("sam");
  await sam.page.fill("li.card textarea", "as the runbook says");
  await sam.page.click("li.card button.primary");
  check((await sam.page.textContent(".flash")).includes("recorded"), await sam.page.textContent("main"));
  await stale.page.goto(`${given.url}/breakglass`);
  await ask(stale.page);
  await stale.page.waitForSelector(".chip.bad");
  await tell("again");
  for (const { made } of [stale, bob, sam]) await made.close();
});
