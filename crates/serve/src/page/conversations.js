// The list of conversations: open, rename, delete, and files of them.

import { $, announce, ask, el, icon, iconButton } from "./dom.js";
import { all, fromFile, newConversation, put, remove, toFile } from "./store.js";

export class ConversationList {
  // `chat` has `open(conversation)` and `isOpen(id)`.
  constructor(chat) {
    this.chat = chat;
    this.known = [];
    this.deleted = new Set();
  }

  start() {
    $("open-list").append(icon("menu"));
    $("open-list").addEventListener("click", () => this.unfold(!$("list").classList.contains("open")));
    $("list").addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.unfold(false);
    });
    $("scroll").addEventListener("click", () => this.unfold(false));
    $("new-chat").addEventListener("click", () => this.unfold(false));
    $("export").addEventListener("click", () => this.export());
    $("import").addEventListener("click", () => $("import-file").click());
    $("import-file").addEventListener("change", () => this.import());
    this.load();
  }

  // On a phone, the list lies over the messages.
  unfold(open) {
    if ($("list").classList.contains("open") === open) return;
    $("list").classList.toggle("open", open);
    $("open-list").setAttribute("aria-expanded", String(open));
    (open ? $("new-chat") : $("open-list")).focus();
  }

  async load() {
    this.known = await all();
    this.show();
  }

  async save(conversation) {
    // An answer on its way does not bring a conversation back.
    if (this.deleted.has(conversation.id)) return;
    const first = !this.known.includes(conversation);
    this.known = [conversation, ...this.known.filter((other) => other.id !== conversation.id)];
    this.known.sort((a, b) => b.updated - a.updated);
    this.show();
    if (!(await put(conversation)) && first) announce("This browser does not keep conversations");
  }

  // Keeps a conversation that the list shows already.
  keep(conversation) {
    if (!this.deleted.has(conversation.id)) put(conversation);
  }

  show() {
    const item = (one) => {
      const title = one.title || "Untitled";
      const current = this.chat.isOpen(one.id);
      const open = () => {
        this.unfold(false);
        if (!current) this.chat.open(one);
      };
      return el("li", { class: current ? "current" : null },
        el("button", { type: "button", class: "title", "aria-current": current ? "true" : null, text: title, onclick: open }),
        iconButton("pencil", `Rename “${title}”`, () => this.rename(one)),
        iconButton("trash", `Delete “${title}”`, () => this.delete(one)));
    };
    const buttons = () => [...$("conversations").querySelectorAll("button")];
    const focused = buttons().indexOf(document.activeElement);
    $("conversations").replaceChildren(...this.known.map(item));
    buttons()[focused]?.focus();
    $("list-empty").hidden = this.known.length > 0;
    $("export").disabled = this.known.length === 0;
  }

  async rename(one) {
    const title = await ask({ title: "Rename the conversation", yes: "Rename", value: one.title });
    if (title === null) return;
    one.title = title;
    await this.save(one);
  }

  async delete(one) {
    const sure = await ask({ title: "Delete the conversation?", text: one.title, yes: "Delete" });
    if (!sure) return;
    this.deleted.add(one.id);
    this.known = this.known.filter((other) => other.id !== one.id);
    if (this.chat.isOpen(one.id)) this.chat.open(newConversation());
    this.show();
    await remove(one.id);
    announce("Deleted");
  }

  export() {
    const url = URL.createObjectURL(new Blob([toFile(this.known)], { type: "application/json" }));
    const day = new Date().toISOString().slice(0, 10);
    el("a", { href: url, download: `conversations-${day}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  async import() {
    const [file] = $("import-file").files;
    $("import-file").value = "";
    if (!file) return;
    try {
      const found = fromFile(await file.text());
      for (const one of found) await put(one);
      this.known.push(...found);
      this.known.sort((a, b) => b.updated - a.updated);
      this.show();
      announce(`${found.length} imported`);
    } catch (error) {
      await ask({ title: "This file cannot be imported", text: error.message, yes: "Close" });
    }
  }
}
