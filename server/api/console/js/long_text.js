// @ts-check
// Texts of any length: the beginning of a long one, and all of it for who asks.

import { button, h, replace } from "./dom.js";
import { number } from "./format.js";

const MOST_CHARS = 5000;

/** @param {string} text @param {number} [most] characters that are shown at first @returns {any[]} */
export function longText(text, most = MOST_CHARS) {
  if (text.length <= most) return [h("pre", { class: "wrap" }, text)];
  const shown = h("pre", { class: "wrap", tabindex: "-1" }, `${text.slice(0, most)} …`);
  const all = button(`Show all ${number(text.length)} characters`, () => {
    replace(shown, text);
    all.remove();
    shown.focus();
  });
  return [shown, h("p", null, all)];
}
