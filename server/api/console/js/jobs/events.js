// @ts-check
// The events of a job as they come: the numbers of its steps, and what was said.

const FULL_PAGE = 100;
/** What has come since is mostly little. */
const LOOK_PAGE = 10;
/** Pages between two calls of `progress`. */
const TOLD_AFTER = 10;

/** The numbers that a step reported. @typedef {{step: number, numbers: Record<string, number>}} Step */

export class JobEvents {
  /** @param {import("../api.js").Api} api @param {string} jobId @param {AbortSignal} signal */
  constructor(api, jobId, signal) {
    this.api = api;
    this.path = `/v1/fine_tuning/jobs/${encodeURIComponent(jobId)}/events`;
    this.signal = signal;
    /** By step. @type {Map<number, Record<string, number>>} */
    this.steps = new Map();
    /** All but steps, newest first. @type {any[]} */
    this.messages = [];
    this.newest = "";
  }

  /**
   * Read what is new. The first time that is everything, page by page, newest first.
   * @param {() => void} [progress] called now and then on the way
   * @returns {Promise<boolean>} whether there was anything
   */
  async read(progress) {
    const until = this.newest;
    /** @type {any[]} */
    const messages = [];
    let newest = "";
    let after = null;
    for (let more = true, pages = 1; more; pages += 1) {
      const page = await this.api.get(this.path, { query: { limit: until && pages === 1 ? LOOK_PAGE : FULL_PAGE, after }, signal: this.signal });
      newest ||= page.data[0]?.id ?? "";
      // Ids are in the order in which things happened.
      const fresh = page.data.filter((/** @type {any} */ event) => event.id > until);
      for (const event of fresh) {
        if (event.type === "metrics") this.#take(event.data);
        else messages.push(event);
      }
      more = page.has_more && fresh.length === page.data.length;
      after = page.data.at(-1)?.id;
      if (more && pages % TOLD_AFTER === 1) progress?.();
    }
    this.messages = [...messages, ...this.messages];
    this.newest = newest || until;
    return this.newest !== until;
  }

  /** @param {any} data */
  #take(data) {
    if (!Number.isInteger(data?.step)) return;
    const numbers = this.steps.get(data.step) ?? {};
    for (const [name, value] of [...Object.entries(data.scores ?? {}), ...Object.entries(data)]) {
      if (typeof value === "number" && Number.isFinite(value) && name !== "step" && name !== "total_steps") numbers[name] = value;
    }
    const seconds = data.timing?.step?.full_iteration;
    if (typeof seconds === "number") numbers.step_seconds = seconds;
    this.steps.set(data.step, numbers);
  }

  /** The names of all numbers that there are. @returns {string[]} */
  get names() {
    return [...new Set([...this.steps.values()].flatMap((numbers) => Object.keys(numbers)))].sort();
  }

  /** The values of one by step. @param {string} name @returns {[number, number][]} */
  points(name) {
    /** @type {[number, number][]} */
    const points = [];
    for (const [step, numbers] of this.steps) if (name in numbers) points.push([step, numbers[name]]);
    return points.sort(([one], [other]) => one - other);
  }
}
