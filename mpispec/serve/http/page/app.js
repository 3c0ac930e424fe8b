// Puts the page together.

import { Failure, getJson } from "./api.js";
import { Conversation } from "./conversation.js";
import { byId, drawIcons, el } from "./dom.js";
import { History } from "./history.js";
import { Pipeline } from "./pipeline.js";
import { Settings } from "./settings.js";
import { Chats, readChoice, tryWrite } from "./store.js";

const EXAMPLES = ["Give me three tips for staying healthy.", "Write a Python function that reverses a list.", "What is a pipeline?"];
const WIDE = matchMedia("(min-width: 1100px)");
const MEDIUM = matchMedia("(min-width: 760px)");
const TOUCH = matchMedia("(pointer: coarse)");

drawIcons();
const chats = new Chats();
const settings = new Settings();
const conversation = new Conversation(
  chats,
  (messages) => settings.request(messages),
  () => history.show(conversation.chat),
);
const history = new History(chats, openChat, beginChat);
const pipeline = new Pipeline(showServer);

function openChat(chat) {
  conversation.open(chat);
  history.show(chat);
  tryWrite("mpispec.open", chat.id);
  if (!MEDIUM.matches) openSide("chats", false);
}

function beginChat() {
  openChat(chats.begin());
  byId("message").focus();
}

// -- the server ---------------------------------------------------------------------------------------------------

function showServer(failure) {
  const line = byId("server");
  line.classList.toggle("gone", failure !== null);
  const said = failure === null ? byId("model").dataset.about ?? "" : failure.status === 401 ? "The server wants a key." : failure.message;
  if (line.textContent !== said) line.textContent = said;
  if (failure === null && !byId("model").dataset.about) meetServer(false);
}

let meeting = false;

async function meetServer(asks) {
  if (meeting) return;
  meeting = true;
  try {
    const [model] = (await getJson("/v1/models", { asks })).data;
    byId("model").textContent = model.id;
    byId("model").dataset.about = `context ${model.max_model_len} · ${model.mpispec?.strategy ?? ""}`;
    document.title = `${model.id} · mpispec`;
    settings.offer(model.mpispec ?? {});
    showServer(null);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    showServer(error);
  } finally {
    meeting = false;
  }
}

// -- the message --------------------------------------------------------------------------------------------------

const message = byId("message");

function fit() {
  message.style.height = "auto";
  message.style.height = `${message.scrollHeight}px`;
}

function submit(event) {
  event.preventDefault();
  const text = message.value.trim();
  if (!text || conversation.running) return;
  message.value = "";
  fit();
  conversation.send(text);
  tryWrite("mpispec.open", conversation.chat.id);
}

message.addEventListener("input", fit);
message.addEventListener("keydown", (event) => {
  // On a phone Enter is a new line, for there is no other key for it.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || TOUCH.matches) return;
  submit(event);
});
byId("composer").addEventListener("submit", submit);
byId("stop").addEventListener("click", () => {
  conversation.stop();
  message.focus();
});
byId("to-end").addEventListener("click", () => conversation.toEnd());
byId("examples").append(
  ...EXAMPLES.map((text) => el("button", { type: "button", onclick: () => conversation.send(text) }, text)),
);

// -- what is around it --------------------------------------------------------------------------------------------

function openSide(name, isOpen) {
  document.body.classList.toggle(`${name}-open`, isOpen);
  byId(`${name}-open`).setAttribute("aria-expanded", String(isOpen));
  byId(name).inert = !isOpen;
  const covers = (side) => document.body.classList.contains(`${side}-open`);
  byId("shade").hidden = !((covers("chats") && !MEDIUM.matches) || (covers("pipeline") && !WIDE.matches));
  if (name === "pipeline") pipeline.open(isOpen);
}

for (const name of ["chats", "pipeline"]) {
  byId(`${name}-open`).addEventListener("click", () => {
    const isOpen = !document.body.classList.contains(`${name}-open`);
    openSide(name, isOpen);
    if (isOpen && !byId("shade").hidden) byId(`${name}-close`).focus();
  });
  byId(`${name}-close`).addEventListener("click", () => closeSide(name));
}

function closeSide(name) {
  openSide(name, false);
  byId(`${name}-open`).focus();
}

byId("shade").addEventListener("click", () => arrange());
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if (!byId("shade").hidden) arrange();
  else if (conversation.running) conversation.stop();
});

/** Open what there is room for beside the conversation. */
function arrange() {
  openSide("chats", MEDIUM.matches);
  openSide("pipeline", WIDE.matches);
}

WIDE.addEventListener("change", arrange);
MEDIUM.addEventListener("change", arrange);
byId("new-chat").addEventListener("click", beginChat);

const THEMES = { auto: "light", light: "dark", dark: "auto" };

function showTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const said = theme === "auto" ? "Colours: as the system" : `Colours: ${theme}`;
  byId("theme").title = said;
  byId("theme").setAttribute("aria-label", said);
}

byId("theme").addEventListener("click", () => {
  const theme = THEMES[document.documentElement.dataset.theme ?? "auto"];
  showTheme(theme);
  try {
    localStorage.setItem("mpispec.theme", theme);
  } catch {
    // It holds until the page is closed.
  }
});

function colour(showsDrafts) {
  byId("drafts").setAttribute("aria-pressed", String(showsDrafts));
  byId("legend").hidden = !showsDrafts;
  conversation.colour(showsDrafts);
  tryWrite("mpispec.drafts", showsDrafts);
}

byId("drafts").addEventListener("click", () => colour(!conversation.showsDrafts));

showTheme(document.documentElement.dataset.theme ?? "auto");
colour(readChoice("mpispec.drafts", false) === true);
arrange();
const last = chats.find(readChoice("mpispec.open", ""));
if (last) openChat(last);
else history.show(conversation.chat);
meetServer(true);
chats.watch(() => conversation.takeOver());
window.addEventListener("pagehide", () => conversation.leave());
if (!TOUCH.matches) message.focus();
