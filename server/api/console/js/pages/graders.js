// @ts-check
// The bench for graders: a grader is written, checked, and tried on answers before a job is started with it.

import { ApiError } from "../api.js";
import { GRADER_DRAFT, draft, keepDraft } from "../drafts.js";
import { button, copyButton, field, h, replace } from "../dom.js";
import { form } from "../form.js";
import { resultCard, run, validate } from "../graders/grade.js";
import { graderField, pathInGrader } from "../graders/field.js";
import { graderRows } from "../graders/rows.js";
import { SAMPLE_ITEM, SAMPLE_OUTPUT } from "../graders/templates.js";
import { jsonField } from "../json_field.js";
import { baseModel } from "../models.js";

/**
 * @param {HTMLElement} root
 * @param {{api: import("../api.js").Api, params: Record<string, string>, signal: AbortSignal}} context
 */
export async function render(root, { api, params, signal }) {
  const model = await baseModel(api, signal);
  const grader = graderField(draft(GRADER_DRAFT) ?? "", model, () => keepDraft(GRADER_DRAFT, grader.control.value));
  const kept = draft("bench") ?? { item: JSON.stringify(SAMPLE_ITEM, null, 2), output: SAMPLE_OUTPUT };
  const keep = () => keepDraft("bench", { item: item.control.value, output: output.value });
  const item = jsonField("The row's fields", { rows: 4, empty: {}, value: kept.item, hint: "All but messages and tools; {{ item.answer }} is the field answer.", oninput: keep });
  const output = h("textarea", { rows: 5, value: kept.output, oninput: keep });
  const checked = h("div", { role: "status" });
  const result = h("div", { "aria-live": "polite" });

  /** Runs `act`; an error of the grader is shown in it. @param {() => Promise<void>} act */
  async function atItsPlace(act) {
    grader.clear();
    try {
      await act();
    } catch (error) {
      const path = error instanceof ApiError ? pathInGrader(error.param) : null;
      if (path === null) throw error;
      replace(checked);
      grader.complain(/** @type {ApiError} */ (error).message, path);
    }
  }

  const check = () =>
    atItsPlace(async () => {
      const known = await validate(api, grader.value(), signal);
      replace(
        checked,
        h("p", null, h("span", { class: "badge good" }, "Valid"), " A job would take it."),
        h("details", null, h("summary", null, "With its defaults"), h("pre", { class: "wrap" }, JSON.stringify(known, null, 2))),
      );
    });
  const tryIt = () =>
    atItsPlace(async () => {
      replace(result, h("p", { class: "quiet" }, "It is being graded …"));
      try {
        const body = { grader: grader.value(), item: item.value(), model_sample: output.value };
        replace(result, resultCard(await run(api, body, signal)));
      } catch (error) {
        replace(result);
        throw error;
      }
    });

  replace(
    root,
    h("h1", null, "Graders"),
    h("p", { class: "quiet" }, "A grader says what an answer is worth, and whatever it rewards will be learned. Try it on real answers before a job is started."),
    h(
      "div",
      { class: "columns" },
      h(
        "section",
        { class: "card", "aria-label": "Grader" },
        h("h2", null, "Grader"),
        grader.element,
        checked,
        h(
          "div",
          { class: "actions" },
          button("Check it", check),
          copyButton("Copy", () => grader.control.value),
          button("Start a job with it", () => {
            grader.value();
            keepDraft(GRADER_DRAFT, grader.control.value);
            location.hash = "#/jobs/new";
          }),
        ),
      ),
      h(
        "section",
        { class: "card", "aria-label": "One sample" },
        h("h2", null, "On one sample"),
        form(
          {},
          tryIt,
          item.element,
          field("The model's output", output),
          h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Run")),
        ),
        result,
      ),
    ),
    h(
      "section",
      { class: "card spaced", "aria-label": "Rows of a file" },
      h("h2", null, "On rows of a file"),
      graderRows(api, signal, { grader: () => grader.value(), output: () => output.value, model, file: params.file ?? "", atItsPlace }),
    ),
  );
}
