// Keys by their names, with what they may spend and have spent. Nothing here is a secret.

import { $, cells, el, Rows, say, table } from "./dom.js";
import { count, dollars } from "./format.js";

const COLUMNS = [["Key"], ["Requests today", "number"], ["Tokens today", "number"], ["Today", "bar-cell"], ["This month", "bar-cell"]];

function purse() {
  const fill = el("span", { className: "fill" });
  const meter = el("span", { className: "meter" }, fill), said = el("span");
  return {
    meter,
    said,
    show(spent, limit) {
      meter.hidden = limit === null;
      const share = limit ? Math.min(1, (spent || 0) / limit) : 0;
      fill.style.width = `${100 * share}%`;
      meter.classList.toggle("nearly", share >= 0.8);
      const shown = spent === null ? "–" : dollars(spent / 1e6);
      say(said, limit === null ? shown : `${shown} of ${dollars(limit / 1e6)}`);
    },
  };
}

export class Keys {
  constructor() {
    const { box, body } = table("Keys and owners, with their budgets", COLUMNS);
    this.empty = el("p", { className: "empty" }, "Nobody is asked for a key");
    this.box = box;
    $("#keys").append(box, this.empty);
    this.rows = new Rows(body, (item) => `${item.scope} ${item.id}`, () => this.make());
  }

  make() {
    const name = el("span", { className: "name" }), about = el("span", { className: "about" });
    const day = purse(), month = purse();
    let isMade = false;
    return cells(COLUMNS, (item) => [null, count(item.requests), count(item.tokens), null, null], (row, nodes, item) => {
      if (!isMade) {
        nodes[0].append(name, about);
        nodes[3].append(day.meter, day.said);
        nodes[4].append(month.meter, month.said);
        isMade = true;
      }
      say(name, item.name || item.id);
      say(about, item.scope === "owner" ? "owner, all keys" : [item.name ? item.id : "", item.is_admin ? "admin key" : "", item.owner].filter(Boolean).join(" · "));
      day.show(item.day_microusd, item.day_limit_microusd);
      month.show(item.month_microusd, item.month_limit_microusd);
    });
  }

  show(keys) {
    this.box.hidden = !keys.length;
    this.empty.hidden = keys.length > 0;
    this.rows.show(keys);
  }
}
