// The load of experts as a heat map: a row for each layer, a cell for each expert.

import { count, el } from "./dom.js";
import { onTheme } from "./theme.js";

// Loads of the last seconds are those of this many looks.
const LOOKS = 6;
// The load, relative to the mean, of each colour of the scale.
const STOPS = [0, 1, 2, 4];

export class Heat {
  constructor(place, span) {
    this.looks = [];
    this.at = null;
    this.canvas = el("canvas", { class: "heat", tabindex: "0", role: "img" });
    this.readout = el("p", { class: "small readout", "aria-live": "polite" });
    const labels = STOPS.map((stop) => el("span", { text: stop === 4 ? "4× or more" : `${stop}×` }));
    this.scale = el("div", { class: "scale" }, el("span", { class: "scale-bar" }), el("div", { class: "scale-labels" }, ...labels));
    this.rows = el("tbody");
    const names = ["Layer", "Tokens", "Busiest expert", "Its load", "Idle experts"];
    const head = el("tr", {}, ...names.map((text) => el("th", { scope: "col", text })));
    const table = el("div", { class: "table", tabindex: "0", role: "group", "aria-label": "Load by layer" },
      el("table", {}, el("thead", {}, head), this.rows));
    this.details = el("details", {}, el("summary", { text: "Numbers by layer" }), table);
    place.append(this.canvas, this.readout, this.scale, this.details);
    this.span = span;
    span.addEventListener("change", () => this.draw());
    this.details.addEventListener("toggle", () => this.draw());
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerdown", (event) => this.point(event));
    this.canvas.addEventListener("keydown", (event) => this.walk(event));
    new ResizeObserver(() => this.draw()).observe(place);
    onTheme(() => this.draw());
  }

  // Takes the loads that the server tells.
  take(layers) {
    const last = this.looks.at(-1);
    // A server that was started anew begins to count at 0.
    if (last && layers.some((layer, i) => layer.tokens[0] < (last[i]?.tokens[0] ?? 0))) this.looks = [];
    this.looks.push(layers);
    if (this.looks.length > LOOKS) this.looks.shift();
    this.draw();
  }

  // The loads that are to be shown.
  loads() {
    const now = this.looks.at(-1) ?? [];
    const old = this.span.value === "recent" ? this.looks[0] : null;
    return now.map(({ layer, mtp, tokens }, l) => {
      const shown = old ? tokens.map((n, e) => n - old[l].tokens[e]) : tokens;
      const sum = shown.reduce((a, b) => a + b, 0);
      return { name: mtp ? `MTP ${layer}` : `${layer}`, tokens: shown, sum, mean: sum / shown.length };
    });
  }

  draw() {
    const loads = this.loads();
    const width = this.canvas.parentNode.clientWidth;
    this.canvas.hidden = !loads.length || !width;
    if (!loads.length) {
      this.readout.textContent = this.looks.length ? "This model has no routed experts." : "";
      return;
    }
    if (!width) return;
    const experts = loads[0].tokens.length;
    const height = Math.max(6, Math.min(26, width / experts, 420 / loads.length));
    const dots = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * dots);
    this.canvas.height = Math.round(height * loads.length * dots);
    this.canvas.style.height = `${height * loads.length}px`;
    const [cell, row, context] = [this.canvas.width / experts, this.canvas.height / loads.length, this.canvas.getContext("2d")];
    const gap = cell > 6 * dots ? dots : 0;
    const colors = this.colors();
    loads.forEach(({ tokens, mean }, l) => tokens.forEach((n, e) => {
      context.fillStyle = mix(colors, mean ? n / mean : 0);
      const [x, y] = [Math.round(e * cell), Math.round(l * row)];
      context.fillRect(x, y, Math.round((e + 1) * cell) - x - gap, Math.round((l + 1) * row) - y - (row > 4 * dots ? dots : 0));
    }));
    this.summarise(loads);
  }

  colors() {
    // The browser turns the names of colours into numbers.
    const numbers = STOPS.map((_, i) => {
      this.canvas.style.color = `var(--heat-${i})`;
      return getComputedStyle(this.canvas).color.match(/\d+/g).slice(0, 3).map(Number);
    });
    this.canvas.style.color = "";
    return numbers;
  }

  summarise(loads) {
    const busy = loads.filter(({ sum }) => sum > 0).map((load) => ({ ...load, most: Math.max(...load.tokens) }));
    const worst = busy.reduce((a, b) => (a && a.most / a.mean >= b.most / b.mean ? a : b), null);
    this.canvas.setAttribute("aria-label", `Heat map of ${loads.length} layers with ${loads[0].tokens.length} experts each. `
      + (worst ? `The busiest expert, in layer ${worst.name}, has ${(worst.most / worst.mean).toFixed(1)} times the mean of its layer.` : "No tokens yet.")
      + " The arrow keys go from cell to cell.");
    this.tell(loads);
    if (!this.details.open) return;
    this.rows.replaceChildren(...loads.map(({ name, tokens, sum, mean }) => {
      const most = Math.max(...tokens);
      const cells = [count(sum), sum ? tokens.indexOf(most) : "–", sum ? `${(most / mean).toFixed(2)}×` : "–", tokens.filter((n) => !n).length];
      return el("tr", {}, el("th", { scope: "row", text: name }), ...cells.map((text) => el("td", { text })));
    }));
  }

  // Says what is in the cell that is pointed at.
  tell(loads) {
    if (!this.at) {
      this.readout.textContent = "Point at a cell, or use the arrow keys, to see its numbers.";
      return;
    }
    const [l, e] = this.at;
    const load = loads[l];
    if (!load || e >= load.tokens.length) return;
    const times = load.mean ? (load.tokens[e] / load.mean).toFixed(2) : "0";
    this.readout.textContent = `Layer ${load.name}, expert ${e}: ${count(load.tokens[e])} tokens, ${times}× the mean of the layer`;
  }

  point(event) {
    const loads = this.loads();
    const box = this.canvas.getBoundingClientRect();
    const place = (at, size, n) => Math.max(0, Math.min(n - 1, Math.floor((at / size) * n)));
    this.at = [place(event.clientY - box.top, box.height, loads.length), place(event.clientX - box.left, box.width, loads[0].tokens.length)];
    this.tell(loads);
  }

  walk(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    const loads = this.loads();
    if (!step || !loads.length) return;
    event.preventDefault();
    const [l, e] = this.at ?? [0, 0];
    const inside = (at, n) => Math.max(0, Math.min(n - 1, at));
    this.at = this.at ? [inside(l + step[0], loads.length), inside(e + step[1], loads[0].tokens.length)] : [0, 0];
    this.tell(loads);
  }
}

// The colour of a load relative to the mean.
function mix(colors, load) {
  let i = 0;
  while (i + 2 < STOPS.length && load > STOPS[i + 1]) i++;
  const t = Math.min(1, (load - STOPS[i]) / (STOPS[i + 1] - STOPS[i]));
  return `rgb(${colors[i].map((c, k) => Math.round(c + t * (colors[i + 1][k] - c))).join(" ")})`;
}
