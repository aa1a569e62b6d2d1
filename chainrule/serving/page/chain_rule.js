// The chain rule: a text's tokens coloured by their log p, what else was probable there, the sum; two models beside
// each other.

import { Latest, postJson } from "./api.js";
import { count, field, fill, h, later, number, probability, spoken, visible } from "./dom.js";

const HOT = 8; // nats of surprisal at the strongest colour
const EXAMPLE = "The speed of light in vacuum is a universal constant.\nIt is 299,792,458 metres per second.";

export function chainRule(context) {
  const text = h("textarea", { rows: 4, spellcheck: "false", on: { input: later(score, 500) } });
  text.value = sessionStorage.getItem("text") ?? EXAMPLE;
  const given = h("textarea", { rows: 2, spellcheck: "false", on: { input: later(score, 500) } });
  const others = context.about.models.map(model => model.name);
  const second = h("select", { on: { change: () => arrange() } }, h("option", { value: "" }, "none"), others.map(name => h("option", { value: name }, name)));
  const panels = h("div", { class: "panels" });
  let shown = [];

  function arrange() {
    const names = [context.model.name, ...(second.value && second.value !== context.model.name ? [second.value] : [])];
    shown = names.map(panel);
    fill(panels, shown.map(each => each.element));
    score();
  }

  async function score() {
    sessionStorage.setItem("text", text.value);
    await Promise.all(shown.map(each => each.score(text.value, given.value)));
    const sums = shown.map(each => each.result).filter(Boolean);
    if (sums.length === 2) {
      const bits = sums[1].bits_per_byte - sums[0].bits_per_byte;
      fill(difference, `The second model needs ${number(Math.abs(bits))} bits per byte ${bits > 0 ? "more" : "fewer"} than the first.`);
    } else fill(difference);
  }

  const difference = h("p", { class: "summary", role: "status" });
  const element = h("section", { class: "chain" },
    h("h1", null, "How probable is a text?"),
    h("p", { class: "equation" }, "log ", h("i", null, "p"), "(", h("i", null, "x"), h("sub", null, "1"), ", …, ", h("i", null, "x"), h("sub", null, h("i", null, "T")), ") = Σ", h("sub", null, h("i", null, "t")), " log ", h("i", null, "p"), "(", h("i", null, "x"), h("sub", null, h("i", null, "t")), " | ⊥, ", h("i", null, "x"), h("sub", null, "1"), ", …, ", h("i", null, "x"), h("sub", null, [h("i", null, "t"), "−1"]), ")"),
    h("p", { class: "under" }, "Each token with its log p in nats below it; the stronger its colour, the more it surprises the model. Point at a token, or move with the arrow keys, to see what was more probable there."),
    field("Text", text),
    h("details", null, h("summary", null, "A text before it, given and not scored"), field("Given", given)),
    others.length > 1 && h("label", { class: "beside" }, "beside it ", second),
    h("p", { class: "scale" }, "log p = 0, certain", h("i"), `−${HOT} and below`), panels, difference);
  context.onModel(arrange);
  return { element, show: () => shown.length || arrange() };
}

// One model's reading of the text.
function panel(name) {
  const latest = new Latest();
  const tokens = h("div", { class: "heat", role: "group", "aria-label": `Tokens and their log p under ${name}` });
  const figures = h("p", { class: "facts", role: "status" });
  const beside = h("div", { class: "alternatives" });
  const problem = h("p", { class: "problem", role: "alert" });
  const own = { element: h("div", { class: "panel" }, h("h2", null, name), problem, figures, tokens, beside), result: null };

  own.score = async (text, given) => {
    own.result = null;
    await latest.run(async signal => {
      own.result = await postJson("/page/score", { model: name, text, given }, signal);
      fill(problem);
      drawResult(own.result);
    }, error => {
      fill(problem, error.message);
      [figures, tokens, beside].forEach(each => fill(each));
    });
  };

  function drawResult({ tokens: found, log_prob: total, bytes, bits_per_byte: bits }) {
    fill(figures, [[number(total, 2), "nats in all"], [count(found.length), "tokens"], [number(total / found.length), "nats a token"], [count(bytes), "bytes"], [number(bits), "bits per byte"]]
      .map(([value, what]) => h("span", null, h("b", null, value), ` ${what}`)));
    fill(tokens, found.map((token, index) => h("button", {
      type: "button", class: "heat-token", tabindex: index ? -1 : 0, style: { "--heat": Math.min(1, -token.log_prob / HOT) },
      "aria-label": `${spoken(token.text)}, log p ${number(token.log_prob, 2)}`,
      on: { mouseenter: () => choose(index), focus: () => choose(index) },
    }, h("span", null, visible(token.text)), h("small", null, number(token.log_prob, 1)))).flatMap((button, index) =>
      found[index].text.endsWith("\n") ? [button, h("span", { class: "break" })] : [button]));
    const buttons = [...tokens.querySelectorAll("button")];
    tokens.onkeydown = event => {
      const at = buttons.indexOf(document.activeElement);
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
      if (at < 0 || to === undefined) return;
      event.preventDefault();
      buttons[to]?.focus();
    };
    let chosen = null;
    const choose = index => {
      if (chosen !== null) {
        buttons[chosen].classList.remove("chosen");
        buttons[chosen].tabIndex = -1;
      }
      chosen = index;
      buttons[index].classList.add("chosen");
      buttons[index].tabIndex = 0;
      drawAlternatives(found[index], index);
    };
    if (found.length) choose(found.reduce((worst, token, index) => token.log_prob < found[worst].log_prob ? index : worst, 0));
  }

  function drawAlternatives({ text, log_prob: logProb, alternatives }, index) {
    const listed = alternatives.some(([other, value]) => other === text && value === logProb);
    const rows = listed ? alternatives : [...alternatives, [text, logProb]];
    const rest = 1 - rows.reduce((sum, [, value]) => sum + Math.exp(value), 0);
    const bar = (word, p, logP, kind) => h("li", { class: kind }, h("div", null,
      h("span", { class: "word" }, word), h("span", { class: "track" }, h("i", { class: "now", style: { "--p": p } })),
      h("span", { class: "p" }, probability(p)), h("span", { class: "was" }, logP === null ? "" : number(logP, 2))));
    fill(beside,
      h("h3", null, h("i", null, "x"), h("sub", null, index + 1), " is ", h("span", { class: "token" }, visible(text)),
        `: p = ${probability(Math.exp(logProb))}, log p = ${number(logProb)}`),
      h("div", { class: "heads", "aria-hidden": "true" }, ["most probable there", "", "p", "log p"].map((text, index) => h("span", { class: index === 3 ? "was" : null }, text))),
      h("ol", { class: "bars", "aria-label": "Most probable there" },
        rows.map(([word, value]) => bar(visible(word), Math.exp(value), value, word === text && value === logProb ? "truth" : null)),
        bar("all others", Math.max(0, rest), null, "rest")));
  }
  return own;
}
