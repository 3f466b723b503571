// Vercel's `ai` with @ai-sdk/openai, over /v1/responses.

import { createOpenAI } from "@ai-sdk/openai";
import { run } from "./features.mjs";
import { featuresOf } from "./vercel_features.mjs";

const modelOf = (world, name, apiKey = world.key) => createOpenAI({ baseURL: `${world.url}/v1`, apiKey })(name);

await run({
  ...featuresOf(modelOf),
  adapter_by_field: "It sends only OpenAI's own fields: name the adapter as the model, or use @ai-sdk/openai-compatible.",
});
