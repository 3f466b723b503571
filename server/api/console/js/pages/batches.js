// @ts-check
// Batches of requests: made from an uploaded file, watched while they are answered, and what came of them.

import { button, confirmed, field, h, replace, toast, toastError } from "../dom.js";
import { form } from "../form.js";
import { fileChoice } from "../files/choice.js";
import { fileUpload } from "../files/upload.js";
import { number, time } from "../format.js";
import { listing } from "../listing.js";
import { poll } from "../poll.js";

const BATCHES = "/v1/batches";
const PURPOSE = "batch";
const ENDPOINTS = ["/v1/chat/completions", "/v1/completions", "/v1/responses"];
const UNDER_WAY = ["validating", "in_progress", "finalizing", "cancelling"];
const LOOK_MS = 4000;

/**
 * @param {HTMLElement} root
 * @param {{api: import("../api.js").Api, params: Record<string, string>, signal: AbortSignal}} context
 */
export async function render(root, { api, signal }) {
  const file = fileChoice(api, signal, "Choose a file …", PURPOSE);
  file.control.required = true;
  file.control.name = "input_file_id";
  const endpoint = h("select", { name: "endpoint" }, ENDPOINTS.map((one) => h("option", { value: one }, one)));
  const silence = h("p", { class: "hint", role: "status" });
  // The same request again, after an answer that was lost, makes no second batch.
  let sent = { body: "", key: "" };

  async function create() {
    const body = { input_file_id: file.control.value, endpoint: endpoint.value, completion_window: "24h" };
    const text = JSON.stringify(body);
    if (sent.body !== text) sent = { body: text, key: `console-${Date.now()}-${Math.random()}` };
    await api.post(BATCHES, body, { headers: { "idempotency-key": sent.key }, signal });
    sent = { body: "", key: "" };
    toast("The batch is made. It is answered when nobody else asks.");
    await list.look();
  }

  /** @param {any} batch */
  async function cancel(batch) {
    if (!(await confirmed("Cancel this batch?", "What it has answered until now is kept, in its output file.", "Cancel the batch"))) return;
    await api.post(`${BATCHES}/${encodeURIComponent(batch.id)}/cancel`, undefined, { signal });
    await list.look();
  }

  /** @type {import("../dom.js").Column<any>[]} */
  const columns = [
    { header: "Batch", cell: (batch) => h("code", null, batch.id) },
    { header: "State", cell: stateOf },
    { header: "Lines", cell: linesOf },
    { header: "Endpoint", cell: (batch) => h("span", { class: "id" }, batch.endpoint) },
    { header: "Files", cell: filesOf },
    { header: "Made", cell: (batch) => time(batch.created_at) },
    { header: "Actions", cell: (batch) => (["validating", "in_progress"].includes(batch.status) ? button("Cancel", () => cancel(batch), { class: "small danger", "aria-label": `Cancel ${batch.id}` }) : null) },
  ];

  const none = () => "There is no batch yet. Upload a file with a request on each line, and make one above.";
  const list = listing("Batches", columns, () => api.page(BATCHES, { query: { limit: 20 }, signal }), none);
  replace(
    root,
    h("h1", null, "Batches"),
    h(
      "section",
      { class: "card", "aria-label": "New batch" },
      h("h2", null, "New batch"),
      form(
        {},
        create,
        h("div", { class: "row top" }, field("File with the requests", file.control), field("Endpoint", endpoint, "That of all of its lines.")),
        h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Make the batch")),
      ),
      h("details", { class: "spaced" }, h("summary", null, "Upload a file"), fileUpload(api, signal, (made) => made.purpose === PURPOSE && file.refresh(made.id).catch(toastError), PURPOSE)),
    ),
    list.element,
    silence,
  );
  await list.show();
  file.refresh().catch(toastError);
  poll(list.look, signal, LOOK_MS, silence);
}

/** @param {any} batch */
function stateOf(batch) {
  const kind = { completed: "good", failed: "bad", expired: "bad" }[/** @type {string} */ (batch.status)] ?? "";
  const errors = batch.errors?.data ?? [];
  return [
    h("span", { class: `badge ${kind}` }, batch.status.replaceAll("_", " ")),
    errors.slice(0, 3).map((/** @type {any} */ error) => h("p", { class: "wrong words" }, error.line ? `Line ${number(error.line)}: ` : "", error.message)),
  ];
}

/** @param {any} batch */
function linesOf(batch) {
  const { total, completed, failed } = batch.request_counts;
  const words = `${number(completed + failed)} of ${number(total)}${failed ? `, ${number(failed)} with an error` : ""}`;
  if (!UNDER_WAY.includes(batch.status) || !total) return words;
  return h("span", { class: "progress" }, h("progress", { max: total, value: completed + failed, "aria-label": `Lines of ${batch.id}` }), " ", words);
}

/** @param {any} batch */
function filesOf(batch) {
  const files = [["requests", batch.input_file_id], ["answers", batch.output_file_id], ["errors", batch.error_file_id]];
  const links = files.filter(([, id]) => id).map(([words, id]) => h("a", { href: `#/files/${encodeURIComponent(id)}` }, words));
  return links.flatMap((link, index) => (index ? [", ", link] : [link]));
}
