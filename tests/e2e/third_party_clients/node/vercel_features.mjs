// What Vercel's `ai` does with a model of any provider: the features of both of its programs.

import { APICallError, Output, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import {
  CALL_TOKENS, CITY_QUESTION, QUESTION, TOKENS, WEATHER_QUESTION, WEATHER_RESULT, assert, checkCity, checkRejects,
  checkWeather,
} from "./features.mjs";

const WEATHER = z.object({ city: z.string().max(12), unit: z.enum(["celsius", "fahrenheit"]) });
const CITY = z.object({ country: z.enum(["France", "Spain"]), capital: z.boolean() });

const getWeather = tool({
  description: "Get the weather of a city", inputSchema: WEATHER, execute: async () => WEATHER_RESULT,
});

const request = (model, more = {}) => ({
  model, prompt: QUESTION, temperature: 0, maxOutputTokens: TOKENS, maxRetries: 0, ...more,
});

// `modelOf(world, name, key)` is the provider's model; `adapted(world)` are the arguments that name the adapter in a field.
export const featuresOf = (modelOf, adapted) => ({
  async chat(world) {
    const answer = await generateText(request(modelOf(world, world.model)));
    assert(answer.text === world.base_answer && answer.usage.outputTokens === TOKENS, answer.text);
  },

  async stream(world) {
    const answer = streamText(request(modelOf(world, world.model)));
    let text = "";
    for await (const piece of answer.textStream) text += piece;
    assert(text === world.base_answer && (await answer.usage).outputTokens === TOKENS, text);
  },

  // Its loop over steps: the call comes from a stream, and the function's result is sent back.
  async tools(world) {
    const answer = streamText(
      request(modelOf(world, world.model), {
        prompt: WEATHER_QUESTION, maxOutputTokens: CALL_TOKENS, tools: { get_weather: getWeather },
        stopWhen: stepCountIs(2), prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? "none" : "required" }),
      }),
    );
    const [first, last] = await answer.steps;
    checkWeather(first.toolCalls[0].toolName, first.toolCalls[0].input);
    assert(first.toolResults[0].output === WEATHER_RESULT && last.text, last);
  },

  async structured_output(world) {
    const asked = { prompt: CITY_QUESTION, maxOutputTokens: CALL_TOKENS, output: Output.object({ schema: CITY }) };
    checkCity((await generateText(request(modelOf(world, world.model), asked))).output);
  },

  async adapter_by_model(world) {
    const answer = await generateText(request(modelOf(world, world.adapter)));
    assert(answer.text === world.adapted_answer && answer.response.modelId === `${world.adapter}@1`, answer.text);
  },

  async adapter_by_field(world) {
    const answer = await generateText(request(modelOf(world, world.model), adapted(world)));
    assert(answer.text === world.adapted_answer, answer.text);
  },

  models: "It lists no models.",

  async errors(world) {
    const failed = (status) => (error) => APICallError.isInstance(error) && error.statusCode === status;
    const ask = (model, more) => () => generateText(request(model, more));
    await checkRejects(ask(modelOf(world, "no-such-model")), failed(404), "'no-such-model'");
    await checkRejects(ask(modelOf(world, world.model), { topP: -1 }), failed(400), "top_p");
    await checkRejects(ask(modelOf(world, world.model, "wrong")), failed(401), "API key");
  },
});
