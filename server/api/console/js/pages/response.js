// @ts-check
// One response: what it was asked, what it answered, and the responses that it goes on from.

import { ApiError } from "../api.js";
import { button, h, replace } from "../dom.js";
import { number, time } from "../format.js";
import { longText } from "../long_text.js";
import { poll } from "../poll.js";
import { itemView } from "../responses/items.js";
import { actionsOf, isRunning, pathOf, responseLink, stateBadge } from "../responses/words.js";

const LOOK_MS = 2000;
const ITEMS = 20;
const TURNS = 10;

/**
 * @param {HTMLElement} root
 * @param {{api: import("../api.js").Api, params: Record<string, string>, signal: AbortSignal}} context
 */
export async function render(root, { api, params, signal }) {
  const path = pathOf(params.id);
  const about = h("section", { class: "card", "aria-label": "About the response" });
  const answer = h("div", { "aria-live": "polite" });
  const silence = h("p", { class: "hint", role: "status" });
  let drawn = "";

  /** @param {any} response */
  function draw(response) {
    if (drawn === (drawn = JSON.stringify(response))) return;
    const then = {
      changed: draw,
      deleted: () => {
        location.hash = "#/responses";
      },
    };
    replace(about, factsOf(response), h("div", { class: "actions" }, actionsOf(api, response, signal, then)));
    const none = isRunning(response) ? "There is no answer yet." : "There is no answer.";
    replace(answer, response.output.length ? h("ul", { class: "completions", "aria-label": "Output" }, response.output.map(itemView)) : h("p", { class: "quiet" }, none));
  }

  const response = await api.get(path, { signal });
  draw(response);
  replace(
    root,
    h("p", null, h("a", { href: "#/responses" }, "Responses")),
    h("h1", null, "Response ", h("code", null, `…${response.id.slice(-8)}`)),
    about,
    silence,
    response.previous_response_id ? turnsBefore(api, response.previous_response_id, signal) : null,
    h("section", { class: "card", "aria-label": "Input of the response" }, h("h2", null, "Input"), await inputOf(api, path, signal)),
    h("section", { class: "card", "aria-label": "Answer of the response" }, h("h2", null, "Output"), answer),
  );
  const look = async () => {
    const now = await api.get(path, { signal });
    draw(now);
    return isRunning(now);
  };
  if (isRunning(response)) poll(look, signal, LOOK_MS, silence);
}

/** @param {any} response */
function factsOf(response) {
  const { usage, error, incomplete_details: cut } = response;
  const why = error?.message ?? (cut?.reason ? `Cut off: ${cut.reason.replaceAll("_", " ")}` : null);
  const facts = [
    ["Id", h("code", null, response.id)],
    ["State", [stateBadge(response), why ? h("p", { class: error ? "wrong" : "hint" }, why) : null]],
    ["Model", response.model ?? "–"],
    ["Made", [time(response.created_at), response.background ? ", in the background" : ""]],
    ["Ended", time(response.completed_at)],
    ["Tokens", usage ? `${number(usage.input_tokens)} in, ${number(usage.output_tokens)} out` : "–"],
    ["Instructions", response.instructions ? longText(String(response.instructions)) : "–"],
  ];
  return h("dl", { class: "facts" }, facts.map(([name, value]) => [h("dt", null, name), h("dd", null, value)]));
}

/**
 * What the response was asked, those of the turns before it first.
 * @param {import("../api.js").Api} api @param {string} path @param {AbortSignal} signal
 */
async function inputOf(api, path, signal) {
  const list = h("ul", { class: "completions", "aria-label": "Input" });
  let page = await api.page(`${path}/input_items`, { query: { order: "asc", limit: ITEMS }, signal });
  list.append(...page.items.map(itemView));
  if (page.items.length === 0) return h("p", { class: "quiet" }, "Nothing.");
  const more = button("Show more", async () => {
    if (page.next === null) return;
    page = await page.next();
    list.append(...page.items.map(itemView));
    more.hidden = page.next === null;
  });
  more.hidden = page.next === null;
  return h("div", null, list, h("p", null, more));
}

/**
 * The responses that this one goes on from, the last one first; they are looked up when somebody asks.
 * @param {import("../api.js").Api} api @param {string} previous @param {AbortSignal} signal
 */
function turnsBefore(api, previous, signal) {
  const list = h("ol", { class: "turns", "aria-label": "Goes on from" }, h("li", null, responseLink(previous)));
  /** @type {string | null} */
  let at = previous;
  const more = button("Show the turns before", async () => {
    for (let turns = 0; turns < TURNS && at !== null; turns += 1) {
      const id = at;
      const line = /** @type {HTMLElement} */ (list.lastElementChild);
      try {
        const { status, model, created_at: made, previous_response_id: before } = await api.get(pathOf(id), { signal });
        replace(line, responseLink(id), " ", stateBadge({ status }), " ", time(made), model ? `, by ${model}` : "");
        at = before;
      } catch (error) {
        if (!(error instanceof ApiError && error.status === 404)) throw error;
        replace(line, h("code", null, `…${id.slice(-8)}`), " ", h("span", { class: "quiet" }, "is deleted, or too old; what was said in it is below"));
        at = null;
      }
      if (at !== null) list.append(h("li", null, responseLink(at)));
    }
    more.hidden = at === null;
  });
  return h("section", { class: "card", "aria-label": "Conversation" }, h("h2", null, "Goes on from"), list, h("p", null, more));
}
