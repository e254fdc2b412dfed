// The page with a real model: streaming, stop, completion with a gap, log-probabilities, the engine, and keys.

import { join } from "node:path";
import { accessible, close, done, equal, open, say, truth, until } from "./browser.mjs";

const CODE = ["fn area(width: u32, height: u32) -> u32 {\n    ", "\n}\n\nfn main() {\n    println!(\"{}\", area(3, 4));\n}\n"];

async function figures(url, headers = {}) {
  return (await fetch(`${url}/engine`, { headers })).json();
}

// Puts the cursor between two texts.
async function write(page, before, after) {
  await page.fill("#text", before + after);
  await page.evaluate((at) => {
    document.querySelector("#text").focus();
    document.querySelector("#text").setSelectionRange(at, at);
  }, before.length);
  await page.keyboard.press("Shift");
}

export const real = {
  async "a real answer streams, stops, and is kept"(browser, { server }) {
    const page = await open(browser, server.url);
    await page.click("#open-settings");
    await page.fill("#settings [name=max_tokens]", "40");
    await page.selectOption("#settings [name=thinking]", "off");
    await page.click("#settings .main");
    await say(page, "Once upon a time");
    const answer = () => page.locator(".message.assistant").last();
    truth((await answer().locator(":scope > .markdown").textContent()).length > 0, "an answer");
    truth(/tokens?/.test(await answer().locator(".foot").textContent()), "its numbers");
    // With thinking on, this template makes the model begin with its thoughts. A small model never ends them.
    await page.click("#open-settings");
    await page.selectOption("#settings [name=thinking]", "on");
    await page.fill("#settings [name=max_tokens]", "25");
    await page.click("#settings .main");
    await page.click("[aria-label='Answer again']");
    await done(page);
    truth(await answer().locator("details.thoughts").isVisible(), "thoughts are told apart");
    const shown = await page.locator(".message").allTextContents();
    await page.reload();
    await page.click("#conversations .title");
    equal(await page.locator(".message").allTextContents(), shown, "the conversation after a reload");
    // A stop reaches the engine.
    await page.click("#open-settings");
    await page.fill("#settings [name=max_tokens]", "2000");
    await page.fill("#settings [name=temperature]", "1.5");
    await page.click("#settings .main");
    for (let i = 0; i < 10; i += 1) {
      await page.fill("#say", "And then");
      await page.press("#say", "Enter");
      await until(async () => (await figures(server.url)).running > 0 || (await page.locator("#stop").isHidden()), "it runs");
      await page.keyboard.press("Escape");
      await done(page);
      if ((await page.locator(".note").last().textContent()) === "Stopped.") break;
      truth(i < 9, "the model always ended before the stop");
    }
    await until(async () => (await figures(server.url)).running === 0, "the engine hears of the stop", 10_000);
    await close(page);
  },

  async "completion at the end and in a gap, with probabilities"(browser, { server, out }) {
    const page = await open(browser, `${server.url}/#complete`);
    await write(page, "The quick brown", "");
    equal(await page.locator("#where").textContent(), "Continues at the end", "where");
    await page.fill("#c-max", "12");
    await page.fill("#c-seed", "5");
    await page.click("#complete");
    await until(() => page.locator("#keep").isVisible(), "the end");
    const text = await page.locator(".new").allTextContents();
    const api = await fetch(`${server.url}/v1/completions`, { method: "POST", body: JSON.stringify({ prompt: "The quick brown", max_tokens: 12, temperature: 0.7, top_p: 0.95, seed: 5, logprobs: 5 }) });
    const { choices: [choice] } = await api.json();
    equal(text.join(""), choice.text, "the text is the API's");
    equal(text.length, choice.logprobs.tokens.length, "a mark for each token");
    await page.hover(".new >> nth=0");
    const drawn = page.locator(".tops .own");
    const chance = `${(100 * Math.exp(choice.logprobs.token_logprobs[0])).toFixed(1)}%`;
    equal(await drawn.locator("td").first().textContent(), chance, "the probability of a token");
    truth((await page.locator(".tops tbody tr").count()) >= 5, "alternatives");
    await accessible(page, "probabilities");
    await page.locator("#result").focus();
    await page.keyboard.press("ArrowRight");
    await page.keyboard.press("ArrowRight");
    equal(await page.locator(".new.chosen").count(), 1, "the keyboard chooses a token");
    await page.click("#keep");
    equal(await page.inputValue("#text"), `The quick brown${choice.text}`, "the kept text");
    // A gap.
    await write(page, ...CODE);
    equal(await page.locator("#where").textContent(), "Fills the gap at the cursor in line 2", "where");
    await page.fill("#c-max", "20");
    await page.keyboard.press("Control+Enter");
    await until(() => page.locator("#keep").isVisible(), "the gap is filled");
    const filled = await (await fetch(`${server.url}/v1/completions`, { method: "POST", body: JSON.stringify({ prompt: CODE[0], suffix: CODE[1], max_tokens: 20, temperature: 0.7, top_p: 0.95, seed: 5, logprobs: 5 }) })).json();
    equal((await page.locator(".new").allTextContents()).join(""), filled.choices[0].text, "the text in the gap");
    equal(await page.locator("#result").textContent(), CODE[0] + filled.choices[0].text + CODE[1], "the whole text");
    await page.hover(".new >> nth=2");
    await page.screenshot({ path: join(out, "page-completion.png") });
    await page.click("#discard");
    equal(await page.inputValue("#text"), CODE.join(""), "the text as it was");
    await page.fill("#c-max", "2000");
    await page.fill("#c-temperature", "1.5");
    await page.click("#complete");
    await until(async () => (await page.locator(".new").count()) > 2, "some tokens");
    await page.keyboard.press("Escape");
    await until(() => page.locator("#keep").isVisible(), "it stops");
    await page.reload();
    equal(await page.inputValue("#text"), CODE.join(""), "the text after a reload");
    await close(page);
  },

  async "the engine at work"(browser, { server, out }) {
    const page = await open(browser, `${server.url}/#engine`, { viewport: { width: 1280, height: 900 } });
    const work = Array.from({ length: 6 }, (_, i) => fetch(`${server.url}/v1/completions`, {
      method: "POST",
      body: JSON.stringify({ prompt: `Story ${i}: once upon a time there was`, max_tokens: 400, ignore_eos: true, seed: i }),
    }).then((answer) => answer.json()));
    await until(async () => /^[\d.,]+\/s$/.test(await page.locator(".card").first().locator(".value").textContent()), "a speed");
    await until(async () => /^[1-6] running$/.test(await page.locator(".card >> nth=2").locator(".value").textContent()), "running sequences");
    await page.waitForTimeout(9000);
    await page.locator("canvas").focus();
    await page.keyboard.press("ArrowRight");
    truth(/^Layer 1, expert 0: [\d,]+ tokens, [\d.]+× the mean of the layer$/.test(await page.locator(".readout").textContent()), "a cell");
    await page.screenshot({ path: join(out, "page-engine.png") });
    await page.selectOption("#heat-span", "recent");
    await accessible(page, "the engine");
    const ends = await Promise.all(work);
    truth(ends.every((end) => end.usage.completion_tokens === 400), "all are answered");
    await page.selectOption("#heat-span", "all");
    await page.click("summary");
    const now = await figures(server.url);
    await until(async () => (await page.locator(".card").first().textContent()).includes(now.generated_tokens.toLocaleString("en-US")), "the count of tokens");
    const { layers } = await (await fetch(`${server.url}/engine/experts`)).json();
    const sums = layers.map(({ tokens }) => tokens.reduce((a, b) => a + b, 0).toLocaleString("en-US"));
    await until(async () => JSON.stringify(await page.locator("#heat tbody td:nth-child(2)").allTextContents()) === JSON.stringify(sums), "the loads by layer");
    equal(await page.locator("#heat tbody th").allTextContents(), layers.map(({ layer, mtp }) => (mtp ? `MTP ${layer}` : `${layer}`)), "layers");
    await accessible(page, "numbers by layer");
    await close(page);
  },

  async "a server with keys"(browser, { locked, key }) {
    const page = await open(browser, locked.url);
    page.expected.push(/401 \(Unauthorized\)/);
    await until(() => page.locator("#key").isVisible(), "the question for a key");
    await accessible(page, "the question for a key");
    await page.fill("#key-value", "wrong");
    await page.keyboard.press("Enter");
    await until(async () => (await page.locator("#key-why").textContent()).includes("does not know"), "a wrong key is told of");
    await page.fill("#key-value", key);
    await page.check("#key-remember");
    await page.keyboard.press("Enter");
    await until(async () => (await page.locator("#model").textContent()) === "thinker", "the model's name");
    await page.goto(`${locked.url}/#engine`);
    await until(async () => /^[\d.,]+\/s$/.test(await page.locator(".card").first().locator(".value").textContent()), "a speed");
    await page.reload();
    await until(async () => (await page.locator("#model").textContent()) === "thinker", "the key is kept");
    await page.click("#open-settings");
    equal(await page.locator("#key-state").textContent(), "is set", "the settings");
    await page.click("#forget-key");
    await page.click("#settings .main");
    await until(() => page.locator("#key").isVisible(), "it asks again");
    await page.click("#key-cancel");
    await until(() => page.locator("#engine-error").isVisible(), "without a key, the view says so");
    await close(page);
  },
};
