// @ts-check
// The samples of a job's step: each prompt with what was said to it, what that was worth, and which way it pushed.

import { button, field, h, replace } from "../dom.js";
import { digits, number } from "../format.js";
import { longText } from "../long_text.js";

const PAGE = 3;
const MOST_COMPLETIONS = 8;
const MOST_CHARS = 3000;

export class JobSamples {
  /** How often samples were asked for: an answer is shown unless others were asked for since. */
  #asked = 0;

  /** @param {import("../api.js").Api} api @param {string} jobId @param {AbortSignal} signal */
  constructor(api, jobId, signal) {
    this.api = api;
    this.path = `/v1/fine_tuning/jobs/${encodeURIComponent(jobId)}/samples`;
    this.signal = signal;
    /** @type {any[]} */
    this.shown = [];
    this.atNewest = true;
    this.step = h("input", { type: "number", min: 0, step: 1, onchange: () => this.#quietly(() => (this.step.value === "" ? this.showNewest() : this.show(Number(this.step.value)))) });
    this.earlier = button("Earlier step", () => this.#move("desc"));
    this.later = button("Later step", () => this.#move("asc"));
    this.newest = button("Newest step", () => this.showNewest());
    this.groups = h("div", { class: "groups", "aria-live": "off" });
    this.words = h("p", { class: "quiet", role: "status" });
    this.element = h("div", null, h("div", { class: "row" }, h("div", { class: "field short" }, field("Step", this.step)), h("div", { class: "actions" }, this.earlier, this.later, this.newest)), this.words, this.groups);
  }

  /** Show the newest step that has samples, if it is not the one shown. */
  async showNewest() {
    this.atNewest = true;
    const mine = ++this.#asked;
    const page = await this.#get({ limit: 1 });
    if (mine !== this.#asked) return;
    if (page.data.length === 0) replace(this.words, "No samples have been reported yet.");
    else if (this.shown[0]?.step !== page.data[0].step) await this.#load(page.data[0].step);
    else this.step.value = String(page.data[0].step);
  }

  /** For a job that goes on: the newest step, unless somebody looks at another one, or reads. */
  async follow() {
    const focused = document.activeElement;
    const reads = focused === this.step || this.groups.contains(focused) || this.groups.querySelector("details[open]");
    if (this.atNewest && !reads) await this.showNewest();
  }

  /** @param {number} step */
  async show(step) {
    this.atNewest = false;
    await this.#load(step);
  }

  /** @param {number} step */
  async #load(step) {
    this.step.value = String(step);
    const mine = ++this.#asked;
    replace(this.words, `Step ${number(step)} is read …`);
    const page = await this.#get({ step, limit: PAGE }).catch((error) => {
      if (mine === this.#asked) replace(this.words);
      throw error;
    });
    if (mine !== this.#asked) return;
    this.shown = [];
    replace(this.groups);
    if (page.data.length === 0) {
      replace(this.words, `No samples of step ${number(step)} are kept. A long job keeps fewer of earlier steps.`);
      return;
    }
    const more = button("Show more prompts", async () => {
      const next = await this.#get({ step, limit: PAGE, after: this.shown.at(-1).id });
      if (more.isConnected) this.#add(next, more);
    });
    this.groups.append(h("p", null, more));
    this.#add(page, more);
  }

  /** @param {any} page @param {HTMLElement} more */
  #add(page, more) {
    this.shown.push(...page.data);
    for (const group of page.data) /** @type {HTMLElement} */ (more.parentElement).before(groupCard(group));
    more.hidden = !page.has_more;
    replace(this.words, `${number(this.shown.length)} ${this.shown.length === 1 ? "prompt" : "prompts"} of step ${number(this.shown[0].step)}${page.has_more ? " and more" : ""}: those first whose rewards differ most.`);
  }

  /** @param {"asc" | "desc"} order */
  async #move(order) {
    if (this.shown.length === 0) return this.showNewest();
    const wasNewest = this.atNewest;
    this.atNewest = false;
    const mine = ++this.#asked;
    const beyond = await this.#beyond(order);
    if (mine !== this.#asked) return;
    if (beyond !== undefined) return this.#load(beyond);
    this.atNewest = wasNewest;
    replace(this.words, order === "desc" ? "There is no earlier step with samples." : "There is no later step with samples.");
  }

  /** The next step with samples in this order; undefined where there is none. @param {"asc" | "desc"} order */
  async #beyond(order) {
    const at = this.shown[0].step;
    let after = this.shown.at(-1).id;
    for (;;) {
      const page = await this.#get({ limit: 20, order, after });
      const other = page.data.find((/** @type {any} */ group) => group.step !== at);
      if (other || !page.has_more) return other?.step;
      after = page.data.at(-1).id;
    }
  }

  /** @param {() => Promise<void>} act */
  #quietly(act) {
    act().catch((error) => {
      if (!this.signal.aborted) replace(this.words, h("span", { class: "wrong" }, error.message));
    });
  }

  /** @param {Record<string, unknown>} query @returns {Promise<any>} */
  #get(query) {
    return this.api.get(this.path, { query, signal: this.signal });
  }
}

