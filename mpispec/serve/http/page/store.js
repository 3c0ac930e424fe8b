// What the browser keeps: chats, settings, small choices. Nothing of it leaves the browser but by an export.

const CHATS = "mpispec.chats";
const SETTINGS = "mpispec.settings";
const FORM = "mpispec chats";
const LONGEST_TITLE = 60;

function read(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function write(name, value) {
  localStorage.setItem(name, JSON.stringify(value));
}

function isText(value) {
  return typeof value === "string";
}

/** Return a chat with nothing in it but what the page knows, or null: files come from anywhere. */
function checkedChat(value) {
  if (!isText(value?.id) || !Array.isArray(value.messages)) return null;
  const messages = [];
  for (const { role, content, thought, tokens, thoughtTokens, note } of value.messages.filter(Boolean)) {
    if (!["user", "assistant"].includes(role) || !isText(content)) return null;
    const message = { role, content };
    if (isText(thought)) message.thought = thought;
    if (isText(note)) message.note = note;
    if (areTokens(tokens)) message.tokens = tokens;
    if (areTokens(thoughtTokens)) message.thoughtTokens = thoughtTokens;
    messages.push(message);
  }
  const updated = Number.isFinite(value.updated) ? value.updated : 0;
  return { id: value.id, title: isText(value.title) ? value.title : "", updated, messages };
}

function areTokens(value) {
  return Array.isArray(value) && value.every((token) => Array.isArray(token) && token.length === 3 && token.every(isText));
}

/** All chats, the newest first. */
export class Chats {
  constructor() {
    this.all = [];
    this.reload(null);
  }

  /** Read what is kept, which another tab may have changed; `current` stays the one that is open here. */
  reload(current) {
    const kept = read(CHATS, []);
    this.all = (Array.isArray(kept) ? kept : []).map(checkedChat).filter(Boolean);
    this.all = this.all.map((chat) => (chat.id === current?.id && chat.updated <= current.updated ? current : chat));
    this.sort();
  }

  /** Call `changed` whenever another tab has changed what is kept. */
  watch(changed) {
    window.addEventListener("storage", (event) => {
      if (event.key === CHATS) changed();
    });
  }

  sort() {
    this.all.sort((one, other) => other.updated - one.updated);
  }

  find(id) {
    return this.all.find((chat) => chat.id === id);
  }

  /** Begin a chat; it is kept with its first message. */
  begin() {
    return { id: newId(), title: "", updated: Date.now(), messages: [] };
  }

  /** Keep a chat as it is now. Throws where the browser has no room for it. */
  keep(chat) {
    chat.updated = Date.now();
    chat.title ||= titleOf(chat);
    if (!this.find(chat.id)) this.all.push(chat);
    this.sort();
    this.save(chat);
  }

  delete(chat) {
    this.all = this.all.filter((other) => other.id !== chat.id);
    this.save();
  }

  /** Write all down; where there is no room, without who drafted the tokens of other chats. */
  save(current = null) {
    try {
      write(CHATS, this.all);
    } catch {
      for (const chat of this.all) if (chat !== current) chat.messages.forEach(forgetTokens);
      try {
        write(CHATS, this.all);
      } catch {
        throw new Error("The browser has no room for more chats: export some and delete them.");
      }
    }
  }

  export() {
    return JSON.stringify({ form: FORM, version: 1, chats: this.all }, null, 1);
  }

  /** Add the chats of an export; returns how many. Throws a sentence where it is none. */
  import(text) {
    let found;
    try {
      found = JSON.parse(text);
    } catch {
      throw new Error("The file is not JSON; choose one that this page has exported.");
    }
    if (found?.form !== FORM || !Array.isArray(found.chats)) {
      throw new Error("The file holds no chats; choose one that this page has exported.");
    }
    const chats = found.chats.map(checkedChat);
    if (chats.includes(null)) throw new Error("A chat in the file is damaged; nothing was imported.");
    const known = new Set(this.all.map((chat) => JSON.stringify(chat.messages)));
    const added = chats.filter((chat) => !known.has(JSON.stringify(chat.messages)));
    for (const chat of added) {
      if (this.find(chat.id)) chat.id = newId();
      this.all.push(chat);
    }
    this.sort();
    this.save();
    return added.length;
  }
}

function forgetTokens(message) {
  delete message.tokens;
  delete message.thoughtTokens;
}

function newId() {
  // crypto.randomUUID is missing where the page came over plain http from another host.
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function titleOf(chat) {
  const first = chat.messages.find((message) => message.role === "user")?.content ?? "";
  const line = first.trim().split("\n", 1)[0];
  return line.length > LONGEST_TITLE ? `${line.slice(0, LONGEST_TITLE - 1)}…` : line || "New chat";
}

/** The settings: text as it stands in the form, empty for the server's own. */
export function readSettings() {
  const kept = read(SETTINGS, {});
  return Object.fromEntries(Object.entries(kept).filter(([, value]) => isText(value)));
}

export function keepSettings(settings) {
  tryWrite(SETTINGS, settings);
}

/** Keep a small choice, where the browser keeps anything. */
export function tryWrite(name, value) {
  try {
    write(name, value);
  } catch {
    // Private windows of some browsers keep nothing; the choice holds until the page is closed.
  }
}

export function readChoice(name, otherwise) {
  return read(name, otherwise);
}
