// What somebody should look at now. Nothing is said when all is well.

import { $, el, Rows, say } from "./dom.js";
import { stateOf } from "./deployments.js";

export class Alerts {
  constructor() {
    this.rows = new Rows($("#alerts"), (item) => item.key, () => {
      const text = el("span");
      const row = el("li", {}, el("i", { className: "sign", "aria-hidden": "true" }), text);
      return { row, update: (item) => { row.dataset.state = item.kind; say(text, item.text); } };
    });
  }

  show(now) {
    const found = [];
    const add = (key, kind, text) => found.push({ key, kind, text });
    if (now.is_draining) add("draining", "warn", "The server is stopping and takes no new requests.");
    const { answering, of } = now.workers;
    if (answering < of) add("workers", "warn", `${answering} of ${of} workers answer: the figures are of these.`);
    if (now.ledger && now.ledger.lost) add("lost", "bad", `The ledger has lost ${now.ledger.lost} rows since the start.`);
    if (now.ledger && now.ledger.failures && now.ledger.waiting > 1000) add("ledger", "bad", `The ledger's database takes nothing; ${now.ledger.waiting} rows wait.`);
    for (const [name, { alerts }] of Object.entries(now.budgets)) {
      const [first] = alerts; // the most urgent one
      if (first) add(`budget ${name}`, first.severity === "page" ? "bad" : "warn", `${name}: error budget used ${first.burn_rate.toFixed(1)}× as fast as it may be, over ${first.window}`);
    }
    for (const [name, each] of Object.entries(now.deployments)) {
      const [kind, text] = stateOf(each);
      if (kind !== "good") add(`deployment ${name}`, kind, `${name}: ${text}`);
    }
    this.rows.show(found);
  }
}
