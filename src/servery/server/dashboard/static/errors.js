// What went wrong, by its kind.

import { $, cells, el, Rows, say, table } from "./dom.js";
import { count, percent } from "./format.js";

const COLUMNS = [["Kind"], ["Requests", "number"], ["Share of all", "number"]];
const MOST = 12;

export class Errors {
  constructor() {
    const { box, body } = table("Errors by kind", COLUMNS);
    this.box = box;
    this.empty = el("p", { className: "empty" }, "No errors in this time");
    this.more = el("p", { className: "note" });
    $("#errors").append(box, this.empty, this.more);
    this.rows = new Rows(body, (item) => item.kind, () =>
      cells(COLUMNS, (item) => [item.kind.replaceAll("_", " "), count(item.number), percent(item.number / item.all)]));
  }

  show(summary) {
    const found = Object.entries(summary.errors).sort((one, other) => other[1] - one[1]);
    this.box.hidden = !found.length;
    this.empty.hidden = found.length > 0;
    this.rows.show(found.slice(0, MOST).map(([kind, number]) => ({ kind, number, all: summary.exchanges })));
    say(this.more, found.length > MOST ? `and ${found.length - MOST} kinds more` : "");
  }
}
