// The page: who looks, which view, and what is drawn every second.

import { Alerts } from "./alerts.js";
import { get, posted } from "./api.js";
import { Deployments } from "./deployments.js";
import { $, el, say } from "./dom.js";
import { Engines } from "./engines.js";
import { Errors } from "./errors.js";
import { Exchanges } from "./exchanges.js";
import { Feed } from "./feed.js";
import { clock } from "./format.js";
import { Keys } from "./keys.js";
import { Playground } from "./playground.js";
import { Plots } from "./plots.js";
import { Store } from "./store.js";
import { Tiles } from "./tiles.js";

const PAST_MS = 15000;
const LENGTHS = { "1h": 180, "24h": 180, "7d": 168 };

const store = new Store();
const panels = {
  alerts: new Alerts(), tiles: new Tiles(), plots: new Plots(), engines: new Engines(), deployments: new Deployments(),
  keys: new Keys(), errors: new Errors(), exchanges: new Exchanges(), playground: new Playground(),
};
const feed = new Feed(taken, connected, shut);
let session = null;
let past = null; // the window of the past that is shown; null: the live one
let asking = 0;
let askedAt = 0;

// What comes in.

function taken(kind, told) {
  store.take(kind, told);
  if (store.now) render();
}

function connected(state) {
  document.body.dataset.line = state;
  say($("#status .said"), state === "live" ? "live" : "reconnecting");
}

function shut(who) {
  if (who.asks_for_key) askForKey(session ? "The session has ended." : "");
  else close(who.reason);
}

// What is chosen.

const range = () => document.querySelector('input[name="range"]:checked').value;
const model = () => $("#model").value;

function offerModels() {
  const names = Object.keys(store.now.models);
  const picker = $("#model");
  if (picker.dataset.names === names.join("\n")) return;
  const chosen = picker.value;
  picker.dataset.names = names.join("\n");
  picker.replaceChildren(...(names.length === 1 ? [] : [el("option", { value: "" }, "all models")]), ...names.map((name) => el("option", { value: name }, name)));
  picker.value = names.includes(chosen) ? chosen : names.length === 1 ? names[0] : "";
}

async function askPast() {
  const wanted = range(), of = model(), number = ++asking;
  if (wanted === "live") {
    past = null;
    return;
  }
  askedAt = performance.now();
  try {
    const told = await get(`history?range=${wanted}&model=${encodeURIComponent(of)}`);
    if (number === asking) past = told;
  } catch (refusal) {
    if (number === asking && refusal.status === 401) feed.again();
    return; // what is shown stays; the next turn asks again
  }
  render();
}

// What is drawn.

/** The SLO of what is shown: the model's, or that of all models which have one, if it is the same. */
function promised(of) {
  const models = of ? [store.now.models[of]] : Object.values(store.now.models);
  const slos = models.map((each) => each.slo).filter(Boolean);
  return slos.length && slos.every((slo) => JSON.stringify(slo) === JSON.stringify(slos[0])) ? slos[0] : null;
}

/** The error budget of a model, of all models the one of which least is left. */
function budgetOf(of) {
  const budgets = Object.entries(store.now.budgets).filter(([name]) => !of || name === of).map(([, each]) => each);
  return budgets.sort((one, other) => (one.remaining ?? 2) - (other.remaining ?? 2))[0];
}

/** The seconds that a window is really of: what has not been yet, or what was before the server, is no time without traffic. */
function spanOf(view) {
  const first = view.points.length ? view.points[0][0] : view.at_s;
  const since = view.source === "ledger" ? view.since_s : Math.max(view.since_s, Math.min(first, store.began_s));
  return Math.max(view.step_s, view.at_s - since);
}

/** The seconds of a window in which there was a server, as far as is known: what is paid by the hour is paid for these. */
function paidOf(view) {
  const first = view.points.length ? view.points[0][0] : view.at_s;
  return Math.max(0, view.at_s - Math.max(view.since_s, Math.min(first, store.began_s)));
}

function paceNow(view) {
  const at = store.point.indexOf("generated_per_s");
  const line = store.live.get(model());
  const newest = view.range === "live" && line ? [...line.values()].sort((one, other) => other[0] - one[0])[0] : null;
  return newest && newest[at] !== null && store.now.at_s - newest[0] < 6 ? newest[at] : null;
}

