// The inbox shows what comes without being reloaded; requests are decided by keyboard with a reason, denied, granted for a
// time, several together, and by a browser that runs no script.
import { PHONE, check, context, given, open, run, shot, tell } from "./lib.mjs";

const state = (page, word) => page.waitForFunction((word) => document.querySelector("#main").dataset.state === word, word);

async function live_and_keyboard(made) {
  const page = await open(made, "/approvals");
  await page.waitForSelector(".empty");
  await page.waitForSelector("#live.on");
  await shot(page, "inbox-empty");
  await page.evaluate(() => { window.same = true; });
  await tell("ask approve");
  await page.waitForSelector(".item");
  check(await page.evaluate(() => window.same), "the page was loaded anew");
  check((await page.title()).startsWith("(1)"), `the number is not in the title: ${await page.title()}`);
  check((await page.textContent("#badge")).includes("1"), "the badge does not count");
  await shot(page, "inbox-one");
  await page.keyboard.press("?");
  await page.waitForSelector("dialog[open]");
  await page.keyboard.press("Escape");
  await page.keyboard.press("j");
  await page.keyboard.press("a");
  await page.waitForURL(/\/approvals\/req_/);
  await page.waitForFunction(() => document.activeElement?.id === "reason");
  await shot(page, "request");
  await page.keyboard.type("planned in CHG-1");
  await page.keyboard.press("Enter");
  await state(page, "approved");
  check((await page.textContent(".flash")).includes("the job goes on"), "nothing says what was done");
  await shot(page, "request-approved");
  await tell("decided approve");
  await page.close();
}

async function deny(made) {
  const page = await open(made, "/approvals");
  await tell("ask deny");
  await page.waitForSelector(".item");
  await page.click(".item .title");
  await page.waitForURL(/\/approvals\/req_/);
  await page.fill("#reason", "not on a Friday");
  const [button] = await page.$$("button[value=deny]");
  check((await button.textContent()) === "Deny this ALTER TABLE", `the button says ${await button.textContent()}`);
  await button.click();
  await state(page, "denied");
  await tell("decided deny");
  await page.close();
}

async function grant(made) {
  const page = await open(made, "/approvals");
  await tell("ask grant");
  await page.waitForSelector(".item");
  await page.keyboard.press("j");
  await page.keyboard.press("g");
  await page.waitForURL(/\/approvals\/req_/);
  await page.waitForFunction(() => document.activeElement?.id === "for");
  await page.selectOption("#for", "15m");
  await page.fill("#uses", "3");
  await page.fill("#reason", "the migration window");
  await page.click("button[value=grant]");
  await state(page, "approved");
  await tell("decided grant");
  await page.goto(`${given.url}/grants`);
  await page.waitForSelector("li.card");
  await shot(page, "grants");
  await page.fill("li.card input[name=reason]", "the window is over");
  await page.click("li.card button");
  await page.waitForSelector(".empty");
  await tell("revoked");
  await page.close();
}

async function several(made) {
  const page = await open(made, "/approvals");
  await tell("ask several");
  await page.waitForFunction(() => document.querySelectorAll(".item").length === 3);
  await page.keyboard.press("j");
  await page.keyboard.press("x");
  await page.keyboard.press("j");
  await page.keyboard.press("x");
  check((await page.textContent("#chosen")) === "2 selected", await page.textContent("#chosen"));
  await shot(page, "inbox-bulk");
  await page.keyboard.press("a");
  await page.keyboard.type("both are fine");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelectorAll(".item").length === 1);
  check((await page.textContent(".flash")).includes("counted for 2"), await page.textContent(".flash"));
  await page.check(".pick input");
  await page.click(".bulk button[value=deny]");
  await page.waitForSelector(".empty");
  await tell("decided several");
  await page.close();
}

async function without_script() {
  const made = await context({ javaScriptEnabled: false, viewport: PHONE });
  const page = await open(made);
  await tell("ask plain");
  await page.goto(`${given.url}/approvals`);
  await shot(page, "inbox-phone-plain");
  await page.click(".item .title");
  await page.fill("#reason", "by hand");
  await shot(page, "request-phone-plain");
  await page.click("button[value=approve]");
  check((await page.textContent(".flash")).includes("Your approval counted"), "nothing says what was done");
  await tell("decided plain");
  await made.close();
}

await run(async () => {
  const made = await context();
  await live_and_keyboard(made);
  await deny(made);
  await grant(made);
  await several(made);
  await without_script();
});
