// @ts-check
// Line and bar charts as SVG, each with its numbers as a table for who cannot see it or wants to copy them.

import { freshId, h, svg, table } from "./dom.js";
import { digits } from "./format.js";

const WIDTH = 640;
const HEIGHT = 220;
const MARGIN = { top: 10, right: 12, bottom: 34, left: 52 };

/**
 * @typedef {object} Series
 * @property {string} name
 * @property {[number, number][]} points x and y, by x
 */

/**
 * @param {{title: string, xLabel: string, series: Series[], yMin?: number, yMax?: number, note?: string, open?: boolean}} chart at most
 *   four series; `note` says in a sentence what there is to see; `open` whether its table is shown
 * @returns {HTMLElement}
 */
export function lineChart({ title, xLabel, series, yMin, yMax, note, open = false }) {
  const points = series.flatMap((one) => one.points).filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y));
  if (points.length === 0) return h("figure", { class: "chart" }, h("figcaption", null, title), h("p", { class: "empty" }, "No numbers yet."));
  const [left, right] = extent(points.map(([x]) => x));
  const low = yMin ?? Math.min(...points.map(([, y]) => y));
  const high = yMax ?? Math.max(...points.map(([, y]) => y));
  const ticks = niceTicks(low, high);
  const bottom = Math.min(low, ticks[0]);
  const top = Math.max(high, ticks[ticks.length - 1]);
  /** @param {number} x */
  const atX = (x) => MARGIN.left + ((x - left) / (right - left || 1)) * (WIDTH - MARGIN.left - MARGIN.right);
  /** @param {number} y */
  const atY = (y) => HEIGHT - MARGIN.bottom - ((y - bottom) / (top - bottom || 1)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  const lines = series.map((one, index) => {
    const drawn = one.points.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y));
    const path = drawn.map(([x, y], at) => `${at ? "L" : "M"}${atX(x).toFixed(1)} ${atY(y).toFixed(1)}`).join("");
    const dots = drawn.length <= 60 ? drawn.map(([x, y]) => svg("circle", { cx: atX(x), cy: atY(y), r: 2.5 })) : null;
    return svg("g", { class: `series series-${index + 1}` }, svg("path", { d: path }), dots);
  });
  const xTicks = niceTicks(left, right, 6).filter((tick) => tick >= left && tick <= right);
  const drawing = picture(
    title,
    note ?? series.map(summaryOf).join(" "),
    grid(ticks, atY),
    svg("g", { class: "x" }, xTicks.map((tick) => svg("text", { x: atX(tick), y: HEIGHT - MARGIN.bottom + 16, "text-anchor": "middle" }, digits(tick, 6)))),
    svg("text", { x: (MARGIN.left + WIDTH - MARGIN.right) / 2, y: HEIGHT - 2, "text-anchor": "middle" }, xLabel),
    lines,
  );
  const xs = [...new Set(points.map(([x]) => x))].sort((one, other) => one - other);
  const known = series.map((one) => new Map(one.points));
  const columns = [
    { header: xLabel, cell: (/** @type {number} */ x) => digits(x, 8) },
    ...series.map((one, index) => ({
      header: one.name,
      numeric: true,
      cell: (/** @type {number} */ x) => digits(known[index].get(x) ?? Number.NaN, 5).replace("NaN", "–"),
    })),
  ];
  return figure(title, series.length > 1 ? legend(series) : null, drawing, numbers(title, columns, xs, open));
}

/**
 * @param {{title: string, labels: string[], values: number[], compared?: number[], names?: [string, string], note?: string, axis?: string, ticks?: string[]}} chart
 *   `compared` are second bars beside the first ones; `names` are the names of both; `axis` is what the labels are; `ticks`
 *   stand below the bars instead of labels, "" for none
 * @returns {HTMLElement}
 */
