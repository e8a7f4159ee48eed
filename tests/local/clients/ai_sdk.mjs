// One story with the Vercel AI SDK. Tells, as JSON, what came out of it. Arguments: the server's address, a conversation's name or "", the prompt that uses the tools.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [address, conversation, prompt] = process.argv.slice(2);
const provider = createOpenAICompatible({
  name: "claude-code",
  baseURL: `${address}/v1`,
  headers: conversation ? { "X-Conversation-ID": conversation } : {},
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const add = tool({
  description: "Add two numbers",
  inputSchema: z.object({ a: z.number(), b: z.number().default(3) }),
  execute: async ({ a, b }) => ({ sum: a + b }),
});
const common = {
  model: provider("claude-code-client"),
  system: "Add.",
  tools: { add },
  stopWhen: stepCountIs(5),
  maxRetries: 0,
};

async function streamed(messages) {
  const run = streamText({ ...common, messages, onError: ({ error }) => { throw error; } });
  let text = "";
  for await (const piece of run.textStream) text += piece;
  return { text, messages: (await run.response).messages, usage: await run.totalUsage };
}

const asked = [{ role: "user", content: prompt }];
const whole = await generateText({ ...common, messages: asked });
const history = [...asked, ...whole.response.messages];
const next = [...history, { role: "user", content: "::say next" }];
const continued = await streamed(next);
const tools = await streamed([...next, ...continued.messages, { role: "user", content: prompt }]);
const edited = await streamed([...history, { role: "user", content: "::say edited" }]);
const { object } = await generateObject({
  model: common.model,
  maxRetries: 0,
  schema: z.object({ name: z.string(), age: z.number() }),
  prompt: '::tool StructuredOutput {"name": "Ada", "age": 36}',
  headers: conversation ? { "X-Conversation-ID": `${conversation}-object` } : {},
});
console.log(JSON.stringify({
  whole: whole.text,
  steps: whole.steps.length,
  reasons: whole.steps.map((step) => step.finishReason),
  continued: continued.text,
  tokens: continued.usage.outputTokens,
  tools: tools.text,
  edited: edited.text,
  object,
}));
