// The page begins here: views, theme, settings, and what the server has.

import { getJson } from "./api.js";
import { setServer, startChat } from "./chat.js";
import { startComplete } from "./complete.js";
import { $, enterConfirms, icon } from "./dom.js";
import { look, startEngine } from "./engine.js";
import { startKey } from "./key.js";
import { startSettings } from "./settings.js";
import { startTheme } from "./theme.js";

const VIEWS = ["chat", "complete", "engine"];
const TITLES = { chat: "Chat", complete: "Completion", engine: "Engine" };
let model = "";

function showView() {
  const wanted = location.hash.slice(1);
  const view = VIEWS.includes(wanted) ? wanted : "chat";
  for (const name of VIEWS) $(`view-${name}`).hidden = name !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.body.dataset.view = view;
  document.title = `${TITLES[view]} – ${model || "hadal"}`;
  if (view === "engine") look();
}

async function meetServer() {
  try {
    const [models, engine] = [await getJson("/v1/models"), await getJson("/engine")];
    model = models.data[0].id;
    $("model").textContent = model;
    setServer({ model, hasChat: engine.has_chat });
    showView();
  } catch {
    // A view says so when it needs the server.
  }
}

startTheme();
startKey();
enterConfirms($("ask"), $("ask-yes"));
$("open-settings").append(icon("gear"));
startSettings();
startChat();
startComplete();
startEngine();
addEventListener("hashchange", showView);
addEventListener("key", () => model || meetServer());
addEventListener("key", look);
document.querySelector(".skip").addEventListener("click", (event) => {
  // The address keeps the view.
  event.preventDefault();
  $("main").focus();
});
showView();
meetServer();
