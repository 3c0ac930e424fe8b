// How answers are drawn: what the user has set here, else what the server does.

import { ask, byId, el } from "./dom.js";
import { keepSettings, readSettings } from "./store.js";

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];

export class Settings {
  constructor() {
    this.dialog = byId("settings");
    this.form = this.dialog.querySelector("form");
    this.values = readSettings();
    byId("settings-open").addEventListener("click", () => this.edit());
    byId("settings-reset").addEventListener("click", () => this.fill({}));
  }

  /** Offer what the server does, as /v1/models describes it. */
  offer({ sampling = {}, strategies = [], drafters = [], strategy = "", drafter = "" }) {
    for (const name of ["temperature", "top_p"]) {
      if (name in sampling) this.form[name].placeholder = sampling[name];
    }
    this.choices("strategy", strategies, strategy);
    this.choices("drafter", drafters.filter((name) => name !== "oracle"), drafter);
  }

  choices(name, values, usual) {
    const field = this.form[name];
    const first = el("option", { value: "" }, usual ? `${usual}, as the server has it` : "as the server has it");
    field.replaceChildren(first, ...values.map((value) => el("option", { value }, value)));
    if (!values.includes(this.values[name])) delete this.values[name];
  }

  fill(values) {
    for (const field of this.form.elements) if (field.name) field.value = values[field.name] ?? "";
  }

  async edit() {
    this.fill(this.values);
    // Escape leaves all as it was; the cross keeps what was typed, as people expect of it.
    if ((await ask(this.dialog)) === "") return;
    const entries = [...this.form.elements].filter((field) => field.name).map((field) => [field.name, field.value.trim()]);
    this.values = Object.fromEntries(entries.filter(([, value]) => value !== ""));
    keepSettings(this.values);
  }

  /** Return the body of a request for the next message of a conversation. */
  request(messages) {
    const { system, strategy, drafter } = this.values;
    const body = { messages: system ? [{ role: "system", content: system }, ...messages] : messages };
    if (strategy) body.strategy = strategy;
    if (drafter) body.drafter = drafter;
    for (const name of NUMBERS) if (this.values[name]) body[name] = Number(this.values[name]);
    return body;
  }
}
