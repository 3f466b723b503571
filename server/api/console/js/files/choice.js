// @ts-check
// Choosing one of the tenant's files.

import { h, replace } from "../dom.js";
import { byteCount } from "../format.js";

/**
 * A <select> of the newest files of a purpose; `refresh` reads them again.
 * @param {import("../api.js").Api} api
 * @param {AbortSignal} signal
 * @param {string} none the words of the first choice, which is no file
 * @param {string} [purpose]
 * @returns {{control: HTMLSelectElement, refresh: (choose?: string) => Promise<void>}}
 */
export function fileChoice(api, signal, none, purpose = "fine-tune") {
  const control = h("select", null, h("option", { value: "" }, none));
  let newest = 0;
  /** @param {string} [choose] the id of a file, listed or not: chosen at once, and still so whichever answer comes last */
  async function refresh(choose = control.value) {
    newest += 1;
    const mine = newest;
    control.value = choose;
    if (control.value !== choose) control.append(h("option", { value: choose, selected: true }, choose));
    const { items } = await api.page("/v1/files", { query: { purpose, limit: 200 }, signal });
    if (mine !== newest) return;
    choose = control.value;
    const options = items.map((file) => h("option", { value: file.id }, `${file.filename} (${byteCount(file.bytes)}, ${file.id.slice(0, 12)}…)`));
    if (choose && !items.some((file) => file.id === choose)) options.push(h("option", { value: choose }, choose));
    replace(control, h("option", { value: "" }, none), options);
    control.value = choose;
  }
  return { control, refresh };
}
