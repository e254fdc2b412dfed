// Asks for the API key.

import { setKeyAsker } from "./api.js";
import { $, enterConfirms } from "./dom.js";

export function askKey(wasWrong) {
  const dialog = $("key");
  $("key-why").textContent = wasWrong
    ? "The server does not know this key. Enter another one."
    : "The server lets only clients with a key in.";
  $("key-value").value = "";
  dialog.returnValue = "";
  if (!dialog.open) dialog.showModal();
  $("key-value").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const value = $("key-value").value.trim();
      $("key-value").value = "";
      resolve(dialog.returnValue === "use" && value ? { value, keep: $("key-remember").checked } : null);
    }, { once: true });
  });
}

export function startKey() {
  setKeyAsker(askKey);
  $("key-cancel").addEventListener("click", () => $("key").close());
  enterConfirms($("key"), $("key").querySelector("[value=use]"));
}
