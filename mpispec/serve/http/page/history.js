// The list of chats: open, delete, export, import.

import { announce, byId, confirmed, el, iconButton } from "./dom.js";
import { titleOf } from "./store.js";

export class History {
  /** `open(chat)` shows a chat, `begin()` a new one. */
  constructor(chats, open, begin) {
    this.chats = chats;
    this.open = open;
    this.begin = begin;
    this.list = byId("chat-list");
    this.current = null;
    byId("export").addEventListener("click", () => this.export());
    byId("import").addEventListener("click", () => byId("import-file").click());
    byId("import-file").addEventListener("change", (event) => this.import(event.target));
  }

  /** Show the chats, of which `current` is open. */
  show(current) {
    this.current = current;
    this.list.replaceChildren(...this.chats.all.map((chat) => this.entry(chat)));
    byId("export").disabled = this.chats.all.length === 0;
  }

  entry(chat) {
    const title = chat.title || titleOf(chat);
    const open = el("button", { type: "button", className: "chat", title, onclick: () => this.open(chat) }, title);
    if (chat === this.current) open.setAttribute("aria-current", "page");
    return el("li", {}, open, iconButton("trash", `Delete ${title}`, () => this.delete(chat, title)));
  }

  async delete(chat, title) {
    if (!(await confirmed(`Delete “${title}”? It is nowhere else.`))) return;
    this.chats.delete(chat);
    announce("Deleted");
    if (chat === this.current) this.begin();
    else this.show(this.current);
  }

  export() {
    const address = URL.createObjectURL(new Blob([this.chats.export()], { type: "application/json" }));
    const day = new Date().toISOString().slice(0, 10);
    el("a", { href: address, download: `mpispec-chats-${day}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  }

  async import(field) {
    const [file] = field.files;
    field.value = "";
    if (!file) return;
    let said;
    try {
      const count = this.chats.import(await file.text());
      said = count === 1 ? "1 chat was imported." : `${count} chats were imported.`;
    } catch (error) {
      said = error.message;
    }
    this.show(this.current);
    const note = el("li", { className: "hint", role: "status" }, said);
    this.list.prepend(note);
  }
}
