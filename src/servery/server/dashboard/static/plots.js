// The four plots: both latencies by percentile against the SLO, goodput against throughput, tokens.

import { Chart } from "./chart.js";
import { $ } from "./dom.js";
import { ms, rate } from "./format.js";
import { columns, pace, perSecond, time } from "./store.js";

const PERCENTILES = [
  { name: "p50", colour: "one" },
  { name: "p95", colour: "two" },
  { name: "p99", colour: "three" },
];

export class Plots {
  constructor() {
    this.slo = null;
    const latency = (name, key) =>
      new Chart($(`#plot-${name}`), { lines: PERCENTILES, shown: ms, promised: () => (this.slo ? this.slo[key] : null) });
    this.ttft = latency("ttft", "ttft_ms");
    this.tpot = latency("tpot", "tpot_ms");
    this.goodput = new Chart($("#plot-goodput"), {
      lines: [
        { name: "finished", colour: "calm" },
        { name: "within SLO", colour: "good", fill: true },
        { name: "missed", colour: "two", dash: [4, 3] },
      ],
      shown: rate,
      note: "against throughput, requests",
    });
    this.tokens = new Chart($("#plot-tokens"), { lines: [{ name: "generated", colour: "one", fill: true }], shown: rate });
    this.all = [this.ttft, this.tpot, this.goodput, this.tokens];
  }

  show(view, point, length, slo) {
    this.slo = slo;
    const drawn = (names) => columns(view, point, length, names);
    const percentiles = (kind) => drawn(["p50", "p95", "p99"].map((each) => time(`${kind}_${each}_ms`)));
    this.ttft.show(percentiles("ttft"), view.range);
    this.tpot.show(percentiles("tpot"), view.range);
    this.goodput.show(drawn([perSecond("exchanges"), perSecond("good"), perSecond("missed")]), view.range);
    this.tokens.show(drawn([pace]), view.range);
  }

  redraw() {
    for (const each of this.all) each.redraw();
  }
}
