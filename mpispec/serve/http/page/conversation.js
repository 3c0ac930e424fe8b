// The conversation that is on the page: asks, streams, stops, edits, writes again.

import { streamChat } from "./api.js";
import { announce, byId, el } from "./dom.js";
import { MessageView } from "./messages.js";

const NEAR = 80;
/** Pixels from the end within which the page follows the answer. */

const BROKEN_OFF = "not answered to the end";
const ENDS = { length: "cut, as many tokens as were allowed", cancelled: "stopped" };

/** Return what the engine says of an answer in one line. */
export function summarise(report, seed, finish) {
  const parts = [];
  const { timing = {}, speculation = {}, strategy, drafter } = report ?? {};
  if (finish && ENDS[finish]) parts.push(ENDS[finish]);
  if (report?.cut) parts.push("cut, because it only repeated itself");
  if (timing.tokens_per_s) parts.push(`${timing.tokens_per_s.toFixed(1)} tokens/s`);
  if (timing.ttft_s) parts.push(`first after ${timing.ttft_s.toFixed(2)} s`);
  if (typeof speculation.acceptance_rate === "number") {
    parts.push(`${Math.round(speculation.acceptance_rate * 100)} % of the drafts right`);
  }
  if (strategy) parts.push(drafter && drafter !== "none" ? `${strategy}, ${drafter}` : strategy);
  if (seed !== undefined) parts.push(`seed ${seed}`);
  return parts.join(" · ");
}

/** Join what is said of the tokens of one piece of text. */
function tokenOf(text, marks) {
  const last = marks.at(-1);
  return [text, last.drafted_by.join("+"), marks.map((mark) => mark.rejected).join("")];
}

/** Add a chunk of the stream to a message. */
export function absorb(message, chunk) {
  const choice = chunk.choices?.[0];
  const { content, reasoning_content: thought } = choice?.delta ?? {};
  const marks = chunk.mpispec?.tokens;
  if (content) {
    message.content += content;
    if (marks) (message.tokens ??= []).push(tokenOf(content, marks));
  }
  if (thought) {
    message.thought = (message.thought ?? "") + thought;
    if (marks) (message.thoughtTokens ??= []).push(tokenOf(thought, marks));
  }
  return choice?.finish_reason ?? null;
}

export class Conversation {
  /** `chats` keeps the chats, `wanted()` gives the fields of a request, `changed()` is called when a chat was kept. */
  constructor(chats, wanted, changed) {
    this.chats = chats;
    this.wanted = wanted;
    this.changed = changed;
    this.showsDrafts = false;
    this.views = [];
    this.running = null;
    this.log = byId("log");
    this.scroller = byId("scroller");
    this.follows = true;
    this.scroller.addEventListener("scroll", () => this.look());
    new ResizeObserver(() => this.settle()).observe(this.log);
    this.open(chats.begin());
  }

  /** Show a chat. */
  open(chat) {
    this.stop();
    this.chat = chat;
    this.log.replaceChildren();
    this.views = [];
    for (const message of chat.messages) this.add(message);
    this.follows = true;
    this.settle();
  }

  add(message) {
    const actions = {
      isBusy: () => this.running !== null,
      edit: (text) => this.edit(message, text),
      again: () => this.again(message),
    };
    const view = new MessageView(message, actions, this.showsDrafts);
    this.views.push(view);
    this.log.append(view.element);
    byId("welcome").hidden = true;
    return view;
  }

  /** Ask something. */
  async send(text) {
    if (this.running) return;
    const message = { role: "user", content: text };
    this.chat.messages.push(message);
    this.add(message);
    this.follows = true;
    await this.answer();
  }

  edit(message, text) {
    if (this.running) return;
    this.cut(this.chat.messages.indexOf(message));
    this.send(text);
  }

  again(message) {
    if (this.running) return;
    this.cut(this.chat.messages.indexOf(message));
    this.answer();
  }

  /** Forget the messages from an index on. */
  cut(index) {
    this.chat.messages.splice(index);
    for (const view of this.views.splice(index)) view.element.remove();
  }

  stop() {
    this.running?.abort();
  }

  colour(showsDrafts) {
    this.showsDrafts = showsDrafts;
    for (const view of this.views) view.colour(showsDrafts);
    this.settle();
  }

  async answer() {
    const { chat } = this;
    const messages = chat.messages.map(({ role, content }) => ({ role, content }));
    const message = { role: "assistant", content: "" };
    chat.messages.push(message);
    const view = this.add(message);
    this.keep(chat);
    const running = new AbortController();
    this.begin(running, view);
    let failure = null;
    try {
      await this.read(this.wanted(messages), message, view, running.signal);
    } catch (error) {
      if (error.name === "AbortError") message.note = "stopped";
      else failure = error;
    }
    this.end(running, view, failure);
    this.keep(chat);
  }

  async read(body, message, view, signal) {
    let report = null;
    let seed;
    let finish = null;
    for await (const chunk of streamChat(body, signal)) {
      const ended = absorb(message, chunk);
      if (ended) {
        finish = ended;
        report = chunk.mpispec;
      }
      seed = chunk.seed;
      this.draw(view);
    }
    message.note = summarise(report, seed, finish);
  }

  /** Draw a message with the next frame, however many chunks come before it. */
  draw(view) {
    this.drawn ??= requestAnimationFrame(() => {
      this.drawn = null;
      view.show();
      this.settle();
    });
  }

  begin(running, view) {
    this.running = running;
    view.write(true);
    this.log.setAttribute("aria-busy", "true");
    this.showRunning();
    this.settle();
  }

  end(running, view, failure) {
    view.show();
    view.write(false);
    if (failure) {
      view.message.note = BROKEN_OFF;
      view.fail(failure.message);
    }
    // Another chat may have been opened meanwhile, and asked.
    if (this.running === running) this.running = null;
    this.log.setAttribute("aria-busy", String(this.running !== null));
    this.showRunning();
    announce(failure ? failure.message : "The answer has ended.");
    this.settle();
  }

  showRunning() {
    byId("send").hidden = this.running !== null;
    byId("stop").hidden = this.running === null;
  }

  keep(chat) {
    try {
      this.chats.keep(chat);
      this.warn("");
    } catch (error) {
      this.warn(error.message);
    }
    this.changed();
  }

  /** Keep what there is of an answer that is being written when the page is left. */
  leave() {
    if (!this.running) return;
    this.chat.messages.at(-1).note = BROKEN_OFF;
    this.keep(this.chat);
  }

  /** Show what other tabs have made of the chats. */
  takeOver() {
    if (this.running) return;
    this.chats.reload(this.chat);
    const chat = this.chats.find(this.chat.id);
    if (chat && chat !== this.chat) this.open(chat);
    this.changed();
  }

  warn(sentence) {
    this.log.querySelector(".warning")?.remove();
    if (sentence) this.log.append(el("p", { className: "warning", role: "alert" }, sentence));
  }

  look() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    this.follows = scrollHeight - scrollTop - clientHeight < NEAR;
    byId("to-end").hidden = this.follows;
  }

  /** Scroll to the end if that is what the user looks at. */
  settle() {
    byId("welcome").hidden = this.views.length > 0;
    if (this.follows) this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  toEnd() {
    this.follows = true;
    this.settle();
  }
}
