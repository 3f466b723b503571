// @ts-check
// An error at the control that it is about.

import { freshId, h } from "./dom.js";

/**
 * Show `message` below `control` until it is changed, and move the focus there.
 * @param {HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement} control within a field
 * @param {string} message
 */
export function complainAt(control, message) {
  const said = h("p", { class: "wrong", role: "alert", id: freshId("wrong") }, message);
  const before = control.getAttribute("aria-describedby") ?? "";
  control.setAttribute("aria-invalid", "true");
  control.setAttribute("aria-describedby", `${said.id} ${before}`.trim());
  (control.closest(".field") ?? control.parentElement)?.append(said);
  for (let box = control.closest("details"); box; box = box.parentElement?.closest("details") ?? null) box.open = true;
  const clear = () => {
    said.remove();
    control.removeAttribute("aria-invalid");
    control.setAttribute("aria-describedby", before);
    control.removeEventListener("input", clear);
    control.form?.removeEventListener("submit", clear, true);
  };
  control.addEventListener("input", clear);
  control.form?.addEventListener("submit", clear, true);
  control.focus();
}
