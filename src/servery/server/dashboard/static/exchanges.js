// The exchanges that ended last: where their time went, what they took, what became of them.

import { $, cells, el, Rows, say, table } from "./dom.js";
import { clock, count, dollars, ms } from "./format.js";

const COLUMNS = [
  ["Time"], ["Model"], ["Deployment", "wide"], ["Outcome"], ["Queue, prefill, decode", "waterfall"], ["Took", "number"],
  ["Tokens", "number"], ["Cost", "number wide"],
];
const PARTS = ["queue", "prefill", "decode"];
const FIELDS = [
  ["Request", (each) => each.request_id], ["Key", (each) => each.key || "none needed"], ["API", (each) => `${each.api}${each.is_stream ? ", streamed" : ""}`],
  ["Route", (each) => each.route], ["Attempts", (each) => String(each.attempts)], ["TTFT", (each) => ms(each.ttft_ms)],
  ["TPOT", (each) => ms(each.tpot_ms)], ["Queue", (each) => ms(each.queue_ms)], ["Cached", (each) => `${count(each.cached_tokens)} tokens`],
  ["SLO", (each) => ({ true: "met", false: "missed", null: "does not apply" })[String(each.is_slo_met)]],
  ["Status", (each) => (each.status === null ? null : String(each.status))], ["Error", (each) => each.failure],
];

/** Milliseconds waiting, until the first token, and from there on. */
export function phases(each) {
  const queue = Math.min(each.queue_ms || 0, each.e2e_ms);
  const first = each.ttft_ms === null ? each.e2e_ms : Math.min(each.ttft_ms, each.e2e_ms);
  return [queue, Math.max(0, first - queue), Math.max(0, each.e2e_ms - Math.max(first, queue))];
}

export class Exchanges {
  constructor() {
    const { box, body } = table("Recent exchanges", COLUMNS);
    this.box = box;
    this.empty = el("p", { className: "empty" }, "No exchange yet");
    $("#exchanges").append(
      el("ul", { className: "legend" }, ...PARTS.map((name) => el("li", {}, el("i", { className: `swatch ${name}` }), name))),
      box,
      this.empty,
    );
    this.open = new Set();
    this.rows = new Rows(body, (item) => item.key, (item) => (item.isDetail ? this.detail() : this.make()));
  }

  make() {
    const button = el("button", { type: "button", className: "more", "aria-expanded": "false" });
    const bars = PARTS.map((name) => el("span", { className: name }));
    const line = el("span", { className: "line", role: "img" }, ...bars);
    let shown = null;
    button.addEventListener("click", () => {
      if (this.open.has(shown.id)) this.open.delete(shown.id);
      else this.open.add(shown.id);
      this.again();
    });
    return cells(
      COLUMNS,
      ({ each }) => [
        null, each.model, each.deployment || "–", this.outcome(each), null, ms(each.e2e_ms),
        `${count(each.prompt_tokens)} → ${count(each.generated_tokens)}`, dollars(each.cost_nanousd / 1e9),
      ],
      (row, nodes, { each, longest, now_s }) => {
        shown = each;
        if (!button.isConnected) nodes[0].append(button);
        if (!line.isConnected) nodes[4].append(line);
        say(button, clock(each.at_s, now_s));
        button.setAttribute("aria-expanded", String(this.open.has(each.id)));
        row.dataset.state = each.outcome === "completed" ? (each.is_slo_met === false ? "warn" : "good") : "bad";
        const parts = phases(each);
        parts.forEach((part, at) => { bars[at].style.width = `${(100 * part) / longest}%`; });
        line.setAttribute("aria-label", PARTS.map((name, at) => `${name} ${ms(parts[at])}`).join(", "));
        line.title = line.getAttribute("aria-label");
      },
    );
  }

  detail() {
    const values = FIELDS.map(() => el("dd"));
    const nodes = FIELDS.map(([name], at) => el("div", {}, el("dt", {}, name), values[at]));
    const row = el("tr", { className: "detail" }, el("td", { colSpan: COLUMNS.length }, el("dl", { className: "figures" }, ...nodes)));
    return {
      row,
      update: ({ each }) => FIELDS.forEach(([, read], at) => {
        const text = read(each);
        nodes[at].hidden = text === null || text === undefined;
        say(values[at], text ?? "");
      }),
    };
  }

  outcome(each) {
    if (each.outcome === "completed") return each.is_slo_met === false ? "completed, SLO missed" : "completed";
    return each.failure && each.failure !== each.outcome ? `${each.outcome}: ${each.failure}`.replaceAll("_", " ") : each.outcome.replaceAll("_", " ");
  }

  show(exchanges, model, now_s) {
    this.last = [exchanges, model, now_s];
    const shown = exchanges.filter((each) => !model || each.model === model || each.model.startsWith(`${model}:`)).slice(0, 25);
    const longest = Math.max(1, ...shown.map((each) => each.e2e_ms));
    const known = new Set(shown.map((each) => each.id));
    for (const id of this.open) if (!known.has(id)) this.open.delete(id);
    this.box.hidden = !shown.length;
    this.empty.hidden = shown.length > 0;
    this.rows.show(shown.flatMap((each) => [
      { key: each.id, each, longest, now_s },
      ...(this.open.has(each.id) ? [{ key: `${each.id} detail`, each, isDetail: true }] : []),
    ]));
  }

  again() {
    this.show(...this.last);
  }
}
