// Settings, kept in this browser. Empty values leave the choice to the server.

const NAME = "hadal.settings";
const DEFAULTS = { system: "", temperature: "", top_p: "", max_tokens: "", thinking: "", tools: "", theme: "" };

function read() {
  try {
    const kept = JSON.parse(localStorage.getItem(NAME));
    return { ...DEFAULTS, ...kept };
  } catch {
    return { ...DEFAULTS };
  }
}

export const prefs = read();

export function setPref(name, value) {
  prefs[name] = value;
  remember(NAME, JSON.stringify(prefs));
}

// Keeps a value if the browser lets us.
export function remember(name, value, store = localStorage) {
  try {
    store.setItem(name, value);
  } catch {
    // It holds until the page is closed.
  }
}

// The tools as the API takes them. Throws with a message for people.
export function parseTools(text) {
  if (!text.trim()) return [];
  const tools = JSON.parse(text);
  if (!Array.isArray(tools)) throw new Error("Tools must be a list: put them between [ and ].");
  const named = tools.every((tool) => tool?.type === "function" && typeof tool.function?.name === "string");
  if (!named) throw new Error('Each tool needs "type": "function" and a "function" with a "name".');
  return tools;
}

// Settings that cannot be used.
export class SettingsError extends Error {}

// The fields of a request that come from the settings.
export function requestFields() {
  const fields = {};
  for (const name of ["temperature", "top_p", "max_tokens"]) {
    if (prefs[name] !== "" && Number.isFinite(Number(prefs[name]))) fields[name] = Number(prefs[name]);
  }
  if (prefs.thinking) {
    // Families of templates have one name or the other.
    const on = prefs.thinking === "on";
    fields.chat_template_kwargs = { thinking: on, enable_thinking: on };
  }
  try {
    const tools = parseTools(prefs.tools);
    if (tools.length) fields.tools = tools;
  } catch (error) {
    throw new SettingsError(`The tools in the settings cannot be used: ${error.message}`);
  }
  return fields;
}
