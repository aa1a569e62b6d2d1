// The next word: bars of p(x_{t+1}), reshaped by τ and the filters, and a tree of what was appended.

import { Latest, postJson } from "./api.js";
import { byLogit, decodeLogits, draw, entropy, logSumExp, reshape } from "./distribution.js";
import { count, field, fill, h, later, number, probability, spoken, tokenList, visible } from "./dom.js";
import { samplingControls } from "./sampling.js";

const SHOWN = 15; // bars, and so many more at a time
const MOST = 100;
const POSITIONS = 40; // whose logits are kept

export function nextWord(context) {
  const latest = new Latest();
  const prompt = h("textarea", { rows: 2, spellcheck: "false", on: { input: later(begin, 350) } });
  prompt.value = sessionStorage.getItem("prompt") ?? "The capital of France is";
  const text = h("div", { class: "tokens", tabindex: 0, role: "group", "aria-label": "Tokens so far" });
  const bars = h("ol", { class: "bars", "aria-label": "The most probable next tokens", on: { keydown: moveInBars } });
  const summary = h("p", { class: "summary", role: "status" });
  const position = h("p", { class: "equation" });
  const tree = h("div", { class: "tree" });
  const problem = h("p", { class: "problem", role: "alert" });
  const heads = h("div", { class: "heads", "aria-hidden": "true" });
  const more = h("button", { type: "button", class: "link", on: { click: () => {
    shown = Math.min(MOST, shown + SHOWN);
    drawBars();
  } } }, "Show more");
  const controls = samplingControls(() => reshapeBars());
  const drawOne = h("button", { type: "button", on: { click: () => drawTokens(1) } }, "Draw a token");
  const drawTen = h("button", { type: "button", on: { click: () => drawTokens(10) } }, "Draw 10");
  const back = h("button", { type: "button", on: { click: () => current.parent && go(current.parent) } }, "Back one token");

  let root = null, current = null, shown = SHOWN, rows = [], drawing = 0;
  const kept = []; // nodes whose positions are in memory, the oldest first

  const makeNode = (token, parent, logProb) =>
    ({ token, parent, logProb, total: (parent?.total ?? 0) + logProb, text: null, children: new Map(), position: null });

  const path = node => (node.parent ? [...path(node.parent), node.token] : []);

  // A masked model has no next word: it fills the blanks of a text, one after the other.
  function begin() {
    const mask = context.model.mask;
    if (mask && !prompt.value.includes(mask)) prompt.value = `${prompt.value.trimEnd()} ${mask}.`;
    sessionStorage.setItem("prompt", prompt.value);
    root = makeNode(null, null, 0);
    go(root);
  }

  async function go(node, focus = false) {
    drawing = 0;
    await move(node, focus);
  }

  async function move(node, focus = false) {
    const failed = error => fill(problem, error.message);
    await latest.run(async signal => {
      if (!node.position) {
        element.setAttribute("aria-busy", "true");
        await load(node, signal).finally(() => element.removeAttribute("aria-busy"));
      }
      fill(problem);
      current = node;
      shown = SHOWN;
      drawAll();
      if (focus) bars.querySelector("button")?.focus();
    }, failed);
  }

  async function load(node, signal) {
    const model = context.model.name;
    const found = await postJson("/page/next", { model, prompt: prompt.value, tokens: path(node) }, signal);
    const logits = decodeLogits(found.logits);
    node.position = { ...found, logits, order: byLogit(logits), logSum: logSumExp(logits) };
    node.text = node.parent ? found.tokens.at(-1).text : null;
    kept.push(node);
    if (kept.length > POSITIONS) kept.shift().position = null;
  }

  function childOf(node, token) {
    const { logits, logSum } = node.position;
    if (!node.children.has(token)) node.children.set(token, makeNode(token, node, logits[token] - logSum));
    return node.children.get(token);
  }

  async function drawTokens(n) {
    const run = drawing = performance.now();
    for (let made = 0; made < n && drawing === run; made++) {
      const { logits, order, stop_tokens: stop } = current.position;
      const token = order[draw(reshape(logits, order, controls.values()))];
      const child = childOf(current, token);
      await move(child);
      if (current !== child || stop.includes(token)) return;
    }
  }

  function drawAll() {
    const { tokens, prompt_tokens: given } = current.position;
    fill(text, tokenList(tokens, given));
    text.scrollTop = text.scrollHeight;
    const t = tokens.length - 1, blank = current.position.position;
    if (blank !== undefined) fill(position, h("i", null, "p"), "(", h("i", null, "x"), h("sub", null, blank), " | all other tokens that are not masked) = softmax(", h("i", null, "u"), h("sub", null, blank), " / τ)");
    else fill(position, h("i", null, "p"), "(", h("i", null, "x"), h("sub", null, t + 1), " | ⊥",
      t > 0 && [", ", h("i", null, "x"), h("sub", null, 1), t > 1 && [t > 2 ? ", …, " : ", ", h("i", null, "x"), h("sub", null, t)]],
      ") = softmax(", h("i", null, "u"), h("sub", null, t), " / τ)", h("small", null, "notes 14.6, 14.7"));
    back.disabled = !current.parent;
    drawBars();
    drawTree();
  }

  function drawBars() {
    const { best, stop_tokens: stop } = current.position;
    rows = best.slice(0, shown).map(({ id, text: word }) => {
      const row = { solid: h("i", { class: "now" }), ghost: h("i", { class: "before" }), p: h("span", { class: "p" }), was: h("span", { class: "was" }) };
      row.button = h("button", { type: "button", on: { click: () => go(childOf(current, id), true) } },
        h("span", { class: "word" }, visible(word)), h("span", { class: "track" }, row.ghost, row.solid), row.p, row.was);
      row.say = `${spoken(word)}${stop.includes(id) ? ", ends the text" : ""}`;
      row.item = h("li", { class: stop.includes(id) ? "stop" : null }, row.button);
      return row;
    });
    const rest = { solid: h("i", { class: "now" }), ghost: h("i", { class: "before" }), p: h("span", { class: "p" }), was: h("span", { class: "was" }) };
    rest.item = h("li", { class: "rest" }, h("div", null,
      h("span", { class: "word" }, `${count(current.position.logits.length - rows.length)} others`),
      h("span", { class: "track" }, rest.ghost, rest.solid), rest.p, rest.was));
    rows.push(rest);
    fill(bars, rows.map(row => row.item));
    more.hidden = shown >= Math.min(MOST, best.length);
    reshapeBars();
  }

  function reshapeBars() {
    if (!current?.position) return;
    const { logits, order, logSum } = current.position;
    const p = reshape(logits, order, controls.values());
    const changed = controls.changed();
    fill(heads, h("span", null, "token"), h("span", null, changed && "outlined: p itself"), h("span", null, "p"), h("span", { class: "was" }, changed && "p itself"));
    let [restNow, restBefore] = [1, 1];
    rows.forEach((row, rank) => {
      const isRest = rank === rows.length - 1;
      const now = isRest ? Math.max(0, p.length <= rank ? 0 : restNow) : p[rank] ?? 0;
      const before = isRest ? Math.max(0, restBefore) : Math.exp(logits[order[rank]] - logSum);
      restNow -= now;
      restBefore -= before;
      row.solid.style.setProperty("--p", now);
      row.ghost.style.setProperty("--p", changed ? before : 0);
      fill(row.p, probability(now));
      fill(row.was, changed ? probability(before) : "");
      row.item.classList.toggle("out", now === 0);
      row.button?.setAttribute("aria-label", `${row.say}, probability ${probability(now)}${now === 0 ? ", filtered out" : ""}: append`);
    });
    const H = entropy(p);
    fill(summary, h("b", null, count(p.length)), ` of ${count(logits.length)} tokens are kept. Entropy `,
      h("b", null, number(H, 2)), " nats: as uncertain as a choice among ", h("b", null, Math.exp(H).toPrecision(3)), " equal ones.");
  }

  function moveInBars(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Backspace" && current.parent) {
      event.preventDefault();
      go(current.parent, true);
    }
    if (!step) return;
    event.preventDefault();
    const buttons = [...bars.querySelectorAll("button")];
    buttons[buttons.indexOf(document.activeElement) + step]?.focus();
  }

  // Tokens that were appended one after the other without a branch share a line.
  function drawTree() {
    const tokenButton = node => h("button", {
      type: "button", class: "token", "aria-current": node === current ? "true" : null,
      title: node.parent ? `log p = ${number(node.logProb)}` : "the prompt",
      on: { click: () => go(node) },
    }, node.parent ? visible(node.text ?? "…") : "prompt");
    const branch = node => {
      const line = [node];
      while (line.at(-1).children.size === 1) line.push(line.at(-1).children.values().next().value);
      const last = line.at(-1);
      const children = [...last.children.values()].sort((a, b) => b.total - a.total);
      return h("li", { class: line.includes(current) ? "here" : null },
        h("div", { class: "line" }, h("span", { class: "run" }, line.map(tokenButton)),
          last.parent && h("span", { class: "figure" }, h("i", null, "log p"), ` = ${number(last.total)}`)),
        children.length > 0 && h("ul", null, children.map(branch)));
    };
    fill(tree, h("ul", null, branch(root)));
  }

  const element = h("section", { class: "next" },
    h("h1", null, "What comes next?"),
    h("p", { class: "under" }, "A language model gives every token of its vocabulary a probability. The bars are exact; move τ or a filter and watch them change, click one to append it."),
    h("div", { class: "columns" },
      h("div", null,
        h("div", null, field("Prompt", prompt), problem, text, position),
        h("div", { class: "distribution" }, h("div", { class: "buttons" }, drawOne, drawTen, back), heads, bars, more, summary)),
      h("aside", null,
        h("div", { class: "settings" }, h("h2", null, "Temperature and filters"), controls.element),
        h("div", { class: "tried" },
          h("h2", null, "What was tried"),
          h("p", { class: "under" }, "Each branch with the sum of its tokens’ log p under the model itself (τ = 1, no filter), in nats."),
          tree))));
  context.onModel(begin);
  return { element, show: () => root || begin() };
}