export function barChart({ title, labels, values, compared, names = ["value", "other value"], note, axis = "bar", ticks: below }) {
  const all = [...values, ...(compared ?? [])].filter(Number.isFinite);
  if (all.length === 0) return h("figure", { class: "chart" }, h("figcaption", null, title), h("p", { class: "empty" }, "No numbers."));
  const ticks = niceTicks(Math.min(0, ...all), Math.max(0, ...all));
  const [bottom, top] = [Math.min(0, ticks[0]), Math.max(0, ticks[ticks.length - 1])];
  /** @param {number} y */
  const atY = (y) => HEIGHT - MARGIN.bottom - ((y - bottom) / (top - bottom || 1)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  const slot = (WIDTH - MARGIN.left - MARGIN.right) / labels.length;
  const sets = compared ? [values, compared] : [values];
  const width = Math.min((slot * 0.72) / sets.length, 48);
  const bars = sets.flatMap((set, index) =>
    set.map((value, at) => {
      const x = MARGIN.left + slot * (at + 0.5) + (index - sets.length / 2) * width;
      const [upper, lower] = [atY(Math.max(value, 0)), atY(Math.min(value, 0))];
      const name = `${labels[at]}${compared ? `, ${names[index]}` : ""}: ${digits(value, 5)}`;
      return svg("rect", { class: `bar-${index + 1}`, x, y: upper, width: width - Math.min(1, width / 6), height: Math.max(lower - upper, 0.5) }, svg("title", null, name));
    }),
  );
  const every = Math.ceil(labels.length / 16);
  const shown = below ?? labels.map((label, at) => (at % every === 0 ? label : ""));
  const drawing = picture(
    title,
    note ?? `${labels.length} bars from ${digits(Math.min(...all))} to ${digits(Math.max(...all))}.`,
    grid(ticks, atY),
    bars,
    svg("line", { class: "zero", x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: atY(0), y2: atY(0) }),
    svg("g", { class: "x" }, shown.map((label, at) =>
      label ? svg("text", { x: MARGIN.left + slot * (at + 0.5), y: HEIGHT - MARGIN.bottom + 16, "text-anchor": "middle" }, label) : null,
    )),
  );
  /** @type {import("./dom.js").Column<number>[]} */
  const columns = [
    { header: axis, cell: (at) => labels[at] },
    { header: names[0], numeric: true, cell: (at) => digits(values[at], 5) },
  ];
  if (compared) columns.push({ header: names[1], numeric: true, cell: (at) => digits(compared[at], 5) });
  const key = compared ? barLegend(names) : null;
  return figure(title, key, drawing, numbers(title, columns, labels.map((_, at) => at)));
}

/** @param {string} title @param {any} key @param {Element} drawing @param {Element} asTable @returns {HTMLElement} */
function figure(title, key, drawing, asTable) {
  return h("figure", { class: "chart" }, h("figcaption", null, title), key, drawing, asTable);
}

/** @param {string} title @param {string} description @param {...any} content */
function picture(title, description, ...content) {
  const [name, text] = [freshId("chart"), freshId("chart")];
  return svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-labelledby": `${name} ${text}` },
    svg("title", { id: name }, title),
    svg("desc", { id: text }, description),
    ...content,
  );
}

/** @param {number[]} ticks @param {(y: number) => number} atY */
function grid(ticks, atY) {
  return ticks.map((tick) => [
    svg("line", { class: tick === 0 ? "zero" : "grid", x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: atY(tick), y2: atY(tick) }),
    svg("text", { x: MARGIN.left - 6, y: atY(tick) + 4, "text-anchor": "end" }, digits(tick, 4)),
  ]);
}

/** @param {Series[]} series */
function legend(series) {
  return h("ul", { class: "legend" }, series.map((one, index) =>
    h("li", null, svg("svg", { viewBox: "0 0 32 12", "aria-hidden": "true" }, svg("path", { class: `series series-${index + 1}`, d: "M0 6H32" })), one.name),
  ));
}

/** @param {[string, string]} names */
function barLegend(names) {
  return h("ul", { class: "legend" }, names.map((name, index) =>
    h("li", null, svg("svg", { viewBox: "0 0 32 12", "aria-hidden": "true" }, svg("rect", { class: `bar-${index + 1}`, width: 32, height: 12 })), name),
  ));
}

/**
 * Made when somebody opens it: a page may have many of them, and be drawn anew again and again.
 * @template T @param {string} title @param {import("./dom.js").Column<T>[]} columns @param {T[]} rows @param {boolean} [open]
 */
function numbers(title, columns, rows, open = false) {
  const asTable = () => table(`${title}, as a table`, columns, rows);
  const box = h("details", { open }, h("summary", null, "As a table"), open && asTable());
  if (!open) box.addEventListener("toggle", () => box.append(asTable()), { once: true });
  return box;
}

/** @param {Series} one */
function summaryOf(one) {
  const last = one.points[one.points.length - 1];
  return last ? `${one.name}: ${one.points.length} points, the last one ${digits(last[1], 4)}.` : `${one.name}: no points.`;
}

/** @param {number[]} values @returns {[number, number]} */
function extent(values) {
  return [Math.min(...values), Math.max(...values)];
}

/**
 * Round numbers from at or below `low` to at or above `high`.
 * @param {number} low @param {number} high @param {number} [count] about how many
 */
export function niceTicks(low, high, count = 4) {
  if (high - low <= Math.abs(high) * 1e-9) [low, high] = low === 0 ? [0, 1] : [low - Math.abs(low) / 2, high + Math.abs(high) / 2];
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw * 0.999) ?? raw;
  const ticks = [];
  for (let at = Math.floor(low / step + 1e-6); at * step <= high + step * 0.999; at += 1) ticks.push(Number((at * step).toPrecision(12)));
  return ticks;
}
