// The page with scripted answers: thoughts, Markdown, tools, attacks, errors, keyboard and phone.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { DESK, PHONE, accessible, close, done, equal, open, say, truth, until } from "./browser.mjs";
import { XSS } from "./fake.mjs";
import { forms } from "./markdown.mjs";

const TOOLS = JSON.stringify([{ type: "function", function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } } }]);

async function setting(page, name, value) {
  await page.click("#open-settings");
  const field = page.locator(`#settings [name=${name}]`);
  if (name === "thinking") await field.selectOption(value);
  else await field.fill(value);
  await page.keyboard.press("Escape");
}

export const scripted = {
  "Markdown, form by form": forms,

  async "an answer with thoughts, Markdown and code"(browser, { fake, out }) {
    const page = await open(browser, fake.url);
    await accessible(page, "an empty chat");
    await page.fill("#say", "How do I sort a list?");
    await page.press("#say", "Enter");
    await until(() => page.locator("summary", { hasText: "Thinking" }).isVisible(), "thinking");
    await done(page);
    const details = page.locator("details.thoughts");
    equal(await details.getAttribute("open"), null, "thoughts are folded");
    truth(/^Thought for \d+\.\d s$/.test(await details.locator("summary").textContent()), "the time of thinking");
    equal(await page.locator(".markdown h3.h2").textContent(), "Sorting a list", "a heading");
    equal(await page.locator(".message .code code").textContent().then((t) => t.split("\n")[1]), "fn merge_sort(list: &mut Vec<u32>) {", "code");
    truth((await page.locator(".code .c-word").count()) > 5, "words of the language have a colour");
    equal(await page.locator(".markdown > ol > li").count(), 3, "items");
    equal(await page.locator(".markdown > ol > li > ul > li").allTextContents(), ["the left one,", "the right one."], "items in an item");
    equal(await page.locator(".markdown td").allTextContents(), ["merge sort", "n log n", "yes", "heap sort", "n log n", "no"], "a table");
    equal(await page.locator("blockquote a").getAttribute("href"), "https://arxiv.org/abs/2412.19437", "a link");
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    await page.click("[aria-label='Copy the code']");
    truth((await page.evaluate(() => navigator.clipboard.readText())).startsWith("/// Sorts a list of numbers.\nfn"), "the code is copied");
    truth((await page.locator(".message.assistant .foot").textContent()).includes("64 of 90 prompt tokens cached"), "usage");
    await accessible(page, "an answer");
    await page.evaluate(() => (document.querySelector("#scroll").scrollTop = 0));
    await page.click("summary");
    truth((await details.locator(".markdown").textContent()).includes("with a table"), "thoughts unfold");
    await accessible(page, "thoughts");
    await page.mouse.move(700, 500);
    await page.screenshot({ path: join(out, "page-chat.png") });
    await close(page);
  },

  async "tools: given in the settings, called, answered by the user"(browser, { fake }) {
    const page = await open(browser, fake.url);
    await page.click("#open-settings");
    const tools = page.locator("#settings [name=tools]");
    await tools.fill("[{");
    truth((await page.locator("#tools-problem").textContent()).includes("not JSON"), "a mistake in tools is named");
    await accessible(page, "settings");
    await tools.fill(TOOLS);
    equal(await page.locator("#tools-problem").textContent(), "", "right tools");
    await page.keyboard.press("Escape");
    await say(page, "What is the weather in Bergen?");
    equal(await page.locator(".call-head code").textContent(), "weather", "the name of the tool");
    equal(JSON.parse(await page.locator(".call .code code").textContent()), { city: "Bergen", days: 2 }, "arguments");
    await accessible(page, "a call");
    await page.fill(".results textarea", "12 °C");
    await page.click(".results button");
    await done(page);
    equal(await page.locator(".message.assistant > .markdown").last().textContent(), "It is 12 °C in Bergen.", "the answer");
    await accessible(page, "a result");
    const { body } = fake.seen.at(-1);
    equal(body.tools, JSON.parse(TOOLS), "the tools as sent");
    equal(body.messages.slice(1), [
      { role: "assistant", content: "I look it up.", tool_calls: [{ id: "call-1", type: "function", function: { name: "weather", arguments: '{"city": "Bergen", "days": 2}' } }] },
      { role: "tool", content: "12 °C", tool_call_id: "call-1", name: "weather" },
    ], "the messages as sent");
    await close(page);
  },

  async "the settings reach the server"(browser, { fake }) {
    const page = await open(browser, fake.url);
    for (const [name, value] of [["system", "Be brief."], ["temperature", "0.3"], ["top_p", "0.9"], ["max_tokens", "77"], ["thinking", "off"]]) {
      await setting(page, name, value);
    }
    await page.reload();
    await say(page, "hello");
    const { body } = fake.seen.at(-1);
    equal([body.temperature, body.top_p, body.max_tokens, body.chat_template_kwargs], [0.3, 0.9, 77, { thinking: false, enable_thinking: false }], "fields");
    equal(body.messages, [{ role: "system", content: "Be brief." }, { role: "user", content: "hello" }], "messages");
    truth(body.stream, "it streams");
    await close(page);
  },

  async "attacks stay text"(browser, { fake }) {
    const page = await open(browser, fake.url);
    await say(page, `attack ${XSS.join(" ")}`);
    await page.click("summary");
    await page.waitForTimeout(300);
    equal(await page.evaluate(() => window.hit ?? null), null, "a script has run");
    const bad = await page.evaluate(() => [...document.querySelectorAll("#messages *")].filter((node) =>
      ["SCRIPT", "IMG", "IFRAME", "STYLE", "META", "OBJECT", "LINK", "FORM", "INPUT"].includes(node.tagName)
      || [...node.attributes].some((a) => a.name.startsWith("on") || a.name === "srcdoc" || /^(javascript|data|vbscript):/i.test(a.value.trim()))).map((node) => node.outerHTML));
    equal(bad, [], "markup of the model");
    const links = await page.locator("#messages a").evaluateAll((all) => all.map((a) => [new URL(a.href).protocol, a.rel]));
    truth(links.length > 0 && links.every(([protocol, rel]) => protocol === "https:" && rel.includes("noopener")), "links");
    const text = await page.locator(".message.assistant > .markdown").textContent();
    for (const part of ["<script>window.hit = 1</script>", "onerror=\"window.hit = 1\"", "<svg onload=window.hit=1>"]) truth(text.includes(part), `${part} is shown`);
    // The policy refuses markup even if the page had a mistake.
    const refused = await page.evaluate(() => {
      try {
        document.querySelector("#after").innerHTML = "<b>x</b>";
        return false;
      } catch {
        return true;
      }
    });
    truth(refused, "text could become markup");
    page.faults = page.faults.filter((fault) => !/Trusted|TrustedHTML/i.test(fault));
    await accessible(page, "attacks");
    // As a title of a conversation as well, and after a reload.
    await page.reload();
    await page.waitForTimeout(200);
    await page.click("#conversations .title");
    equal(await page.evaluate(() => window.hit ?? null), null, "a script has run");
    await close(page);
  },

  async "stop, answer again, edit, and errors"(browser, { fake }) {
    const page = await open(browser, fake.url);
    await page.fill("#say", "count forever");
    await page.press("#say", "Enter");
    await until(async () => /5 6 7/.test(await page.locator(".message.assistant").textContent()), "some of the answer");
    await page.keyboard.press("Escape");
    await done(page);
    equal(await page.locator(".note").last().textContent(), "Stopped.", "stopped");
    const counted = await page.locator(".message.assistant > .markdown").last().textContent();
    await page.waitForTimeout(300);
    equal(await page.locator(".message.assistant > .markdown").last().textContent(), counted, "nothing comes after a stop");
    await page.click("[aria-label='Answer again']");
    await until(async () => /5 6 7/.test(await page.locator(".message.assistant").textContent()), "another answer");
    await page.click("#stop");
    await done(page);
    equal(await page.locator(".message").count(), 2, "messages");
    await page.locator(".message.user").hover();
    await page.click(".message.user [aria-label='Edit the message']");
    await accessible(page, "editing");
    await page.fill(".edit textarea", "please break off");
    await page.keyboard.press("Enter");
    await done(page);
    equal(await page.locator(".message.user .plain").textContent(), "please break off", "the edited message");
    truth((await page.locator("#after .notice.bad").textContent()).includes("broke off"), "a broken answer is told of");
    equal(await page.locator(".message.assistant > .markdown").textContent(), "This is", "what came is kept");
    await accessible(page, "an error");
    await say(page, "an error later");
    truth((await page.locator("#after .notice.bad").textContent()).includes("the engine has ended"), "an error in the stream");
    page.faults = page.faults.filter((fault) => !/ERR_INCOMPLETE_CHUNKED/.test(fault));
    await page.locator(".message.assistant").last().locator("[aria-label='Edit the message']").click();
    await page.fill(".edit textarea", "This is **mine**.");
    await page.click(".edit .main");
    equal(await page.locator(".message.assistant > .markdown strong").textContent(), "mine", "an edited answer");
    await close(page);
  },

  async "conversations: kept, renamed, exported, imported, deleted"(browser, { fake }) {
    const page = await open(browser, fake.url);
    await say(page, "What is the weather today?");
    await page.click("#new-chat");
    await say(page, "How do I sort a list?");
    const titles = () => page.locator("#conversations .title").allTextContents();
    await page.reload();
    await until(async () => (await titles()).length === 2, "the kept conversations");
    equal(await titles(), ["How do I sort a list?", "What is the weather today?"], "titles");
    await page.click("#conversations li:nth-child(2) .title");
    equal(await page.locator(".message.user .plain").textContent(), "What is the weather today?", "the opened conversation");
    await page.hover("#conversations li:nth-child(1)");
    await page.click("#conversations li:nth-child(1) [aria-label^='Rename']");
    await accessible(page, "the question");
    await page.fill("#ask-value", "Sorting");
    await page.keyboard.press("Enter");
    await until(async () => (await titles())[0] === "Sorting", "the new title");
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("#export")]);
    const file = JSON.parse(readFileSync(await download.path(), "utf8"));
    equal([file.format, file.version, file.conversations.map((c) => c.title)], ["hadal-conversations", 1, ["Sorting", "What is the weather today?"]], "the file");
    await page.hover("#conversations li:nth-child(2)");
    await page.click("#conversations li:nth-child(2) [aria-label^='Delete']");
    await page.click("#ask-yes");
    await until(async () => (await titles()).length === 1, "one is deleted");
    await page.setInputFiles("#import-file", { name: "c.json", mimeType: "application/json", buffer: Buffer.from(JSON.stringify(file)) });
    await until(async () => (await titles()).length === 3, "two are imported");
    await page.reload();
    await until(async () => (await titles()).length === 3, "they are kept");
    await page.setInputFiles("#import-file", { name: "c.json", mimeType: "application/json", buffer: Buffer.from("{}") });
    truth((await page.locator("#ask-text").textContent()).includes("no conversations"), "a wrong file is refused");
    await page.keyboard.press("Escape");
    await close(page);
  },

  async "a model without a template leads to Completion"(browser, { bare }) {
    const page = await open(browser, bare.url);
    page.expected.push(/400 \(Bad Request\)/);
    await until(() => page.locator(".notice h2").isVisible(), "the notice");
    equal(await page.locator(".notice h2").textContent(), "This model has no chat template", "the notice");
    await accessible(page, "no template");
    await say(page, "hello");
    await page.locator("#after .notice a").click();
    truth(await page.locator("#view-complete").isVisible(), "Completion");
    await close(page);
  },

  async "keyboard alone"(browser, { fake }) {
    const page = await open(browser, fake.url);
    const seen = [];
    const focused = () => page.evaluate(() => {
      const node = document.activeElement;
      const style = getComputedStyle(node);
      return { name: node.getAttribute("aria-label") || node.textContent.trim() || node.id, id: node.id, ring: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 };
    });
    for (let i = 0; i < 14; i += 1) {
      await page.keyboard.press("Tab");
      const now = await focused();
      truth(now.ring, `${now.name} shows no focus`);
      seen.push(now.name);
      if (now.id === "say") break;
    }
    equal(seen.slice(0, 4), ["Skip to the content", "Chat", "Completion", "Engine"], "the order of focus");
    truth((await focused()).id === "say", `the message is reached: ${seen}`);
    await page.keyboard.type("count");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("forever");
    equal(await page.inputValue("#say"), "count\nforever", "a line break");
    await page.keyboard.press("Enter");
    await until(async () => /5 6 7/.test(await page.locator(".message.assistant").textContent()), "some of the answer");
    await page.keyboard.press("Escape");
    await done(page);
    equal(await page.locator(".note").last().textContent(), "Stopped.", "Esc stops");
    await page.keyboard.press("Shift+Tab");
    truth((await focused()).ring, "focus goes back");
    await close(page);
  },

  async "on a phone, dark"(browser, { fake, out }) {
    const page = await open(browser, fake.url, { ...PHONE, colorScheme: "dark" });
    await accessible(page, "an empty chat on a phone");
    await say(page, "How do I sort a list?");
    await accessible(page, "an answer on a phone");
    await page.evaluate(() => (document.querySelector("#scroll").scrollTop = 0));
    await page.screenshot({ path: join(out, "page-phone.png") });
    await page.tap("#open-list");
    await page.waitForTimeout(300);
    truth(await page.locator("#new-chat").isVisible(), "the list opens");
    await accessible(page, "the list on a phone");
    await page.keyboard.press("Escape");
    await page.waitForTimeout(300);
    truth(await page.locator("#new-chat").isHidden(), "the list closes");
    await page.tap("#open-settings");
    await accessible(page, "settings on a phone");
    await page.keyboard.press("Escape");
    for (const view of ["complete", "engine"]) {
      await page.tap(`nav [data-view=${view}]`);
      await page.waitForTimeout(1500);
      await accessible(page, `${view} on a phone`);
    }
    await close(page);
  },

  async "light and dark"(browser, { fake }) {
    const back = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const page = await open(browser, fake.url, { ...DESK, colorScheme: "dark" });
    const dark = await back(page);
    await page.click("#theme");
    const light = await back(page);
    truth(light !== dark, "the switch changes colours");
    await page.reload();
    equal(await back(page), light, "the choice is kept");
    await page.click("#theme");
    equal(await back(page), dark, "dark");
    for (const [view, wait] of [["chat", 100], ["complete", 100], ["engine", 4500]]) {
      await page.click(`nav [data-view=${view}]`);
      await page.waitForTimeout(wait);
      await accessible(page, `${view}, dark`);
    }
    await close(page);
  },
};
