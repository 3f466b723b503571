// @ts-check
// The form of a new job: from its controls to the body of POST /v1/fine_tuning/jobs, and errors to the controls they name.

import { ApiError } from "../api.js";
import { field, h, replace, toastError } from "../dom.js";
import { complainAt, form } from "../form.js";
import { GRADER_DRAFT, draft, keepDraft } from "../drafts.js";
import { fileChoice } from "../files/choice.js";
import { checkedFile } from "../files/check.js";
import { fileUpload } from "../files/upload.js";
import { graderField, pathInGrader } from "../graders/field.js";
import { jsonField } from "../json_field.js";
import { Settings } from "./settings.js";

const JOB_DRAFT = "job";
const METHODS = [
  ["reinforcement", "Reinforcement", "Answers are sampled and graded, and what got more reward becomes likelier."],
  ["supervised", "Supervised", "The answers in the file are learned."],
  ["evolution", "Evolution", "Vectors are tried, and those whose answers got more reward are followed. No gradient, any reward."],
];

export class JobForm {
  #checking = new AbortController();

  /**
   * @param {import("../api.js").Api} api
   * @param {AbortSignal} signal
   * @param {{model: string, file: string}} about `file`: the id of the one to train on, or ""
   * @param {(body: any) => Promise<void>} create
   */
  constructor(api, signal, about, create) {
    this.api = api;
    this.signal = signal;
    /** The id of the job whose settings are in it; "" for none. */
    this.from = "";
    const text = { type: "text", autocomplete: "off", spellcheck: "false" };
    this.model = h("input", { ...text, value: about.model, required: true });
    this.training = fileChoice(api, signal, "Choose a file …");
    this.validation = fileChoice(api, signal, "None: a part of the training file is held out");
    this.suffix = h("input", { ...text, maxlength: 64 });
    this.seed = h("input", { type: "number", min: 0, step: 1, placeholder: "drawn" });
    this.settings = new Settings();
    this.others = jsonField("Other settings, as JSON", { rows: 4, empty: {}, hint: "Of tinylora in the API, such as {\"kl_coef\": 0.01, \"recipe\": {\"rank\": 2}}.", oninput: () => this.keep() });
    this.environment = jsonField("Environment, as JSON", { rows: 4, empty: null, hint: "A URL of yours that answers the model's turns: {\"url\": \"https://...\", \"max_turns\": 5}. Empty: one turn.", oninput: () => this.keep() });
    this.grader = graderField(draft(GRADER_DRAFT) ?? "", about.model, () => keepDraft(GRADER_DRAFT, this.grader.control.value));
    this.checked = h("div");
    this.problem = h("div");
    this.methods = METHODS.map(([name]) => h("input", { type: "radio", name: "method", value: name, checked: name === "reinforcement" }));
    this.rewarded = h(
      "section",
      { class: "card", "aria-label": "Grader" },
      h("h2", null, "Grader"),
      this.grader.element,
      h("p", null, h("a", { href: "#/graders" }, "Try it in the bench"), " first; what is written here is kept."),
      h("details", null, h("summary", null, "Several turns"), this.environment.element),
    );
    this.element = this.#layout(create);
    this.element.addEventListener("input", () => this.keep());
    this.training.control.addEventListener("change", () => this.checkFile());
    for (const radio of this.methods) radio.addEventListener("change", () => this.chooseMethod(this.method));
    this.#restore();
    this.training.refresh(about.file || this.training.control.value).then(() => this.checkFile(), toastError);
    this.validation.refresh().catch(toastError);
  }

  /** @returns {string} */
  get method() {
    return this.methods.find((radio) => radio.checked)?.value ?? "reinforcement";
  }

  /** @param {string} method */
  chooseMethod(method) {
    for (const radio of this.methods) radio.checked = radio.value === method;
    this.rewarded.hidden = method === "supervised";
    this.settings.show(method);
    this.checkFile();
  }

