// A server that says what it is told to: the real page, with answers of the API that a small model would never give
// (thoughts, calls of tools, Markdown, attacks). The page's files come from a real server, with its headers.

import { createServer } from "node:http";

export const XSS = [
  "<script>window.hit = 1</script>",
  "<img src=x onerror=\"window.hit = 1\">",
  "<svg onload=window.hit=1>",
  "[link](javascript:window.hit=1)",
  "[link](data:text/html,<script>window.hit=1</script>)",
  "[a](https://example.org/\"onmouseover=\"window.hit=1)",
  "![pic](https://example.org/track.png)",
  "<a href=\"javascript:window.hit=1\">x</a>",
  "<javascript:window.hit=1>",
  "`</code><img src=x onerror=window.hit=1>`",
  "| <img src=x onerror=window.hit=1> | b |\n| --- | --- |\n| <iframe srcdoc='<script>top.hit=1</script>'> | x |",
  "```\"><img/src=x/onerror=window.hit=1>\n</code></pre><script>window.hit=1</script>\n```",
  "<style>body{display:none}</style><meta http-equiv=refresh content=0>",
];

const MARKDOWN = `## Sorting a list

A **merge sort** splits the list, sorts *both halves*, and merges them. It needs \`O(n log n)\` steps.

\`\`\`rust
/// Sorts a list of numbers.
fn merge_sort(list: &mut Vec<u32>) {
    if list.len() < 2 { return; } // nothing to do
    let mut right = list.split_off(list.len() / 2);
    merge_sort(list);
    merge_sort(&mut right);
    println!("{} and {} left", list.len(), 42);
}
\`\`\`

1. Split in the middle.
2. Sort each half:
   - the left one,
   - the right one.
3. Merge.

| method | steps | stable |
| :--- | ---: | :---: |
| merge sort | n log n | yes |
| heap sort | n log n | no |

> More in [the report](https://arxiv.org/abs/2412.19437).`;

const CALL = { name: "weather", arguments: ["{\"city\": ", "\"Bergen\", ", "\"days\": 2}"] };

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const pieces = (text, n) => text.match(new RegExp(`[^]{1,${n}}`, "g")) ?? [];

// The parts of an answer, by what the last message says.
function script(messages) {
  const last = messages.at(-1);
  if (last.role === "tool") return { parts: pieces(`It is ${last.content} in Bergen.`, 6).map((content) => ({ content })) };
  const text = last.content;
  if (text.includes("weather")) {
    const call = { index: 0, id: "call-1", type: "function", function: { name: CALL.name, arguments: "" } };
    const more = CALL.arguments.map((part) => ({ tool_calls: [{ index: 0, function: { arguments: part } }] }));
    return { parts: [{ content: "I look it up." }, { tool_calls: [call] }, ...more], finish: "tool_calls" };
  }
  if (text.includes("attack")) {
    const all = XSS.join("\n\n");
    return { parts: [...pieces(all, 7).map((reasoning_content) => ({ reasoning_content })), ...pieces(all, 5).map((content) => ({ content }))] };
  }
  if (text.includes("forever")) return { parts: Array.from({ length: 2000 }, (_, i) => ({ content: `${i} ` })), pause: 20 };
  if (text.includes("break off")) return { parts: [{ content: "This is " }], cut: true };
  if (text.includes("error later")) return { parts: [{ content: "This is " }], error: "the engine has ended: try again when the server is back" };
  const thoughts = "The user wants to know how a list is sorted.\n\nI show `merge_sort`, with a table.";
  return {
    parts: [...pieces(thoughts, 9).map((reasoning_content) => ({ reasoning_content })), ...pieces(MARKDOWN, 11).map((content) => ({ content }))],
    pause: 4,
  };
}

