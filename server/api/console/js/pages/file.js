// @ts-check
// One file: what it is, whether it can be trained on, and its lines.

import { button, h, replace, toastError } from "../dom.js";
import { download } from "../files/download.js";
import { checkedFile } from "../files/check.js";
import { byteCount, number, time } from "../format.js";
import { longText } from "../long_text.js";
import { deleteButton } from "./files.js";

const SHOWN = 10;
const METHODS = ["reinforcement", "supervised", "evolution"];

/**
 * @param {HTMLElement} root
 * @param {{api: import("../api.js").Api, params: Record<string, string>, signal: AbortSignal}} context
 */
export async function render(root, { api, params, signal }) {
  const path = `/v1/files/${encodeURIComponent(params.id)}`;
  const file = await api.get(path, { signal });
  const method = h("select", null, METHODS.map((one) => h("option", { value: one }, one)));
  const forTraining = file.purpose === "fine-tune";
  const verdict = h("div");
  const lines = h("ol", { class: "lines", "aria-label": "Lines" });
  const more = button("Show more lines", () => show());
  /** @type {{line: number | null, start: number | null}} */
  let next = { line: 1, start: 0 };
  let another = new AbortController();
  let asked = signal;

  async function show() {
    if (next.line === null) return;
    const page = await api.get(`${path}/lines`, { query: { method: method.value, limit: SHOWN, ...next }, signal: asked });
    lines.append(...page.data.map((/** @type {any} */ line) => lineItem(forTraining ? line : { ...line, error: null })));
    next = { line: page.next_line, start: page.next_start };
    more.hidden = next.line === null;
  }

  /** From the first line on, for the method that is chosen now: what was asked for another one is not wanted any more. */
  async function again() {
    another.abort();
    another = new AbortController();
    asked = AbortSignal.any([signal, another.signal]);
    if (forTraining) replace(verdict, checkedFile(api, file.id, asked, method.value));
    replace(lines);
    next = { line: 1, start: 0 };
    more.hidden = false;
    await show();
  }

  method.addEventListener("change", () => again().catch(toastError));
  const facts = [
    ["Id", h("code", null, file.id)],
    ["Size", `${byteCount(file.bytes)} (${number(file.bytes)} bytes)`],
    ["Purpose", file.purpose],
    ["Uploaded", time(file.created_at)],
    ["Deleted by itself", file.expires_at === null ? "never" : time(file.expires_at)],
    ["SHA-256", h("code", null, file.sha256)],
  ];
  replace(
    root,
    h("p", null, h("a", { href: "#/files" }, "Files")),
    h("h1", null, file.filename),
    h(
      "section",
      { class: "card", "aria-label": "About the file" },
      h("dl", { class: "facts" }, facts.map(([name, value]) => [h("dt", null, name), h("dd", null, value)])),
      h(
        "div",
        { class: "actions" },
        forTraining
          ? [
              h("a", { class: "button primary", href: `#/jobs/new?file=${encodeURIComponent(file.id)}` }, "Train on it"),
              h("a", { class: "button", href: `#/graders?file=${encodeURIComponent(file.id)}` }, "Try a grader on it"),
            ]
          : null,
        download(api, file, signal),
        deleteButton(api, file, signal, () => {
          location.hash = "#/files";
        }),
      ),
    ),
    h(
      "section",
      { class: "card", "aria-label": "Lines of the file" },
      h("div", { class: "actions spread" }, h("h2", null, "Lines"), forTraining ? h("label", { class: "inline" }, "checked for ", method) : null),
      verdict,
      lines,
      h("p", null, more),
    ),
  );
  await again();
}

/** @param {{line: number, text: string, error: string | null}} line */
function lineItem({ line, text, error }) {
  return h(
    "li",
    { value: line, class: error ? "bad" : null },
    error ? h("p", { class: "wrong" }, error) : null,
    text.trim() ? longText(text) : h("p", { class: "quiet" }, "Empty; it is skipped."),
  );
}
