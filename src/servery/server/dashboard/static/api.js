// What the page asks of its server. Cookies go along by themselves; what changes something says that it is this page.

const BASE = "dashboard/api/";

/** A refusal: its status, and in words what to do. */
export class Refused extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export async function refusalOf(response) {
  let told = {};
  try { told = (await response.json()).error || {}; } catch { /* a proxy's page: its status must do */ }
  return new Refused(response.status, told.message || `The server answered with status ${response.status}.`, told.code);
}

export async function get(path) {
  const response = await fetch(BASE + path, { headers: { accept: "application/json" }, cache: "no-store" });
  if (!response.ok) throw await refusalOf(response);
  return response.json();
}

export function post(path, body, signal) {
  return fetch(BASE + path, {
    method: "POST",
    headers: { "content-type": "application/json", "x-servery-dashboard": "1" },
    body: JSON.stringify(body),
    signal,
  });
}

export async function posted(path, body) {
  const response = await post(path, body);
  if (!response.ok) throw await refusalOf(response);
  return response.json();
}

export const feedAddress = `${BASE}feed`;
