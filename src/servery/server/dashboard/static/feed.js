// The live stream: it comes back by itself after whatever cut it, more patiently each time.

import { feedAddress, get } from "./api.js";

const FIRST_MS = 500;
const MOST_MS = 3000;
// Ticks come every second: after so long without one the line is dead, whatever the browser thinks.
const SILENT_MS = 10000;

export class Feed {
  /** `told` is called with (kind, data), `changed` with "live" or "lost", `shut` with why nobody may look any more. */
  constructor(told, changed, shut) {
    this.told = told;
    this.changed = changed;
    this.shut = shut;
    this.waitMs = FIRST_MS;
    this.source = null;
    this.timer = 0;
    this.isOn = false;
  }

  start() {
    this.isOn = true;
    this.connect();
  }

  stop() {
    this.isOn = false;
    this.cut();
    clearTimeout(this.timer);
  }

  cut() {
    clearTimeout(this.watch);
    if (this.source) this.source.close();
    this.source = null;
  }

  connect() {
    this.cut();
    const source = this.source = new EventSource(feedAddress);
    for (const kind of ["snapshot", "tick"]) {
      source.addEventListener(kind, (event) => {
        this.waitMs = FIRST_MS;
        this.listen();
        this.told(kind, JSON.parse(event.data));
        this.changed("live");
      });
    }
    source.addEventListener("over", () => this.again());
    source.onerror = () => this.again();
    this.listen();
  }

  listen() {
    clearTimeout(this.watch);
    this.watch = setTimeout(() => this.again(), SILENT_MS);
  }

  again() {
    this.cut();
    if (!this.isOn) return;
    this.changed("lost");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.retry(), this.waitMs);
    this.waitMs = Math.min(2 * this.waitMs, MOST_MS);
  }

  /** An EventSource does not tell why it was refused, so that is asked for first. */
  async retry() {
    let who;
    try {
      who = await get("session");
    } catch {
      this.again();
      return;
    }
    if (!this.isOn) return;
    if (who.role) this.connect();
    else {
      this.isOn = false;
      this.shut(who);
    }
  }
}
