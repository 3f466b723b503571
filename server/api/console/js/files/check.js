// @ts-check
// Whether a file's lines can be trained on: the server is asked about all of them, a portion at a time.

import { isAbort } from "../api.js";
import { h, replace } from "../dom.js";
import { number } from "../format.js";

const MOST_SHOWN = 10;
const PORTION = 1000;

/** Lines that cannot be trained on. @typedef {{line: number, error: string}} BadLine */

/**
 * Looks at every line. Ends early when there are many bad ones.
 * @param {import("../api.js").Api} api
 * @param {string} id
 * @param {string} method
 * @param {AbortSignal} signal
 * @param {(lines: number, bad: BadLine[]) => void} progress
 * @returns {Promise<{lines: number, bad: BadLine[], whole: boolean}>}
 */
export async function checkLines(api, id, method, signal, progress) {
  /** @type {BadLine[]} */
  const bad = [];
  let lines = 0;
  /** @type {{line: number | null, start: number | null}} */
  let at = { line: 1, start: 0 };
  while (at.line !== null && bad.length < MOST_SHOWN) {
    const query = { method, only: "errors", limit: PORTION, ...at };
    const page = await api.get(`/v1/files/${encodeURIComponent(id)}/lines`, { query, signal });
    bad.push(...page.data);
    lines += page.lines_read;
    at = { line: page.next_line, start: page.next_start };
    progress(lines, bad);
  }
  return { lines, bad, whole: at.line === null };
}

/**
 * The check as it goes on, and what it found.
 * @param {import("../api.js").Api} api
 * @param {string} id
 * @param {AbortSignal} signal
 * @param {string} [method] none: whether they are for some method
 * @returns {HTMLElement}
 */
export function checkedFile(api, id, signal, method) {
  const shown = h("div", { class: "checked", role: "status" }, "Its lines are being checked …");
  run().catch((error) => {
    if (!isAbort(error)) replace(shown, h("p", { class: "wrong" }, `Its lines could not be checked: ${error.message}`));
  });
  return shown;

  async function run() {
    /** @param {string} one */
    const check = (one) => checkLines(api, id, one, signal, (lines) => replace(shown, `${number(lines)} lines checked …`));
    let found = await check(method ?? "reinforcement");
    let as = method ?? "reinforcement and evolution";
    if (method === undefined && found.bad.length) {
      const other = await check("supervised");
      if (other.bad.length < found.bad.length) [found, as] = [other, "supervised"];
    }
    replace(shown, verdict(found, as, id));
  }
}

/** @param {{lines: number, bad: BadLine[], whole: boolean}} found @param {string} method @param {string} id */
function verdict({ lines, bad, whole }, method, id) {
  if (bad.length === 0) return h("p", null, h("span", { class: "badge good" }, "Right"), ` ${lines === 1 ? "Its line" : `All ${number(lines)} lines`} can be trained on (${method}).`);
  const rest = whole && bad.length <= MOST_SHOWN ? "" : " and more";
  return [
    h("p", null, h("span", { class: "badge bad" }, "Wrong"), ` ${number(Math.min(bad.length, MOST_SHOWN))}${rest} of ${number(lines)} lines cannot be trained on (${method}). A job ends at the first of them.`),
    h("ul", { class: "bad-lines" }, bad.slice(0, MOST_SHOWN).map((one) => h("li", null, h("a", { href: `#/files/${encodeURIComponent(id)}` }, `Line ${number(one.line)}`), `: ${one.error}`))),
  ];
}
