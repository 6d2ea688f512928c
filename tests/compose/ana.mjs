// Somebody who logs in at the quick start's identity provider and approves what waits. Prints what became of it, as JSON.
import { Person } from "../people/person.mjs";

const [, , base, name, password] = process.argv;
const person = new Person(base);
await person.log_in("dex", name, password);
const me = await person.api("/v1/whoami");
if (!me.id) {
  console.log(JSON.stringify({ refused: me }));
  process.exit(0);
}
let waiting = [];
for (const until = Date.now() + 60_000; Date.now() < until && !waiting.length; ) {
  waiting = (await person.api("/v1/approvals?state=pending")).items;
  if (!waiting.length) await new Promise((soon) => setTimeout(soon, 200));
}
if (waiting.length !== 1) throw new Error(`one should wait: ${JSON.stringify(waiting)}`);
const decided = await person.api(`/v1/approvals/${waiting[0].id}/approve`, { reason: "tried by hand" }, { "x-csrf-token": me.csrf });
const after = await person.api(`/v1/approvals/${waiting[0].id}`);
console.log(JSON.stringify({ me, waiting: waiting[0], decided, after }));
