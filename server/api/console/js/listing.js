// @ts-check
// A listing of the API that may change while it is looked at: new rows come, others go, and the focus stays.

import { button, h, replace, table } from "./dom.js";
import { oneByOne } from "./turns.js";

/** @typedef {{items: any[], next: (() => Promise<any>) | null}} Page as api.page gives it */

/**
 * @param {string} caption
 * @param {import("./dom.js").Column<any>[]} columns
 * @param {() => Promise<Page>} first asks for the newest rows; ids of later rows are greater
 * @param {() => import("./dom.js").Child} whenEmpty
 * @returns {{element: HTMLElement, show: () => Promise<void>, look: () => Promise<boolean>}} `show` begins with the newest
 *   rows; `look` brings those that are shown up to date, or begins anew where very many have come, and is true
 */
export function listing(caption, columns, first, whenEmpty) {
  const place = h("div");
  /** @type {any[]} */
  let rows = [];
  /** @type {(() => Promise<Page>) | null} */
  let next = null;
  let drawn = "";
  /** @type {string[]} */
  let drawnIds = [];

  const inTurn = oneByOne();
  const more = button("Show more", () =>
    inTurn(async () => {
      if (next === null) return;
      const page = await next();
      next = page.next;
      rows = [...rows, ...page.items];
      draw();
      if (next === null) focusTable();
    }),
  );
  more.hidden = true;

  function draw() {
    more.hidden = next === null;
    if (drawn === (drawn = JSON.stringify(rows))) return;
    const focused = place.contains(document.activeElement) ? /** @type {HTMLElement} */ (document.activeElement) : null;
    const at = focused?.closest("tr")?.sectionRowIndex ?? -1;
    const id = drawnIds[at];
    drawnIds = rows.map((one) => one.id);
    replace(place, rows.length ? table(caption, columns, rows) : h("p", { class: "empty", tabindex: "-1" }, whenEmpty()));
    if (focused === null) return;
    const row = id && place.querySelectorAll("tbody tr")[drawnIds.indexOf(id)];
    const again = row && [...row.querySelectorAll("a, button")].find((one) => nameOf(one) === nameOf(focused));
    if (again) /** @type {HTMLElement} */ (again).focus();
    else focusTable();
  }

  const focusTable = () => /** @type {HTMLElement | null} */ (place.querySelector("[tabindex]"))?.focus();

  async function showNow() {
    ({ items: rows, next } = await first());
    drawn = "";
    draw();
  }

  async function lookNow() {
    // Down to the oldest row that is shown; or to the end, where all are.
    const oldest = next === null ? "" : rows[rows.length - 1].id;
    const isAbove = (/** @type {any[]} */ items) => items[items.length - 1].id > oldest;
    let { items, next: behind } = await first();
    while (behind !== null && isAbove(items) && items.length <= rows.length) {
      const page = await behind();
      items = [...items, ...page.items];
      behind = page.next;
    }
    if (behind === null || isAbove(items) || items[0].id < oldest) [rows, next] = [items, behind];
    else rows = items.filter((one) => one.id >= oldest);
    draw();
    return true;
  }

  const show = () => inTurn(showNow);
  const look = () => inTurn(lookNow);
  return { element: h("div", null, place, h("p", null, more)), show, look };
}

/** What tells a link or a button from the others of its row. @param {Element} element */
const nameOf = (element) => element.getAttribute("href") ?? element.getAttribute("aria-label") ?? "";
