// Numbers with their units, short enough to be read at a glance.

const NONE = "–";

function digits(value, most) {
  if (value === 0) return "0";
  const size = Math.floor(Math.log10(Math.abs(value)));
  return value.toFixed(Math.max(0, Math.min(most, 2 - size)));
}

/** 0.87 ms, 12.3 ms, 840 ms, 1.25 s */
export function ms(value) {
  if (value === null || value === undefined) return NONE;
  if (value >= 60000) return `${digits(value / 60000, 1)} min`;
  return value >= 1000 ? `${digits(value / 1000, 2)} s` : `${digits(value, 2)} ms`;
}

/** 950, 1.2 k, 3.4 M */
export function count(value) {
  if (value === null || value === undefined) return NONE;
  for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (Math.abs(value) >= size) return `${digits(value / (unit === "k" ? 1e3 : size), 1)} ${unit}`;
  }
  return Number.isInteger(value) ? String(value) : digits(value, 1);
}

/** 12.3 /s, 12.3 tokens/s */
export function rate(value, of = "") {
  return value === null || value === undefined ? NONE : `${value >= 1e4 ? count(value) : digits(value, 2)} ${of}/s`;
}

/** $0, $0.0042, $1.25, $1,240 */
export function dollars(value) {
  if (value === null || value === undefined) return NONE;
  if (value === 0) return "$0";
  if (value >= 1000) return `$${Math.round(value).toLocaleString("en-US")}`;
  if (value >= 0.01) return `$${value.toFixed(2)}`;
  return value < 0.000001 ? "<$0.000001" : `$${value.toPrecision(2).replace(/0+$/, "")}`;
}

export function percent(value, places = 1) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  const shown = 100 * value;
  // 99.96 % is not 100 %: what was missed must stay to be seen.
  const text = shown < 100 && shown > 100 - 0.5 * 10 ** -places ? (100 - 10 ** -places).toFixed(places) : shown.toFixed(places);
  return `${text.replace(/\.0+$/, "")} %`;
}

/** 14:03:22, with the day before it if that is another one than today. */
export function clock(at_s, now_s) {
  const at = new Date(1000 * at_s);
  const time = at.toLocaleTimeString("en-GB");
  if (now_s === undefined || at.toDateString() === new Date(1000 * now_s).toDateString()) return time;
  return `${at.toLocaleDateString("en-CA").slice(5)} ${time}`;
}

export function seconds(value) {
  if (value < 90) return `${Math.round(value)} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  return value < 172800 ? `${Math.round(value / 3600)} h` : `${Math.round(value / 86400)} d`;
}
