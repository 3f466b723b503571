// @ts-check
// The curves of a job: which numbers are drawn together, and what they say.

import { lineChart } from "../chart.js";
import { field, h, replace } from "../dom.js";
import { redraw } from "../redraw.js";

/**
 * `numbers`: as events name them, with the words of the legend; those that a job does not have are left out.
 * @typedef {{title: string, numbers: [string, string][], yMin?: number, yMax?: number, hint?: string}} Curve
 */

/** @type {Curve[]} */
const CURVES = [
  { title: "Reward", numbers: [["train_reward_mean", "training"], ["valid_reward_mean", "validation"]] },
  { title: "Loss", numbers: [["train_loss", "training"], ["valid_loss", "validation"]] },
  { title: "Accuracy of the next token", numbers: [["train_mean_token_accuracy", "training"], ["valid_mean_token_accuracy", "validation"]], yMin: 0, yMax: 1 },
  { title: "Divergence, nats per token", numbers: [["kl", "from the base model"], ["step_kl", "of a step"]], hint: "A step over 0.05 is too large, one far under 0.001 too small." },
  {
    title: "Shares",
    numbers: [["clip_share", "clipped tokens"], ["flat_share", "prompts of one reward"], ["truncated_share", "cut off"], ["grader_error_share", "not graded"], ["no_answer_share", "no answer found"]],
    yMin: 0,
    yMax: 1,
    hint: "Prompts whose completions all got one reward teach nothing.",
  },
  { title: "Entropy, nats per token", numbers: [["entropy", "entropy"]], yMin: 0 },
  { title: "Tokens of a completion", numbers: [["completion_tokens_mean", "mean"]], yMin: 0 },
  { title: "The vector", numbers: [["v_norm", "length"], ["v_distance", "distance from its start"], ["sigma", "sigma"]], yMin: 0 },
  { title: "Seconds of a step", numbers: [["step_seconds", "seconds"]], yMin: 0 },
];
const MOST_POINTS = 1000;
const DRAWN = new Set(CURVES.flatMap((curve) => curve.numbers.map(([name]) => name)));

/** The curves of a job; `draw` draws them anew. */
export class JobCurves {
  /** @param {import("./events.js").JobEvents} events */
  constructor(events) {
    this.events = events;
    this.grid = h("div", { class: "charts" });
    this.choice = h("select", { onchange: () => this.#drawOther() }, h("option", { value: "" }, "Choose a number …"));
    this.other = h("div");
    this.more = h("div", null, field("Another number", this.choice), this.other);
    this.element = h("div", null, this.grid, this.more);
  }

  draw() {
    const { events } = this;
    if (events.steps.size === 0) {
      replace(this.grid, h("p", { class: "empty" }, "No step has been reported yet. The first curve comes with it."));
      this.more.hidden = true;
      return;
    }
    // What someone has opened or is reading stays so.
    const open = [...this.grid.querySelectorAll("details[open]")].map((box) => box.closest("figure")?.dataset.title);
    redraw(this.grid, CURVES.map((curve) => this.#chart(curve, open.includes(curve.title))));
    const names = events.names.filter((name) => !DRAWN.has(name));
    this.more.hidden = names.length === 0;
    const chosen = this.choice.value;
    if (this.choice.options.length !== names.length + 1) {
      replace(this.choice, h("option", { value: "" }, "Choose a number …"), names.map((name) => h("option", { value: name }, name)));
      this.choice.value = chosen;
    }
    this.#drawOther();
  }

  #drawOther() {
    const name = this.choice.value;
    const open = this.other.querySelector("details")?.open;
    redraw(this.other, name ? this.#chart({ title: name, numbers: [[name, name]] }, open) : null);
  }

  /** @param {Curve} curve @param {boolean} [open] whether its table is shown */
  #chart({ title, numbers, yMin, yMax, hint }, open = false) {
    const all = numbers.map(([name, words]) => ({ name: words, points: this.events.points(name) })).filter((one) => one.points.length);
    if (all.length === 0) return null;
    const width = Math.ceil(Math.max(...all.map((one) => one.points.length)) / MOST_POINTS);
    const series = all.map((one) => ({ ...one, points: thinned(one.points, width) }));
    const figure = lineChart({ title, xLabel: "step", series, yMin, yMax, open });
    figure.dataset.title = title;
    if (hint) figure.append(h("p", { class: "hint" }, hint));
    if (width > 1) figure.append(h("p", { class: "hint" }, `Each point is the mean of ${width} steps.`));
    return figure;
  }
}

/**
 * Of `width` points in a row the mean, at the last of them.
 * @param {[number, number][]} points
 * @param {number} width
 * @returns {[number, number][]}
 */
function thinned(points, width) {
  if (width === 1) return points;
  /** @type {[number, number][]} */
  const means = [];
  for (let at = 0; at < points.length; at += width) {
    const some = points.slice(at, at + width);
    means.push([some[some.length - 1][0], some.reduce((sum, [, value]) => sum + value, 0) / some.length]);
  }
  return means;
}
