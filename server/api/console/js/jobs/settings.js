// @ts-check
// The settings of a job that have a control in its form; all others are written as JSON.

import { ApiError } from "../api.js";
import { field, h } from "../dom.js";
import { parsed } from "../json_text.js";

const REWARDED = ["reinforcement", "evolution"];

/**
 * `path`: where it is in `tinylora`. `methods`: those that have it; all where there are none.
 * @typedef {{path: string[], label: string, methods?: string[], hint?: string, min: number, whole: boolean}} Setting
 */

/** @type {Setting[]} */
const SETTINGS = [
  { path: ["max_steps"], label: "Steps", min: 1, whole: true, hint: "At most. Empty: until the epochs are over." },
  { path: ["epochs"], label: "Epochs", min: 1, whole: true, hint: "Times that every row is seen. Empty: as often as the steps ask for, or as makes 20 steps at least." },
  { path: ["batch_size"], label: "Rows in a step", min: 1, whole: true },
  { path: ["group_size"], label: "Completions of a prompt", methods: ["reinforcement"], min: 2, whole: true, hint: "They teach where their rewards differ." },
  { path: ["population_size"], label: "Vectors tried in a step", methods: ["evolution"], min: 4, whole: true, hint: "An even number." },
  { path: ["max_completion_tokens"], label: "Most tokens of a completion", methods: REWARDED, min: 1, whole: true },
  { path: ["temperature"], label: "Temperature", methods: REWARDED, min: 0, whole: false },
  { path: ["learning_rate_multiplier"], label: "Learning rate, times", min: 0, whole: false, hint: "1 is measured for the model; 0.3 is careful, 3 is bold." },
  { path: ["eval_interval"], label: "Steps between evaluations", min: 1, whole: true, hint: "Each of them gives a checkpoint." },
  { path: ["recipe", "groups"], label: "Groups", min: 1, whole: true, hint: "Of numbers in the vector." },
  { path: ["recipe", "u"], label: "Numbers per group", min: 1, whole: true },
];

/** What the server sets itself. */
const OWN = ["init"];

/** The controls of the settings, and what is in them. */
export class Settings {
  constructor() {
    this.controls = SETTINGS.map((setting) => ({
      setting,
      control: h("input", { type: "number", min: setting.min, step: setting.whole ? 1 : "any", placeholder: "default" }),
    }));
    this.element = h("div", { class: "settings" }, this.controls.map(({ setting, control }) => field(setting.label, control, setting.hint)));
  }

  /** Show those of a method. @param {string} method */
  show(method) {
    for (const { setting, control } of this.controls) {
      const has = !setting.methods || setting.methods.includes(method);
      /** @type {HTMLElement} */ (control.closest(".field")).hidden = !has;
      control.disabled = !has;
    }
  }

  /** What is set, beside the `others`, which may name none of it. @param {Record<string, any>} others @returns {Record<string, any>} */
  value(others) {
    const made = parsed(JSON.stringify(others));
    for (const { setting, control } of this.controls) {
      if (control.disabled || control.value === "") continue;
      let place = made;
      for (const step of setting.path.slice(0, -1)) place = place[step] ??= {};
      const name = setting.path[setting.path.length - 1];
      if (place[name] !== undefined) throw new ApiError(`${setting.label} is set above, and as ${setting.path.join(".")} among the other settings too; leave out one of them.`, { param: `others.${setting.path.join(".")}` });
      place[name] = Number(control.value);
    }
    return made;
  }

  /** Put the settings of a job into the controls. @param {Record<string, any>} tinylora @returns {Record<string, any>} the others */
  take(tinylora) {
    const others = parsed(JSON.stringify(tinylora));
    for (const name of OWN) delete others[name];
    for (const { setting, control } of this.controls) {
      /** @type {any} */
      let place = others;
      for (const step of setting.path.slice(0, -1)) place = place?.[step];
      const name = setting.path[setting.path.length - 1];
      const value = place?.[name] ?? "";
      control.value = typeof value === "object" ? JSON.stringify(value) : value;
      if (place) delete place[name];
    }
    return others;
  }

  /** The control of a field of `tinylora`. @param {string} path @returns {HTMLInputElement | undefined} */
  at(path) {
    return this.controls.find(({ setting, control }) => setting.path.join(".") === path && !control.disabled)?.control;
  }

  /** What is written in the controls, to be kept. @returns {Record<string, string>} */
  get written() {
    return Object.fromEntries(this.controls.map(({ setting, control }) => [setting.path.join("."), control.value]));
  }

  /** @param {Record<string, string>} values */
  set written(values) {
    for (const { setting, control } of this.controls) control.value = values[setting.path.join(".")] ?? "";
  }
}
