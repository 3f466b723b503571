// @ts-check
// A place on which files are dropped, or in which they are chosen.

import { field, h } from "./dom.js";

/**
 * @param {string} label
 * @param {(files: File[]) => void} take
 * @param {{accept?: string, hint?: string}} [about]
 * @returns {HTMLElement}
 */
export function dropZone(label, take, { accept, hint } = {}) {
  const chooser = h("input", { type: "file", multiple: true, accept });
  chooser.addEventListener("change", () => {
    take([...(chooser.files ?? [])]);
    chooser.value = "";
  });
  const zone = h("div", { class: "drop" }, field(label, chooser, hint));
  for (const event of ["dragenter", "dragover"]) {
    zone.addEventListener(event, (/** @type {DragEvent} */ over) => {
      over.preventDefault();
      zone.classList.add("over");
    });
  }
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (/** @type {DragEvent} */ dropped) => {
    dropped.preventDefault();
    zone.classList.remove("over");
    const files = [...(dropped.dataTransfer?.files ?? [])];
    if (files.length) take(files);
  });
  return zone;
}
