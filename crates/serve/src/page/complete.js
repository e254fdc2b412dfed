// Completion: text before and after the cursor, new tokens as they come, and the probability of each.

import { stream } from "./api.js";
import { $, el, plural, rate, seconds } from "./dom.js";
import { remember } from "./prefs.js";

const NAME = "hadal.text";
const TOPS = 5;

const area = $("text");
const result = $("result");
// The text around the gap, and the tokens in it.
let around = null;
let tokens = [];
let running = null;
// The token whose alternatives are shown.
let chosen = -1;

export function startComplete() {
  try {
    area.value = localStorage.getItem(NAME) ?? "";
  } catch {
    // The text is not kept.
  }
  for (const event of ["input", "keyup", "click", "focus"]) area.addEventListener(event, showPlace);
  area.addEventListener("input", () => remember(NAME, area.value));
  $("complete").addEventListener("click", complete);
  $("complete-stop").addEventListener("click", () => running?.abort());
  $("keep").addEventListener("click", keep);
  $("again").addEventListener("click", complete);
  $("discard").addEventListener("click", () => edit(around.before + around.after, around.before.length));
  document.addEventListener("keydown", (event) => {
    if ($("view-complete").hidden || document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") running?.abort();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !running) complete();
  });
  result.addEventListener("keydown", walk);
  showPlace();
}

function showPlace() {
  const [at, all] = [area.selectionStart, area.value.length];
  const line = area.value.slice(0, at).split("\n").length;
  $("where").textContent = at < all ? `Fills the gap at the cursor in line ${line}` : "Continues at the end";
}

function body() {
  const number = (id, name) => ($(id).value !== "" && $(id).checkValidity() ? { [name]: Number($(id).value) } : {});
  return {
    prompt: around.before,
    ...(around.after ? { suffix: around.after } : {}),
    logprobs: TOPS,
    ...number("c-max", "max_tokens"),
    ...number("c-temperature", "temperature"),
    ...number("c-top-p", "top_p"),
    ...number("c-seed", "seed"),
  };
}

async function complete() {
  if (running) return;
  if (!area.hidden) {
    const [from, to] = [area.selectionStart, area.selectionEnd];
    around = { before: area.value.slice(0, from), after: area.value.slice(to) };
  }
  tokens = [];
  chosen = -1;
  const control = new AbortController();
  running = control;
  show();
  $("complete-error").hidden = true;
  $("complete-state").textContent = "";
  const begun = performance.now();
  let [first, usage, finish] = [null, null, null];
  try {
    for await (const chunk of stream("/v1/completions", body(), control.signal)) {
      usage = chunk.usage ?? usage;
      const choice = chunk.choices?.[0];
      if (!choice) continue;
      if (choice.text) first ??= performance.now();
      finish = choice.finish_reason ?? finish;
      add(choice);
    }
    $("complete-state").textContent = about(usage, finish, begun, first);
  } catch (error) {
    if (error.name === "AbortError") $("complete-state").textContent = "Stopped.";
    else {
      $("complete-error").textContent = error.message;
      $("complete-error").hidden = false;
    }
  }
  running = null;
  if (tokens.length) show();
  else edit(around.before + around.after, around.before.length);
}

function about(usage, finish, begun, first) {
  if (!first || !usage) return "The model ended the text at once.";
  const n = usage.completion_tokens;
  const speed = n > 1 ? `, ${rate(((n - 1) * 1000) / (performance.now() - first))} tokens/s` : "";
  const end = finish === "length" ? "There may be more to come." : "The model ended the text.";
  return `${plural(n, "token")}${speed}, first after ${seconds((first - begun) / 1000)}. ${end}`;
}

// Adds a part of the stream: its tokens, each with its own piece of the text.
function add(choice) {
  const { text, logprobs } = choice;
  const names = logprobs?.tokens ?? [];
  // The places are counted in characters, as the server counts them.
  const chars = [...text];
  const start = tokens.reduce((sum, token) => sum + token.chars, 0);
  const places = names.map((_, i) => Math.max(0, Math.min(chars.length, (logprobs.text_offset[i] ?? start) - start)));
  // Text before the first token of the part belongs to the token before.
  lengthen(chars.slice(0, names.length ? places[0] : chars.length));
  names.forEach((name, i) => {
    const from = places[i];
    const end = i + 1 < names.length ? places[i + 1] : chars.length;
    const piece = chars.slice(from, Math.max(from, end));
    const tops = Object.entries(logprobs.top_logprobs?.[i] ?? {}).sort((a, b) => b[1] - a[1]);
    push({ text: piece.join(""), chars: piece.length, name, logprob: logprobs.token_logprobs[i], tops });
  });
}

function lengthen(chars) {
  if (!chars.length) return;
  const last = tokens.at(-1);
  if (!last) return push({ text: chars.join(""), chars: chars.length });
  last.text += chars.join("");
  last.chars += chars.length;
  last.node.textContent = last.text;
}

function push(token) {
  const i = tokens.push(token) - 1;
  const chance = Math.exp(token.logprob ?? 0);
  const level = chance > 0.8 ? 0 : chance > 0.4 ? 1 : chance > 0.1 ? 2 : 3;
  token.node = el("span", { class: `new p${level}`, text: token.text, onpointerenter: () => choose(i), onclick: () => choose(i) });
  result.insertBefore(token.node, result.querySelector(".after"));
  if (result.scrollHeight > result.clientHeight) token.node.scrollIntoView({ block: "nearest" });
}

// Shows the text with its gap, or the tokens in the gap.
function show() {
  const isResult = around !== null;
  area.hidden = isResult;
  result.hidden = !isResult;
  const waiting = running !== null;
  $("complete").hidden = isResult;
  $("complete-stop").hidden = !waiting;
  for (const id of ["keep", "again", "discard"]) $(id).hidden = !isResult || waiting;
  $("where").hidden = isResult;
  $("token").hidden = !isResult;
  result.setAttribute("aria-busy", String(waiting));
  if (!isResult) return;
  if (waiting) {
    result.replaceChildren(el("span", { text: around.before }), el("span", { class: "after", text: around.after }));
    $("token-about").replaceChildren();
    $("complete-stop").focus();
  } else $("keep").focus({ preventScroll: true });
}

// Back to a text that can be edited.
function edit(text, at) {
  around = null;
  tokens = [];
  area.value = text;
  remember(NAME, text);
  show();
  area.focus();
  area.setSelectionRange(at, at);
  showPlace();
}

function keep() {
  const text = around.before + tokens.map((token) => token.text).join("");
  edit(text + around.after, text.length);
}

function choose(i) {
  const token = tokens[i];
  if (!token) return;
  tokens[chosen]?.node.classList.remove("chosen");
  chosen = i;
  token.node.classList.add("chosen");
  $("token-about").replaceChildren(...alternatives(token));
}

// The token and what else was likely.
function alternatives(token) {
  if (token.logprob == null) return [el("p", { text: "There are no probabilities for this token." })];
  const row = ([name, logprob]) => {
    const chance = Math.exp(logprob);
    const bar = el("span", { class: "bar" });
    bar.style.width = `${(100 * chance).toFixed(1)}%`;
    const own = name === token.name;
    return el("tr", { class: own ? "own" : null }, el("th", { scope: "row" }, el("code", { text: visible(name) }), own ? " drawn" : ""),
      el("td", { text: percent(chance) }), el("td", { class: "chance" }, bar));
  };
  const head = el("tr", {}, ...["Token", "Probability"].map((text) => el("th", { scope: "col", text })), el("td"));
  return [el("table", { class: "tops" }, el("thead", {}, head), el("tbody", {}, ...token.tops.map(row)))];
}

const percent = (chance) => (chance < 0.001 ? "< 0.1%" : `${(100 * chance).toFixed(1)}%`);
const visible = (name) => name.replaceAll("\n", "↵").replaceAll("\t", "⇥").replace(/^ | $/g, "␣") || "(nothing)";

// The arrow keys go from token to token.
function walk(event) {
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  const step = steps[event.key];
  if (!step || !tokens.length) return;
  event.preventDefault();
  choose(Math.max(0, Math.min(tokens.length - 1, chosen < 0 || !tokens[chosen] ? 0 : chosen + step)));
  tokens[chosen].node.scrollIntoView({ block: "nearest" });
}
