// @ts-check
// The numbers of a version as bars, and beside them those of another version with what differs.

import { inPath } from "../api.js";
import { barChart } from "../chart.js";
import { field, h, replace, toastError } from "../dom.js";
import { digits } from "../format.js";
import { norm, numbersOf } from "./vector.js";

const MAX_BARS = 128;
const NOTHING = "";

/**
 * @param {import("../api.js").Api} api
 * @param {AbortSignal} signal
 * @param {string} name
 * @param {any[]} versions newest first, at least one
 */
export async function numbersSection(api, signal, name, versions) {
  const options = () => versions.map((one) => h("option", { value: one.id }, `version ${one.version}`));
  const shown = h("select", null, options());
  const other = h("select", null, h("option", { value: NOTHING }, "nothing"), options());
  const place = h("div");

  let asked = 0;

  async function draw() {
    const mine = ++asked;
    const one = versions.find((version) => version.id === shown.value);
    const against = versions.find((version) => version.id === other.value);
    const [numbers, others] = await Promise.all([read(one), against && read(against)]);
    if (mine !== asked) return; // Others have been chosen since.
    if (others === undefined) {
      replace(place, bars(`Version ${one.version} of ${name}`, numbers), h("p", { class: "quiet" }, `Length of the vector: ${digits(norm(numbers), 4)}.`));
      return;
    }
    replace(place, difference(one, numbers, against, others));
  }

  /** @param {any} version */
  async function read(version) {
    const answer = await api.raw(`/v1/adapters/${inPath(version.id)}/vector`, { query: { format: "raw" }, signal });
    return numbersOf(await answer.arrayBuffer(), version.dtype);
  }

  const redraw = () => draw().catch(toastError);
  shown.addEventListener("change", redraw);
  other.addEventListener("change", redraw);
  await draw();
  return h(
    "section",
    { class: "card" },
    h("h2", null, "Numbers"),
    versions.length > 1 ? h("div", { class: "row" }, field("Show", shown), field("Compare with", other)) : null,
    place,
  );
}

/** @param {string} title @param {number[]} numbers */
function bars(title, numbers) {
  const drawn = numbers.slice(0, MAX_BARS);
  return [barChart({ title, labels: labelsOf(drawn), values: drawn }), cutNote(numbers)];
}

/** @param {any} one @param {number[]} numbers @param {any} against @param {number[]} others */
function difference(one, numbers, against, others) {
  const names = /** @type {[string, string]} */ ([`version ${one.version}`, `version ${against.version}`]);
  const same = JSON.stringify(one.recipe) === JSON.stringify(against.recipe);
  if (!same) {
    return [
      h("p", { class: "notice" }, "The two have different recipes: their numbers mean different things, and have no difference."),
      bars(names[0], numbers),
      bars(names[1], others),
    ];
  }
  const both = barChart({ title: `${names[0]} and ${names[1]}`, labels: labelsOf(numbers.slice(0, MAX_BARS)), values: numbers.slice(0, MAX_BARS), compared: others.slice(0, MAX_BARS), names });
  const differences = numbers.map((value, at) => value - others[at]);
  const moved = norm(differences);
  const relative = norm(others) > 0 ? `, ${digits((100 * moved) / norm(others), 3)} % of the length of ${names[1]}` : "";
  return [
    h("div", { class: "columns" }, both, h("div", null, bars(`Difference: ${names[0]} less ${names[1]}`, differences))),
    h("p", { class: "quiet" }, moved === 0 ? "They have the same numbers." : `Length of the difference: ${digits(moved, 4)}${relative}.`),
  ];
}

/** @param {number[]} drawn */
function labelsOf(drawn) {
  return drawn.map((_, at) => String(at + 1));
}

/** @param {number[]} numbers */
function cutNote(numbers) {
  return numbers.length > MAX_BARS ? h("p", { class: "quiet" }, `The first ${MAX_BARS} of ${numbers.length} numbers are drawn.`) : null;
}
