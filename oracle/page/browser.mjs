// Chromium, servers, and small helpers of the check.

import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const require = createRequire(import.meta.url);
const AXE = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

export const DESK = { viewport: { width: 1280, height: 800 } };
export const PHONE = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 };

export const launch = () => chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });

// A page whose errors are errors of the check, and that may ask nothing of other servers.
export async function open(browser, url, options = DESK) {
  const context = await browser.newContext({ ...options, acceptDownloads: true });
  const page = await context.newPage();
  page.faults = [];
  page.expected = [];
  page.on("pageerror", (error) => page.faults.push(error.message));
  page.on("console", (message) => {
    const text = message.text();
    if (message.type() === "error" && !page.expected.some((form) => form.test(text))) page.faults.push(text);
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(new URL(url).origin) && !/^(blob|data):/.test(request.url())) page.faults.push(`asks ${request.url()}`);
  });
  await page.goto(url);
  return page;
}

export async function close(page) {
  equal(page.faults, [], "errors of the page");
  await page.context().close();
}

export function equal(have, want, what) {
  const [a, b] = [JSON.stringify(have), JSON.stringify(want)];
  if (a !== b) throw new Error(`${what}: ${a} instead of ${b}`);
}

export function truth(holds, what) {
  if (!holds) throw new Error(what);
}

// Waits until something holds.
export async function until(holds, what, ms = 60_000) {
  const end = Date.now() + ms;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

// No violation of any rule of axe, and nothing wider than the window.
export async function accessible(page, what) {
  await page.evaluate(AXE);
  const { violations, passes } = await page.evaluate(() => globalThis.axe.run());
  const told = violations.map((v) => `${v.id}: ${v.nodes.map((n) => `${n.target} ${n.failureSummary}`).join("; ")}`);
  equal(told, [], `axe, ${what}`);
  truth(passes.length > 10, `axe has checked little of ${what}`);
  const [have, most] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  truth(have <= most, `${what} is ${have} wide in a window of ${most}`);
}

// Starts `hadal serve`, and waits for its address.
export async function serve(program, model, ...options) {
  const child = spawn(program, ["serve", model, "--port", "0", "--log", "off", ...options], { stdio: ["ignore", "pipe", "inherit"] });
  let said = "";
  const url = await new Promise((resolve, reject) => {
    child.on("exit", (code) => reject(new Error(`hadal serve has ended with ${code}: ${said}`)));
    child.stdout.on("data", (text) => {
      said += text;
      const found = /http:\/\/[\d.:]+/.exec(said);
      if (found) resolve(found[0]);
    });
  });
  const ended = new Promise((resolve) => child.on("exit", resolve));
  return { url, stop: () => child.kill("SIGTERM") && ended };
}

// Says something, and waits for the end of the answer.
export async function say(page, text) {
  await page.fill("#say", text);
  await page.press("#say", "Enter");
  await done(page);
}

export async function done(page) {
  await until(async () => await page.locator("#stop").isHidden(), "the end of an answer", 120_000);
}
