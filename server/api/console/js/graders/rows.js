// @ts-check
// The second half of the bench: a grader on the first rows of a file, on what a model answers to them.

import { ApiError, isAbort } from "../api.js";
import { button, field, h, replace, table, toastError } from "../dom.js";
import { form } from "../form.js";
import { fileChoice } from "../files/choice.js";
import { digits, number } from "../format.js";
import { parsed } from "../json_text.js";
import { run, whyNotGraded } from "./grade.js";

const MOST_ROWS = 100;
const AT_ONCE = 2;
const SHOWN_CHARS = 600;

/** Whence the text to grade is. @typedef {{source: string, name: string, model: string, temperature?: number, max_tokens?: number, output: string}} How */
/** One row, what was said to it, and what that was worth. @typedef {{line: number, prompt: string, said: string, reward: number | null, why: string}} Graded */

/**
 * @param {import("../api.js").Api} api
 * @param {AbortSignal} signal
 * @param {{grader: () => any, output: () => string, model: string, file: string, atItsPlace: (act: () => Promise<void>) => Promise<void>}} about
 *   `atItsPlace` runs what it is given, and shows errors of the grader in it
 */
export function graderRows(api, signal, about) {
  const file = fileChoice(api, signal, "Choose a file …");
  const count = h("input", { type: "number", min: 1, max: MOST_ROWS, value: 8, required: true });
  const source = h(
    "select",
    null,
    h("option", { value: "model" }, "what a model says"),
    h("option", { value: "field" }, "a field of the row"),
    h("option", { value: "output" }, "the output above"),
  );
  const model = h("input", { type: "text", value: about.model, autocomplete: "off", spellcheck: "false" });
  const temperature = h("input", { type: "number", min: 0, max: 2, step: "any", value: 1 });
  const tokens = h("input", { type: "number", min: 1, value: 64 });
  const name = h("input", { type: "text", value: "answer", autocomplete: "off", spellcheck: "false" });
  const ofModel = h(
    "div",
    { class: "row" },
    field("Model or adapter", model, "As in chat: a base model, or an adapter's name."),
    field("Temperature", temperature),
    field("Most tokens", tokens),
  );
  const ofField = h("div", { class: "row", hidden: true }, field("Field", name));
  source.addEventListener("change", () => {
    ofModel.hidden = source.value !== "model";
    ofField.hidden = source.value !== "field";
  });
  const result = h("div", { class: "result", "aria-live": "polite" });
  file.refresh(about.file).catch(toastError);

  async function start() {
    if (!file.control.value) throw new ApiError("Choose a file to take rows from.");
    const grader = about.grader();
    // As they are now: they may be changed while rows are graded.
    const how = { source: source.value, name: name.value, model: model.value.trim() || about.model, temperature: numberIn(temperature), max_tokens: numberIn(tokens), output: about.output() };
    const stop = new AbortController();
    const gone = AbortSignal.any([signal, stop.signal]);
    const bar = h("progress", { max: 1, "aria-label": "Rows graded" });
    const words = h("span", { class: "quiet" }, "Rows are read …");
    replace(result, h("p", { class: "actions" }, bar, words, button("Stop", () => stop.abort(), { class: "small" })));
    /** @type {Graded[]} */
    const done = [];
    try {
      const rows = await firstRows(api, file.control.value, Number(count.value), gone);
      bar.max = rows.length;
      const queue = [...rows];
      const work = async () => {
        for (let row = queue.shift(); row !== undefined; row = queue.shift()) {
          done.push(await gradeRow(row, grader, how, gone));
          bar.value = done.length;
          replace(words, `${done.length} of ${rows.length} rows graded`);
        }
      };
      await Promise.all(Array.from({ length: AT_ONCE }, work));
    } catch (error) {
      stop.abort();
      if (signal.aborted) return;
      if (!isAbort(error)) throw error;
    } finally {
      replace(result, summary(done));
    }
  }

  /** @param {{line: number, row: any}} one @param {any} grader @param {How} how @param {AbortSignal} gone @returns {Promise<Graded>} */
  async function gradeRow({ line, row }, grader, how, gone) {
    const { messages, tools, ...item } = row;
    const content = messages.at(-1)?.content ?? "";
    const prompt = typeof content === "string" ? content : JSON.stringify(content);
    const said = await sampleOf(line, messages, tools, item, how, gone);
    const graded = await run(api, { grader, item, model_sample: said }, gone);
    const why = whyNotGraded(graded);
    return { line, prompt, said, reward: why ? null : graded.reward, why };
  }

  /** @param {number} line @param {any[]} messages @param {any} tools @param {any} item @param {How} how @param {AbortSignal} gone @returns {Promise<string>} */
  async function sampleOf(line, messages, tools, item, { source, name, model, temperature, max_tokens, output }, gone) {
    if (source === "output") return output;
    if (source === "field") {
      const value = Object.hasOwn(item, name) ? item[name] : undefined;
      if (value === undefined) throw new ApiError(`A row has no field ${name}; it has ${Object.keys(item).join(", ") || "messages alone"}.`);
      return typeof value === "string" ? value : JSON.stringify(value);
    }
    const body = { model, messages, tools, temperature, max_tokens, seed: line };
    const answer = await api.post("/v1/chat/completions", body, { signal: gone });
    return answer.choices[0].message.content ?? "";
  }

  return h(
    "div",
    null,
    form(
      {},
      () => about.atItsPlace(start),
      h("div", { class: "row" }, field("File", file.control), field("Rows", count, `The first ones, at most ${MOST_ROWS}.`), field("Grade", source)),
      ofModel,
      ofField,
      h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Run on the rows")),
    ),
    result,
  );
}

