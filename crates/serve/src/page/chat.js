// The chat: the conversation that is open, its messages, and the answer that is on its way.

import { emptyAnswer, fetchAnswer } from "./answer.js";
import { $, announce, el, grow, icon } from "./dom.js";
import { ConversationList } from "./conversations.js";
import { MessageView } from "./message.js";
import { SettingsError } from "./prefs.js";
import { openSettings } from "./settings.js";
import { newConversation } from "./store.js";
import { resultForm } from "./tools.js";

const list = new ConversationList({ open, isOpen: (id) => id === conversation.id });
let conversation = newConversation();
// Milliseconds between two times that a growing answer is kept.
const KEEP_EVERY = 2000;
let views = [];
// The answer on its way.
let running = null;
let server = { model: "", hasChat: true };

const say = $("say");
const scroll = $("scroll");
const isAtEnd = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
const toEnd = () => (scroll.scrollTop = scroll.scrollHeight);

export function startChat() {
  $("send").append(icon("send"));
  $("stop").append(icon("stop"));
  $("stop").addEventListener("click", stop);
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  say.addEventListener("input", () => grow(say));
  say.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && running && !document.querySelector("dialog[open]")) stop();
  });
  $("new-chat").addEventListener("click", () => open(newConversation()));
  list.start();
  show();
}

// Tells the chat what the server has.
export function setServer(about) {
  server = about;
  show();
}

function open(other) {
  stop();
  running = null;
  conversation = other;
  show();
  toEnd();
  say.focus();
}

function stop() {
  running?.abort();
}

async function send() {
  const text = say.value.trim();
  if (!text || running) return;
  say.value = "";
  grow(say);
  conversation.messages.push({ role: "user", content: text });
  conversation.title ||= text.replace(/\s+/g, " ").slice(0, 60);
  await answer();
}

// Lets the model answer what is there.
async function answer() {
  const [own, control] = [conversation, new AbortController()];
  const before = [...own.messages];
  const message = emptyAnswer();
  own.messages.push(message);
  own.updated = Date.now();
  running = control;
  show();
  toEnd();
  list.save(own);
  announce("The model answers");
  const view = views.at(-1);
  let [drawn, kept] = [false, performance.now()];
  const changed = () => {
    // What has come survives a reload.
    if (performance.now() - kept > KEEP_EVERY) {
      kept = performance.now();
      list.keep(own);
    }
    if (drawn) return;
    drawn = true;
    requestAnimationFrame(() => {
      drawn = false;
      const follow = isAtEnd();
      view.update(running === control);
      if (follow) toEnd();
    });
  };
  // The time of thinking goes on between two parts.
  const clock = setInterval(() => message.thinking && changed(), 100);
  let failure = null;
  try {
    await fetchAnswer(before, message, control.signal, changed);
  } catch (error) {
    failure = error;
    if (!message.content && !message.reasoning && !message.calls.length) own.messages.pop();
    else message.note = "The answer broke off.";
  }
  clearInterval(clock);
  message.calls = message.calls.filter(Boolean);
  if (running === control) running = null;
  list.save(own);
  if (own !== conversation) return;
  const follow = isAtEnd();
  show();
  if (failure) showFailure(failure);
  if (follow || failure) toEnd();
  announce(failure ? "" : message.note ?? "The answer is complete");
}

// Shows the conversation.
function show() {
  const { messages } = conversation;
  const last = messages.length - 1;
  // Messages that stay keep their nodes, and so what is selected or unfolded in them.
  const old = new Map(views.map((view) => [view.message, view]));
  views = messages.map((message, i) => {
    const view = old.get(message) ?? new MessageView(message);
    view.acts = running ? {} : { edit: (text) => edit(i, text) };
    if (!running && i === last && message.role === "assistant") view.acts.again = again;
    view.update(running !== null && i === last);
    return view;
  });
  const nodes = views.map((view) => view.node);
  [...$("messages").children].filter((node) => !nodes.includes(node)).forEach((node) => node.remove());
  nodes.forEach((node, i) => $("messages").children[i] === node || $("messages").insertBefore(node, $("messages").children[i] ?? null));
  const calls = messages[last]?.calls ?? [];
  $("after").replaceChildren();
  if (!running && calls.length) $("after").append(resultForm(calls, (texts) => giveResults(calls, texts)));
  if (!running && messages[last]?.role === "user") {
    $("after").append(el("p", { class: "row" }, el("button", { type: "button", class: "button", text: "Ask again", onclick: answer })));
  }
  $("send").hidden = running !== null;
  $("stop").hidden = running === null;
  $("messages").setAttribute("aria-busy", String(running !== null));
  showWelcome();
  list.show();
}

function showWelcome() {
  const welcome = $("welcome");
  welcome.hidden = conversation.messages.length > 0;
  if (!server.hasChat) welcome.replaceChildren(noTemplate());
  else {
    welcome.replaceChildren(
      el("h2", { text: server.model ? `Talk to ${server.model}` : "Talk to the model" }),
      el("p", { class: "quiet", text: "Conversations stay in this browser. The settings hold the system prompt, sampling and tools." }));
  }
}

// For a model that has not learned to converse.
function noTemplate() {
  return el("div", { class: "notice" },
    el("h2", { text: "This model has no chat template" }),
    el("p", { text: "It has not learned to converse. It continues texts, and fills gaps in them." }),
    el("p", {}, el("a", { class: "button main", href: "#complete", text: "Open Completion" })));
}

function showFailure(error) {
  const notice = error.code === "no_template" ? noTemplate() : el("div", { class: "notice bad" },
    el("p", { text: error.message }));
  if (error instanceof SettingsError) {
    notice.append(el("button", { type: "button", class: "button", text: "Open the settings", onclick: () => openSettings("tools") }));
  }
  notice.setAttribute("role", "alert");
  $("after").append(notice);
}

// Changes a message. What followed one of the user's is asked anew.
function edit(i, text) {
  if (running) return;
  const message = conversation.messages[i];
  message.content = text.trim();
  if (message.role === "user") {
    conversation.messages.length = i + 1;
    answer();
  } else {
    list.save(conversation);
    show();
  }
}

function again() {
  conversation.messages.pop();
  answer();
}

function giveResults(calls, texts) {
  calls.forEach((call, i) => conversation.messages.push({ role: "tool", id: call.id, name: call.name, content: texts[i] }));
  answer();
}
