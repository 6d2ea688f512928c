// Every page, as people with other screens, eyes and colours see it: wide and narrow, light and dark; nothing goes beyond the
// edge, nothing is hard to read, every field has a name. Screenshots are for people to look at.
import { DESKTOP, PHONE, check, context, faults, given, open, overflow, run, shot } from "./lib.mjs";

await run(async () => {
  const found = [];
  for (const [scheme, viewport, name] of [["light", DESKTOP, "light"], ["dark", DESKTOP, "dark"], ["light", PHONE, "phone"], ["dark", PHONE, "phone-dark"]]) {
    const made = await context({ colorScheme: scheme, viewport });
    const page = await open(made);
    for (const [path, title] of Object.entries(given.pages)) {
      const answer = await page.goto(given.url + path);
      check(answer.status() === (title.startsWith("error") ? 404 : 200), `${path}: ${answer.status()} ${await page.textContent("main")}`);
      for (const part of await page.$$("details")) await part.evaluate((one) => { one.open = true; });
      found.push(...(await faults(page)).map((fault) => `${path} ${name}: ${fault}`));
      const beyond = await overflow(page);
      if (beyond.length > 0) found.push(`${path} ${name}: goes beyond the edge: ${beyond.join(", ")}`);
      check((await page.$$("h1")).length === 1, `${path}: one heading of the first rank`);
      await shot(page, `${title}-${name}`);
    }
    await made.close();
  }
  check(found.length === 0, found.join("\n"));
});
