// Elements are made here and nowhere from markup, so no text of a model can become any.

const SVG = "http://www.w3.org/2000/svg";

/** Icons as paths on a field of 24 x 24, drawn with lines. */
const ICONS = {
  menu: "M4 6h16M4 12h16M4 18h16",
  close: "M6 6l12 12M18 6L6 18",
  plus: "M12 5v14M5 12h14",
  download: "M12 4v11m0 0l-4-4m4 4l4-4M5 20h14",
  upload: "M12 16V5m0 0L8 9m4-4l4 4M5 20h14",
  marker: "M4 20h16M7 16l1-4 8-8 3 3-8 8z",
  theme: "M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18",
  sliders: "M4 7h9m4 0h3M4 17h3m4 0h9M15 4.5v5M9 14.5v5",
  pipeline: "M4 6h6m3 0h2M7 12h6m3 0h2M10 18h6m3 0h1",
  down: "M12 5v14m0 0l-6-6m6 6l6-6",
  send: "M12 19V5m0 0l-6 6m6-6l6 6",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h10v11H9zM5 15V4h10",
  check: "M5 13l4 4L19 7",
  edit: "M4 20l1-4L16 5l3 3L8 19z",
  again: "M19 12a7 7 0 1 1-2-5m2-3v4h-4",
  trash: "M5 7h14M10 7V4h4v3m-7 0l1 13h8l1-13",
};

/**
 * Make an element. Properties beginning with `on` are listeners, `data` and `aria` are maps, others are properties of
 * the element; children are nodes or text.
 */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "aria") for (const [key, word] of Object.entries(value)) element.setAttribute(`aria-${key}`, word);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Make an element of a drawing. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Draw an icon. */
export function icon(name) {
  return svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true", class: "drawn" }, svg("path", { d: ICONS[name] }));
}

/** Make a button with an icon and a name that is spoken and shown as a tip. */
export function iconButton(name, label, onclick) {
  return el("button", { type: "button", className: "icon small", title: label, aria: { label }, onclick }, icon(name));
}

/** Draw the icons of buttons in the page's own markup. */
export function drawIcons() {
  for (const button of document.querySelectorAll("[data-icon]")) button.prepend(icon(button.dataset.icon));
}

export function byId(id) {
  return document.getElementById(id);
}

/** Have a screen reader say something. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** Open a dialog; resolves to the value of the button that closed it, which is empty after Escape. */
export function ask(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
  });
}

/** Ask before something is deleted. */
export async function confirmed(sentence) {
  byId("confirm-text").textContent = sentence;
  return (await ask(byId("confirm"))) === "yes";
}

/** Put text on the clipboard, which browsers offer on https and localhost only; elsewhere by way of a selection. */
export async function copyText(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const field = el("textarea", { value: text, className: "unseen" });
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  if (!done) throw new Error("The browser let nothing be copied.");
}

/** Make a button that copies what `text()` returns, and says so. */
export function copyButton(text) {
  const button = iconButton("copy", "Copy", async () => {
    let isDone = true;
    try {
      await copyText(text());
    } catch {
      isDone = false;
    }
    announce(isDone ? "Copied" : "The browser let nothing be copied");
    if (!isDone) return;
    button.replaceChildren(icon("check"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}
