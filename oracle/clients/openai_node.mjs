// `openai` for Node against $HADAL_URL.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat, zodFunction } from "openai/helpers/zod";
import { z } from "zod";

const model = process.env.HADAL_MODEL;
const client = new OpenAI({ baseURL: process.env.HADAL_URL, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "What is the weather in Paris?" }];
const Person = z.object({ name: z.string().max(8), kind: z.enum(["human", "robot"]), age: z.number().int().min(0).max(150) });

const listed = [];
for await (const one of client.models.list()) listed.push(one.id);
assert.deepEqual(listed, [model]);
assert.equal((await client.models.retrieve(model)).id, model);

const whole = await client.completions.create({ model, prompt: "let x", max_tokens: 30, seed: 3 });
let text = "";
let usage;
for await (const part of await client.completions.create({
  model, prompt: "let x", max_tokens: 30, seed: 3, stream: true, stream_options: { include_usage: true },
})) {
  text += part.choices.map((choice) => choice.text).join("");
  usage = part.usage ?? usage;
}
assert.equal(text, whole.choices[0].text);
assert.equal(usage.completion_tokens, whole.usage.completion_tokens);

const chat = await client.chat.completions.create({ model, messages, max_tokens: 30, seed: 2, logprobs: true, top_logprobs: 1 });
assert.ok(chat.choices[0].logprobs.content.length > 0);
const streamed = client.chat.completions.stream({ model, messages, max_tokens: 30, seed: 2 });
assert.equal(await streamed.finalContent(), chat.choices[0].message.content);

const parsed = await client.chat.completions.parse({
  model, messages, max_tokens: 200, seed: 1, response_format: zodResponseFormat(Person, "person"),
});
assert.ok(Person.safeParse(parsed.choices[0].message.parsed).success, JSON.stringify(parsed));

const tools = [zodFunction({ name: "person", parameters: Person })];
const called = await client.chat.completions.parse({
  model, messages, tools, tool_choice: { type: "function", function: { name: "person" } }, max_tokens: 200, seed: 1,
});
assert.ok(Person.safeParse(called.choices[0].message.tool_calls[0].function.parsed_arguments).success);

let asked;
const runner = client.chat.completions.runTools({
  model, messages, max_tokens: 200, seed: 1, tool_choice: { type: "function", function: { name: "person" } },
  tools: [{ type: "function", function: { name: "person", parameters: z.toJSONSchema(Person), parse: JSON.parse, function: (person) => ((asked = person), "thanks"), description: "Notes a person." } }],
}, { maxChatCompletions: 2 });
await runner.done().catch(() => {});
assert.ok(Person.safeParse(asked).success, JSON.stringify(asked));

// A stream that is broken off, and mistakes.
const stream = await client.chat.completions.create({ model, messages, max_tokens: 1000, stream: true });
for await (const _ of stream) break;
await assert.rejects(client.completions.create({ model: "gpt-4", prompt: "x" }), OpenAI.NotFoundError);
await assert.rejects(client.completions.create({ model, prompt: "x", temperature: 200 }), (error) => error.param === "temperature");

const many = (i) => client.completions.create({ model, prompt: `// ${i}: `, seed: i, max_tokens: 20 }).then((one) => one.choices[0].text);
const together = await Promise.all([...Array(16).keys()].map(many));
assert.equal(await many(5), together[5]);
console.log("ok");
