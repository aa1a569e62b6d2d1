// Elements from data. A string becomes text and nothing else: no view ever sets HTML.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "g", "path", "circle", "polyline", "rect", "text", "title"]);

// h("button", {class: "quiet", on: {click: save}, style: {"--p": 0.5}}, "Save")
export function h(tag, properties, ...children) {
  const element = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...nodes(children));
  return element;
}

const nodes = children => children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false);

export function fill(element, ...children) {
  element.replaceChildren(...nodes(children));
  return element;
}

// What a text holds that would not be seen: spaces, ends of lines, parts of characters (\xe2), invisible characters.
const UNSEEN = /( )|(\n)|(\t)|(\\x[0-9a-f]{2})|([\p{Cc}\p{Cf}\p{Co}\p{Zl}\p{Zp}\u00a0])/gu;

export function visible(text, { breaks = false } = {}) {
  const found = [];
  let start = 0;
  for (const match of text.matchAll(UNSEEN)) {
    if (match.index > start) found.push(text.slice(start, match.index));
    start = match.index + match[0].length;
    const [, space, newline, tab, byte] = match;
    if (space) found.push(h("span", { class: "space" }, "·"));
    else if (newline) found.push(h("span", { class: "space" }, "↵"), breaks ? "\n" : null);
    else if (tab) found.push(h("span", { class: "space" }, "⇥"));
    else if (byte) found.push(h("span", { class: "byte", title: "part of a character: one byte" }, byte.slice(2)));
    else found.push(h("span", { class: "byte" }, `U+${match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`));
  }
  if (start < text.length) found.push(text.slice(start));
  return found.length ? found : [h("span", { class: "space" }, "∅")];
}

// A token as a screen reader says it.
export const spoken = text =>
  `“${text.replaceAll("\n", "(newline)").replaceAll("\t", "(tab)").replace(/^ /, "(space) ")}”`;

export function svgDrawing(width, height, title, ...children) {
  return h("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" }, h("title", null, title), ...children);
}

// Numbers, with a true minus sign.
const sign = text => text.replace("-", "−");
export const number = (value, digits = 3) => sign(value.toFixed(digits).replace(/^-(?=0\.?0*$)/, ""));
export const count = value => value.toLocaleString("en-US");
export const percent = value => (100 * value).toFixed(1);

export function probability(p) {
  if (p === 0) return "0";
  if (p >= 0.0001) return p.toFixed(4);
  const [digits, power] = p.toExponential(1).split("e-");
  return `${digits}·10⁻${[...power].map(digit => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("")}`;
}

// Call `run` once, when nothing has asked for it for some milliseconds.
export function later(run, milliseconds) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(run, milliseconds);
  };
}

let fields = 0;

// A control under its label, with a note that a screen reader says after it.
export function field(label, control, note) {
  const id = `field-${fields++}`;
  control.id = id;
  if (note) control.setAttribute("aria-describedby", `${id}-note`);
  return h("div", { class: "field" }, h("label", { for: id }, label), control, note && h("small", { id: `${id}-note` }, note));
}

// Tokens of a text, in a line that may be broken before a space; the first `from` of them were given.
export const tokenList = (tokens, from = 0) => tokens.map((token, index) => [
  /^\s/.test(token.text) && h("wbr"),
  h("span", { class: `token ${index < from ? "given" : "new"}` }, visible(token.text, { breaks: true })),
]);
