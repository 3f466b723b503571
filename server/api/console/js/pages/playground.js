// @ts-check
// Two answers to one question side by side: each by the base model, an adapter at some strength, or a mixture.

import { isAbort } from "../api.js";
import { button, field, h, replace, toastError } from "../dom.js";
import { form } from "../form.js";
import { draft, keepDraft } from "../drafts.js";
import { adapterChoice } from "../playground/choice.js";
import { answerColumn } from "../playground/answer.js";

const DRAFT = "playground";

/**
 * @param {HTMLElement} root
 * @param {{api: import("../api.js").Api, params: Record<string, string>, signal: AbortSignal}} context
 */
export async function render(root, { api, params, signal }) {
  const [models, adapters] = await Promise.all([
    api.get("/v1/models", { query: { limit: 20 }, signal }),
    api.page("/v1/adapters", { query: { limit: 100 }, signal }).catch((error) => {
      // A key that may only run the model sees no adapters; names can still be typed.
      if (isAbort(error)) throw error;
      return { items: [], next: null };
    }),
  ]);
  const bases = models.data.filter((/** @type {any} */ model) => model.parent === null).map((/** @type {any} */ model) => model.id);
  const names = adapters.items.map((adapter) => adapter.name);

  const { question = "", instructions = "" } = draft(DRAFT) ?? {};
  const system = h("textarea", { rows: 2, value: instructions });
  const prompt = h("textarea", { rows: 4, required: true, value: question });
  const keep = () => keepDraft(DRAFT, { question: prompt.value, instructions: system.value });
  for (const written of [system, prompt]) written.addEventListener("input", keep);
  const base = h("select", null, bases.map((/** @type {string} */ one) => h("option", { value: one }, one)));
  const maxTokens = h("input", { type: "number", min: 1, max: 100000, value: 128, required: true });
  const temperature = h("input", { type: "number", min: 0, max: 2, step: "any", value: 0, required: true });
  const seed = h("input", { type: "number", min: 0, step: 1, value: 1, required: true });
  const suggestions = h("datalist", { id: "adapter-names" }, names.map((name) => h("option", { value: name })));

  /** What a column sends. @param {any} adapter the field `adapter`, undefined for the base model */
  function request(adapter) {
    const messages = [{ role: "user", content: prompt.value }];
    if (system.value.trim()) messages.unshift({ role: "system", content: system.value });
    return {
      model: base.value,
      ...(adapter === undefined ? {} : { adapter }),
      messages,
      max_tokens: Number(maxTokens.value),
      temperature: Number(temperature.value),
      seed: Number(seed.value),
    };
  }

  const columns = [
    answerColumn(api, "Left", adapterChoice(api, signal, params.left ?? ""), request),
    answerColumn(api, "Right", adapterChoice(api, signal, params.right ?? ""), request),
  ];
  let stopping = new AbortController();
  signal.addEventListener("abort", () => stopping.abort());
  const stop = button("Stop", () => stopping.abort(), { hidden: true });
  const ask = h("button", { type: "submit", class: "primary" }, "Ask both");
  const status = h("p", { class: "hidden", role: "status" });

  async function run() {
    stopping = new AbortController();
    stop.hidden = false;
    ask.ariaDisabled = "true"; // It keeps the focus.
    replace(status, "Both are answering.");
    try {
      const answers = await Promise.all(columns.map((column) => column.ask(stopping.signal)));
      if (stopping.signal.aborted) {
        replace(status, "Stopped.");
        return;
      }
      await Promise.all(columns.map((column, at) => column.compare(answers[at], columns[1 - at], stopping.signal)));
      replace(status, "Both have answered.");
    } finally {
      ask.ariaDisabled = null;
      if (document.activeElement === stop) ask.focus();
      stop.hidden = true;
    }
  }

  // Enter with Ctrl or Cmd sends, as in other places where one writes several lines.
  prompt.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) whole.requestSubmit();
  });
  const whole = form(
    {},
    () => run().catch(toastError),
    h(
      "section",
      { class: "card", "aria-label": "What is asked" },
      field("Question", prompt, "Ctrl+Enter asks."),
      h("details", { open: Boolean(instructions) }, h("summary", null, "System message"), field("System message", system)),
      h(
        "div",
        { class: "row" },
        bases.length > 1 ? field("Model", base) : null,
        field("Most tokens", maxTokens),
        field("Temperature", temperature),
        field("Seed, the same for both", seed),
      ),
      h("div", { class: "actions" }, ask, stop),
    ),
    suggestions,
    h("div", { class: "columns" }, columns.map((column) => column.element)),
    status,
  );
  replace(root, h("h1", null, "Playground"), whole);
}
