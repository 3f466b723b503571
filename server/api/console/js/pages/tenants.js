// @ts-check
// All tenants, for the operator; and the form that makes one.

import { ApiError } from "../api.js";
import { field, h, pagedTable, replace, toast } from "../dom.js";
import { form } from "../form.js";
import { number, time } from "../format.js";
import { quotaFields } from "../tenants/quotas.js";

/**
 * @param {HTMLElement} root
 * @param {{api: import("../api.js").Api, params: Record<string, string>, signal: AbortSignal}} context
 */
export async function render(root, { api, signal }) {
  const listing = h("div");
  replace(root, h("h1", null, "Tenants & keys"));
  const first = await orWhyNot(() => api.page("/v1/tenants", { query: { limit: 50 }, signal }));
  if (first instanceof ApiError) {
    root.append(notForYou(first));
    return;
  }
  const draw = (/** @type {any} */ page) => replace(listing, pagedTable("Tenants", COLUMNS, page, "There is no tenant yet. Make one below."));
  const name = h("input", { type: "text", name: "name", required: true, title: "Letters, digits, . _ and -; a letter or digit first.", pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", maxlength: 64, autocomplete: "off", spellcheck: "false" });
  const quotas = quotaFields({}, true);
  const whole = form(
    {},
    async () => {
      const made = await api.post("/v1/tenants", { name: name.value.trim(), ...quotas.values() }, { signal });
      toast(`Made the tenant ${made.name}. It has no keys yet.`);
      location.hash = `#/tenants/${encodeURIComponent(made.name)}`;
    },
    field("Name", name, "It never changes. Letters, digits, . _ and -"),
    quotas.element,
    h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Make the tenant")),
  );
  root.append(listing, h("section", { class: "card", "aria-label": "New tenant" }, h("details", null, h("summary", null, h("strong", null, "New tenant")), whole)));
  draw(first);
}

/** What `ask` gives, or the refusal of who may not ask. @template T @param {() => Promise<T>} ask @returns {Promise<T | ApiError>} */
export async function orWhyNot(ask) {
  try {
    return await ask();
  } catch (error) {
    if (error instanceof ApiError && error.status === 403) return error;
    throw error;
  }
}

/** @param {ApiError} error */
export function notForYou(error) {
  return h("div", { class: "notice" }, h("p", null, "Tenants and keys are the operator's. ", error.message));
}

/** @param {number | null} limit */
const shownLimit = (limit) => (limit === null ? "–" : number(limit));

/** @type {import("../dom.js").Column<any>[]} */
const COLUMNS = [
  { header: "Tenant", cell: (one) => h("a", { href: `#/tenants/${encodeURIComponent(one.name)}` }, one.name) },
  { header: "State", cell: (one) => (one.disabled_at === null ? h("span", { class: "badge good" }, "enabled") : h("span", { class: "badge bad" }, "disabled")) },
  { header: "Adapters", numeric: true, cell: (one) => `${number(one.adapter_count)}${one.max_adapters === null ? "" : ` of ${number(one.max_adapters)}`}` },
  { header: "Requests/min", numeric: true, cell: (one) => shownLimit(one.requests_per_minute) },
  { header: "Tokens/min", numeric: true, cell: (one) => shownLimit(one.tokens_per_minute) },
  { header: "At once", numeric: true, cell: (one) => shownLimit(one.max_concurrent_requests) },
  { header: "Weight", numeric: true, cell: (one) => one.weight },
  { header: "Made", cell: (one) => time(one.created_at) },
];
