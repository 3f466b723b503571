// @ts-check
// The form that uploads an adapter: a file dropped or chosen (with its configuration, of other libraries), or numbers.

import { ApiError } from "../api.js";
import { field, h, replace } from "../dom.js";
import { form } from "../form.js";
import { dropZone } from "../drop_zone.js";
import { byteCount } from "../format.js";

const SAFETENSORS = "application/x-safetensors";

/**
 * @param {import("../api.js").Api} api
 * @param {AbortSignal} signal
 * @param {(adapter: any) => unknown} stored called with the adapter that the server has stored
 * @param {string} [fixedName] of an adapter that gets another version
 */
export function uploadForm(api, signal, stored, fixedName) {
  /** @type {File[]} */
  let files = [];
  const name = h("input", { type: "text", name: "name", required: true, autocomplete: "off", spellcheck: "false" });
  const chosen = h("p", { class: "hint", role: "status" });
  const typed = h("textarea", { rows: 3, spellcheck: "false", class: "mono" });
  const dtype = h("select", null, ["bfloat16", "float16", "float32"].map((one) => h("option", { value: one }, one)));
  const groups = h("input", { type: "number", min: 1 });
  const perGroup = h("input", { type: "number", min: 1 });

  /** @param {File[]} found */
  function take(found) {
    files = found;
    replace(chosen, files.map((file) => `${file.name} (${byteCount(file.size)})`).join(", "));
    const weights = files.find((file) => !file.name.endsWith(".json"));
    if (weights && !name.value) name.value = nameOf(weights.name);
  }

  const drop = dropZone("Files: drop them here, or choose", take, {
    accept: ".bin,.safetensors,.json,application/octet-stream",
    hint: "A vector's bytes, a .safetensors file, or a checkpoint of PEFT with its adapter_config.json.",
  });
  drop.append(chosen);

  const whole = form(
    {},
    async () => {
      const raw = { dtype: dtype.value, groups: groups.value, u: perGroup.value };
      const made = await send(api, signal, fixedName ?? name.value.trim(), files, typed.value, raw);
      whole.reset();
      take([]);
      await stored(made);
    },
    h(
      "div",
      { class: "columns" },
      fixedName ? null : field("Name", name, "As in acme/math: letters, digits and . _ - : with / between parts. A name that exists gets a new version."),
      drop,
    ),
    h(
      "details",
      null,
      h("summary", null, "Numbers instead of a file, and how to read a vector"),
      field("Numbers", typed, "Separated by spaces or commas; 13 of them by default."),
      h("div", { class: "row" }, field("Type of the numbers", dtype), field("Groups", groups, "Empty: 13"), field("Numbers per group", perGroup, "Empty: 1")),
    ),
    h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, fixedName ? "Upload a version" : "Upload")),
  );
  return whole;
}

/** @param {string} fileName */
function nameOf(fileName) {
  const stem = fileName.replace(/\.(bin|safetensors)$/, "").replace(/[^A-Za-z0-9._:-]+/g, "-");
  return stem.replace(/^[^A-Za-z0-9]+/, "");
}

/**
 * @param {import("../api.js").Api} api
 * @param {AbortSignal} signal
 * @param {string} name
 * @param {File[]} files
 * @param {string} typed
 * @param {{dtype: string, groups: string, u: string}} raw how to read a vector that does not say it itself
 */
async function send(api, signal, name, files, typed, raw) {
  const configs = files.filter((file) => file.name.endsWith(".json"));
  const weights = files.filter((file) => !file.name.endsWith(".json"));
  if (typed.trim() && files.length) throw new ApiError("There are both files and numbers; upload one of them.");
  if (typed.trim()) {
    const vector = typed.trim().split(/[\s,;[\]]+/).filter(Boolean).map(Number);
    if (vector.some(Number.isNaN)) throw new ApiError("Not all of these are numbers; write them as in 0.5, -1e-3.");
    /** @type {Record<string, number>} */
    const recipe = {};
    if (raw.groups) recipe.groups = Number(raw.groups);
    if (raw.u) recipe.u = Number(raw.u);
    return api.post("/v1/adapters", { name, vector, dtype: raw.dtype, recipe }, { signal });
  }
  if (weights.length !== 1 || configs.length > 1) {
    throw new ApiError(`Expected one file of an adapter, and at most its configuration; there are ${weights.length} and ${configs.length}.`);
  }
  const [file] = weights;
  if (configs.length === 1) {
    const parts = new FormData();
    parts.append("name", name);
    parts.append("file", file);
    parts.append("adapter_config", configs[0]);
    return api.post("/v1/adapters", parts, { signal });
  }
  const isTensors = file.name.endsWith(".safetensors");
  return api.post("/v1/adapters", file, {
    query: isTensors ? { name } : { name, ...raw },
    headers: { "content-type": isTensors ? SAFETENSORS : "application/octet-stream" },
    signal,
  });
}
