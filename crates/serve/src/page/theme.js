// Light, dark, or as the system is set.

import { $, icon } from "./dom.js";
import { prefs, setPref } from "./prefs.js";

const NEXT = { "": "light", light: "dark", dark: "" };
const NAMES = { "": "as the system", light: "light", dark: "dark" };
const ICONS = { "": "auto", light: "sun", dark: "moon" };
const listeners = [];

// Calls back when colours have changed.
export const onTheme = (listener) => listeners.push(listener);

function apply() {
  const theme = prefs.theme in NEXT ? prefs.theme : "";
  document.documentElement.dataset.theme = theme;
  const label = `Colours: ${NAMES[theme]}`;
  $("theme").replaceChildren(icon(ICONS[theme]));
  $("theme").setAttribute("aria-label", label);
  $("theme").title = label;
  listeners.forEach((listener) => listener());
}

export function startTheme() {
  $("theme").addEventListener("click", () => {
    setPref("theme", NEXT[prefs.theme] ?? "");
    apply();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  apply();
}
