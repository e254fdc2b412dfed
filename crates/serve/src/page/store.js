// Conversations, kept in this browser (IndexedDB). Each is a record of its own, so two tabs do not overwrite each other's.

const STORE = "conversations";
const FORMAT = "hadal-conversations";
let database = null;
// Stands in where the browser keeps nothing.
const memory = new Map();

function open() {
  database ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("hadal", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return database;
}

async function run(mode, action) {
  const transaction = (await open()).transaction(STORE, mode);
  const request = action(transaction.objectStore(STORE));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = () => reject(transaction.error);
    transaction.onabort = () => reject(transaction.error);
  });
}

// The conversations, newest first.
export async function all() {
  let list;
  try {
    list = await run("readonly", (store) => store.getAll());
  } catch {
    list = [...memory.values()];
  }
  return list.sort((a, b) => b.updated - a.updated);
}

export async function put(conversation) {
  try {
    await run("readwrite", (store) => store.put(structuredClone(conversation)));
    return true;
  } catch {
    memory.set(conversation.id, conversation);
    return false;
  }
}

export async function remove(id) {
  memory.delete(id);
  await run("readwrite", (store) => store.delete(id)).catch(() => {});
}

export function newConversation() {
  const now = Date.now();
  const random = crypto.getRandomValues(new Uint32Array(2));
  return { id: `${now.toString(36)}-${random[0].toString(36)}${random[1].toString(36)}`, title: "", updated: now, messages: [] };
}

export const toFile = (conversations) => JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);

// Reads a file of conversations. Each gets a new name, so nothing is overwritten. Throws with a message for people.
export function fromFile(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("The file is not JSON. Choose a file that was exported from here.");
  }
  if (file?.format !== FORMAT || !Array.isArray(file.conversations)) {
    throw new Error("The file has no conversations. Choose a file that was exported from here.");
  }
  return file.conversations.map((one) => {
    const messages = Array.isArray(one?.messages) ? one.messages.map(message).filter(Boolean) : [];
    const updated = Number.isFinite(one?.updated) ? one.updated : Date.now();
    return { ...newConversation(), title: string(one?.title), updated, messages };
  });
}

const string = (value) => (typeof value === "string" ? value : "");

// What we know of a message, with the right types.
function message(given) {
  const role = given?.role;
  if (!["user", "assistant", "tool"].includes(role)) return null;
  const kept = { role, content: string(given.content) };
  if (role === "tool") return { ...kept, id: string(given.id), name: string(given.name) };
  if (role === "user") return kept;
  const calls = Array.isArray(given.calls) ? given.calls : [];
  kept.reasoning = string(given.reasoning);
  kept.calls = calls.map((call) => ({ id: string(call?.id), name: string(call?.name), arguments: string(call?.arguments) }));
  if (Number.isFinite(given.thought)) kept.thought = given.thought;
  for (const name of ["note", "stats"]) if (given[name]) kept[name] = string(given[name]);
  return kept;
}