/**
 * @param {import("../api.js").Api} api @param {string} id @param {number} count @param {AbortSignal} signal
 * @returns {Promise<{line: number, row: any}[]>}
 */
async function firstRows(api, id, count, signal) {
  /** @type {{line: number, row: any}[]} */
  const rows = [];
  /** @type {{line: number | null, start: number | null}} */
  let at = { line: 1, start: 0 };
  while (rows.length < count && at.line !== null) {
    const page = await api.get(`/v1/files/${encodeURIComponent(id)}/lines`, { query: { limit: count, ...at }, signal });
    for (const { line, text, error } of page.data) {
      if (rows.length === count || !text.trim()) continue;
      if (error) throw new ApiError(`Line ${line} of the file cannot be trained on: ${error}`);
      rows.push({ line, row: parsed(text.replace(/^\uFEFF/, "")) });
    }
    at = { line: page.next_line, start: page.next_start };
  }
  return rows;
}

/** What is written in a control; of an empty one the server's default. @param {HTMLInputElement} control */
const numberIn = (control) => (control.value === "" ? undefined : Number(control.value));

/** @param {Graded[]} done */
function summary(done) {
  if (done.length === 0) return h("p", { class: "empty" }, "No row was graded.");
  const rows = done.toSorted((one, other) => one.line - other.line);
  const rewards = rows.flatMap((row) => (row.reward === null ? [] : [row.reward]));
  const failed = rows.length - rewards.length;
  const mean = rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length;
  const same = rewards.length > 1 && rewards.every((reward) => reward === rewards[0]);
  return [
    h(
      "p",
      null,
      rewards.length ? [h("strong", null, `Mean reward ${digits(mean, 3)}`), `, from ${digits(Math.min(...rewards))} to ${digits(Math.max(...rewards))}, of ${number(rewards.length)} rows.`] : "No row could be graded.",
      failed ? ` ${number(failed)} could not be graded.` : null,
    ),
    same ? h("p", { class: "notice" }, `All of them have the same reward, so these answers would teach nothing. ${rewards[0] > 0.5 ? "The rows may be too easy." : "The rows may be too hard, or the grader too strict: look at the answers below."}`) : null,
    table(
      "Graded rows",
      [
        { header: "Line", numeric: true, cell: (row) => row.line },
        { header: "Reward", numeric: true, cell: (row) => (row.reward === null ? h("span", { class: "badge bad" }, "none") : digits(row.reward, 3)) },
        { header: "Question", cell: (row) => short(row.prompt) },
        { header: "Graded text", cell: (row) => [row.why ? h("p", { class: "wrong" }, row.why) : null, short(row.said)] },
      ],
      rows,
    ),
  ];
}

/** @param {string} text */
const short = (text) => h("div", { class: "said" }, text.length > SHOWN_CHARS ? `${text.slice(0, SHOWN_CHARS)} …` : text || h("span", { class: "quiet" }, "(nothing)"));
