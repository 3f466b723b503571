// @ts-check
// What answers in a column of the playground: the base model, an adapter by name, or a mixture of several.

import { inPath } from "../api.js";
import { button, field, freshId, h, replace } from "../dom.js";
import { digits } from "../format.js";

const MAX_STRENGTH = 2;

/**
 * @param {import("../api.js").Api} api
 * @param {AbortSignal} signal
 * @param {string} initial an adapter, with or without "@" and a version; "" is the base model
 * @returns {{element: HTMLElement, adapter: () => any}} `adapter()` is the request's field; undefined for the base model
 */
export function adapterChoice(api, signal, initial) {
  const group = freshId("choice");
  const radios = ["Base model", "Adapter", "Mixture"].map((label, at) =>
    h("input", { type: "radio", name: group, value: label, checked: at === (initial ? 1 : 0) }),
  );
  const kinds = h("fieldset", null, h("legend", null, "Who answers"), radios.map((radio) => h("label", { class: "check" }, radio, radio.value)));
  const single = part(api, signal, initial, "Strength");
  /** @type {Set<ReturnType<typeof part>>} */
  const mixed = new Set();
  const parts = h("div");
  const add = () => {
    const one = part(api, signal, "", "Weight");
    mixed.add(one);
    const remove = () => {
      mixed.delete(one);
      item.remove();
    };
    const item = h("div", { class: "part" }, one.element, button("Remove", remove, { class: "small" }));
    parts.append(item);
  };
  add();
  add();
  const mixture = h("div", null, parts, button("Another adapter", add, { class: "small" }));
  const place = h("div");
  const which = () => radios.find((radio) => radio.checked)?.value;

  const draw = () => replace(place, which() === "Adapter" ? single.element : which() === "Mixture" ? mixture : null);
  kinds.addEventListener("change", draw);
  draw();

  function adapter() {
    if (which() === "Base model") return undefined;
    if (which() === "Adapter") {
      const { name, weight } = single.value();
      return weight === 1 ? name : [{ adapter: name, weight }];
    }
    return [...mixed].map((one) => {
      const { name, weight } = one.value();
      return { adapter: name, weight };
    });
  }
  return { element: h("div", null, kinds, place), adapter };
}

/**
 * One adapter with its version and strength.
 * @param {import("../api.js").Api} api @param {AbortSignal} signal @param {string} initial @param {string} strengthLabel
 */
function part(api, signal, initial, strengthLabel) {
  const [initialName, initialVersion = ""] = initial.split("@");
  const name = h("input", { type: "text", required: true, value: initialName, list: "adapter-names", autocomplete: "off", spellcheck: "false" });
  const version = h("select");
  const strength = h("input", { id: freshId("strength"), type: "range", min: 0, max: MAX_STRENGTH, step: 0.05, value: 1 });
  const shown = h("output", { for: strength.id }, "× 1");
  strength.addEventListener("input", () => replace(shown, `× ${digits(Number(strength.value))}`));

  /** @param {string[]} offered @param {string} chosen one of them, or "" */
  function offer(offered, chosen) {
    const choices = offered.includes(chosen) ? offered : [chosen, ...offered];
    replace(version, h("option", { value: "" }, "latest"), choices.filter(Boolean).map((one) => h("option", { value: one }, one)));
    version.value = chosen;
  }

  async function offerVersions() {
    const wanted = name.value.trim();
    // Those of the adapter before are not this one's. One that was asked for is there, whether it can be listed or not.
    offer([], wanted === initialName ? initialVersion : "");
    /** @type {string[]} */
    let choices = [];
    try {
      const path = `/v1/adapters/${inPath(wanted)}`;
      const [aliases, versions] = await Promise.all([
        api.get(`${path}/aliases`, { signal }),
        api.get(`${path}/versions`, { query: { limit: 100 }, signal }),
      ]);
      choices = [...aliases.data.map((/** @type {any} */ one) => one.alias), ...versions.data.map((/** @type {any} */ one) => String(one.version))];
    } catch {
      // Half a name, or nobody's: the request will say so.
    }
    if (name.value.trim() !== wanted) return;
    offer(choices, version.value);
  }
  name.addEventListener("change", offerVersions);
  offer([], "");
  if (initialName) offerVersions();

  return {
    element: h(
      "div",
      null,
      h("div", { class: "row" }, field("Adapter", name), field("Version or alias", version)),
      h("div", { class: "field" }, h("label", { for: strength.id }, strengthLabel), h("div", { class: "slider" }, strength, shown)),
    ),
    value: () => ({ name: version.value ? `${name.value.trim()}@${version.value}` : name.value.trim(), weight: Number(strength.value) }),
  };
}
