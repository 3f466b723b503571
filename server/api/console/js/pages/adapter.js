// @ts-check
// One adapter: its versions, the numbers of one beside another's, its aliases, and what was deleted.

import { ApiError, inPath, itemsOf } from "../api.js";
import { button, confirmed, h, pagedTable, replace, save, toast } from "../dom.js";
import { byteCount, time } from "../format.js";
import { aliasSection } from "../adapters/aliases.js";
import { uploadForm } from "../adapters/upload.js";
import { numbersSection } from "../adapters/numbers.js";

/** Versions that can be compared, and that aliases can be moved to: the newest ones. */
const MOST_VERSIONS = 1000;

/**
 * @param {HTMLElement} root
 * @param {{api: import("../api.js").Api, params: Record<string, string>, signal: AbortSignal}} context
 */
export async function render(root, { api, params, signal }) {
  const { name } = params;
  const path = `/v1/adapters/${inPath(name)}`;
  const isOthers = name.startsWith("~");
  const place = h("div");
  const heading = h("h1", { tabindex: "-1" }, name);
  replace(root, h("p", null, h("a", { href: "#/adapters" }, "All adapters")), heading, place);

  async function redraw() {
    await draw();
    heading.focus(); // What had the focus is gone.
  }

  async function draw() {
    const deleted = isOthers ? { items: [], next: null } : await deletedOnes(api, path, signal);
    let latest;
    try {
      latest = await api.get(path, { signal });
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 404)) throw error;
      replace(place, h("div", { class: "notice error" }, h("p", null, error.message)), deletedSection(deleted));
      return;
    }
    const versions = isOthers ? { items: [latest], next: null } : await api.page(`${path}/versions`, { query: { limit: 50 }, signal });
    const chosenFrom = await itemsOf(versions, MOST_VERSIONS);
    replace(
      place,
      head(latest),
      h("section", { class: "card" }, h("h2", null, "Versions"), pagedTable("Versions", versionColumns(versions.items.length), versions, "None.")),
      await numbersSection(api, signal, name, chosenFrom),
      isOthers ? null : await aliasSection(api, signal, name, chosenFrom),
      isOthers ? null : h("section", { class: "card" }, h("h2", null, "Upload a version"), uploadForm(api, signal, uploaded, name)),
      deletedSection(deleted),
    );
  }

  /** @param {any} made */
  async function uploaded(made) {
    toast(`Stored as ${made.id}.`);
    await redraw();
  }

  /** @param {any} latest */
  function head(latest) {
    const { recipe } = latest;
    const shape = `${recipe.groups} groups of ${recipe.u}, rank ${recipe.rank}, tying ${recipe.tying}, seed ${recipe.seed}, projection ${recipe.projection}, convention ${recipe.convention}`;
    const metadata = Object.entries(latest.metadata).map(([key, value]) => h("div", null, h("span", { class: "quiet" }, `${key}: `), value));
    const changePublic = async () => {
      const question = latest.public
        ? "Other tenants can then no longer use it; their requests that name it fail."
        : `Every tenant of this server can then use and download all of its versions, as ~TENANT/${name}.`;
      if (!(await confirmed(latest.public ? "Keep it to this tenant?" : "Let all tenants use it?", question, latest.public ? "Keep it" : "Let them"))) return;
      await api.patch(path, { public: !latest.public }, { signal });
      await redraw();
    };
    const remove = async () => {
      if (!(await confirmed(`Delete ${name}?`, "All of its versions and aliases go; requests that name it fail. It can be restored from this page.", "Delete all versions"))) return;
      const gone = await api.del(path, { signal });
      toast(`Deleted ${gone.versions.length} ${gone.versions.length === 1 ? "version" : "versions"} of ${name}.`);
      await redraw();
    };
    return h(
      "section",
      { class: "card", "aria-label": "About it" },
      h(
        "dl",
        { class: "facts" },
        h("dt", null, "Latest"), h("dd", null, `version ${latest.version}, `, time(latest.created_at)),
        h("dt", null, "Vector"), h("dd", null, `${recipe.groups * recipe.u} numbers in ${latest.dtype}, ${byteCount(latest.bytes)}`),
        h("dt", null, "Recipe"), h("dd", null, shape),
        h("dt", null, "SHA-256"), h("dd", { class: "mono" }, latest.sha256),
        metadata.length ? [h("dt", null, "Metadata"), h("dd", null, metadata)] : null,
        h("dt", null, "Other tenants"), h("dd", null, latest.public ? "may use it" : "may not use it"),
      ),
      h(
        "div",
        { class: "actions" },
        h("a", { class: "button", href: `#/playground?right=${encodeURIComponent(name)}` }, "Try it in the playground"),
        isOthers ? null : button(latest.public ? "Keep to this tenant" : "Let all tenants use it", changePublic),
        isOthers ? null : button("Delete", remove, { class: "danger" }),
      ),
    );
  }

  /** @param {number} count @returns {import("../dom.js").Column<any>[]} */
  function versionColumns(count) {
    return [
      { header: "Version", cell: (one) => one.version },
      { header: "Uploaded", cell: (one) => time(one.created_at) },
      { header: "Vector", cell: (one) => `${one.recipe.groups * one.recipe.u} numbers, ${one.dtype}, ${byteCount(one.bytes)}` },
      { header: "SHA-256", cell: (one) => h("code", { title: one.sha256 }, one.sha256.slice(0, 12)) },
      {
        header: "Actions",
        cell: (one) =>
          h(
            "div",
            { class: "buttons" },
            button("Download", () => download(one, "raw"), { class: "small", "aria-label": `Download the bytes of version ${one.version}` }),
            button("safetensors", () => download(one, "safetensors"), { class: "small", "aria-label": `Download version ${one.version} as safetensors` }),
            isOthers || count < 2 ? null : button("Delete", () => removeVersion(one), { class: "small danger", "aria-label": `Delete version ${one.version}` }),
          ),
      },
    ];
  }

  /** @param {any} one @param {"raw" | "safetensors"} format */
  async function download(one, format) {
    const answer = await api.raw(`/v1/adapters/${inPath(one.id)}/vector`, { query: { format }, signal });
    const ending = format === "raw" ? "bin" : "safetensors";
    save(await answer.arrayBuffer(), `${one.id.replace(/[^A-Za-z0-9._@-]+/g, "-")}.${ending}`);
  }

  /** @param {any} one */
  async function removeVersion(one) {
    if (!(await confirmed(`Delete version ${one.version}?`, `Requests that name ${one.id} fail. It can be restored from this page.`, "Delete it"))) return;
    await api.del(`/v1/adapters/${inPath(one.id)}`, { signal });
    toast(`Deleted ${one.id}.`);
    await redraw();
  }

  /** @param {{items: any[], next: any}} deleted */
  function deletedSection(deleted) {
    if (deleted.items.length === 0) return null;
    const restore = async (/** @type {any} */ one) => {
      const back = await api.post(`/v1/adapters/${inPath(one.id)}/restore`, undefined, { signal });
      toast(`Restored ${back.id}.`);
      await redraw();
    };
    const purge = async (/** @type {any} */ one) => {
      if (!(await confirmed(`Delete ${one.id} for good?`, "Nothing can bring it back.", "Delete for good"))) return;
      await api.del(`/v1/adapters/${inPath(one.id)}`, { query: { purge: true }, signal });
      toast(`${one.id} is gone.`);
      await redraw();
    };
    /** @type {import("../dom.js").Column<any>[]} */
    const columns = [
      { header: "Version", cell: (one) => one.version },
      { header: "Deleted", cell: (one) => time(one.deleted_at) },
      {
        header: "Actions",
        cell: (one) =>
          h(
            "div",
            { class: "buttons" },
            button("Restore", () => restore(one), { class: "small", "aria-label": `Restore version ${one.version}` }),
            button("Delete for good", () => purge(one), { class: "small danger", "aria-label": `Delete version ${one.version} for good` }),
          ),
      },
    ];
    return h("section", { class: "card" }, h("h2", null, "Deleted versions"), pagedTable("Deleted versions", columns, deleted, ""));
  }

  await draw();
}

/**
 * @param {import("../api.js").Api} api @param {string} path @param {AbortSignal} signal
 */
async function deletedOnes(api, path, signal) {
  try {
    return await api.page(`${path}/versions`, { query: { deleted: true, limit: 50 }, signal });
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return { items: [], next: null };
    throw error;
  }
}
