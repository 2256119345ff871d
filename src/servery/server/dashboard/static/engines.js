// The engines of this server: their KV blocks as a map, and what each step consists of.

import { $, el, Rows, say } from "./dom.js";
import { count, ms, percent, rate } from "./format.js";

const PARTS = [["decode", "one"], ["prefill", "two"], ["draft", "three"]];
const STEPS_HEIGHT = 96;
const UNMEASURED =
  "MBU and MFU are shares of what this machine can do, which is not known yet. It is measured after a minute without requests; " +
  "or give it: servery bench roofline --json FILE, then servery serve --ceilings FILE.";

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function fitted(canvas, height) {
  const width = canvas.parentElement.clientWidth, scale = devicePixelRatio || 1;
  const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return [context, width];
}

/** A square for each cell: how much of it is held in the strong colour, what is cached in the soft one. */
function drawMap(canvas, cells) {
  const bytes = Uint8Array.from(atob(cells), (letter) => letter.charCodeAt(0));
  const width = canvas.parentElement.clientWidth;
  if (!width) return;
  const side = Math.max(6, Math.min(14, Math.floor(Math.sqrt((width * 150) / Math.max(bytes.length, 1)))));
  const across = Math.max(1, Math.floor(width / side));
  const [context] = fitted(canvas, Math.ceil(bytes.length / across) * side);
  const [held, cached, free] = [colour("--one"), colour("--cached"), colour("--free")];
  bytes.forEach((byte, at) => {
    const [x, y, inner] = [(at % across) * side, Math.floor(at / across) * side, side - 1.5];
    context.fillStyle = free;
    context.fillRect(x, y, inner, inner);
    const share = (part, from) => Math.min(inner * (part / 15), inner - from);
    const low = share(byte >> 4, 0);
    context.fillStyle = held;
    context.fillRect(x, y + inner - low, inner, low);
    context.fillStyle = cached;
    const high = share(byte & 15, low);
    context.fillRect(x, y + inner - low - high, inner, high);
  });
}

function drawSteps(canvas, steps) {
  const [context, width] = fitted(canvas, STEPS_HEIGHT);
  const bar = 4, room = Math.floor(width / bar), shown = steps.slice(-room);
  const most = Math.max(1, ...shown.map((step) => step[0] + step[1] + step[2]));
  const colours = PARTS.map(([, name]) => colour(`--${name}`));
  context.fillStyle = colour("--grid");
  context.fillRect(0, STEPS_HEIGHT - 1, width, 1);
  shown.forEach((step, at) => {
    let y = STEPS_HEIGHT - 1;
    const x = width - (shown.length - at) * bar;
    colours.forEach((fill, part) => {
      const height = ((STEPS_HEIGHT - 16) * step[part]) / most;
      if (!height) return;
      context.fillStyle = fill;
      const drawn = Math.max(height, 2); // one token is to be seen beside hundreds
      context.fillRect(x, y - drawn, bar - 1, drawn);
      y -= drawn;
    });
  });
  context.fillStyle = colour("--faint");
  context.font = "11px system-ui, sans-serif";
  if (shown.length) context.fillText(`${most} tokens`, 0, 10);
}

function figure(name) {
  const value = el("dd");
  return { node: el("div", {}, el("dt", {}, name), value), value };
}

function legend(parts) {
  return el("ul", { className: "legend" }, ...parts.map(([name, kind, value]) => el("li", {}, el("i", { className: `swatch ${kind}` }), `${name} `, value || "")));
}

function panel(item) {
  const map = el("canvas", { role: "img" }), steps = el("canvas", { role: "img" });
  const [held, cached, free] = [el("b"), el("b"), el("b")];
  const figures = ["Running", "Waiting", "Steps", "Time per step", "Prefix hits since start", "Drafts accepted", "Memory read", "MBU", "MFU", "Preempted"].map(figure);
  const title = el("h2", {}, "Engine ", el("span", { className: "name" }, item.name));
  const unmeasured = el("p", { className: "note", hidden: true }, UNMEASURED);
  const resting = el("p", { className: "empty" }, "No step since this page looks");
  const row = el(
    "section",
    { className: "panel engine" },
    title,
    el(
      "div",
      { className: "pair even" },
      el("div", {}, el("h3", {}, "KV blocks"), legend([["held", "one", held], ["cached", "cached", cached], ["free", "free", free]]), el("div", { className: "stage" }, map)),
      el("div", {}, el("h3", {}, "Batch of each step"), legend(PARTS), el("div", { className: "stage" }, steps, resting)),
    ),
    el("dl", { className: "figures" }, ...figures.map((each) => each.node)),
    unmeasured,
  );
  return { row, update: (engine) => update(engine, { map, steps, held, cached, free, figures, resting, unmeasured }) };
}

function update({ name, engine, rates, recent }, parts) {
  const blocks = { all: 0, held: 0, cached: 0, free: 0, ...engine.blocks };
  if (engine.seen) { // of the same moment as the map
    Object.assign(blocks, { held: engine.seen.held, cached: engine.seen.cached });
    blocks.free = blocks.all - blocks.held - blocks.cached;
  }
  say(parts.held, count(blocks.held));
  say(parts.cached, count(blocks.cached));
  say(parts.free, count(blocks.free));
  const size = engine.seen && engine.seen.blocks_per_cell > 1 ? `, ${engine.seen.blocks_per_cell} to a square` : "";
  const shared = engine.seen && engine.seen.shared ? `, ${engine.seen.shared} of these shared` : "";
  parts.map.setAttribute("aria-label", `KV cache of ${name}: ${blocks.held} of ${blocks.all} blocks held${shared}, ${blocks.cached} cached${size}`);
  if (engine.seen) {
    parts.map.title = `${engine.block_tokens} tokens to a block${size}${shared}`;
    drawMap(parts.map, engine.seen.cells);
  }
  const last = recent.at(-1);
  parts.resting.hidden = recent.length > 0;
  parts.steps.setAttribute("aria-label", last ? `Newest step of ${name}: ${last[0]} decode, ${last[1]} prefill, ${last[2]} draft tokens` : `No step of ${name} yet`);
  drawSteps(parts.steps, recent);
  const hits = engine.prefix_queries ? engine.prefix_hits / engine.prefix_queries : null;
  const accepted = engine.drafted ? engine.accepted / engine.drafted : null;
  const texts = [
    count(engine.running ?? 0), count(engine.waiting ?? 0), rates ? rate(rates.steps_per_s) : "–",
    rates ? ms(rates.step_ms) : "–", percent(hits), accepted === null ? "no drafts" : percent(accepted),
    rates && rates.bytes_per_s ? `${count(rates.bytes_per_s)}B/s` : "–", percent(engine.mbu), percent(engine.mfu),
    count(engine.preemptions ?? 0),
  ];
  parts.unmeasured.hidden = !engine.is_loaded || engine.is_measured;
  texts.forEach((text, at) => say(parts.figures[at].value, engine.is_loaded ? text : "–"));
}

export class Engines {
  constructor() {
    this.rows = new Rows($("#engines"), (item) => item.name, panel);
  }

  show(store, wanted) {
    const names = Object.keys(store.now.engines).filter((name) => !wanted || wanted.has(name));
    this.rows.show(
      names.map((name) => ({
        name,
        engine: store.now.engines[name],
        rates: store.rates.get(name),
        recent: store.steps.get(name) || [],
      })),
    );
  }
}
