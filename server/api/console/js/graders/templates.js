// @ts-check
// A grader of every kind to begin with, and a row and an answer on which it can be tried.

/**
 * @typedef {object} Template
 * @property {string} name
 * @property {string} about what it rewards, in a sentence
 * @property {Record<string, any>} grader
 */

const OUTPUT = "{{ sample.output_text }}";
const ANSWER = "{{ item.answer }}";

/** @type {Template[]} */
export const TEMPLATES = [
  {
    name: "math",
    about: "1 if the final answer is mathematically equal to the row's, else 0. It is found in the text by itself.",
    grader: { type: "math", name: "math", input: OUTPUT, reference: ANSWER },
  },
  {
    name: "string_check",
    about: "1 if the text is the reference (eq), is not (ne), or has it in it (like; ilike takes no notice of case).",
    grader: { type: "string_check", name: "exact", input: OUTPUT, reference: ANSWER, operation: "ilike" },
  },
  {
    name: "text_similarity",
    about: "How alike two texts are, from 0 to 1: fuzzy_match, bleu, gleu, rouge_1 to rouge_5, rouge_l.",
    grader: { type: "text_similarity", name: "similar", input: OUTPUT, reference: ANSWER, evaluation_metric: "fuzzy_match" },
  },
  {
    name: "score_model",
    about: "A model reads the answer and gives a score within the range. Slow, and it can be talked round.",
    grader: {
      type: "score_model",
      name: "judge",
      model: "MODEL",
      input: [
        { role: "system", content: "Score the answer from 0 to 1: is it right, and short?" },
        { role: "user", content: `The right answer: ${ANSWER}\n\nThe answer to score: ${OUTPUT}` },
      ],
      range: [0, 1],
    },
  },
  {
    name: "label_model",
    about: "A model chooses a label; the labels that pass give 1.",
    grader: {
      type: "label_model",
      name: "label",
      model: "MODEL",
      input: [{ role: "user", content: `Is this answer polite or rude?\n\n${OUTPUT}` }],
      labels: ["polite", "rude"],
      passing_labels: ["polite"],
    },
  },
  {
    name: "python",
    about: "Your own function, run shut in on the server, where its operator allows it.",
    grader: {
      type: "python",
      name: "code",
      source: 'def grade(sample, item):\n    return 1.0 if item["answer"] in sample["output_text"] else 0.0\n',
    },
  },
  {
    name: "endpoint",
    about: "A URL of yours gives the score, where the operator allows its host.",
    grader: { type: "endpoint", name: "mine", url: "https://YOUR.HOST/grade", headers: {}, secret: "whsec_..." },
  },
  {
    name: "environment",
    about: "The reward that a job's environment gives with the end of a conversation. It can be tried in a job only.",
    grader: { type: "environment", name: "environment" },
  },
  {
    name: "multi",
    about: "A formula over several graders, each of which is shown by itself too.",
    grader: {
      type: "multi",
      name: "right and alike",
      graders: {
        right: { type: "math", name: "right", input: OUTPUT, reference: ANSWER },
        like: { type: "text_similarity", name: "like", input: OUTPUT, reference: ANSWER, evaluation_metric: "fuzzy_match" },
      },
      calculate_output: "0.8 * right + 0.2 * like",
    },
  },
];

export const SAMPLE_ITEM = { answer: "7" };
export const SAMPLE_OUTPUT = "3 + 4 = 7";

/** A grader as it is shown in an editor. @param {Record<string, any>} grader */
export const written = (grader) => JSON.stringify(grader, null, 2);
