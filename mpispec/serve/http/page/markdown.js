// Markdown to elements, as models write it. Nothing here makes markup out of text, and nothing asks another server:
// images become links, and links go to the web or to mail only.

import { copyButton, el } from "./dom.js";

const DEEPEST = 12;
/** Levels of lists, quotes and emphasis; below them text is text. */

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}>\s?/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(\s+|$)/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** Split text into blocks; `source` of a block is all that it depends on. */
export function blocksOf(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const [kind, end] = blockAt(lines, at);
    blocks.push({ kind, source: lines.slice(at, end).join("\n") });
    at = end;
  }
  return blocks;
}

function blockAt(lines, at) {
  const line = lines[at];
  if (FENCE.test(line)) return ["code", fenceEnd(lines, at)];
  if (HEADING.test(line)) return ["heading", at + 1];
  if (RULE.test(line)) return ["rule", at + 1];
  if (QUOTE.test(line)) return ["quote", endOf(lines, at, (each) => QUOTE.test(each))];
  if (ITEM.test(line)) return ["list", listEnd(lines, at)];
  if (isTable(lines, at)) return ["table", endOf(lines, at + 2, (each) => each.includes("|"))];
  return ["paragraph", endOf(lines, at + 1, (each, index) => each.trim() !== "" && !interrupts(lines, index))];
}

function endOf(lines, at, belongs) {
  while (at < lines.length && belongs(lines[at], at)) at += 1;
  return at;
}

function fenceEnd(lines, at) {
  const mark = FENCE.exec(lines[at])[1];
  const closing = new RegExp(`^ {0,3}${mark[0]}{${mark.length},}\\s*$`);
  const end = endOf(lines, at + 1, (line) => !closing.test(line));
  return Math.min(end + 1, lines.length);
}

function interrupts(lines, at) {
  const line = lines[at];
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line) || isTable(lines, at);
}

function isTable(lines, at) {
  return lines[at].includes("|") && at + 1 < lines.length && lines[at + 1].includes("-") && DIVIDER.test(lines[at + 1]);
}

/** A list goes on over empty lines as long as items or indented lines follow. */
function listEnd(lines, at) {
  const indent = ITEM.exec(lines[at])[1].length;
  let end = at + 1;
  for (let index = at + 1; index < lines.length; index += 1) {
    const line = lines[index];
    if (!line.trim()) continue;
    const isAfterGap = !lines[index - 1].trim();
    const depth = line.length - line.trimStart().length;
    const item = ITEM.exec(line);
    if (RULE.test(line) && depth <= indent) break;
    if (!item && depth <= indent && (isAfterGap || interrupts(lines, index))) break;
    end = index + 1;
  }
  return end;
}

/** Show text in an element, keeping what has not changed: it is called for each portion of a stream. */
export function showMarkdown(element, text) {
  const blocks = blocksOf(text);
  const kept = element.children;
  let index = 0;
  while (index < blocks.length && kept[index]?.source === blocks[index].source) index += 1;
  while (element.children.length > index) element.lastElementChild.remove();
  for (const block of blocks.slice(index)) {
    const made = makeBlock(block, 0);
    made.source = block.source;
    element.append(made);
  }
}

function makeBlock({ kind, source }, depth) {
  switch (kind) {
    case "code":
      return makeCode(source);
    case "heading": {
      const [, marks, title] = HEADING.exec(source);
      // Below the page's own headings.
      return el(`h${Math.min(6, marks.length + 2)}`, {}, ...inline(title, depth));
    }
    case "rule":
      return el("hr");
    case "quote":
      return el("blockquote", {}, ...inner(source.replace(/^ {0,3}>\s?/gm, ""), depth));
    case "list":
      return makeList(source.split("\n"), depth);
    case "table":
      return makeTable(source.split("\n"), depth);
    default:
      return el("p", {}, ...inline(source, depth));
  }
}

