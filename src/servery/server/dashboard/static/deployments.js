// Where models run: whether anything is sent there, how much of the traffic goes there, what it costs.

import { $, cells, el, Rows, say, table } from "./dom.js";
import { count, dollars, percent, seconds } from "./format.js";

const COLUMNS = [
  ["Deployment"], ["State"], ["Share of traffic", "bar-cell"], ["Requests", "number"], ["Not completed", "number"],
  ["Under way", "number"], ["Cost", "number"], ["Price", "wide"],
];

/** In words and by a sign: colour alone says nothing. */
export function stateOf(each) {
  if (each.breaker === "open") return ["bad", `breaker open, next try in ${seconds(Math.ceil(each.tried_again_s))}`];
  if (each.breaker === "half_open") return ["warn", "breaker half open, trying"];
  if (each.throttled_s > 0) return ["warn", `throttled for ${seconds(Math.ceil(each.throttled_s))}`];
  return each.is_ready ? ["good", "ready"] : ["warn", "takes no requests"];
}

function priceOf({ price }) {
  if (price.per_hour) return `${dollars(price.per_hour / 1e6)} per hour`;
  if (!price.input_per_mtok && !price.output_per_mtok) return "free";
  return `${dollars(price.input_per_mtok / 1e6)} in · ${dollars(price.output_per_mtok / 1e6)} out per M`;
}

export class Deployments {
  constructor() {
    const { box, body } = table("Deployments", COLUMNS);
    $("#deployments").append(box);
    this.rows = new Rows(body, (item) => item.name, () => this.make());
  }

  make() {
    const name = el("span", { className: "name" }), about = el("span", { className: "about" });
    const sign = el("i", { className: "sign", "aria-hidden": "true" }), said = el("span");
    const fill = el("span", { className: "fill" }), share = el("span");
    let isMade = false;
    return cells(
      COLUMNS,
      ({ each, part, total, fixed_nanousd }) => [
        null, null, null, count(part[0]), part[1] ? `${count(part[1])} (${percent(part[1] / part[0])})` : "0",
        each.limit === null ? count(each.in_flight + each.waiting) : `${count(each.in_flight + each.waiting)} of ${count(each.limit)}`,
        dollars((part[3] + fixed_nanousd) / 1e9), priceOf(each),
      ],
      (row, nodes, item) => {
        if (!isMade) {
          nodes[0].append(name, about);
          nodes[1].append(sign, said);
          nodes[2].append(el("span", { className: "meter" }, fill), share);
          isMade = true;
        }
        const [kind, text] = stateOf(item.each);
        say(name, item.name);
        say(about, `${item.each.kind} · ${item.each.tier}`);
        say(said, text);
        row.dataset.state = kind;
        const portion = item.total ? item.part[0] / item.total : 0;
        fill.style.width = `${100 * portion}%`;
        say(share, item.total ? percent(portion) : "–");
      },
    );
  }

  show(now, summary, paid_s, wanted) {
    const shown = Object.entries(now.deployments).filter(([name]) => !wanted || wanted.has(name));
    const parts = summary.by_deployment;
    const total = shown.reduce((sum, [name]) => sum + (parts[name] || [0])[0], 0);
    this.rows.show(
      shown.map(([name, each]) => ({
        name, each, total, part: parts[name] || [0, 0, 0, 0], fixed_nanousd: (1000 * each.price.per_hour * paid_s) / 3600,
      })),
    );
  }
}
