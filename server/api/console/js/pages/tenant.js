// @ts-check
// One tenant, for the operator: its quotas, whether it is enabled, and its keys.

import { ApiError, inPath } from "../api.js";
import { button, confirmed, copyButton, dialog, field, h, pagedTable, replace, toast } from "../dom.js";
import { form } from "../form.js";
import { time } from "../format.js";
import { quotaFields } from "../tenants/quotas.js";
import { notForYou, orWhyNot } from "./tenants.js";

const SCOPES = [
  { name: "infer", means: "run the model, with adapters" },
  { name: "adapters", means: "upload and change adapters, see usage" },
  { name: "train", means: "files, training jobs, graders" },
  { name: "admin", means: "everything of every tenant" },
];
const DAY = 86_400;
const EXPIRIES = [
  { label: "never", seconds: null },
  { label: "in a day", seconds: DAY },
  { label: "in 30 days", seconds: 30 * DAY },
  { label: "in 90 days", seconds: 90 * DAY },
  { label: "in a year", seconds: 365 * DAY },
];

/**
 * @param {HTMLElement} root
 * @param {{api: import("../api.js").Api, params: Record<string, string>, signal: AbortSignal}} context
 */
export async function render(root, { api, params, signal }) {
  const { name } = params;
  const path = `/v1/tenants/${inPath(name)}`;
  const place = h("div");
  const heading = h("h1", { tabindex: "-1" }, name);
  replace(root, h("p", null, h("a", { href: "#/tenants" }, "All tenants")), heading, place);

  async function redraw() {
    await draw();
    heading.focus(); // What had the focus is gone.
  }

  async function draw() {
    const tenant = await orWhyNot(() => api.get(path, { signal }));
    if (tenant instanceof ApiError) {
      replace(place, notForYou(tenant));
      return;
    }
    const keys = await api.page(`${path}/keys`, { query: { limit: 50 }, signal });
    replace(place, about(tenant), keySection(keys));
  }

  /** @param {any} tenant */
  function about(tenant) {
    const enabled = tenant.disabled_at === null;
    const quotas = quotaFields(tenant, true);
    const change = async () => {
      await api.patch(path, quotas.values(), { signal });
      toast("The quotas hold from the next request on.");
      await redraw();
    };
    const toggle = async () => {
      const question = enabled ? "All of its keys are refused from the next request on, and its jobs are paused. It can be enabled again." : "Its keys are taken again.";
      if (!(await confirmed(enabled ? `Disable ${name}?` : `Enable ${name}?`, question, enabled ? "Disable" : "Enable"))) return;
      await api.patch(path, { disabled: enabled }, { signal });
      await redraw();
    };
    return h(
      "section",
      { class: "card", "aria-label": "About it" },
      h("p", null, enabled ? h("span", { class: "badge good" }, "enabled") : [h("span", { class: "badge bad" }, "disabled"), " since ", time(tenant.disabled_at)], ` ${tenant.adapter_count} adapters, made `, time(tenant.created_at)),
      form({}, change, quotas.element, h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Save quotas"), button(enabled ? "Disable" : "Enable", toggle, { class: enabled ? "danger" : "" }))),
    );
  }

  /** @param {any} keys */
  function keySection(keys) {
    return h(
      "section",
      { class: "card" },
      h("h2", null, "Keys"),
      pagedTable("Keys", COLUMNS, keys, "It has no key yet. Make one below."),
      h("details", null, h("summary", null, h("strong", null, "New key")), newKeyForm()),
    );
  }

  function newKeyForm() {
    const called = h("input", { type: "text", name: "name", required: true, maxlength: 128, autocomplete: "off" });
    const scopes = SCOPES.map((scope) => ({ ...scope, box: h("input", { type: "checkbox", name: "scopes", checked: scope.name === "infer" }) }));
    const expiry = h("select", null, EXPIRIES.map((one, at) => h("option", { value: at }, one.label)));
    const quotas = quotaFields({}, false);
    return form(
      {},
      async () => {
        const chosen = scopes.filter((scope) => scope.box.checked).map((scope) => scope.name);
        if (chosen.length === 0) throw new ApiError("A key needs at least one scope.", { param: "scopes" });
        const body = { name: called.value.trim(), scopes: chosen, expires_in_s: EXPIRIES[Number(expiry.value)].seconds, ...quotas.values() };
        await showOnce(await api.post(`${path}/keys`, body, { signal }));
        await redraw();
      },
      h("div", { class: "row" }, field("Name", called, "For whom or what it is."), field("Expires", expiry)),
      h(
        "fieldset",
        null,
        h("legend", null, "It may"),
        scopes.map((scope) => h("div", null, h("label", { class: "check" }, scope.box, `${scope.name}: ${scope.means}`))),
      ),
      quotas.element,
      h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Make the key")),
    );
  }

  /** @param {any} made with the key itself, which nobody is shown again */
  function showOnce(made) {
    const shown = h("input", { type: "text", readonly: true, class: "mono", value: made.key, onfocus: (/** @type {FocusEvent} */ event) => /** @type {HTMLInputElement} */ (event.currentTarget).select() });
    const content = (/** @type {() => void} */ close) => [
      field("Copy it now: it is shown this once, and stored nowhere", shown),
      h("div", { class: "actions" }, copyButton("Copy", () => made.key), h("button", { type: "button", onclick: () => close() }, "I have it")),
    ];
    return dialog(`The key ${made.name}`, content, { stays: true });
  }

  /** @param {any} key */
  async function revoke(key) {
    if (!(await confirmed(`Revoke ${key.name}?`, "It is refused from the next request on, for good.", "Revoke it"))) return;
    await api.post(`${path}/keys/${inPath(key.id)}/revoke`, undefined, { signal });
    toast(`Revoked ${key.name}.`);
    await redraw();
  }

  /** @param {any} key */
  function stateOf(key) {
    if (key.revoked_at !== null) return h("span", { class: "badge bad" }, "revoked");
    if (key.expires_at !== null && key.expires_at * 1000 <= Date.now()) return h("span", { class: "badge bad" }, "expired");
    return h("span", { class: "badge good" }, "in use");
  }

  /** @type {import("../dom.js").Column<any>[]} */
  const COLUMNS = [
    { header: "Name", cell: (key) => [key.name, h("p", { class: "hint" }, h("code", null, key.id))] },
    { header: "Ends with", cell: (key) => h("code", null, key.hint) },
    { header: "May", cell: (key) => key.scopes.join(", ") },
    { header: "State", cell: stateOf },
    { header: "Expires", cell: (key) => (key.expires_at === null ? "never" : time(key.expires_at)) },
    { header: "Made", cell: (key) => time(key.created_at) },
    { header: "Actions", cell: (key) => (key.revoked_at === null ? button("Revoke", () => revoke(key), { class: "small danger", "aria-label": `Revoke ${key.name}` }) : null) },
  ];

  await draw();
}