function render() {
  if (document.hidden || !store.now) return;
  const now = store.now, of = model() in now.models ? model() : "";
  offerModels();
  panels.playground.offer(now);
  if (location.hash === "#playground") return;
  const view = past ?? store.window(of);
  const length = past ? LENGTHS[past.range] : store.length;
  const slo = promised(of), span_s = spanOf(view), paid_s = paidOf(view);
  const wanted = of ? new Set(now.models[of].deployments) : null;
  const places = Object.entries(now.deployments).filter(([name]) => !wanted || wanted.has(name)).map(([, each]) => each);
  const attainments = (of ? [now.models[of]] : Object.values(now.models)).map((each) => each.slo?.attainment).filter(Boolean);
  panels.alerts.show(now);
  panels.tiles.show({
    summary: view.summary, slo, span_s, paid_s, budget: budgetOf(of), pace: paceNow(view), in_flight: now.in_flight,
    attainment: attainments.length ? Math.min(...attainments) : null,
    fixed_per_hour: places.reduce((sum, each) => sum + each.price.per_hour, 0),
    waiting: places.reduce((sum, each) => sum + each.waiting, 0),
  });
  panels.plots.show(view, store.point, length, slo);
  panels.engines.show(store, wanted);
  panels.deployments.show(now, view.summary, paid_s, wanted);
  panels.keys.show(now.keys);
  panels.errors.show(view.summary);
  panels.exchanges.show(store.exchanges, of, now.at_s);
  say($("#foot"), footnote(view, now));
  if (past && performance.now() - askedAt > PAST_MS) askPast();
}

function footnote(view, now) {
  const kept = now.ledger ? "History is kept in the ledger." : `No ledger: what is older than this server's start, ${clock(store.began_s, now.at_s)}, is not known.`;
  const workers = now.workers.of > 1 ? ` Figures of ${now.workers.answering} of ${now.workers.of} workers.` : "";
  return `Servery ${store.version}. Percentiles are exact, of ${view.summary.measured} requests. ${kept}${workers}`;
}

// Views.

function turn() {
  const isAsking = location.hash === "#playground" && session?.may_ask;
  $("#overview").hidden = isAsking;
  $("#playground").hidden = !isAsking;
  for (const link of document.querySelectorAll("nav a")) {
    const isThis = link.hash === (isAsking ? "#playground" : "#overview");
    if (isThis) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  render();
}

function only(id) {
  for (const each of ["login", "closed"]) $(`#${each}`).hidden = each !== id;
  $("#top").hidden = id !== null;
  if (id !== null) {
    $("#overview").hidden = $("#playground").hidden = true;
    feed.stop();
  }
}

function askForKey(why) {
  session = null;
  only("login");
  say($("#login-why"), why);
  $("#key").value = "";
  $("#key").focus();
}

function close(why) {
  only("closed");
  say($("#closed p"), why);
}

function begin(who) {
  session = who;
  only(null);
  $("#logout").hidden = who.role === "local";
  $("#to-playground").hidden = !who.may_ask;
  document.body.dataset.role = who.role;
  turn();
  feed.start();
}

// Hands.

$("#login").addEventListener("submit", async (event) => {
  event.preventDefault();
  say($("#login-error"), "");
  try {
    begin(await posted("login", { key: $("#key").value.trim() }));
  } catch (refusal) {
    say($("#login-error"), refusal.message);
  }
  $("#key").value = "";
});
$("#logout").addEventListener("click", async () => {
  feed.stop();
  await posted("logout", {}).catch(() => {});
  store.forget();
  askForKey("You are logged out.");
});
$("#theme").addEventListener("click", () => {
  say($("#theme"), `Theme: ${serveryTheme.next()}`);
  panels.plots.redraw();
  render();
});
say($("#theme"), `Theme: ${serveryTheme.name}`);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { panels.plots.redraw(); render(); });
$("#range").addEventListener("change", () => { past = null; askPast(); render(); });
$("#model").addEventListener("change", () => { past = null; askPast(); render(); });
addEventListener("hashchange", turn);
document.addEventListener("visibilitychange", render);

// For tests, and for whoever wants to know how much the page holds.
globalThis.servery = { store, panels, taken };

get("session").then((who) => (who.role ? begin(who) : shut(who)), (refusal) => close(`${refusal.message} Load the page again in a moment.`));
