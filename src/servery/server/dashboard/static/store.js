// What is known now: the newest of everything, and of what goes on for ever so much and no more.

const MOST_EXCHANGES = 50;
const MOST_STEPS = 240;

export class Store {
  constructor() {
    this.forget();
  }

  forget() {
    this.now = null;
    this.point = [];
    this.live = new Map(); // by model: slices by the number of their time
    this.exchanges = [];
    this.steps = new Map(); // by engine
    this.before = new Map(); // by engine: its counters a tick ago
    this.rates = new Map();
  }

  take(kind, told) {
    if (kind === "snapshot") {
      this.forget();
      this.point = told.point;
      this.step_s = told.step_s;
      this.length = told.length;
      this.version = told.version;
      this.began_s = told.began_s;
    } else if (!this.now) return;
    this.merge(told.points);
    const fresh = [...told.exchanges].reverse();
    const known = new Set(fresh.map((each) => each.id));
    this.exchanges = [...fresh, ...this.exchanges.filter((each) => !known.has(each.id))].slice(0, MOST_EXCHANGES);
    for (const [name, engine] of Object.entries(told.engines)) this.see(name, engine, told.at_s);
    for (const known of [this.steps, this.before, this.rates]) {
      for (const name of known.keys()) if (!(name in told.engines)) known.delete(name);
    }
    this.now = told;
  }

  merge(points) {
    for (const name of this.live.keys()) if (!(name in points)) this.live.delete(name);
    for (const [name, slices] of Object.entries(points)) {
      if (!this.live.has(name)) this.live.set(name, new Map());
      const line = this.live.get(name);
      for (const slice of slices) line.set(Math.round(slice[0] / this.step_s), slice);
      if (line.size > this.length) {
        const first = Math.max(...line.keys()) - this.length;
        for (const at of line.keys()) if (at <= first) line.delete(at);
      }
    }
  }

  see(name, engine, at_s) {
    const before = this.before.get(name);
    this.before.set(name, { ...engine, at_s });
    if (before && before.steps <= engine.steps && at_s > before.at_s) {
      const steps = engine.steps - before.steps;
      const step_s = engine.step_s - before.step_s;
      this.rates.set(name, {
        steps_per_s: steps / (at_s - before.at_s),
        step_ms: steps ? (1000 * step_s) / steps : null,
        bytes_per_s: step_s > 0 ? (engine.read_bytes - before.read_bytes) / step_s : null,
      });
    }
    if (engine.seen) {
      const all = [...(this.steps.get(name) || []), ...engine.seen.steps];
      this.steps.set(name, all.slice(-MOST_STEPS));
    }
  }

  /** The slices of the live window of a model ("" for all), in the form that the server's history has. */
  window(model) {
    const since_s = this.step_s * (Math.floor(this.now.at_s / this.step_s) - this.length + 1);
    const line = this.live.get(model) || new Map();
    const first = Math.round(since_s / this.step_s);
    const points = [...line.entries()].filter(([at]) => at >= first).sort((one, other) => one[0] - other[0]);
    return {
      range: "live", at_s: this.now.at_s, since_s, step_s: this.step_s,
      points: points.map(([, slice]) => slice),
      summary: this.now.summaries[model] || this.now.summaries[""],
    };
  }
}

/** A window's slices as columns of uPlot, with every slice there is time for; `rates` are 0 where nothing was. */
export function columns(view, point, length, names) {
  const at = (name) => point.indexOf(name);
  const by = new Map(view.points.map((slice) => [Math.round((slice[0] - view.since_s) / view.step_s), slice]));
  const times = Array.from({ length }, (_, number) => view.since_s + number * view.step_s);
  return [times, ...names.map((value) => times.map((_, number) => value(by.get(number), at, view.step_s, number === length - 1)))];
}

export const time = (name) => (slice, at) => (slice ? slice[at(name)] : null);
/** Of the slice that is not over yet no rate is known: it would look like an end of the traffic. */
export const perSecond = (name) => (slice, at, step_s, isOpen) => (isOpen ? null : slice ? slice[at(name)] / step_s : 0);
/** Tokens as they were counted while somebody looked; else those of the exchanges that ended then. */
export const pace = (slice, at, step_s, isOpen) =>
  isOpen ? null : slice ? slice[at("generated_per_s")] ?? slice[at("generated_tokens")] / step_s : 0;
