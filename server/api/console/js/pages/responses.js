// @ts-check
// The tenant's stored responses, newest first; they are looked at again and again, for those that run.

import { keepInAddress } from "../address.js";
import { field, h, replace } from "../dom.js";
import { form } from "../form.js";
import { byteCount, time } from "../format.js";
import { listing } from "../listing.js";
import { poll } from "../poll.js";
import { RESPONSES, STATES, actionsOf, responseLink, stateBadge } from "../responses/words.js";

const PAGE = 50;
const LOOK_MS = 4000;

/**
 * @param {HTMLElement} root
 * @param {{api: import("../api.js").Api, params: Record<string, string>, signal: AbortSignal}} context
 */
export async function render(root, { api, params, signal }) {
  const state = h("select", { name: "status", value: STATES.includes(params.status) ? params.status : "" }, h("option", { value: "" }, "all"), STATES.map((one) => h("option", { value: one }, one.replaceAll("_", " "))));
  const model = h("input", { type: "text", name: "model", value: params.model ?? "", autocomplete: "off", spellcheck: "false", maxlength: 255 });
  const silence = h("p", { class: "hint", role: "status" });
  let query = { status: "", model: "" };

  const show = async () => {
    query = { status: state.value, model: model.value.trim() };
    keepInAddress(query);
    await list.show();
  };

  /** @type {import("../dom.js").Column<any>[]} */
  const columns = [
    { header: "Response", cell: (one) => responseLink(one.id) },
    { header: "State", cell: stateBadge },
    { header: "Model", cell: (one) => one.model ?? h("span", { class: "quiet" }, "not known") },
    { header: "Goes on from", cell: (one) => (one.previous_response_id ? responseLink(one.previous_response_id) : h("span", { class: "quiet" }, "–")) },
    { header: "Made", cell: (one) => [time(one.created_at), one.background ? h("p", { class: "hint" }, "in the background") : null] },
    { header: "Size", numeric: true, cell: (one) => byteCount(one.bytes) },
    { header: "Actions", cell: (one) => actionsOf(api, one, signal, { changed: list.look, deleted: list.look }) },
  ];

  const none = () => (query.status || query.model ? "No stored response has this state and this model." : "There is no stored response yet. /v1/responses stores what it answers.");
  const list = listing("Responses", columns, () => api.page(RESPONSES, { query: { ...query, limit: PAGE }, signal }), none);
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
    list.element,
    silence,
  );
  await show();
  poll(list.look, signal, LOOK_MS, silence);
}
