// Checks `/v1/responses` with OpenAI's own client for Node. `responses.py` says what it needs.

import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.HADAL_URL, apiKey: "none", maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const weather = {
  type: "function",
  name: "weather",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  strict: true,
};
const [thoughts, text, args] = ["so it is", "Yes, Oslo.", '{"city": "Oslo"}'];
const call = `<tool_call>{"name": "weather", "arguments": ${args}}</tool_call>`;
const escape = (text) => text.replace(/[\\.+*?()|[\]{}^$]/g, "\\$&");
const guided_regex = escape(`<think>${thoughts}</think>${text}${call}`);

function check(name, condition, seen) {
  console.log(condition ? "ok " : "BAD", name, condition ? "" : JSON.stringify(seen));
  if (!condition) process.exit(1);
}

function checkWhole(response, what) {
  const kinds = response.output.map((item) => item.type).join(" ");
  check(`${what}: items`, kinds === "reasoning message function_call", response);
  check(`${what}: thoughts`, response.output[0].content[0].text === thoughts, response.output);
  check(`${what}: text`, response.output_text === text, response);
  check(`${what}: call`, JSON.parse(response.output[2].arguments).city === "Oslo", response.output);
  check(`${what}: status`, response.status === "completed", response);
}

const asked = { model, input: "Is it raining?", tools: [weather], temperature: 0, max_output_tokens: 400, guided_regex };
checkWhole(await client.responses.create(asked), "whole");

let said = "";
let last;
for await (const event of await client.responses.create({ ...asked, stream: true })) {
  if (event.type === "response.output_text.delta") said += event.delta;
  last = event;
}
check("events: text", said === text, said);
check("events: last", last.type === "response.completed", last);

const stream = client.responses.stream(asked);
const seen = [];
stream.on("response.output_text.delta", (event) => seen.push(event.delta));
const final = await stream.finalResponse();
checkWhole(final, "helper");
check("helper: deltas", seen.join("") === text, seen);

const turns = [
  { role: "user", content: "Is it raining?" },
  ...final.output,
  { type: "function_call_output", call_id: final.output[2].call_id, output: "no" },
];
const follow = await client.responses.create({ ...asked, input: turns, guided_regex: "It is not\\." });
check("next turn", follow.output_text === "It is not.", follow);

try {
  await client.responses.create({ model, input: "a", previous_response_id: "resp_1" });
  check("refused: previous_response_id", false);
} catch (error) {
  check("refused: previous_response_id", error.status === 400 && error.param === "previous_response_id", error);
}
