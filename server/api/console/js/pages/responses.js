// @ts-check
// The tenant's stored responses, newest first; the listing is looked at again and again, for those that run.

import { button, field, form, h, replace, table } from "../dom.js";
import { byteCount, time } from "../format.js";
import { poll } from "../poll.js";
import { RESPONSES, STATES, actionsOf, responseLink, stateBadge } from "../responses/words.js";

export const title = "Responses";

const PAGE = 50;
const LOOK_MS = 4000;

/**
 * @param {HTMLElement} root
 * @param {{api: import("../api.js").Api, params: Record<string, string>, signal: AbortSignal}} context
 */
export async function render(root, { api, signal }) {
  const state = h("select", null, h("option", { value: "" }, "all"), STATES.map((one) => h("option", { value: one }, one.replaceAll("_", " "))));
  const model = h("input", { type: "text", autocomplete: "off", spellcheck: "false", maxlength: 255 });
  const listing = h("div");
  const silence = h("p", { class: "hint", role: "status" });
  let query = {};
  /** @type {any[]} */
  let responses = [];
  /** @type {(() => Promise<any>) | null} */
  let next = null;
  let drawn = "";

  const first = () => api.page(RESPONSES, { query: { ...query, limit: PAGE }, signal });

  async function show() {
    query = { status: state.value, model: model.value.trim() };
    const page = await first();
    ({ items: responses, next } = page);
    more.hidden = next === null;
    draw();
  }

  function draw() {
    if (drawn === (drawn = JSON.stringify(responses))) return;
    const focused = /** @type {HTMLElement | null} */ (document.activeElement);
    const again = focused && listing.contains(focused) ? (focused.getAttribute("href") ?? focused.getAttribute("aria-label")) : null;
    const none = state.value || model.value ? "No response is like that." : "There is no stored response yet. /v1/responses stores what it answers.";
    replace(listing, responses.length ? table("Responses", columns, responses) : h("p", { class: "empty" }, none));
    if (again) /** @type {HTMLElement | null} */ (listing.querySelector(`[href="${CSS.escape(again)}"], [aria-label="${CSS.escape(again)}"]`))?.focus();
  }

  async function look() {
    const page = await first();
    // What is not among the newest any more has been deleted, or has made room.
    const oldest = page.next === null ? "" : page.items.at(-1).id;
    responses = [...page.items, ...responses.filter((one) => one.id < oldest)];
    draw();
    return true;
  }

  /** @type {import("../dom.js").Column<any>[]} */
  const columns = [
    { header: "Response", cell: (one) => responseLink(one.id) },
    { header: "State", cell: stateBadge },
    { header: "Model", cell: (one) => one.model ?? h("span", { class: "quiet" }, "not known") },
    { header: "Goes on from", cell: (one) => (one.previous_response_id ? responseLink(one.previous_response_id) : h("span", { class: "quiet" }, "–")) },
    { header: "Made", cell: (one) => [time(one.created_at), one.background ? h("p", { class: "hint" }, "in the background") : null] },
    { header: "Size", numeric: true, cell: (one) => byteCount(one.bytes) },
    { header: "Actions", cell: (one) => actionsOf(api, one, signal, { changed: look, deleted: look }) },
  ];

  const more = button("Show more", async () => {
    if (next === null) return;
    const page = await next();
    next = page.next;
    responses = [...responses, ...page.items];
    more.hidden = next === null;
    draw();
  });
  more.hidden = true;
  replace(
    root,
    h("h1", null, "Responses"),
    form(
      { class: "row", "aria-label": "Which responses" },
      show,
      field("State", state),
      field("Model", model, "An adapter, with or without a version, or the base model."),
      h("button", { type: "submit" }, "Show"),
    ),
    listing,
    silence,
    h("p", null, more),
  );
  await show();
  poll(look, signal, LOOK_MS, (error) => replace(silence, error ? `The list may be old: ${error.message} It is asked for again.` : ""));
}
