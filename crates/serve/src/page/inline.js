// Markdown within a line: code, emphasis, links and formulas. It makes nodes, so a text can never become markup.

import { el } from "./dom.js";

const DEEPEST = 6;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const LINK = /!?\[((?:[^[\]\\]|\\.|\[[^[\]]*\])*)\]\(\s*<?([^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)*)>?(?:\s+"[^"]*")?\s*\)/y;
const ANGLE = /<((?:https?:\/\/|mailto:)[^\s<>]+)>/y;
const BARE = /https?:\/\/[^\s<>"'`]*[^\s<>"'`.,;:!?)\]}*_~]/y;
const FORMULAS = [["\\(", "\\)"], ["\\[", "\\]"], ["$$", "$$"]];
const MARKS = [["**", "strong"], ["__", "strong"], ["~~", "del"], ["*", "em"], ["_", "em"]];
const WORD = /[\p{L}\p{N}_]/u;

// An address that a link may lead to.
function address(text) {
  try {
    const url = new URL(text);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function link(href, ...children) {
  return el("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children);
}

function at(pattern, text, i) {
  pattern.lastIndex = i;
  return pattern.exec(text);
}

// The code that begins with the backticks at `i`: its text and its end.
function codeAt(text, i, missing) {
  let from = i;
  while (text[from] === "`") from++;
  const ticks = text.slice(i, from);
  if (missing.has(ticks)) return { from };
  for (let j = text.indexOf(ticks, from); j >= 0; ) {
    let end = j;
    while (text[end] === "`") end++;
    if (end - j === ticks.length) return { from, code: text.slice(from, j), end };
    j = text.indexOf(ticks, end);
  }
  missing.add(ticks);
  return { from };
}

// Where emphasis that begins before `from` ends.
function closing(text, from, mark, missing) {
  for (let i = from; i < text.length; i++) {
    if (text[i] === "\\") i++;
    else if (text[i] === "`") {
      const { end, from } = codeAt(text, i, missing);
      i = (end ?? from) - 1;
    }
    else if (text.startsWith(mark, i)) {
      if (mark.length === 1 && text[i + 1] === mark) i++;
      else if (i > from && !/\s/.test(text[i - 1]) && !(mark[0] === "_" && WORD.test(text[i + mark.length] ?? ""))) {
        return mark.length === 2 && text[i + 2] === mark[0] ? i + 1 : i;
      }
    }
  }
  return -1;
}

export function inline(text, depth = 0) {
  const nodes = [];
  // What has no end further on is not looked for again.
  const missing = new Set();
  let plain = "";
  const push = (node) => {
    if (plain) nodes.push(plain);
    plain = "";
    nodes.push(node);
  };
  let i = 0;
  scan: while (i < text.length) {
    const c = text[i];
    for (const [open, close] of FORMULAS) {
      if (c !== open[0] || !text.startsWith(open, i) || missing.has(close)) continue;
      const end = text.indexOf(close, i + 2);
      if (end < 0) missing.add(close);
      else if (end > i + 2) {
        push(el("span", { class: "formula", text: text.slice(i + 2, end).trim() }));
        i = end + 2;
        continue scan;
      }
    }
    if (c === "\\" && ESCAPABLE.test(text[i + 1] ?? "")) {
      plain += text[i + 1];
      i += 2;
      continue;
    }
    if (c === "\n") {
      const isHard = plain.endsWith("\\") || plain.endsWith("  ");
      if (isHard) {
        plain = plain.endsWith("\\") ? plain.slice(0, -1) : plain.trimEnd();
        push(el("br"));
      } else plain += "\n";
      i++;
      continue;
    }
    if (c === "`") {
      const found = codeAt(text, i, missing);
      if (found.end) push(el("code", { text: found.code.replace(/\n/g, " ").replace(/^ (.*\S.*) $/, "$1") }));
      else plain += text.slice(i, found.from);
      i = found.end ?? found.from;
      continue;
    }
    if (c === "[" || (c === "!" && text[i + 1] === "[")) {
      const found = at(LINK, text, i);
      const href = found && address(found[2]);
      if (href && depth < DEEPEST) {
        // Pictures of other servers are not loaded: a link leads to them.
        push(link(href, ...inline(found[1] || found[2], depth + 1)));
        i += found[0].length;
        continue;
      }
    }
    if (c === "<" || (c === "h" && !WORD.test(text[i - 1] ?? ""))) {
      const found = at(c === "<" ? ANGLE : BARE, text, i);
      const href = found && address(found[1] ?? found[0]);
      if (href) {
        push(link(href, found[1] ?? found[0]));
        i += found[0].length;
        continue;
      }
    }
    const mark = depth < DEEPEST && MARKS.find(([mark]) => text.startsWith(mark, i));
    if (mark) {
      const [sign, tag] = mark;
      const from = i + sign.length;
      const opens = /\S/.test(text[from] ?? "") && !(sign[0] === "_" && WORD.test(text[i - 1] ?? ""));
      if (opens && !missing.has(sign)) {
        const end = closing(text, from, sign, missing);
        if (end < 0) missing.add(sign);
        else {
          push(el(tag, {}, ...inline(text.slice(from, end), depth + 1)));
          i = end + sign.length;
          continue;
        }
      }
      plain += sign;
      i = from;
      continue;
    }
    plain += c;
    i++;
  }
  if (plain) nodes.push(plain);
  return nodes;
}
