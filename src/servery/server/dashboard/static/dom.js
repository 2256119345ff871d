// Elements from data: text is always text, never markup.

/** An element with properties, attributes (those with a dash or in lower case that are no properties) and children. */
export function el(name, given = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(given)) {
    if (value === undefined || value === null) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key.includes("-") || key === "role" || key === "for") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Set a node's text if it is another one: what has not changed is not drawn again. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export const $ = (selector) => document.querySelector(selector);

/**
 * Rows that stay as long as their key does. `make` gives {row, update}; the order is that of `items`.
 */
export class Rows {
  constructor(parent, keyOf, make) {
    this.parent = parent;
    this.keyOf = keyOf;
    this.make = make;
    this.known = new Map();
  }

  show(items) {
    const kept = new Set(items.map(this.keyOf));
    for (const [key, each] of this.known) {
      if (!kept.has(key)) {
        each.row.remove();
        this.known.delete(key);
      }
    }
    let at = this.parent.firstElementChild;
    for (const item of items) {
      const key = this.keyOf(item);
      let each = this.known.get(key);
      if (!each) {
        each = this.make(item);
        this.known.set(key, each);
      }
      each.update(item);
      if (each.row === at) at = at.nextElementSibling;
      else this.parent.insertBefore(each.row, at);
    }
  }
}

/** A table in a box of its own that scrolls sideways where it must; `columns` are [title, class]. */
export function table(caption, columns) {
  const body = el("tbody");
  const head = el("tr", {}, ...columns.map(([title, kind]) => el("th", { scope: "col", className: kind || "" }, title)));
  const box = el(
    "div",
    { className: "scroll", tabIndex: 0, role: "region", "aria-label": caption },
    el("table", {}, el("caption", { className: "unseen" }, caption), el("thead", {}, head), body),
  );
  return { box, body };
}

/** A row of cells whose texts are set by `update`; `columns` as those of `table`. */
export function cells(columns, texts, before = null) {
  const nodes = columns.map(([, kind], at) => el(at ? "td" : "th", at ? { className: kind || "" } : { scope: "row", className: kind || "" }));
  const row = el("tr", {}, ...nodes);
  return {
    row,
    update(item) {
      texts(item).forEach((text, at) => {
        if (typeof text === "string") say(nodes[at], text);
      });
      if (before) before(row, nodes, item);
    },
  };
}
