// @ts-check
// Drawing anew what somebody may be in the midst of: the focus stays.

import { replace } from "./dom.js";

/**
 * Put `children` in the place of what is in `place`. If something in it had the focus, the like of it has it again.
 * @param {HTMLElement} place
 * @param {...import("./dom.js").Child} children
 */
export function redraw(place, ...children) {
  const before = focusable(place);
  const at = before.findIndex((one) => one === document.activeElement);
  replace(place, ...children);
  if (at === -1) return;
  const name = nameOf(before[at]);
  const nth = before.slice(0, at).filter((one) => nameOf(one) === name).length;
  focusable(place)
    .filter((one) => nameOf(one) === name)
    [nth]?.focus({ preventScroll: true });
}

/** @param {HTMLElement} place @returns {HTMLElement[]} */
const focusable = (place) => [...place.querySelectorAll("a, button, summary, [tabindex]")].map((one) => /** @type {HTMLElement} */ (one));

/** What tells a link, a button or a region from most others. @param {HTMLElement} one */
const nameOf = (one) => `${one.tagName} ${one.getAttribute("href") ?? one.getAttribute("aria-label") ?? one.textContent}`;
