// A session as it goes: its page grows while it runs; it is searched for, and ended by an administrator.
import { check, context, given, open, run, shot, tell } from "./lib.mjs";

await run(async () => {
  const made = await context();
  const page = await open(made, "/sessions?state=open");
  await page.waitForSelector("tbody tr");
  await page.keyboard.press("j");
  await page.keyboard.press("Enter");
  await page.waitForURL(/\/sessions\/ses_/);
  await page.waitForSelector("#live.on");
  await page.evaluate(() => { window.same = true; });
  const before = await page.locator(".step").count();
  await tell("more");
  await page.waitForFunction((before) => document.querySelectorAll(".step").length > before, before);
  check(await page.evaluate(() => window.same), "the page was loaded anew");
  await shot(page, "session-live");
  const words = await page.textContent(".timeline");
  for (const word of given.expected) check(words.includes(word), `${word} is missing: ${words}`);
  for (const secret of given.secrets) check(!(await page.content()).includes(secret), `${secret} is shown`);
  await page.fill("#why", "a drill");
  await page.click("button.danger");
  await page.waitForFunction(() => document.querySelector(".timeline").textContent.includes("ended"));
  await tell("killed");
  await page.keyboard.press("/");
  await page.keyboard.type(given.words);
  await page.keyboard.press("Enter");
  await page.waitForURL(/\/search\?q=/);
  for (let tries = 0; (await page.$(".item")) === null; tries += 1) {
    check(tries < 100, `nothing is found: ${await page.textContent("main")}`);
    await page.waitForTimeout(300);
    await page.reload();
  }
  await shot(page, "search");
  await page.click(".item .title");
  await page.waitForURL(/\/sessions\/ses_.*#r\d+/);
  check(await page.locator(".step:target").count() === 1, "the record that was found is not shown in its place");
});
