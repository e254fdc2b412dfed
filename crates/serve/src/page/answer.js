// Asks the model for the next message of a conversation, and fills it as it comes.

import { stream } from "./api.js";
import { count, plural, rate, seconds } from "./dom.js";
import { prefs, requestFields } from "./prefs.js";

// The messages as the API takes them.
function apiMessages(messages) {
  const system = prefs.system.trim() ? [{ role: "system", content: prefs.system }] : [];
  return system.concat(messages.map(({ role, content, reasoning, calls, id, name }) => {
    if (role === "tool") return { role, content, tool_call_id: id, name };
    if (role === "user") return { role, content };
    const message = { role, content };
    if (reasoning) message.reasoning_content = reasoning;
    if (calls?.length) {
      message.tool_calls = calls.map((call) => (
        { id: call.id, type: "function", function: { name: call.name, arguments: call.arguments } }));
    }
    return message;
  }));
}

export const emptyAnswer = () => ({ role: "assistant", content: "", reasoning: "", calls: [] });

// Adds what a part of the stream brings.
function add(message, delta) {
  message.reasoning += delta.reasoning_content ?? "";
  message.content += delta.content ?? "";
  for (const part of delta.tool_calls ?? []) {
    const call = (message.calls[part.index] ??= { id: "", name: "", arguments: "" });
    call.id = part.id ?? call.id;
    call.name += part.function?.name ?? "";
    call.arguments += part.function?.arguments ?? "";
  }
}

function statistics(usage, begun, first) {
  if (!usage || !first) return "";
  const now = performance.now();
  const [all, cached] = [usage.completion_tokens, usage.prompt_tokens_details?.cached_tokens ?? 0];
  const parts = [plural(all, "token")];
  if (all > 1) parts.push(`${rate(((all - 1) * 1000) / (now - first))} tokens/s`);
  parts.push(`first after ${seconds((first - begun) / 1000)}`);
  if (cached) parts.push(`${count(cached)} of ${plural(usage.prompt_tokens, "prompt token")} cached`);
  return parts.join(" · ");
}

// Fills `message`. `changed` is called after each part. Errors are thrown, but what has come stays.
export async function fetchAnswer(messages, message, signal, changed) {
  const begun = performance.now();
  let [first, usage, finish] = [null, null, null];
  // Thinking lasts from the first thought to what follows it.
  const endThought = () => {
    if (message.thinking) message.thought = (performance.now() - message.thinking) / 1000;
    delete message.thinking;
  };
  try {
    const body = { messages: apiMessages(messages), ...requestFields() };
    for await (const chunk of stream("/v1/chat/completions", body, signal)) {
      usage = chunk.usage ?? usage;
      const choice = chunk.choices?.[0];
      if (!choice) continue;
      const delta = choice.delta ?? {};
      if (delta.content || delta.tool_calls || delta.reasoning_content) first ??= performance.now();
      if (delta.reasoning_content) message.thinking ??= first;
      add(message, delta);
      if (message.content.trim() || message.calls.length) endThought();
      finish = choice.finish_reason ?? finish;
      changed();
    }
    if (finish === "length") message.note = "The answer reached the limit of tokens.";
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    message.note = "Stopped.";
  } finally {
    endThought();
    message.stats = statistics(usage, begun, first);
    changed();
  }
}
