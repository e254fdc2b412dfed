// A message on the page.

import { copyButton, el, grow, iconButton, seconds } from "./dom.js";
import { Markdown } from "./markdown.js";
import { callCard } from "./tools.js";

const NAMES = { user: "You", assistant: "Model", tool: "Tool" };

// A message. `acts` is what can be done with it: `edit(text)`, and for the last answer `again()`.
export class MessageView {
  constructor(message) {
    this.message = message;
    this.acts = {};
    this.form = null;
    this.body = message.role === "assistant" ? new Markdown() : null;
    this.content = this.body?.node ?? el("div", { class: "plain" });
    this.calls = el("div", { class: "calls" });
    this.note = el("p", { class: "note" });
    this.foot = el("div", { class: "foot" });
    const name = message.role === "tool" ? `Result of ${message.name}` : NAMES[message.role];
    this.heading = el("h2", { class: message.role === "tool" ? "small quiet" : "sr", text: name });
    this.node = el("article", { class: `message ${message.role}` }, this.heading, this.thoughts(), this.content, this.calls, this.note, this.foot);
  }

  // The thoughts, folded.
  thoughts() {
    if (this.message.role !== "assistant") return null;
    this.summary = el("summary");
    this.reasoning = new Markdown();
    this.details = el("details", { class: "thoughts", hidden: true }, this.summary, this.reasoning.node);
    this.details.addEventListener("toggle", () => this.update());
    return this.details;
  }

  // Shows the message as it is now.
  update(running = this.running) {
    const { message } = this;
    this.running = running;
    this.node.toggleAttribute("data-running", Boolean(running));
    if (!this.body) {
      this.content.textContent = message.content;
    } else {
      this.updateAnswer(message, running);
    }
    this.note.textContent = message.note ?? "";
    this.note.hidden = !message.note;
    this.foot.hidden = Boolean(running) || Boolean(this.form);
    if (!running) this.footer();
  }

  updateAnswer(message, running) {
    this.details.hidden = !message.reasoning;
    this.summary.textContent = message.thought !== undefined ? `Thought for ${seconds(message.thought)}`
      : message.thinking ? `Thinking, ${seconds((performance.now() - message.thinking) / 1000)}` : "Thoughts";
    // Folded thoughts cost nothing.
    if (this.details.open) this.reasoning.set(message.reasoning);
    this.body.set(message.content);
    this.content.hidden = !message.content;
    this.node.toggleAttribute("data-waiting", Boolean(running && !message.content && !message.reasoning && !message.calls.length));
    const calls = JSON.stringify(message.calls);
    if (calls !== this.shown) {
      this.shown = calls;
      this.calls.replaceChildren(...message.calls.filter(Boolean).map(callCard));
    }
  }

  footer() {
    const { message, acts } = this;
    const buttons = el("div", { class: "actions" }, copyButton("Copy the message", () => message.content));
    if (acts.edit) buttons.append(iconButton("pencil", "Edit the message", () => this.edit()));
    if (acts.again) buttons.append(iconButton("again", "Answer again", acts.again));
    this.foot.replaceChildren(buttons, el("span", { class: "quiet small", text: message.stats ?? "" }));
  }

  edit() {
    const { message, acts } = this;
    const area = el("textarea", { "aria-label": "Message", rows: "1" });
    area.value = message.content;
    const close = () => {
      form.replaceWith(this.content);
      this.form = null;
      this.foot.hidden = false;
      this.foot.querySelector("[aria-label='Edit the message']")?.focus();
    };
    const save = message.role === "user" ? "Save and send" : "Save";
    const form = el("form", { class: "edit" }, area, el("div", { class: "row end" },
      el("button", { type: "button", class: "button", text: "Cancel", onclick: close }),
      el("button", { class: "button main", text: save })));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      close();
      acts.edit(area.value);
    });
    area.addEventListener("input", () => grow(area));
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing && message.role === "user") {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    this.content.hidden = false;
    this.content.replaceWith(form);
    this.form = form;
    this.foot.hidden = true;
    grow(area);
    area.focus();
  }
}