// Starts the server. `page` is the address of a real one; `has_chat` says whether there is a template.
export async function startFake({ page, hasChat = true, key = null }) {
  const seen = [];
  const engine = { seconds: 0, generated: 0, prompt: 0, passes: 0, verified: 0, accepted: 0 };
  const loads = Array.from({ length: 58 }, (_, l) => Array.from({ length: 256 }, (_, e) =>
    Math.round(4000 * (0.35 + Math.abs(Math.sin(e * 12.9898 + l * 78.233) * 43758.5453 % 1)) * (e % 61 === l ? 4 : 1) * (e % 37 === 5 ? 0.1 : 1))));
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url, "http://x");
    const json = (value, status = 200) => {
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify(value));
    };
    const fail = (status, code, message) => json({ error: { message, code, type: "x", param: null } }, status);
    if (pathname === "/" || pathname.startsWith("/assets/")) {
      const real = await fetch(page + pathname);
      const headers = Object.fromEntries([...real.headers].filter(([name]) => !/^(content-length|content-encoding|connection|date|transfer)/.test(name)));
      response.writeHead(real.status, headers);
      response.end(Buffer.from(await real.arrayBuffer()));
      return;
    }
    if (key && request.headers.authorization !== `Bearer ${key}`) return fail(401, "invalid_api_key", "a key is needed");
    let text = "";
    for await (const chunk of request) text += chunk;
    const body = text ? JSON.parse(text) : null;
    if (body) seen.push({ path: pathname, body });
    if (pathname === "/v1/models") return json({ data: [{ id: "scripted-answers" }] });
    if (pathname === "/engine/experts") {
      for (const [l, layer] of loads.entries()) for (let e = 0; e < 256; e += 1) if ((e + l + engine.passes) % 3 === 0) layer[e] += (e * 7 + l) % 29;
      return json({ layers: loads.map((tokens, l) => ({ layer: l + 3, mtp: false, tokens })) });
    }
    if (pathname === "/engine") {
      const wave = 1 + 0.25 * Math.sin(engine.seconds);
      engine.seconds += 1;
      engine.generated += Math.round(210 * wave);
      engine.prompt += engine.seconds % 5 < 2 ? 1800 : 0;
      engine.passes += 30;
      engine.verified += 100;
      engine.accepted += 83 + Math.round(4 * Math.sin(engine.seconds));
      return json({
        seconds: engine.seconds, running: 12, waiting: 3, most_running: 64, draining: false, has_chat: hasChat,
        pages: { all: 512, free: 190, prefix: 96, tokens: 128 }, preemptions: 0, passes: engine.passes,
        experts_used: engine.passes * 1900, prompt_tokens: engine.prompt, generated_tokens: engine.generated,
        drafts: { verified: engine.verified, accepted: engine.accepted }, seconds_to_first_token: 0.42, seconds_per_token: 0.05,
      });
    }
    if (pathname !== "/v1/chat/completions") return fail(404, "not_found", `there is nothing at ${pathname}`);
    if (!hasChat) return fail(400, "no_template", "the model has no template for conversations: use /v1/completions");
    const { parts, pause = 1, finish = "stop", cut, error } = script(body.messages);
    response.writeHead(200, { "content-type": "text/event-stream" });
    const send = (value) => response.write(`data: ${JSON.stringify(value)}\n\n`);
    send({ choices: [{ index: 0, delta: { role: "assistant", content: "" } }] });
    for (const [at, delta] of parts.entries()) {
      if (response.destroyed || request.socket.destroyed) return;
      // Thoughts end late enough to be seen on a busy machine.
      if (at > 0 && parts[at - 1].reasoning_content && !delta.reasoning_content) await sleep(500);
      send({ choices: [{ index: 0, delta, finish_reason: null }], usage: null });
      await sleep(pause);
    }
    if (cut) {
      await sleep(200);
      return response.destroy();
    }
    if (error) send({ error: { message: error, code: "engine_ended" } });
    else {
      send({ choices: [{ index: 0, delta: {}, finish_reason: finish }] });
      send({ choices: [], usage: { prompt_tokens: 90, completion_tokens: parts.length, prompt_tokens_details: { cached_tokens: 64 } } });
    }
    response.end("data: [DONE]\n\n");
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}`, seen, stop: () => server.close() && server.closeAllConnections() };
}
