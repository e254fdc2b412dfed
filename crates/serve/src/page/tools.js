// Calls of tools: what the model asks for, and a place for what the tool says.

import { codeBlock } from "./code.js";
import { el, icon } from "./dom.js";

// Arguments as JSON over several lines, once they are complete.
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

export function callCard(call) {
  const head = el("p", { class: "call-head" }, icon("tool"), el("span", { text: "Calls " }), el("code", { text: call.name }));
  return el("div", { class: "call" }, head, codeBlock(pretty(call.arguments), "json"));
}

// A form for the results of calls. `send` gets a text for each call.
export function resultForm(calls, send) {
  const areas = calls.map((call, i) => el("textarea", { rows: "2", class: "mono", name: `result-${i}`, required: true }));
  const labels = calls.map((call, i) => el("label", { class: "field" }, "Result of ", el("code", { text: call.name }), areas[i]));
  const form = el("form", { class: "results" }, ...labels,
    el("div", { class: "row end" }, el("button", { class: "button main", text: calls.length > 1 ? "Send the results" : "Send the result" })));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(areas.map((area) => area.value));
  });
  return form;
}
