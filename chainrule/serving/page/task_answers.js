// What each predictor answers for a row, beside what is expected; and how good the answers to the test rows are so far.

import { count, fill, h, number, percent, probability, tokenList, visible } from "./dom.js";

const TITLES = { zero_shot: "Zero-shot", in_context: "In-context", finetuned: "Finetuned" };
const COLOURS = { zero_shot: "first", in_context: "second", finetuned: "c2" };
const PROMPTED = ["zero_shot", "in_context"];

const mark = right => h("span", { class: right ? "right" : "wrong", role: "img", "aria-label": right ? "as expected" : "not as expected" }, right ? " ✓" : " ✗");
const share = p => h("span", { class: "share" }, h("span", { class: "p" }, probability(p)), h("span", { class: "track" }, h("i", { class: "now", style: { "--p": p } })));
const column = (text, title) => h("th", { scope: "col", title }, text);

// `shown`: the task; the row's expected answer, null for a row of one's own; how many demonstrations were chosen; whether
// probabilities are calibrated.
export function drawAnswers(element, found, shown) {
  const kinds = [...(found.zero_shot ? PROMPTED : []), ...(found.finetuned ? ["finetuned"] : [])];
  fill(element, kinds.map(kind => h("div", { class: "panel" }, kind === "finetuned" ? finetuned(found.finetuned, shown) : prompted(kind, found[kind], shown))));
  for (const each of element.querySelectorAll(".tokens")) each.scrollTop = each.scrollHeight; // to the row, after its demonstrations
}

function prompted(kind, found, shown) {
  if (!found) return [h("h3", null, TITLES[kind]), h("p", { class: "under" }, "Add demonstrations: they stand in front of the row, each with its answer.")];
  const { tokens, demonstrations: fitted, cut } = found;
  const notes = [kind === "in_context" && fitted < shown.demonstrations && `${fitted} of ${shown.demonstrations} demonstrations fitted into the context.`,
    cut && "The text’s beginning was cut: it is longer than the context."].filter(Boolean);
  return [
    h("h3", null, TITLES[kind], h("span", { class: "quiet" }, ` ${count(tokens.length)} tokens`)),
    h("div", { class: "tokens prompt", tabindex: 0, role: "group", "aria-label": `The exact prompt, ${TITLES[kind]}` }, tokenList(tokens), h("span", { class: "ask" }, "?")),
    notes.map(note => h("p", { class: "note" }, note)),
    found.labels ? labelTable(found.labels, shown) : besideExpected(found.answer, shown),
  ];
}

function finetuned({ name, answer, labels }, shown) {
  return [h("h3", null, TITLES.finetuned, h("span", { class: "quiet" }, ` ${name}`)), labels.length ? labelTable(labels, shown) : besideExpected(answer, shown)];
}

// Of a prompt each label has a word, log p and a bias; of a finetuned classifier its probability alone.
function labelTable(labels, { task, expected, calibrated }) {
  const byPrompt = "log_prob" in labels[0], best = labels.reduce((a, b) => (b.after > a.after ? b : a)), several = task.kind === "multilabel";
  const wanted = expected === null ? [] : several ? expected.split(", ") : [expected];
  const columns = [column(several ? "labels" : "label"), byPrompt && column("log p"),
    byPrompt && calibrated && [column("p before", "p before calibration"), column("bias", "what calibration subtracts, in nats")],
    column(byPrompt && calibrated ? "after" : "p")];
  return h("table", { class: "labels" },
    h("thead", null, h("tr", null, columns)),
    h("tbody", null, labels.map(each => h("tr", { class: (several ? each.chosen : each === best) ? "best" : null },
      h("th", { scope: "row" }, h("span", { class: "label-name" }, each.label), wanted.includes(each.label) && h("span", { class: "right", role: "img", "aria-label": "expected" }, " ✓"),
        byPrompt && [" ", h("span", { class: "token" }, visible(each.word))]),
      byPrompt && h("td", null, number(each.log_prob, 2)),
      byPrompt && calibrated && [h("td", null, share(each.before)), h("td", null, number(each.bias, 2))],
      h("td", null, share(each.after))))));
}

// A generated answer, or a number.
function besideExpected(answer, { task, expected }) {
  const free = task.kind === "free", right = expected !== null && answer.trim() === expected.trim();
  return [
    h("dl", { class: "expected" },
      h("dt", null, "answer"), h("dd", null, answer ? h("b", null, answer) : h("span", { class: "quiet" }, "nothing: it ended at once"), free && expected !== null && mark(right)),
      expected !== null && [h("dt", null, "expected"), h("dd", null, expected)]),
    free && expected !== null && h("p", { class: "note" }, right ? "An exact match, spaces around it aside." : "No exact match: it counts as wrong."),
  ];
}

// The answers for a screen reader.
export function inWords(found, { task, expected }) {
  const answers = Object.keys(TITLES).filter(kind => found[kind]).map(kind => {
    const { answer, labels } = found[kind];
    const said = answer ?? labels.reduce((a, b) => (b.after > a.after ? b : a)).label;
    return `${TITLES[kind]}: ${said || "nothing"}`;
  });
  return [...answers, expected !== null && task ? `expected: ${expected}` : null].filter(Boolean).join("; ");
}

export function drawFigures(element, found) {
  fill(element,
    h("p", { class: "quiet" }, `${count(found.done)} of ${count(found.n)} test rows`), h("progress", { max: found.n, value: found.done, "aria-label": "Test rows done" }),
    Object.keys(TITLES).filter(kind => found[kind]).map(kind => found[kind].figures ? figureTable(kind, found[kind].figures) : interval(kind, found[kind])));
}

const interval = (kind, { right, accuracy, low, high }) =>
  h("div", { class: `interval ${COLOURS[kind]}` }, h("span", { class: "name" }, TITLES[kind]),
    h("span", { class: "axis" }, h("i", { style: { "--low": low, "--high": high } }), h("b", { style: { "--at": accuracy } })),
    h("span", { class: "figure" }, h("b", null, `${percent(accuracy)} %`), ` (${percent(low)} to ${percent(high)}), ${right} right`));

const figureTable = (kind, figures) => figures.length > 0 && h("table", { class: "figures" },
  h("thead", null, h("tr", null, column(TITLES[kind]), column("value"), column("95 % interval"))),
  h("tbody", null, figures.map(({ name, value, low, high }) => h("tr", null, h("th", { scope: "row" }, name), h("td", null, h("b", null, value)), h("td", null, `${low} to ${high}`)))));

export function sentence({ n, zero_shot: zero, in_context: shown, finetuned: trained, difference }, demonstrations) {
  const of = ({ accuracy, low, high }) => `${percent(accuracy)} % (95 % interval ${percent(low)} to ${percent(high)})`;
  const said = [
    zero && `zero-shot is right on ${of(zero)}`,
    shown && `in-context with ${demonstrations} ${demonstrations === 1 ? "demonstration" : "demonstrations"} on ${of(shown)}`,
    trained?.figures && trained.figures.map(({ name, value, low, high }) => `${name} ${value} (95 % interval ${low} to ${high})`).join(", "),
    trained && !trained.figures && `the finetuned classifier on ${of(trained)}`,
  ].filter(Boolean).join(", ");
  const paired = difference && `; paired difference ${number(100 * difference.value, 1)} points (${number(100 * difference.low, 1)} to ${number(100 * difference.high, 1)}), p = ${difference.p_value.toPrecision(2)}`;
  return `On ${count(n)} test rows ${said}${paired || ""}.`;
}
