// @ts-check
// Where a grader is written, begun from a template of its kind.

import { confirmed, field, h, replace } from "../dom.js";
import { TEMPLATES, written } from "./templates.js";
import { jsonField } from "../json_field.js";

/**
 * @param {string} text JSON of a grader, or "" for the first template
 * @param {string} model what stands in templates that need a judge
 * @param {() => void} [oninput]
 * @returns {import("../json_field.js").JsonField} with the choice of a template above it
 */
export function graderField(text, model, oninput) {
  const json = jsonField("Grader", { rows: 12, value: text || written(TEMPLATES[0].grader), oninput });
  const choice = h("select", null, h("option", { value: "" }, "Choose one …"), TEMPLATES.map((one) => h("option", { value: one.name }, one.name)));
  const about = h("p", { class: "hint", role: "status" });
  let begun = json.control.value;
  choice.addEventListener("change", async () => {
    const template = TEMPLATES.find((one) => one.name === choice.value);
    if (template === undefined) return;
    const untouched = json.control.value === begun || !json.control.value.trim();
    if (!untouched && !(await confirmed("Begin from this template?", "The grader that is written here is lost.", "Begin anew"))) {
      choice.value = "";
      return;
    }
    json.set(written(template.grader).replaceAll("MODEL", model));
    begun = json.control.value;
    replace(about, template.about);
    oninput?.();
  });
  const element = h("div", { class: "template" }, field("Begin from a template", choice), about, json.element);
  return { ...json, element };
}

/** The part of an API's `param` that is within a grader: "" is all of it, null is something else. @param {string | null} param */
export function pathInGrader(param) {
  const inside = /^(?:method\.\w+\.)?grader(?:\.(.*))?$/.exec(param ?? "");
  return inside ? (inside[1] ?? "") : null;
}
