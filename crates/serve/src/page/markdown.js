// Markdown as nodes: headings, lists, tables, quotes and code. While a text grows, only its last blocks are made anew.

import { codeBlock } from "./code.js";
import { el } from "./dom.js";
import { inline } from "./inline.js";

const DEEPEST = 12;
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const RULE = /^ {0,3}([-*_])( *\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(\s+|$)/;
const DELIMITERS = /^ {0,3}\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const BLANK = /^\s*$/;

const isTable = (lines, i) => lines[i].includes("|") && lines[i + 1]?.includes("-") && DELIMITERS.test(lines[i + 1])
  && cells(lines[i]).length === cells(lines[i + 1]).length;

const begins = (lines, i) => [FENCE, HEADING, RULE, QUOTE, ITEM].some((form) => form.test(lines[i])) || isTable(lines, i);

const indent = (line) => line.length - line.trimStart().length;

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

// Cuts lines into blocks: each has its lines and a function that makes its node.
function blocks(lines, depth) {
  const found = [];
  let i = 0;
  let level = 0;
  const add = (end, make) => {
    found.push({ source: lines.slice(i, end).join("\n"), make });
    i = end;
  };
  while (i < lines.length) {
    const line = lines[i];
    let match;
    if (BLANK.test(line)) {
      i++;
    } else if ((match = FENCE.exec(line))) {
      const [, ticks, info] = match;
      const close = new RegExp(`^ {0,3}${ticks[0]}{${ticks.length},}\\s*$`);
      let end = i + 1;
      while (end < lines.length && !close.test(lines[end])) end++;
      const [body, width] = [lines.slice(i + 1, end), indent(line)];
      const text = body.map((l) => l.slice(Math.min(indent(l), width))).join("\n");
      add(Math.min(end + 1, lines.length), () => codeBlock(text, info.trim().split(/\s+/)[0]));
    } else if ((match = HEADING.exec(line))) {
      const [, marks, text] = match;
      // The page has its own first and second heading, and no level is left out.
      const own = (level = Math.min(marks.length, level + 1));
      add(i + 1, () => el(`h${Math.min(own + 2, 6)}`, { class: `h${marks.length}` }, ...inline(text.trim().replace(/(^|\s)#+$/, ""))));
    } else if (RULE.test(line)) {
      add(i + 1, () => el("hr"));
    } else if (depth < DEEPEST && QUOTE.test(line)) {
      let end = i + 1;
      while (end < lines.length && QUOTE.test(lines[end])) end++;
      const inner = lines.slice(i, end).map((l) => l.replace(QUOTE, ""));
      add(end, () => el("blockquote", {}, ...nodes(inner, depth + 1)));
    } else if (depth < DEEPEST && ITEM.test(line)) {
      const { items, end, start } = list(lines, i);
      const numbered = start !== null;
      const make = (item) => el("li", {}, ...tight(nodes(item, depth + 1)));
      add(end, () => el(numbered ? "ol" : "ul", numbered && start !== 1 ? { start } : {}, ...items.map(make)));
    } else if (isTable(lines, i)) {
      let end = i + 2;
      while (end < lines.length && !BLANK.test(lines[end]) && lines[end].includes("|")) end++;
      const rows = lines.slice(i, end);
      add(end, () => table(rows));
    } else {
      let end = i + 1;
      while (end < lines.length && !BLANK.test(lines[end]) && !begins(lines, end)) end++;
      const text = lines.slice(i, end).map((l) => l.trimStart()).join("\n").trimEnd();
      add(end, () => el("p", {}, ...inline(text)));
    }
  }
  return found;
}

const nodes = (lines, depth) => blocks(lines, depth).map((block) => block.make());

// A list from line `i` on: the lines of its items, its end, and its first number.
function list(lines, i) {
  const kind = (match) => match[2].slice(-1);
  const first = ITEM.exec(lines[i]);
  const start = /\d/.test(first[2]) ? parseInt(first[2], 10) : null;
  const items = [];
  let end = i;
  while (end < lines.length) {
    const match = ITEM.exec(lines[end]);
    if (!match || kind(match) !== kind(first) || RULE.test(lines[end])) break;
    const width = Math.min(match[0].length || 2, match[1].length + match[2].length + 4);
    const item = [lines[end].slice(match[0].length)];
    end++;
    while (end < lines.length) {
      const line = lines[end];
      if (BLANK.test(line)) {
        let next = end;
        while (next < lines.length && BLANK.test(lines[next])) next++;
        if (next === lines.length || indent(lines[next]) < width) break;
        item.push("");
      } else if (indent(line) >= width) item.push(line.slice(width));
      else if (indent(line) >= 2 && ITEM.test(line.trimStart())) item.push(line.trimStart());
      else if (!BLANK.test(lines[end - 1]) && !begins(lines, end)) item.push(line.trimStart());
      else break;
      end++;
    }
    items.push(item);
    let next = end;
    while (next < lines.length && BLANK.test(lines[next])) next++;
    const more = next < lines.length && ITEM.exec(lines[next]);
    if (more && kind(more) === kind(first)) end = next;
  }
  return { items, end: Math.max(end, i + 1), start };
}

// A single paragraph of an item needs no space around it.
const tight = (nodes) => (nodes[0]?.tagName === "P" ? [...nodes[0].childNodes, ...nodes.slice(1)] : nodes);

function table(lines) {
  const align = cells(lines[1]).map((c) => (/^:.*:$/.test(c) ? "middle" : c.endsWith(":") ? "right" : null));
  const row = (line, tag) => {
    const all = cells(line);
    return el("tr", {}, ...align.map((side, i) => el(tag, { class: side }, ...inline(all[i] ?? ""))));
  };
  const body = lines.slice(2).map((line) => row(line, "td"));
  const whole = el("table", {}, el("thead", {}, row(lines[0], "th")), el("tbody", {}, ...body));
  return el("div", { class: "table", tabindex: "0", role: "group", "aria-label": "Table" }, whole);
}

// An element that shows a text as it grows.
export class Markdown {
  constructor() {
    this.node = el("div", { class: "markdown" });
    this.sources = [];
  }

  set(text) {
    const now = blocks(text.replace(/\r\n?/g, "\n").replaceAll("\t", "    ").split("\n"), 0);
    let same = 0;
    while (same < now.length && now[same].source === this.sources[same]) same++;
    while (this.node.childNodes.length > same) this.node.lastChild.remove();
    this.node.append(...now.slice(same).map((block) => block.make()));
    this.sources = now.map((block) => block.source);
  }
}