function inner(text, depth) {
  if (depth >= DEEPEST) return [document.createTextNode(text)];
  return blocksOf(text).map((block) => makeBlock(block, depth + 1));
}

function makeCode(source) {
  const lines = source.split("\n");
  const [, mark, language] = FENCE.exec(lines[0]);
  const isClosed = lines.length > 1 && lines.at(-1).trim().startsWith(mark);
  const code = lines.slice(1, isClosed ? -1 : undefined).join("\n");
  const head = el("div", { className: "code-head" }, el("span", {}, language || "text"), copyButton(() => code));
  const body = el("pre", { tabIndex: 0 }, el("code", {}, code));
  return el("div", { className: "code" }, head, body);
}

function makeList(lines, depth) {
  const [, spaces, mark] = ITEM.exec(lines[0]);
  const isOrdered = /\d/.test(mark);
  const list = el(isOrdered ? "ol" : "ul");
  if (isOrdered) list.start = Number.parseInt(mark, 10);
  let item = [];
  let inset = 0;
  const close = () => {
    if (item.length) list.append(makeItem(item.join("\n"), depth));
    item = [];
  };
  for (const line of lines) {
    const found = ITEM.exec(line);
    if (found && found[1].length <= spaces.length + 1) {
      close();
      inset = found[0].length;
      item.push(line.slice(found[0].length));
    } else {
      item.push(line.slice(Math.min(inset, line.length - line.trimStart().length)));
    }
  }
  close();
  return list;
}

function makeItem(text, depth) {
  const blocks = inner(text, depth);
  // A lone paragraph needs no space of its own.
  const isLone = blocks[0]?.tagName === "P" && blocks.slice(1).every((block) => /^[OU]L$/.test(block.tagName));
  return el("li", {}, ...(isLone ? [...blocks[0].childNodes, ...blocks.slice(1)] : blocks));
}

function cellsOf(line) {
  const row = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return row.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function makeTable(lines, depth) {
  const sides = cellsOf(lines[1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "middle" : "right") : ""));
  const row = (line, tag) =>
    el("tr", {}, ...cellsOf(line).map((cell, column) => el(tag, { className: sides[column] ?? "" }, ...inline(cell, depth))));
  const body = el("tbody", {}, ...lines.slice(2).map((line) => row(line, "td")));
  const table = el("table", {}, el("thead", {}, row(lines[0], "th")), body);
  return el("div", { className: "table", tabIndex: 0 }, table);
}