/** @param {any} group */
function groupCard(group) {
  const sorted = group.completions.toSorted((/** @type {any} */ one, /** @type {any} */ other) => (other.reward ?? -Infinity) - (one.reward ?? -Infinity));
  const rest = sorted.slice(MOST_COMPLETIONS);
  const list = h("ol", { class: "completions" }, sorted.slice(0, MOST_COMPLETIONS).map(completionItem));
  const all = rest.length
    ? button(`Show ${number(rest.length)} more completions`, () => {
        list.append(...rest.map(completionItem));
        all.remove();
      })
    : null;
  const rewards = group.completions.flatMap((/** @type {any} */ one) => (one.reward === null ? [] : [one.reward]));
  const mean = rewards.reduce((/** @type {number} */ sum, /** @type {number} */ one) => sum + one, 0) / rewards.length;
  const heading = [group.split === "valid" ? "Held-out row" : "Prompt", group.line ? `of line ${number(group.line)}` : "", rewards.length ? `– mean reward ${digits(mean, 3)}` : ""];
  return h(
    "article",
    { class: "card group" },
    h("h3", null, heading.filter(Boolean).join(" ")),
    group.error ? h("p", { class: "wrong" }, group.error) : null,
    group.messages.map(messageLine),
    Object.keys(group.item ?? {}).length ? h("details", null, h("summary", null, "The row's other fields"), h("pre", { class: "wrap" }, JSON.stringify(group.item, null, 2))) : null,
    group.shortened ? h("p", { class: "hint" }, "Some texts or completions were cut to be kept.") : null,
    list,
    all,
  );
}

/** @param {any} one */
function completionItem(one) {
  const parts = Object.entries(one.rewards ?? {});
  return h(
    "li",
    null,
    h(
      "p",
      { class: "worth" },
      one.reward === null ? h("span", { class: "badge bad" }, "no reward") : [one.reward >= 0 && one.reward <= 1 ? h("meter", { min: 0, max: 1, value: one.reward, "aria-hidden": "true" }) : null, " reward ", h("strong", null, digits(one.reward, 3))],
      one.advantage === null ? null : h("span", { class: one.advantage > 0 ? "gain" : one.advantage < 0 ? "loss" : "quiet" }, `advantage ${one.advantage > 0 ? "+" : ""}${digits(one.advantage, 3)}`),
      h("span", { class: "quiet" }, `${number(one.tokens)} tokens${one.finished ? "" : ", cut off"}`),
      one.importance === null || one.importance === undefined ? null : h("span", { class: "quiet" }, `weight ${digits(one.importance, 3)}`),
      parts.map(([name, score]) => h("span", { class: "badge" }, `${name} ${digits(Number(score), 3)}`)),
    ),
    one.error ? h("p", { class: "wrong" }, one.error) : null,
    one.messages?.length ? one.messages.map(messageLine) : sampleText(one.text),
  );
}

/** @param {any} message */
function messageLine(message) {
  const content = typeof message.content === "string" ? message.content : message.content ? JSON.stringify(message.content) : "";
  const calls = (message.tool_calls ?? []).map((/** @type {any} */ call) => `${call.function?.name}(${call.function?.arguments})`);
  return h("div", { class: "message" }, h("span", { class: "role" }, message.role), sampleText([content, ...calls].filter(Boolean).join("\n")));
}

/** @param {string} text */
const sampleText = (text) => (text ? longText(text, MOST_CHARS) : h("p", { class: "quiet" }, "(nothing)"));
