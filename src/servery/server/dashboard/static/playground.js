// Ask a model, or two side by side, and see what each took.

import { post, refusalOf } from "./api.js";
import { $, el, say } from "./dom.js";
import { count, dollars, ms, rate } from "./format.js";

/** The data of each event of a stream, as it comes. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

class Side {
  constructor(name, isOptional) {
    this.picker = el("select", { "aria-label": `Model ${name}` });
    this.isOptional = isOptional;
    this.log = el("div", { className: "log", role: "log", "aria-label": `Conversation ${name}`, tabIndex: 0 });
    this.node = el("section", { className: "panel side", "aria-label": `Side ${name}` }, el("label", { className: "pick" }, `Model ${name} `, this.picker), this.log);
    this.messages = [];
    this.names = "";
    this.clear();
    this.picker.addEventListener("change", () => this.clear());
  }

  offer(models) {
    const names = models.join("\n");
    if (names === this.names) return;
    this.names = names;
    const chosen = this.picker.value;
    const options = models.map((model) => el("option", { value: model }, model));
    this.picker.replaceChildren(...(this.isOptional ? [el("option", { value: "" }, "none")] : []), ...options);
    if (models.includes(chosen)) this.picker.value = chosen;
  }

  get model() {
    return this.picker.value;
  }

  clear() {
    this.messages = [];
    this.log.replaceChildren(el("p", { className: "empty" }, this.isOptional ? "Choose a second model to compare" : "Nothing asked yet"));
  }

  async ask(text, settings, signal, priceOf) {
    if (!this.messages.length) this.log.replaceChildren();
    this.messages.push({ role: "user", content: text });
    const words = el("p", { className: "words" }), figures = el("p", { className: "took" }, "waiting for the first token");
    this.log.append(el("p", { className: "asked" }, text), words, figures);
    const began = performance.now();
    const answer = { text: "", first: null, usage: null, deployment: "" };
    try {
      await this.stream(answer, words, settings, signal, began);
      this.messages.push({ role: "assistant", content: answer.text });
      say(figures, this.took(answer, began, priceOf));
    } catch (error) {
      this.messages.pop();
      say(figures, error.name === "AbortError" ? "stopped" : error.message);
      figures.classList.toggle("bad", error.name !== "AbortError");
    }
    this.log.scrollTop = this.log.scrollHeight;
  }

  async stream(answer, words, settings, signal, began) {
    const body = { model: this.model, messages: this.messages, stream: true, stream_options: { include_usage: true }, ...settings };
    const response = await post("chat", body, signal);
    if (!response.ok) throw await refusalOf(response);
    answer.deployment = response.headers.get("x-servery-deployment") || "";
    for await (const data of events(response)) {
      if (data === "[DONE]") return;
      const told = JSON.parse(data);
      if (told.error) throw new Error(told.error.message);
      const piece = told.choices?.[0]?.delta?.content || told.choices?.[0]?.delta?.reasoning_content;
      if (piece) {
        answer.first ??= performance.now() - began;
        answer.text += piece;
        words.append(piece);
        this.log.scrollTop = this.log.scrollHeight;
      }
      if (told.usage) answer.usage = told.usage;
    }
    if (!signal.aborted) throw new Error("The stream ended before the answer was complete.");
  }

  took({ first, usage, deployment }, began, priceOf) {
    const took = performance.now() - began;
    const parts = [`first token ${ms(first)}`, `in all ${ms(took)}`];
    if (usage) {
      const after = took - (first ?? took);
      if (usage.completion_tokens > 1 && after > 0) parts.push(rate((1000 * (usage.completion_tokens - 1)) / after, "tokens"));
      parts.push(`${count(usage.prompt_tokens)} → ${count(usage.completion_tokens)} tokens`);
      const price = priceOf(deployment);
      if (price) {
        const cached = usage.prompt_tokens_details?.cached_tokens || 0;
        const microusd = (usage.prompt_tokens - cached) * price.input_per_mtok + cached * price.cached_per_mtok + usage.completion_tokens * price.output_per_mtok;
        parts.push(price.per_hour ? "paid by the hour" : dollars(microusd / 1e12));
      }
    }
    if (deployment) parts.push(deployment);
    return parts.join(" · ");
  }
}

export class Playground {
  constructor() {
    this.sides = [new Side("A", false), new Side("B", true)];
    this.prices = {};
    this.running = null;
    this.text = el("textarea", { id: "prompt", rows: 3, required: true, maxLength: 100000, placeholder: "Ask something" });
    this.most = el("input", { id: "most", type: "number", min: 1, max: 100000, value: 256 });
    this.heat = el("input", { id: "heat", type: "number", min: 0, max: 2, step: 0.1, value: 0.7 });
    this.send = el("button", { type: "submit" }, "Send");
    this.stop = el("button", { type: "button", className: "quiet", disabled: true, onclick: () => this.running?.abort() }, "Stop");
    const clear = el("button", { type: "button", className: "quiet", onclick: () => this.sides.forEach((side) => side.clear()) }, "Clear");
    const form = el(
      "form",
      { className: "panel ask", "aria-label": "Ask", onsubmit: (event) => { event.preventDefault(); this.ask(); } },
      el("label", { className: "unseen", for: "prompt" }, "Prompt"), this.text,
      el("div", { className: "row" },
        el("label", {}, "Most tokens ", this.most), el("label", {}, "Temperature ", this.heat),
        el("span", { className: "grow" }), clear, this.stop, this.send),
      el("p", { className: "note" }, "Ctrl + Enter sends. What is asked here counts as any other request, in the name of your key."),
    );
    this.text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    $("#playground").append(el("h1", { className: "unseen" }, "Playground"), el("div", { className: "pair even" }, ...this.sides.map((side) => side.node)), form);
  }

  offer(now) {
    this.prices = Object.fromEntries(Object.entries(now.deployments).map(([name, each]) => [name, each.price]));
    for (const side of this.sides) side.offer(Object.keys(now.models));
  }

  async ask() {
    if (this.running || !this.text.value.trim()) return;
    const text = this.text.value;
    const settings = { max_tokens: Number(this.most.value) || 256, temperature: Number(this.heat.value) };
    this.running = new AbortController();
    this.text.value = "";
    this.send.disabled = true;
    this.stop.disabled = false;
    const asked = this.sides.filter((side) => side.model);
    await Promise.all(asked.map((side) => side.ask(text, settings, this.running.signal, (name) => this.prices[name])));
    this.running = null;
    this.send.disabled = false;
    this.stop.disabled = true;
    this.text.focus();
  }
}
