// @ts-check
// A text in which JSON is written: what is wrong with it is said below it, and selected in it.

import { ShownError, field, freshId, h, replace } from "./dom.js";
import { openAround } from "./form.js";
import { lineOf, offsetOf, placeOf } from "./json_place.js";
import { parsed } from "./json_text.js";

/**
 * @typedef {object} JsonField
 * @property {HTMLElement} element
 * @property {HTMLTextAreaElement} control
 * @property {() => any} value what is written; shows what is wrong and throws a ShownError where that is no JSON of the kind
 * @property {(value: unknown) => void} set
 * @property {(message: string, path?: string) => void} complain show a message about the value at `path`
 * @property {() => void} clear take a message away
 */

/**
 * @param {string} label
 * @param {{rows?: number, kind?: "object" | "list", empty?: unknown, hint?: string, value?: unknown, oninput?: () => void}} [about]
 *   `empty` is the value of an empty text, which is refused where there is none
 * @returns {JsonField}
 */
export function jsonField(label, { rows = 6, kind = "object", empty, hint, value, oninput } = {}) {
  const control = h("textarea", { rows, class: "mono", spellcheck: "false", autocapitalize: "off" });
  const wrong = h("p", { class: "wrong", id: freshId("wrong"), role: "alert", hidden: true });
  const element = field(label, control, hint);
  element.append(wrong);
  const hintId = control.getAttribute("aria-describedby") ?? "";

  function clear() {
    if (wrong.hidden) return;
    wrong.hidden = true;
    replace(wrong);
    control.removeAttribute("aria-invalid");
    control.setAttribute("aria-describedby", hintId);
  }

  /** @param {string} message @param {number} start @param {number} end */
  function point(message, start, end) {
    const { line, column } = lineOf(control.value, start);
    const several = control.value.includes("\n");
    replace(wrong, several ? `Line ${line}, column ${column}: ${message}` : message);
    wrong.hidden = false;
    control.setAttribute("aria-invalid", "true");
    control.setAttribute("aria-describedby", `${wrong.id} ${hintId}`.trim());
    openAround(control);
    control.focus();
    control.setSelectionRange(start, end);
    control.scrollTop = ((line - 3) / control.value.split("\n").length) * control.scrollHeight;
  }

  /** @param {string} message @param {string} [path] */
  function complain(message, path = "") {
    const place = placeOf(control.value, path) ?? { start: 0, end: 0 };
    const whole = place.end >= control.value.trimEnd().length && place.start === 0;
    point(message, place.start, whole ? place.start : place.end);
  }

  function read() {
    clear();
    const text = control.value;
    if (!text.trim() && empty !== undefined) return empty;
    let read;
    try {
      read = parsed(text);
    } catch (error) {
      const at = offsetOf(error, text);
      const said = text.trim() ? (error instanceof Error ? error.message : "").replace(/ (in JSON )?at position .*/s, "") : "There is nothing here.";
      point(`This is not JSON. ${said}`, at, Math.min(at + 1, text.length));
      throw new ShownError();
    }
    const isList = Array.isArray(read);
    if (typeof read !== "object" || read === null || isList !== (kind === "list")) {
      complain(kind === "list" ? "Expected a list, [...]." : "Expected an object, {...}.");
      throw new ShownError();
    }
    return read;
  }

  control.addEventListener("input", () => {
    clear();
    oninput?.();
  });
  /** @param {unknown} to */
  const set = (to) => {
    control.value = typeof to === "string" ? to : JSON.stringify(to, null, 2);
    clear();
  };
  if (value !== undefined) set(value);
  return { element, control, value: read, set, complain, clear };
}