const LINK = /!?\[([^[\]]*)\]\(\s*<?([^\s()<>]*(?:\([^\s()<>]*\)[^\s()<>]*)*)>?(?:\s+"[^"]*")?\s*\)/y;
const BARE = /<?(https?:\/\/[^\s<>"']+)>?/y;
const EMPHASIS = [
  ["***", ["strong", "em"]],
  ["**", ["strong"]],
  ["__", ["strong"]],
  ["~~", ["s"]],
  ["*", ["em"]],
  ["_", ["em"]],
];

/** Turn a text without blocks into nodes. */
export function inline(text, depth = 0) {
  const nodes = [];
  const missing = new Set(); // marks that do not occur any more: found out once, not at each place
  let plain = "";
  const add = (...made) => {
    if (plain) nodes.push(document.createTextNode(plain));
    plain = "";
    nodes.push(...made);
  };
  let at = 0;
  while (at < text.length) {
    const found = spanAt(text, at, depth, missing);
    if (found) {
      add(...found.nodes);
      at = found.end;
    } else if (text[at] === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) {
      plain += text[at + 1];
      at += 2;
    } else {
      // A run of the same mark that opens nothing is text as a whole.
      let end = at + 1;
      if ("*_~`".includes(text[at])) while (text[end] === text[at]) end += 1;
      plain += text.slice(at, end);
      at = end;
    }
  }
  add();
  return nodes;
}

function spanAt(text, at, depth, missing) {
  switch (text[at]) {
    case "\n":
      return / {2}$/.test(text.slice(Math.max(0, at - 2), at)) ? { nodes: [el("br")], end: at + 1 } : null;
    case "`":
      return codeAt(text, at, missing);
    case "!":
    case "[":
      return linkAt(text, at, depth);
    case "<":
    case "h":
      return bareLinkAt(text, at);
    case "*":
    case "_":
    case "~":
      return depth < DEEPEST ? emphasisAt(text, at, depth, missing) : null;
    default:
      return null;
  }
}

function closingOf(text, mark, from, missing) {
  if (missing.has(mark)) return -1;
  const end = text.indexOf(mark, from);
  if (end < 0) missing.add(mark);
  return end;
}

function codeAt(text, at, missing) {
  let mark = "`";
  while (text[at + mark.length] === "`") mark += "`";
  const end = closingOf(text, mark, at + mark.length, missing);
  if (end < 0) return null;
  const code = text.slice(at + mark.length, end).replaceAll("\n", " ");
  return { nodes: [el("code", {}, / .*[^ ].* /.test(` ${code} `) ? code.replace(/^ (.+) $/, "$1") : code)], end: end + mark.length };
}

function emphasisAt(text, at, depth, missing) {
  for (const [mark, tags] of EMPHASIS) {
    if (!text.startsWith(mark, at)) continue;
    const start = at + mark.length;
    if (/\s/.test(text[start] ?? " ")) continue;
    if (mark[0] === "_" && /\w/.test(text[at - 1] ?? "")) continue; // snake_case
    const end = emphasisEnd(text, mark, start, missing);
    if (end < 0) continue;
    const [outer, ...others] = tags;
    const children = inline(text.slice(start, end), depth + 1);
    const made = el(outer, {}, ...(others.length ? [el(others[0], {}, ...children)] : children));
    return { nodes: [made], end: end + mark.length };
  }
  return null;
}

const MOST_TRIES = 32;

function emphasisEnd(text, mark, start, missing) {
  let end = start;
  for (let tries = 0; tries < MOST_TRIES; tries += 1) {
    end = closingOf(text, mark, end, missing);
    if (end < 0) return -1;
    const isOfLonger = mark.length === 1 && text[end + 1] === mark;
    const isOpening = /\s/.test(text[end - 1]) || (mark[0] === "_" && /\w/.test(text[end + mark.length] ?? ""));
    if (end > start && !isOfLonger && !isOpening) return end;
    end += isOfLonger ? 2 : 1;
  }
  return -1;
}

/** Return the address if it leads to the web or to mail; scripts and files do not. */
export function safeAddress(address) {
  try {
    const { protocol, href } = new URL(address);
    return ["http:", "https:", "mailto:"].includes(protocol) ? href : null;
  } catch {
    return null;
  }
}

function anchor(href, ...children) {
  return el("a", { href, target: "_blank", rel: "noopener noreferrer" }, ...children);
}

function linkAt(text, at, depth) {
  LINK.lastIndex = at;
  const found = LINK.exec(text);
  const href = found && safeAddress(found[2]);
  if (!href) return null;
  const label = found[1] || href;
  return { nodes: [anchor(href, ...(depth < DEEPEST ? inlineLabel(label, depth) : [label]))], end: at + found[0].length };
}

/** A label holds no links of its own. */
function inlineLabel(label, depth) {
  return /https?:/.test(label) ? [label] : inline(label, depth + 1);
}

function bareLinkAt(text, at) {
  if (/\w/.test(text[at - 1] ?? "")) return null;
  BARE.lastIndex = at;
  const found = BARE.exec(text);
  if (!found) return null;
  const isFramed = found[0].startsWith("<") && found[0].endsWith(">");
  if (found[0].startsWith("<") !== isFramed) return null;
  const address = isFramed ? found[1] : found[1].replace(/[.,;:!?)\]}*_~]+$/, "");
  const href = safeAddress(address);
  if (!href) return null;
  return { nodes: [anchor(href, address)], end: isFramed ? at + found[0].length : at + address.length };
}
