// The engine as it works: speeds, sequences, pages, drafts, and the load of its experts.

import { getJson } from "./api.js";
import { $, count, el, plural, rate, seconds, svg } from "./dom.js";
import { Heat } from "./heat.js";

const EVERY = 1000;
const EXPERTS_EVERY = 3;
// Points of a curve.
const POINTS = 90;

const heat = new Heat($("heat"), $("heat-span"));
const history = { generated: [], prompt: [], pages: [] };
let before = null;
let looks = 0;
let timer = null;
// The latest call of `look`. Earlier ones that still wait do not go on.
let latest = 0;
let cards = null;

const isShown = () => !$("view-engine").hidden && !document.hidden;

export function startEngine() {
  document.addEventListener("visibilitychange", () => isShown() && look());
}

// Begins to look, as long as the view is shown.
export async function look() {
  clearTimeout(timer);
  if (!isShown()) return;
  const own = ++latest;
  try {
    const figures = await getJson("/engine");
    const experts = looks % EXPERTS_EVERY === 0 ? await getJson("/engine/experts") : null;
    if (own !== latest) return;
    looks += 1;
    show(figures);
    if (experts) heat.take(experts.layers);
    $("engine-error").hidden = true;
  } catch (error) {
    if (own !== latest) return;
    $("engine-error").textContent = error.message;
    $("engine-error").hidden = false;
    before = null;
    // The question for a key does not come again and again.
    if (error.status === 401) return;
  }
  timer = setTimeout(look, EVERY);
}

function card(name, curve) {
  const [value, about] = [el("p", { class: "value", text: "–" }), el("p", { class: "quiet small" })];
  const line = curve && svg("polyline", { class: "curve" });
  const chart = line && svg("svg", { viewBox: `0 0 ${POINTS} 24`, preserveAspectRatio: "none", "aria-hidden": "true" }, line);
  const node = el("section", { class: "card", "aria-label": name }, el("h2", { text: name }), value, chart, about);
  return { node, value, about, line };
}

function bar(parts) {
  return el("div", { class: "stack", "aria-hidden": "true" }, ...parts.map(([name, share]) => {
    const part = el("span", { class: name });
    part.style.width = `${100 * share}%`;
    return part;
  }));
}

function start() {
  cards = {
    generated: card("New tokens", true),
    prompt: card("Prompt tokens", true),
    sequences: card("Sequences"),
    pages: card("Cache"),
    drafts: card("Drafts"),
    passes: card("Passes"),
  };
  $("cards").replaceChildren(...Object.values(cards).map(({ node }) => node));
}

function set(name, value, about) {
  cards[name].value.textContent = value;
  cards[name].about.textContent = about;
}

function draw(name, value) {
  const values = history[name];
  values.push(value);
  if (values.length > POINTS) values.shift();
  const most = Math.max(...values, 1e-9);
  const points = values.map((v, i) => `${POINTS - values.length + i},${(23 - (22 * v) / most).toFixed(2)}`);
  cards[name].line.setAttribute("points", points.join(" "));
}

function show(now) {
  if (!cards) start();
  // After a restart, the counters begin anew.
  const span = before && now.seconds > before.seconds ? now.seconds - before.seconds : null;
  const per = (name) => (span ? Math.max(0, now[name] - before[name]) / span : 0);
  for (const [name, field] of [["generated", "generated_tokens"], ["prompt", "prompt_tokens"]]) {
    set(name, span ? `${rate(per(field))}/s` : "–", `${count(now[field])} since the start`);
    if (span) draw(name, per(field));
  }
  set("sequences", plural(now.running, "running").replace(/s$/, ""), `${count(now.waiting)} waiting, ${count(now.most_running)} at a time`);
  showPages(now.pages, now.preemptions);
  showDrafts(now.drafts);
  const each = now.passes ? now.experts_used / now.passes : 0;
  const times = now.seconds_to_first_token === null ? ""
    : `, first token after ${seconds(now.seconds_to_first_token)} on average`;
  set("passes", span ? `${rate(per("passes"))}/s` : "–", `${rate(each)} experts in a pass${times}`);
  before = now;
}

function showPages({ all, free, prefix, tokens }, preemptions) {
  // The engine begins a moment after the server.
  if (!all) return;
  const used = all - free;
  // Pages for prefixes may be in use by sequences as well.
  const kept = Math.min(prefix, used);
  set("pages", `${Math.round((100 * used) / all)}% used`,
    `${count(free)} of ${plural(all, "page")} free, ${count(prefix)} kept for prompts that begin alike, ${tokens} tokens each`
    + (preemptions ? `, ${plural(preemptions, "preemption")}` : ""));
  cards.pages.node.querySelector(".stack")?.remove();
  cards.pages.value.after(bar([["used", (used - kept) / all], ["kept", kept / all]]));
}

function showDrafts({ verified, accepted }) {
  const recent = before && verified > before.drafts.verified
    ? (accepted - before.drafts.accepted) / (verified - before.drafts.verified) : null;
  const whole = verified ? accepted / verified : null;
  const percent = (share) => `${Math.round(100 * share)}%`;
  set("drafts", whole === null ? "none" : `${percent(recent ?? whole)} accepted`,
    whole === null ? "The model has no MTP module, or drafts do not pay" : `${percent(whole)} of ${count(verified)} since the start`);
}