  checkFile() {
    const id = this.training.control.value;
    if (this.checked.dataset.of === `${id} ${this.method}`) return;
    this.checked.dataset.of = `${id} ${this.method}`;
    this.#checking.abort(); // That of another file or method is not wanted any more.
    this.#checking = new AbortController();
    replace(this.checked, id ? checkedFile(this.api, id, AbortSignal.any([this.signal, this.#checking.signal]), this.method) : null);
  }

  /** What is to be sent. Throws where that cannot be known. @returns {any} */
  body() {
    const method = this.method;
    /** @type {Record<string, any>} */
    const part = {};
    if (method !== "supervised") {
      part.grader = this.grader.value();
      const environment = this.environment.value();
      if (environment !== null) part.environment = environment;
    }
    const tinylora = this.settings.value(this.others.value());
    /** @type {Record<string, any>} */
    const body = { model: this.model.value.trim(), training_file: this.training.control.value, method: { type: method, [method]: part } };
    if (this.validation.control.value) body.validation_file = this.validation.control.value;
    if (this.suffix.value.trim()) body.suffix = this.suffix.value.trim();
    if (this.seed.value !== "") body.seed = Number(this.seed.value);
    if (Object.keys(tinylora).length) body.tinylora = tinylora;
    return body;
  }

  /** Show an error at the control that its `param` names, else above the button. @param {ApiError} error */
  complain(error) {
    const param = error.param ?? "";
    const inGrader = pathInGrader(param);
    const inEnvironment = /^method\.\w+\.environment\.?(.*)$/.exec(param);
    const setting = /^(?:tinylora|others)\.?(.*)$/.exec(param);
    const named = { training_file: this.training.control, validation_file: this.validation.control, model: this.model, suffix: this.suffix, seed: this.seed }[param];
    if (named) complainAt(named, error.message);
    else if (inGrader !== null && this.method !== "supervised") this.grader.complain(error.message, inGrader);
    else if (inEnvironment) this.environment.complain(error.message, inEnvironment[1]);
    else if (setting) {
      const control = param.startsWith("others") ? undefined : this.settings.at(setting[1]);
      if (control) complainAt(control, error.message);
      else this.others.complain(error.message, setting[1]);
    } else {
      replace(this.problem, h("p", { class: "notice error", role: "alert" }, error.message));
      this.problem.scrollIntoView({ block: "nearest" });
    }
  }

  /** Fill in what another job has. @param {any} job */
  take(job) {
    const part = job.method[job.method.type] ?? {};
    this.from = job.id;
    this.model.value = job.tinylora.init ?? job.model;
    this.suffix.value = "";
    this.seed.value = job.seed;
    const others = this.settings.take(job.tinylora);
    if (job.tinylora.init) delete others.recipe;
    this.others.set(others);
    this.environment.set(part.environment ? part.environment : "");
    if (part.grader) {
      this.grader.set(part.grader);
      keepDraft(GRADER_DRAFT, this.grader.control.value);
    }
    this.training.refresh(job.training_file).then(() => this.checkFile(), toastError);
    this.validation.refresh(job.validation_file ?? "").catch(toastError);
    this.chooseMethod(job.method.type);
  }

  keep() {
    keepDraft(JOB_DRAFT, {
      method: this.method,
      settings: this.settings.written,
      others: this.others.control.value,
      environment: this.environment.control.value,
      suffix: this.suffix.value,
      seed: this.seed.value,
      model: this.model.value,
      training: this.training.control.value,
      validation: this.validation.control.value,
      from: this.from,
    });
  }

  /** Forget what was kept: it has become a job. */
  sent() {
    keepDraft(JOB_DRAFT, null);
  }

  #restore() {
    const kept = draft(JOB_DRAFT);
    if (kept === null) return this.chooseMethod("reinforcement");
    this.settings.written = kept.settings ?? {};
    this.others.set(kept.others ?? "");
    this.environment.set(kept.environment ?? "");
    this.suffix.value = kept.suffix ?? "";
    this.seed.value = kept.seed ?? "";
    this.model.value = kept.model || this.model.value;
    this.from = kept.from ?? "";
    for (const [choice, id] of [[this.training, kept.training], [this.validation, kept.validation]]) {
      if (!id) continue;
      choice.control.append(h("option", { value: id }, id));
      choice.control.value = id;
    }
    this.chooseMethod(kept.method ?? "reinforcement");
  }

  /** @param {(body: any) => Promise<void>} create */
  #layout(create) {
    const uploaded = (/** @type {any} */ file) => {
      if (file.purpose === "fine-tune") this.training.refresh(file.id).then(() => (this.checkFile(), this.keep()), toastError);
      this.validation.refresh().catch(toastError);
    };
    const upload = h("details", null, h("summary", null, "Upload a file"), fileUpload(this.api, this.signal, uploaded));
    const send = async () => {
      replace(this.problem);
      try {
        if (!this.training.control.value) throw new ApiError("Choose the file to train on, or upload one.", { param: "training_file" });
        await create(this.body());
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        if (error.status || error.param) this.complain(error);
        else throw error;
      }
    };
    const id = "new-job";
    const job = form(
      { id },
      send,
      h(
        "section",
        { class: "card", "aria-label": "Model and data" },
        h("h2", null, "Model and data"),
        h("div", { class: "row top" }, field("Model", this.model, "The base model, or an adapter to go on from."), field("Name of the result", this.suffix, "A part of it; may be empty.")),
        h("div", { class: "row top" }, field("Training file", this.training.control), field("Validation file", this.validation.control)),
        this.checked,
        upload,
      ),
      h(
        "section",
        { class: "card", "aria-label": "Method" },
        h("fieldset", null, h("legend", null, "Method"), METHODS.map(([, words, about], index) => h("label", { class: "choice" }, this.methods[index], h("span", null, h("strong", null, words), " ", h("span", { class: "quiet" }, about))))),
      ),
      this.rewarded,
      h(
        "section",
        { class: "card", "aria-label": "Settings" },
        h("h2", null, "Settings"),
        h("p", { class: "quiet" }, "Empty ones have the server's defaults, which the job shows when it is made."),
        this.settings.element,
        h("details", null, h("summary", null, "All other settings"), field("Seed", this.seed), this.others.element),
      ),
      this.problem,
      h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Create the job")),
    );
    return job;
  }
}
