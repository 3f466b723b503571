// @ts-check
// All adapters of the tenant, and the upload of new ones.

import { keepInAddress } from "../address.js";
import { field, h, pagedTable, replace, toast } from "../dom.js";
import { form } from "../form.js";
import { byteCount, time } from "../format.js";
import { uploadForm } from "../adapters/upload.js";

/**
 * @param {HTMLElement} root
 * @param {{api: import("../api.js").Api, params: Record<string, string>, signal: AbortSignal}} context
 */
export async function render(root, { api, params, signal }) {
  const prefix = h("input", { type: "search", name: "prefix", value: params.prefix ?? "", autocomplete: "off", spellcheck: "false" });
  const publicOnes = h("input", { type: "checkbox", checked: params.public === "true" });
  const listing = h("div");

  async function list() {
    const query = { prefix: prefix.value.trim(), public: publicOnes.checked ? "true" : null, limit: 50 };
    keepInAddress({ prefix: query.prefix, public: query.public ?? "" });
    const first = await api.page("/v1/adapters", { query, signal });
    const whenEmpty = query.prefix ? "No adapter has a name that begins so." : "There is no adapter yet. Upload one above, or train one.";
    replace(listing, pagedTable("Adapters", COLUMNS, first, query.public ? "No tenant has a public adapter." : whenEmpty));
  }

  replace(
    root,
    h("h1", null, "Adapters"),
    h(
      "section",
      { class: "card", "aria-label": "Upload" },
      h("h2", null, "Upload"),
      uploadForm(api, signal, async (made) => {
        toast(`Stored as ${made.id}.`);
        prefix.value = "";
        publicOnes.checked = false;
        await list();
      }),
    ),
    form(
      { class: "row", role: "search", "aria-label": "Adapters" },
      list,
      field("Name begins with", prefix),
      h("label", { class: "check" }, publicOnes, "Public ones of all tenants"),
      h("button", { type: "submit" }, "Search"),
    ),
    listing,
  );
  await list();
}

/** The link to an adapter's page. @param {string} name with its tenant before it, of another's */
function link(name) {
  return h("a", { href: `#/adapters/${encodeURIComponent(name)}` }, name);
}

/** @type {import("../dom.js").Column<any>[]} */
const COLUMNS = [
  { header: "Name", cell: (adapter) => link(adapter.id.replace(/@[0-9]+$/, "")) },
  { header: "Version", numeric: true, cell: (adapter) => adapter.version },
  { header: "Vector", cell: (adapter) => `${adapter.recipe.groups * adapter.recipe.u} numbers, ${byteCount(adapter.bytes)}` },
  { header: "Uploaded", cell: (adapter) => time(adapter.created_at) },
  { header: "Others", cell: (adapter) => (adapter.public ? h("span", { class: "badge good" }, "may use it") : h("span", { class: "quiet" }, "may not")) },
];
