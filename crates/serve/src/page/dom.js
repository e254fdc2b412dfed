// Small helpers: elements, icons, dialogs, numbers. Text is always set as text, never as markup.

export const $ = (id) => document.getElementById(id);

// An element. Properties that begin with `on` are listeners, `text` is its text, the rest are attributes.
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "text") node.textContent = value;
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

export function svg(tag, props = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const ICONS = {
  menu: "M4 6h16M4 12h16M4 18h10",
  close: "M6 6l12 12M18 6L6 18",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  gear: "M4 7h10M18 7h2M4 17h2M10 17h10M16 5v4M8 15v4",
  sun: "M12 8a4 4 0 100 8 4 4 0 000-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6L19 19M5 19l1.4-1.4M17.6 6.4L19 5",
  moon: "M20 14.5A8 8 0 119.5 4a6.5 6.5 0 0010.5 10.5z",
  auto: "M12 3a9 9 0 100 18 9 9 0 000-18zM12 3v18M12 7h5M12 12h8M12 17h5",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  done: "M5 13l4 4L19 7",
  pencil: "M4 20l1-4L16 5l3 3L8 19z",
  again: "M20 11a8 8 0 10-2.3 6M20 5v6h-6",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  tool: "M14 6a4 4 0 005 5l-9 9-4-4 9-9M14 6l3-2",
};

export function icon(name) {
  const path = svg("path", { d: ICONS[name] });
  return svg("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" }, path);
}

// A button with an icon and a name for everybody.
export function iconButton(name, label, onclick) {
  return el("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick }, icon(name));
}

// Says something to users of screen readers.
export function announce(text) {
  $("status").textContent = text;
}

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without HTTPS there is no clipboard but this one.
    const area = el("textarea", { class: "sr", "aria-hidden": "true" });
    area.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

export function copyButton(label, text) {
  const button = iconButton("copy", label, async () => {
    await copyText(text());
    button.replaceChildren(icon("done"));
    announce("Copied");
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

// Asks a question. With `value`, it asks for a text. Resolves to the text or true, or to null if the user cancels.
export function ask({ title, text = "", yes, value = null }) {
  const dialog = $("ask");
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  $("ask-text").hidden = !text;
  $("ask-yes").textContent = yes;
  $("ask-field").hidden = value === null;
  $("ask-value").value = value ?? "";
  dialog.returnValue = "";
  dialog.showModal();
  if (value === null) $("ask-yes").focus();
  else $("ask-value").select();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const text = $("ask-value").value.trim();
      resolve(dialog.returnValue !== "yes" ? null : value === null ? true : text || null);
    }, { once: true });
  });
}

// Enter in a field of a dialog presses its main button, not the first one.
export function enterConfirms(dialog, button) {
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.tagName === "INPUT" && !event.isComposing) {
      event.preventDefault();
      button.click();
    }
  });
}

// A text field as high as its text.
export function grow(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + 2}px`;
}

export const count = (n) => n.toLocaleString("en-US");
export const seconds = (s) => (s < 10 ? `${s.toFixed(1)} s` : s < 120 ? `${Math.round(s)} s` : `${Math.round(s / 60)} min`);
export const rate = (r) => (r > 0 && r < 10 ? r.toFixed(1) : count(Math.round(r)));
export const plural = (n, one) => `${count(n)} ${one}${n === 1 ? "" : "s"}`;
