// The page's Markdown, form by form: what is written, and the nodes that come of it.

import { close, equal, open } from "./browser.mjs";

const CASES = [
  ["a **b** *c* __d__ _e_ ~~f~~", "<p>a <strong>b</strong> <em>c</em> <strong>d</strong> <em>e</em> <del>f</del></p>"],
  ["***both*** and **a *b* c**", "<p><strong><em>both</em></strong> and <strong>a <em>b</em> c</strong></p>"],
  ["snake_case_name 2 * 3 * 4 a*b", "<p>snake_case_name 2 * 3 * 4 a*b</p>"],
  ["**open *and `a*b`", "<p>**open *and <code>a*b</code></p>"],
  ["``a ` b`` \\*c\\* `d", "<p><code>a ` b</code> *c* `d</p>"],
  ["a  \nb\\\nc\nd", "<p>a<br>b<br>c\nd</p>"],
  ["# One #\n\n### Two\n\n# Three", '<h3 class="h1">One</h3><h4 class="h3">Two</h4><h3 class="h1">Three</h3>'],
  ["a\n---\nb", "<p>a</p><hr><p>b</p>"],
  ["> a\n> > b\n\nc", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote><p>c</p>"],
  ["3. a\n4. b\n   c\n\n   d\n5. e", '<ol start="3"><li>a</li><li>b\nc<p>d</p></li><li>e</li></ol>'],
  ["- a\n  - b\n    - c\n- d\n* e", "<ul><li>a<ul><li>b<ul><li>c</li></ul></li></ul></li><li>d</li></ul><ul><li>e</li></ul>"],
  ["text\n- a\n\nmore", "<p>text</p><ul><li>a</li></ul><p>more</p>"],
  ["a | b\n- | -\n1 \\| 2 | `c`", '<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1 | 2</td><td><code>c</code></td></tr></tbody></table>'],
  ["no | table\nhere", "<p>no | table\nhere</p>"],
  ["\\(x_1 + y_1\\) and $$a_b$$", '<p><span class="formula">x_1 + y_1</span> and <span class="formula">a_b</span></p>'],
  ["https://example.org/a_(b)?c=1. And <https://example.org>", '<p><a href="https://example.org/a_(b)?c=1">https://example.org/a_(b)?c=1</a>. And <a href="https://example.org/">https://example.org</a></p>'],
  ["[a **b**](https://example.org/ \"t\") ![p](https://example.org/p.png) [x](ftp://a) [y](/local)",
    '<p><a href="https://example.org/">a <strong>b</strong></a> <a href="https://example.org/p.png">p</a> [x](ftp://a) [y](/local)</p>'],
  ["<b>&amp;</b> &lt;", "<p>&lt;b&gt;&amp;amp;&lt;/b&gt; &amp;lt;</p>"],
];

// What a hostile model could write to keep the page busy.
const HARD = ["*a ", "**a ", "_a _", "`", "``a`", "[", "[a](", "![", "> ", "- ", "\\(", "$$", "|a", "<https://", "~~", "#", "    ", "((", "*_", "\n\n-"];

export async function forms(browser, { fake }) {
  const page = await open(browser, fake.url);
  const html = (text) => page.evaluate(async (text) => {
    const { Markdown } = await import("/assets/markdown.js");
    const whole = new Markdown();
    whole.set(text);
    // As it grows, the end is the same.
    const grown = new Markdown();
    for (let i = 0; i <= text.length; i += 1) grown.set(text.slice(0, i));
    const clean = (node) => node.innerHTML.replace(/ (target|rel|tabindex|role|aria-label)="[^"]*"/g, "").replace(/<div class="table">(.*?)<\/div>/gs, "$1");
    return [clean(whole.node), clean(grown.node)];
  }, text);
  for (const [text, want] of CASES) equal(await html(text), [want, want], JSON.stringify(text));
  const slow = await page.evaluate(async (parts) => {
    const { Markdown } = await import("/assets/markdown.js");
    const slow = [];
    for (const part of parts) {
      const start = performance.now();
      new Markdown().set(part.repeat(20_000 / part.length));
      if (performance.now() - start > 20_000) slow.push(part);
    }
    return slow;
  }, HARD);
  equal(slow, [], "texts that keep the page busy");
  await close(page);
}
