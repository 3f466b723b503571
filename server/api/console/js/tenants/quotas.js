// @ts-check
// The fields of quotas, of a tenant or a key. An empty one is no limit. What is not changed is not sent, so that nobody
// else's change is undone by somebody who has not seen it.

import { field, h } from "../dom.js";

const OF_REQUESTS = [
  { name: "requests_per_minute", label: "Requests per minute", min: 1 },
  { name: "tokens_per_minute", label: "Tokens per minute", min: 1 },
  { name: "max_concurrent_requests", label: "Requests at once", min: 1 },
];
const OF_TENANTS = [
  { name: "tokens_per_month", label: "Tokens per month", min: 1 },
  { name: "priority_requests_per_minute", label: "Requests with priority per minute", min: 1 },
  { name: "max_adapters", label: "Adapters", min: 0 },
];
/** What there is without a word; of all else nothing. @type {Record<string, number>} */
const BY_DEFAULT = { weight: 1 };

/**
 * @param {Record<string, any>} current
 * @param {boolean} ofTenant
 * @returns {{element: HTMLElement, values: () => Record<string, number | null>}}
 */
export function quotaFields(current, ofTenant) {
  const known = ofTenant ? [...OF_REQUESTS, ...OF_TENANTS] : OF_REQUESTS;
  const inputs = known.map(({ name, label, min }) => ({
    name,
    label,
    input: h("input", { type: "number", name, min, max: 1e12, step: 1, value: current[name] ?? "" }),
  }));
  const weight = h("input", { type: "number", name: "weight", min: 0.001, max: 1000, step: "any", value: current.weight ?? BY_DEFAULT.weight, required: true });
  const values = () => {
    /** @type {Record<string, number | null>} */
    const found = {};
    for (const { name, input } of inputs) found[name] = input.value === "" ? null : Number(input.value);
    if (ofTenant) found.weight = Number(weight.value);
    return Object.fromEntries(Object.entries(found).filter(([name, value]) => value !== (current[name] ?? BY_DEFAULT[name] ?? null)));
  };
  const fields = inputs.map(({ label, input }) => field(label, input));
  if (ofTenant) fields.push(field("Weight", weight));
  const hint = ofTenant ? "Empty: no limit, and no request with priority. The weight is the tenant's share of a full server, relative to the others'." : "Empty: no limit but the tenant's.";
  return { element: h("fieldset", null, h("legend", null, "Quotas"), h("div", { class: "row" }, fields), h("p", { class: "hint" }, hint)), values };
}
