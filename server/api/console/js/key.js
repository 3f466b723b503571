// @ts-check
// The dialog in which a key is entered. The key stays in this tab: session storage, gone when the tab is closed.

import { session } from "./api.js";
import { dialog, field, h } from "./dom.js";
import { form } from "./form.js";

/**
 * @param {string} why the key before was refused, or ""
 * @returns {Promise<boolean>} whether there is a new key
 */
export async function askForKey(why) {
  const key = h("input", { type: "password", required: true, pattern: "[ -~]+", title: "A key has letters, digits and signs of ASCII.", autocomplete: "off", spellcheck: "false", autofocus: true });
  const tenant = h("input", { type: "text", pattern: "[A-Za-z0-9._\\-]*", autocomplete: "off", spellcheck: "false", value: session.tenant });
  const done = await dialog("API key", (close) => [
    why ? h("p", { class: "notice error", role: "alert" }, why) : null,
    form(
      {},
      () => {
        session.start(key.value.trim(), tenant.value.trim());
        close(true);
      },
      field("Key", key, "Kept in this tab until it is closed, and sent to this server only."),
      h("details", { open: Boolean(session.tenant) }, h("summary", null, "For operators"), field("Act for the tenant", tenant, "A key with the scope admin may see another tenant's adapters. Empty: the key's own tenant.")),
      h(
        "div",
        { class: "actions" },
        h("button", { type: "submit", class: "primary" }, "Use this key"),
        h("button", { type: "button", onclick: () => close() }, "Cancel"),
      ),
    ),
  ]);
  return done === true;
}
