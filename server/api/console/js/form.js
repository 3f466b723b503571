// @ts-check
// Forms, and errors at the control that they are about.

import { clearErrors, freshId, h, toastError } from "./dom.js";

/** @typedef {HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement} Control */

/**
 * A form that cannot be sent twice at once. `act` gets the submit event; what it throws is shown: at the control whose
 * name is the error's `param`, or else as a message.
 * @param {Record<string, any>} attributes
 * @param {(event: SubmitEvent) => unknown} act
 * @param {...import("./dom.js").Child} children
 */
export function form(attributes, act, ...children) {
  /** @param {SubmitEvent} event */
  const onsubmit = async (event) => {
    event.preventDefault();
    const element = /** @type {HTMLFormElement} */ (event.currentTarget);
    if (element.dataset.busy) return;
    element.dataset.busy = "yes";
    element.setAttribute("aria-busy", "true");
    clearErrors();
    try {
      await act(event);
    } catch (error) {
      const { param, message } = /** @type {{param?: string, message: string}} */ (error);
      const control = param ? /** @type {Control | null} */ (element.querySelector(`[name="${CSS.escape(param)}"]`)) : null;
      if (control) complainAt(control, message);
      else toastError(error);
    } finally {
      delete element.dataset.busy;
      element.removeAttribute("aria-busy");
    }
  };
  const element = h("form", { onsubmit, ...attributes }, ...children);
  // A browser says nothing of a control that cannot be seen.
  element.addEventListener("invalid", (/** @type {Event} */ event) => openAround(/** @type {Element} */ (event.target)), true);
  return element;
}

/** Have `element` be seen, whatever it is folded up in. @param {Element} element */
export function openAround(element) {
  for (let box = element.closest("details"); box; box = box.parentElement?.closest("details") ?? null) box.open = true;
}

/**
 * Show `message` below `control`, or the group that it is in, until that is changed, and move the focus there.
 * @param {Control} control within a field
 * @param {string} message
 */
export function complainAt(control, message) {
  const said = h("p", { class: "wrong", role: "alert", id: freshId("wrong") }, message);
  const before = control.getAttribute("aria-describedby") ?? "";
  const place = control.closest(".field, fieldset") ?? control.parentElement;
  control.setAttribute("aria-invalid", "true");
  control.setAttribute("aria-describedby", `${said.id} ${before}`.trim());
  place?.append(said);
  openAround(control);
  const clear = () => {
    said.remove();
    control.removeAttribute("aria-invalid");
    control.setAttribute("aria-describedby", before);
    place?.removeEventListener("input", clear);
    control.form?.removeEventListener("submit", clear, true);
  };
  place?.addEventListener("input", clear);
  control.form?.addEventListener("submit", clear, true);
  control.focus();
}
