// The figures that are read first.

import { $, el, say } from "./dom.js";
import { count, dollars, ms, percent, rate, seconds } from "./format.js";

const NAMES = ["TTFT p95", "TPOT p95", "Goodput", "Tokens generated", "Cost", "Prefix hits", "Error budget", "Under way"];

/** Nano-dollars of a window, with the hours of capacity that is paid for anyway. */
export function spent_nanousd(summary, paid_s, fixed_microusd_per_hour) {
  return summary.cost_nanousd + (1000 * fixed_microusd_per_hour * paid_s) / 3600;
}

function budgetOf(budget) {
  if (!budget || budget.remaining === null) return ["–", budget ? "nothing judged yet" : "no SLO is set"];
  const isSpent = budget.remaining <= 0, pace = `used ${budget.burn_rate_1h.toFixed(1)}× as fast as it may be`;
  return [isSpent ? "spent" : percent(budget.remaining, 0), `${isSpent ? "that" : "left"} of ${budget.window}, ${pace}`, isSpent];
}

export class Tiles {
  constructor() {
    this.tiles = NAMES.map((name) => {
      const value = el("dd", { className: "value" }), rest = el("dd", { className: "rest" });
      const tile = el("div", { className: "tile" }, el("dt", {}, name), value, rest);
      return { tile, value, rest };
    });
    $("#tiles").append(...this.tiles.map((each) => each.tile));
  }

  show(state) {
    const { summary, slo, span_s } = state;
    const [ttft, tpot] = [summary.ttft_ms, summary.tpot_ms];
    const judged = summary.good + summary.missed;
    const attained = judged ? summary.good / judged : null;
    const cost = spent_nanousd(summary, state.paid_s, state.fixed_per_hour) / 1e9;
    const known = summary.prompt_tokens;
    const texts = [
      [ms(ttft[1]), `p50 ${ms(ttft[0])} · p99 ${ms(ttft[2])}`, slo && ttft[1] !== null && ttft[1] > slo.ttft_ms],
      [ms(tpot[1]), `p50 ${ms(tpot[0])} · p99 ${ms(tpot[2])}`, slo && tpot[1] !== null && tpot[1] > slo.tpot_ms],
      judged
        ? [
            rate(summary.good / span_s),
            `of ${rate(summary.exchanges / span_s)} · ${percent(attained, 2)} met`,
            state.attainment !== null && attained < state.attainment,
          ]
        : [rate(summary.completed / span_s), summary.exchanges ? "completed · no SLO is set" : "no requests"],
      [rate(state.pace ?? summary.generated_tokens / span_s), `${count(summary.generated_tokens)} in ${seconds(span_s)}`],
      [
        `${dollars((cost / span_s) * 3600)}/h`,
        summary.generated_tokens ? `${dollars((1e6 * cost) / summary.generated_tokens)} per M generated` : "nothing generated",
      ],
      [percent(known ? summary.cached_tokens / known : null), `${count(summary.cached_tokens)} of ${count(known)} tokens`],
      budgetOf(state.budget),
      [count(state.in_flight), state.waiting ? `${count(state.waiting)} waiting` : "none waiting"],
    ];
    texts.forEach(([value, rest, isOver], at) => {
      say(this.tiles[at].value, value);
      say(this.tiles[at].rest, isOver && at < 3 ? `${rest} · over SLO` : rest);
      this.tiles[at].tile.classList.toggle("over", Boolean(isOver));
    });
  }
}
