// Vercel's `ai` with @ai-sdk/openai-compatible, over /v1/chat/completions.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { run } from "./features.mjs";
import { featuresOf } from "./vercel_features.mjs";

const modelOf = (world, name, apiKey = world.key) =>
  createOpenAICompatible({
    name: "tinylora", baseURL: `${world.url}/v1`, apiKey, includeUsage: true, supportsStructuredOutputs: true,
  })(name);

await run(featuresOf(modelOf, (world) => ({ providerOptions: { tinylora: { adapter: world.adapter } } })));
