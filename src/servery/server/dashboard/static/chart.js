// A plot over time: lines, a line of what was promised, the values under the pointer. Made once, then fed.

import { el, say } from "./dom.js";

const HEIGHT = 168;
const STEPS_S = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800];

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Where the values are that no line leads to: where little is asked these are all there is. */
function alone(column) {
  const isNothing = (value) => value === null || value === undefined;
  return [...column.keys()].filter((at) => !isNothing(column[at]) && isNothing(column[at - 1]) && isNothing(column[at + 1]));
}

export class Chart {
  /** `lines` are {name, colour, fill?, dash?}; `shown` writes a value with its unit; `promised` gives the SLO or null. */
  constructor(panel, { lines, shown, promised = () => null, note = "" }) {
    this.lines = lines;
    this.shown = shown;
    this.promised = promised;
    this.place = el("div", { className: "plot" });
    this.values = lines.map((line) => el("b"));
    this.slo = el("b");
    this.sloItem = el("li", { className: "slo", hidden: true }, el("i", { className: "swatch slo-line" }), "SLO ", this.slo);
    this.legend = el(
      "ul",
      { className: "legend" },
      ...lines.map((line, at) => el("li", {}, el("i", { className: `swatch ${line.colour}` }), `${line.name} `, this.values[at])),
      this.sloItem,
    );
    this.empty = el("p", { className: "empty" }, "Nothing in this time");
    panel.append(this.legend, el("div", { className: "stage" }, this.place, this.empty));
    if (note) panel.querySelector("h2").append(" ", el("span", { className: "note" }, note));
    this.panel = panel;
    this.resize = new ResizeObserver(() => this.fit());
    this.resize.observe(this.place);
  }

  show(data, range) {
    this.data = data;
    this.range = range;
    const limit = this.promised();
    this.sloItem.hidden = limit === null;
    if (limit !== null) say(this.slo, this.shown(limit));
    this.empty.hidden = data.slice(1).some((column) => column.some((value) => value));
    if (this.plot) this.plot.setData(data);
    else this.draw();
    this.read(this.plot ? this.plot.cursor.idx : null);
    this.describe();
  }

  draw() {
    const width = this.place.clientWidth;
    if (!this.data || !width || typeof uPlot === "undefined") return;
    this.plot?.destroy();
    const grid = { stroke: colour("--grid"), width: 1 };
    const axis = { stroke: colour("--faint"), font: "11px system-ui, sans-serif", grid, ticks: { show: false } };
    this.plot = new uPlot(
      {
        width,
        height: HEIGHT,
        legend: { show: false },
        cursor: { drag: { x: false, y: false }, points: { size: 6 }, sync: { key: "time" } },
        padding: [8, 8, 0, 0],
        scales: { x: { time: true }, y: { range: (_, low, high) => this.span(high) } },
        axes: [
          { ...axis, space: 64, size: 24, incrs: STEPS_S, values: (_, splits) => splits.map((at) => this.label(at)) },
          { ...axis, size: 52, gap: 4, space: 30, values: (_, splits) => splits.map((value) => this.shown(value)) },
        ],
        series: [
          {},
          ...this.lines.map((line) => ({
            stroke: colour(`--${line.colour}`),
            fill: line.fill ? colour(`--${line.colour}-soft`) : undefined,
            dash: line.dash,
            width: 1.6,
            points: { size: 5, width: 0, fill: colour(`--${line.colour}`), filter: (plot, at, all) => (all ? null : alone(plot.data[at])) },
          })),
        ],
        hooks: { draw: [(plot) => this.drawPromise(plot)], setCursor: [(plot) => this.read(plot.cursor.idx)] },
      },
      this.data,
      this.place,
    );
  }

  /** Up to the promise where that is in sight of the values; else what is there, and the promise is written at the edge. */
  span(high) {
    const limit = this.promised();
    const most = high || 0;
    if (limit !== null && limit <= Math.max(5 * most, most ? 0 : limit)) return [0, 1.15 * Math.max(most, limit)];
    return [0, most ? 1.15 * most : 1];
  }

  drawPromise(plot) {
    const limit = this.promised();
    if (limit === null) return;
    const { ctx, bbox } = plot;
    const isAbove = limit > plot.scales.y.max;
    const y = isAbove ? bbox.top + 1 : Math.round(plot.valToPos(limit, "y", true));
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("--slo");
    ctx.lineWidth = 1.2 * devicePixelRatio;
    ctx.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
    if (!isAbove) {
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
    }
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.textAlign = "left";
    ctx.textBaseline = isAbove ? "top" : "bottom";
    const text = isAbove ? `SLO ${this.shown(limit)} ↑` : `SLO ${this.shown(limit)}`;
    ctx.fillText(text, bbox.left + 4 * devicePixelRatio, y + (isAbove ? 2 : -2) * devicePixelRatio);
    ctx.restore();
  }

  /** The values under the pointer, or the newest there are. */
  read(at) {
    if (!this.data) return;
    this.lines.forEach((line, number) => {
      const column = this.data[number + 1];
      let place = at ?? column.length - 1;
      if (at === null || at === undefined) while (place > 0 && column[place] === null) place -= 1;
      say(this.values[number], this.shown(column[place]));
    });
  }

  label(at) {
    const date = new Date(1000 * at);
    if (this.range === "7d") return date.toLocaleDateString("en-CA").slice(5);
    return date.toLocaleTimeString("en-GB").slice(0, 5);
  }

  describe() {
    const parts = this.lines.map((line, at) => `${line.name} ${this.values[at].textContent}`);
    const text = `${this.panel.querySelector("h2").firstChild.textContent}: ${parts.join(", ")}`;
    this.place.setAttribute("role", "img");
    this.place.setAttribute("aria-label", text);
  }

  fit() {
    const width = this.place.clientWidth;
    if (!width) return;
    if (!this.plot) this.draw();
    else if (Math.abs(this.plot.width - width) > 1) this.plot.setSize({ width, height: HEIGHT });
  }

  /** Colours are those of the theme, which has changed. */
  redraw() {
    this.draw();
  }
}
