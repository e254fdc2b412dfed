// Drives the page of `hadal serve` as a user would, with a real model and with scripted answers (oracle/README.md).
//
//   node oracle/page/check.mjs PROGRAM MODEL [PICTURES]
//
// MODEL is a folder with config.json, or a run. PICTURES is a folder for pictures of the page.

import { copyFileSync, existsSync, mkdtempSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { launch, serve } from "./browser.mjs";
import { startFake } from "./fake.mjs";
import { real } from "./real.mjs";
import { scripted } from "./scripted.mjs";

const [program, given, pictures] = process.argv.slice(2);
if (!given) {
  console.error("usage: node check.mjs PROGRAM MODEL [PICTURES]");
  process.exit(2);
}
const model = existsSync(join(given, "config.json")) ? given : join(given, "model");
const work = mkdtempSync(join(tmpdir(), "page-check-"));
const out = pictures ? resolve(pictures) : work;
mkdirSync(out, { recursive: true });

// The model with a template that thinks. The plain model has none of its own.
const thinking = join(work, "thinker");
mkdirSync(thinking);
for (const file of readdirSync(model)) symlinkSync(resolve(model, file), join(thinking, file));
const template = new URL("../../crates/data/tests/fixtures/chat/templates/deepseek_v31.jinja", import.meta.url);
rmSync(join(thinking, "chat_template.jinja"), { force: true });
copyFileSync(template, join(thinking, "chat_template.jinja"));
const keys = join(work, "keys");
writeFileSync(keys, "sk-open-sesame name=tester\n");

const stops = [];
let failed = 0;
async function run(parts, browser, ...given) {
  for (const [name, part] of Object.entries(parts)) {
    const start = Date.now();
    try {
      await part(browser, ...given);
      console.log(`ok    ${name} (${((Date.now() - start) / 1000).toFixed(1)} s)`);
    } catch (error) {
      failed += 1;
      console.log(`FAIL  ${name}: ${error.stack}`);
    }
  }
}

try {
  const browser = await launch();
  stops.push(() => browser.close());
  const server = await serve(program, thinking, "--name", "quickstart", "--speculation", "always");
  stops.push(server.stop);
  const locked = await serve(program, thinking, "--api-keys", keys);
  stops.push(locked.stop);
  const fake = await startFake({ page: server.url });
  stops.push(fake.stop);
  const bare = await startFake({ page: server.url, hasChat: false });
  stops.push(bare.stop);
  const only = process.env.ONLY;
  const chosen = (parts) => Object.fromEntries(Object.entries(parts).filter(([name]) => !only || name.includes(only)));
  await run(chosen(scripted), browser, { fake, bare, out });
  await run(chosen(real), browser, { server, locked, out, key: "sk-open-sesame" });
} finally {
  for (const stop of stops.reverse()) await stop();
  rmSync(work, { recursive: true, force: true });
}
console.log(failed ? `${failed} failed` : "the page does what it should");
process.exit(failed ? 1 : 0);
