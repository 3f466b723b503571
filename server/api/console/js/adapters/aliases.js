// @ts-check
// The aliases of an adapter: moved to one version or to several with shares, rolled back, removed, with their history.

import { ApiError, inPath } from "../api.js";
import { button, confirmed, dialog, field, h, pagedTable, replace, table, toast } from "../dom.js";
import { form } from "../form.js";
import { digits, time } from "../format.js";

/**
 * @param {import("../api.js").Api} api
 * @param {AbortSignal} signal
 * @param {string} name
 * @param {any[]} versions those that an alias may be moved to
 */
export async function aliasSection(api, signal, name, versions) {
  const base = `/v1/adapters/${inPath(name)}/aliases`;
  const heading = h("h2", { tabindex: "-1" }, "Aliases");
  const place = h("div");

  /** @param {boolean} [moveFocus] */
  async function draw(moveFocus = true) {
    const { data } = await api.get(base, { signal });
    const shown = data.length ? table("Aliases", COLUMNS, data) : h("p", { class: "empty" }, "None. An alias such as prod is a name for a version that can be moved to another one in one step.");
    replace(place, shown, h("div", { class: "actions" }, button("New alias", () => move(null), { class: "primary" })));
    if (moveFocus) heading.focus();
  }

  /** @param {any | null} alias the one to move; null for a new one */
  async function move(alias) {
    const seen = alias ? await api.get(`${base}/${alias.alias}`, { signal }) : null;
    const condition = seen ? unchanged(seen) : { "if-none-match": "*" };
    await dialog(alias ? `Move ${alias.alias}` : "New alias", (close) => moveForm(alias, seen?.versions ?? {}, condition, close));
  }

  /**
   * Change an alias that is still as the table shows it. Of two people who roll back at once, the second would undo what
   * the first did.
   * @param {any} shown
   * @param {(condition: Record<string, string>) => Promise<any>} act
   */
  async function unlessMoved(shown, act) {
    try {
      return await act(unchanged(shown));
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 412)) throw error;
    }
    await draw();
    throw new ApiError(`${shown.alias} was moved by somebody else meanwhile, and nothing was done. Look at where it is now.`);
  }

  /** @param {any | null} alias @param {Record<string, number>} current @param {Record<string, string>} condition @param {() => void} close */
  function moveForm(alias, current, condition, close) {
    const called = h("input", { type: "text", name: "alias", required: true, pattern: "[A-Za-z][A-Za-z0-9._\\-]*", maxlength: 64, autocomplete: "off", spellcheck: "false" });
    const rows = h("div");
    const add = (/** @type {string} */ version, /** @type {number} */ weight) => {
      const known = versions.map((one) => String(one.version));
      const choices = known.includes(version) ? known : [version, ...known];
      const select = h("select", { value: version }, choices.map((one) => h("option", { value: one, selected: one === version }, one)));
      const share = h("input", { type: "number", min: 0.001, step: "any", value: weight, required: true });
      const row = h("div", { class: "row target" }, field("Version", select), field("Share", share), button("Remove", () => row.remove(), { class: "small" }));
      rows.append(row);
    };
    const before = Object.entries(current);
    if (before.length === 0) add(String(versions[0].version), 1);
    for (const [version, weight] of before) add(version, weight);
    return [
      form(
        {},
        async () => {
          /** @type {Record<string, number>} */
          const targets = {};
          for (const row of rows.children) {
            const [select, share] = row.querySelectorAll("select, input");
            const version = /** @type {HTMLSelectElement} */ (select).value;
            targets[version] = (targets[version] ?? 0) + Number(/** @type {HTMLInputElement} */ (share).value);
          }
          const to = alias?.alias ?? called.value.trim();
          let moved;
          try {
            moved = await api.put(`${base}/${inPath(to)}`, { versions: targets }, { headers: condition, signal });
          } catch (error) {
            if (!(error instanceof ApiError && error.status === 412)) throw error;
            if (alias) throw new ApiError(`${to} was moved by somebody else meanwhile. Close this, and look at where it is now.`);
            throw new ApiError(`There is an alias ${to} already. Choose another name, or move that one.`, { param: "alias" });
          }
          // Also when somebody has closed the dialog meanwhile.
          close();
          toast(`${moved.id} is now ${sharesOf(moved.versions)}.`);
          await draw();
        },
        alias ? null : field("Name", called, "A letter, then letters, digits, . _ and -"),
        rows,
        h("p", { class: "hint" }, "Of several versions, requests are shared out by these shares; a request with a user stays with one."),
        h(
          "div",
          { class: "actions" },
          h("button", { type: "submit", class: "primary" }, alias ? "Move it" : "Make it"),
          button("Another version", () => add(String(versions[0].version), 1)),
          h("button", { type: "button", onclick: () => close() }, "Cancel"),
        ),
      ),
    ];
  }

  /** @param {any} alias */
  async function rollBack(alias) {
    const back = await unlessMoved(alias, (headers) => api.post(`${base}/${alias.alias}/rollback`, undefined, { headers, signal }));
    toast(`${back.id} is ${sharesOf(back.versions)} again. Rolling back once more undoes that.`);
    await draw();
  }

  /** @param {any} alias */
  async function remove(alias) {
    if (!(await confirmed(`Remove ${alias.alias}?`, `Requests that name ${alias.id} fail until there is one again.`, "Remove it"))) return;
    await unlessMoved(alias, (headers) => api.del(`${base}/${alias.alias}`, { headers, signal }));
    toast(`Removed ${alias.id}.`);
    await draw();
  }

  /** @param {any} alias */
  async function history(alias) {
    const moves = await api.page(`${base}/${alias.alias}/history`, { signal });
    /** @type {import("../dom.js").Column<any>[]} */
    const columns = [
      { header: "Move", cell: (one) => one.id },
      { header: "When", cell: (one) => time(one.created_at) },
      { header: "To", cell: (one) => (one.versions ? sharesOf(one.versions) : "removed") },
    ];
    await dialog(`Moves of ${alias.alias}`, (close) => [
      pagedTable("Moves, newest first", columns, moves, "None."),
      h("div", { class: "actions" }, h("button", { type: "button", onclick: () => close() }, "Close")),
    ]);
  }

  /** @type {import("../dom.js").Column<any>[]} */
  const COLUMNS = [
    { header: "Alias", cell: (alias) => alias.alias },
    { header: "Stands for", cell: (alias) => sharesOf(alias.versions) },
    { header: "Moved", cell: (alias) => time(alias.moved_at) },
    {
      header: "Actions",
      cell: (alias) =>
        h(
          "div",
          { class: "buttons" },
          button("Move", () => move(alias), { class: "small", "aria-label": `Move ${alias.alias}` }),
          button("Roll back", () => rollBack(alias), { class: "small", "aria-label": `Roll back ${alias.alias}` }),
          button("History", () => history(alias), { class: "small", "aria-label": `History of ${alias.alias}` }),
          button("Remove", () => remove(alias), { class: "small danger", "aria-label": `Remove ${alias.alias}` }),
        ),
    },
  ];

  await draw(false);
  return h("section", { class: "card" }, heading, place);
}

/** @param {Record<string, number>} versions version -> weight */
function sharesOf(versions) {
  const all = Object.entries(versions);
  const total = all.reduce((sum, [, weight]) => sum + weight, 0);
  if (all.length === 1) return `version ${all[0][0]}`;
  return all.map(([version, weight]) => `version ${version} (${digits((100 * weight) / total, 3)} %)`).join(", ");
}

/**
 * The condition that an alias still is as it was seen, so that nobody's move is undone by one who has not seen it. Not by the
 * header etag, which proxies that compress answers make a weak one.
 * @param {any} seen
 * @returns {Record<string, string>}
 */
function unchanged(seen) {
  return { "if-match": seen.etag };
}
