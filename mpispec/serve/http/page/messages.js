// One message on the page: its text as Markdown, or token by token with who drafted them.

import { copyButton, el, iconButton } from "./dom.js";
import { showMarkdown } from "./markdown.js";

const BY = { draft: "by-draft", ngram: "by-ngram", exit: "by-exit" };
const WHO = { draft: "the draft model", ngram: "n-grams", exit: "an early exit" };

function tokenSpan([text, by]) {
  const drafters = by ? by.split("+") : [];
  const names = drafters.map((name) => WHO[name] ?? name).join(" and ");
  const title = names ? `drafted by ${names}` : "decided by the target alone";
  return el("span", { className: `token ${BY[drafters[0]] ?? ""}`, title }, text);
}

function rejectedSpan(text) {
  return el("del", { className: "rejected", title: "drafted and rejected" }, text.replaceAll("\n", "⏎"));
}

/** Show tokens; what is shown already stays. */
function showTokens(element, tokens, fallback) {
  if (!tokens?.length) {
    if (element.textContent !== fallback) element.replaceChildren(fallback);
    return;
  }
  let shown = Number(element.dataset.shown ?? 0);
  if (shown === 0) element.replaceChildren();
  for (; shown < tokens.length; shown += 1) {
    const token = tokens[shown];
    if (token[2]) element.append(rejectedSpan(token[2]));
    element.append(tokenSpan(token));
  }
  element.dataset.shown = shown;
}

/** The view of one message. `actions` has `edit(text)` for the user's, `again()` for the assistant's. */
export class MessageView {
  constructor(message, actions, showsDrafts) {
    this.message = message;
    this.actions = actions;
    this.showsDrafts = showsDrafts;
    this.body = el("div", { className: "body" });
    this.note = el("p", { className: "note" });
    this.error = el("div", { className: "error", hidden: true, role: "alert" });
    this.tools = el("div", { className: "message-tools" }, ...this.buttons());
    const who = message.role === "user" ? "You" : "Assistant";
    const name = el("h3", { className: "unseen" }, who);
    this.thought = null;
    this.element = el("article", { className: `message ${message.role}` }, name, this.body, this.error, this.note, this.tools);
    this.show();
  }

  buttons() {
    const copy = copyButton(() => this.message.content);
    if (this.message.role === "user") return [iconButton("edit", "Edit", () => this.edit()), copy];
    return [copy, iconButton("again", "Write again", () => this.actions.again())];
  }

  /** Show the message as it is now. */
  show() {
    const { role, content, tokens, note = "" } = this.message;
    if (role === "user") this.body.textContent = content;
    else this.showText(this.body, content, tokens);
    this.showThought();
    this.note.textContent = note;
    this.note.hidden = !note;
  }

  showText(element, text, tokens) {
    const form = this.showsDrafts ? "tokens" : "markdown";
    if (element.dataset.form !== form) {
      element.replaceChildren();
      element.dataset.form = form;
      delete element.dataset.shown;
    }
    if (this.showsDrafts) showTokens(element, tokens, text);
    else showMarkdown(element, text);
  }

  showThought() {
    const { thought, thoughtTokens, content } = this.message;
    if (!thought) return;
    if (!this.thought) {
      this.thought = el("div", { className: "thought-body" });
      this.summary = el("summary");
      this.element.insertBefore(el("details", { className: "thought" }, this.summary, this.thought), this.body);
    }
    this.summary.textContent = content || !this.isWriting ? "Thoughts" : "Thinking…";
    this.showText(this.thought, thought, thoughtTokens);
  }

  /** Note whether the answer is being written. */
  write(isWriting) {
    this.isWriting = isWriting;
    this.element.classList.toggle("writing", isWriting);
    this.showThought();
  }

  /** Colour the tokens, or show Markdown. */
  colour(showsDrafts) {
    this.showsDrafts = showsDrafts;
    this.show();
  }

  /** Say what went wrong, with a way to try again. */
  fail(sentence) {
    const again = el("button", { type: "button", onclick: () => this.actions.again() }, "Try again");
    this.error.replaceChildren(el("span", {}, sentence), again);
    this.error.hidden = false;
  }

  edit() {
    if (this.actions.isBusy()) return;
    const field = el("textarea", { value: this.message.content, rows: 3, aria: { label: "Edit the message" } });
    const close = () => {
      form.remove();
      this.element.classList.remove("editing");
    };
    const cancel = el("button", { type: "button", onclick: close }, "Cancel");
    const form = el(
      "form",
      {
        className: "edit",
        onsubmit: (event) => {
          event.preventDefault();
          if (!field.value.trim()) return;
          close();
          this.actions.edit(field.value.trim());
        },
        onkeydown: (event) => {
          if (event.key === "Escape") close();
          if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
        },
      },
      field,
      el("div", { className: "buttons" }, cancel, el("button", { type: "submit", className: "main" }, "Send")),
    );
    this.element.classList.add("editing");
    this.element.append(form);
    field.focus();
  }
}
