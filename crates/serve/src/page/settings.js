// The settings dialog. What is entered holds at once.

import { forgetKey, hasKey, setKey } from "./api.js";
import { $ } from "./dom.js";
import { askKey } from "./key.js";
import { parseTools, prefs, setPref } from "./prefs.js";

const dialog = $("settings");
const FIELDS = ["system", "temperature", "top_p", "max_tokens", "thinking", "tools"];
const field = (name) => dialog.querySelector(`[name=${name}]`);

function checkTools() {
  let problem = "";
  try {
    parseTools(field("tools").value);
  } catch (error) {
    problem = error instanceof SyntaxError ? `This is not JSON: ${error.message}` : error.message;
  }
  $("tools-problem").textContent = problem;
  field("tools").setAttribute("aria-invalid", String(Boolean(problem)));
}

function showKey() {
  $("key-state").textContent = hasKey() ? "is set" : "is not set";
  $("forget-key").hidden = !hasKey();
}

export function openSettings(name) {
  FIELDS.forEach((name) => (field(name).value = prefs[name]));
  checkTools();
  showKey();
  dialog.showModal();
  if (name) field(name).focus();
}

export function startSettings() {
  for (const name of FIELDS) {
    field(name).addEventListener("input", () => {
      // A number that cannot be used is marked by the browser, and not taken.
      if (field(name).checkValidity()) setPref(name, field(name).value);
      if (name === "tools") checkTools();
    });
  }
  $("open-settings").addEventListener("click", () => openSettings());
  $("change-key").addEventListener("click", async () => {
    const given = await askKey(false);
    if (given) setKey(given.value, given.keep);
    showKey();
  });
  $("forget-key").addEventListener("click", () => {
    forgetKey();
    showKey();
  });
}
