// Requests that belong together: one row in the inbox, one page, one decision; the page follows those that join meanwhile.
import { DESKTOP, PHONE, check, context, faults, given, open, overflow, run, shot, tell } from "./lib.mjs";

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

async function bundle(made, before) {
  const page = await open(made, "/approvals");
  await page.waitForSelector(".item .title[href^='/bundles/']");
  check((await page.$$(".item")).length === 1, "a bundle is one row");
  await shot(page, `inbox-bundle-${before}`);
  await page.keyboard.press("j");
  await page.keyboard.press("Enter");
  await page.waitForURL(/\/bundles\/bnd_/);
  await page.waitForSelector("#live.on");
  return page;
}

await run(async () => {
  const made = await context();
  await tell("ask");
  const page = await bundle(made, "two");
  check((await page.textContent("h1")).includes("2 statements"), await page.textContent("h1"));
  // One joins: the page that is looked at shows it, and decides on what it shows.
  await page.evaluate(() => { window.same = true; });
  await tell("join");
  await page.waitForFunction(() => document.querySelector("h1").textContent.includes("3 statements"));
  check(await page.evaluate(() => window.same), "the page was loaded anew");
  await looked(page, "bundle");
  await page.keyboard.press("a");
  await page.keyboard.type("the release of Friday");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelector("main").textContent.includes("Nothing of it waits any more"));
  await shot(page, "bundle-approved");
  await tell("approved");
  await page.close();

  await tell("ask");
  const other = await bundle(made, "denied");
  await other.fill("#reason", "not this week");
  await other.click("button[value=deny]");
  await other.waitForFunction(() => document.querySelector("main").textContent.includes("Nothing of it waits any more"));
  await tell("denied");
  await made.close();
});
