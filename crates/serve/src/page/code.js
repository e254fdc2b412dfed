// Blocks of code: with the language's name, a button that copies, and modest colours.

import { copyButton, el } from "./dom.js";

const WORDS = new Set(
  ("abstract and as assert async await bool break case catch char class const continue crate def default del do double dyn elif "
  + "else end enum except export extends extern false finally float fn for from func function global go if impl implements import "
  + "in instanceof int interface is lambda let local long loop match mod move mut namespace new nil none None not null or package "
  + "pass private protected pub public raise ref return self Self short signed static struct super switch template then this throw "
  + "trait true True False try type typedef typeof union unsafe unsigned use using var void where while with yield select from "
  + "insert update delete create table join on group by order limit values set").split(" "),
);
const HASH = /^(py|python|sh|bash|zsh|shell|console|ya?ml|toml|rb|ruby|perl|pl|r|dockerfile|make|makefile|ini|conf|nix|elixir)$/;
const DASH = /^(sql|lua|haskell|hs|ada|elm)$/;
// Languages where single quotes stand around one character.
const QUOTED = /^(rs|rust|c|h|cpp|c\+\+|java|go|kotlin|swift|scala|zig|haskell|hs)$/;
const PLAIN = /^(|text|txt|plain|plaintext|output|markdown|md|csv|diff)$/;
// Longer blocks stay plain, so that they cost little while they grow.
const LONGEST = 20_000;

function pattern(language) {
  const raw = String.raw;
  const comment = HASH.test(language) ? "#.*" : DASH.test(language) ? "--.*" : raw`\/\/.*|\/\*[^]*?(?:\*\/|$)|<!--[^]*?(?:-->|$)`;
  const single = raw`'(?:[^'\\\n]|\\.)${QUOTED.test(language) ? "" : "*"}'`;
  const string = raw`"""[^]*?(?:"""|$)|"(?:[^"\\\n]|\\.)*"?|${single}|\x60(?:[^\x60\\]|\\.)*\x60`;
  const number = raw`0x[\da-fA-F_]+|\d[\d_]*(?:\.\d+)?(?:e[+-]?\d+)?`;
  return new RegExp(raw`(${comment})|(${string})|\b(${number})\b|([A-Za-z_]\w*)`, "g");
}

export function highlight(text, language) {
  const kind = language.toLowerCase();
  if (PLAIN.test(kind) || text.length > LONGEST) return [text];
  const nodes = [];
  let last = 0;
  for (const match of text.matchAll(pattern(kind))) {
    const [all, comment, string, number, word] = match;
    const name = comment ? "comment" : string ? "string" : number ? "number" : WORDS.has(word) ? "word" : null;
    if (!name) continue;
    nodes.push(text.slice(last, match.index), el("span", { class: `c-${name}`, text: all }));
    last = match.index + all.length;
  }
  nodes.push(text.slice(last));
  return nodes;
}

export function codeBlock(text, language = "") {
  const head = el("div", { class: "code-head" }, el("span", { text: language || "text" }), copyButton("Copy the code", () => text));
  const code = el("code", {}, ...highlight(text, language));
  return el("div", { class: "code" }, head, el("pre", { tabindex: "0", role: "group", "aria-label": `Code ${language}` }, code));
}
