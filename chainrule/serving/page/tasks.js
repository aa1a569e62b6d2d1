// Tasks: a template, label words and demonstrations to edit; the prompt of a row as tokens; each label's probability;
// accuracy on the test rows while it is measured. Zero-shot and in-context beside each other.

import { events, Latest, postJson } from "./api.js";
import { count, field, fill, h, later, number, percent, probability, tokenList, visible } from "./dom.js";

const PASTED = "a wonderful film\tpositive\ndull and far too long\tnegative\nI laughed and cried\tpositive\na waste of an evening\tnegative\nthe actors are superb\tpositive\nthe plot makes no sense\tnegative\nbeautiful to look at\tpositive\nI left after an hour\tnegative\none of the best this year\tpositive\nnothing in it works\tnegative";
const CALIBRATIONS = { none: "no calibration", "content-free": "calibrated on content-free texts", train: "calibrated on training texts" };
const TITLES = { zero_shot: "Zero-shot", in_context: "In-context" };

export function tasks(context) {
  const [latest, describing, measuring] = [new Latest(), new Latest(), new Latest()];
  const laterExplain = later(explain, 300);
  let task = null, words = {}, demonstrations = [], at = 0;

  const problem = h("p", { class: "problem", role: "alert" });
  const rows = h("textarea", { rows: 7, spellcheck: "false", class: "code", on: { input: later(() => describe(true), 500), keydown: insertTab } });
  rows.value = sessionStorage.getItem("rows") ?? PASTED;
  const source = h("select", { on: { change: () => describe() } },
    context.about.tasks.map(name => h("option", { value: name }, name)), h("option", { value: "" }, "pasted rows"));
  const pasted = field("Rows", rows, "a text, a tab and a label a line; a fifth of them is held out as test rows");
  const template = h("textarea", { rows: 3, spellcheck: "false", class: "code", on: { input: edited } });
  const separator = h("input", { class: "code", on: { input: edited } });
  const wordFields = h("div", { class: "words" });
  const shots = h("ol", { class: "shots", "aria-label": "Demonstrations, in the order of the prompt" });
  const candidates = h("select", { "aria-label": "Training row to add" });
  const calibrate = h("select", { on: { change: explain } }, Object.entries(CALIBRATIONS).map(([value, title]) => h("option", { value }, title)));
  const rowChoice = h("select", { "aria-label": "Test row", on: { change: () => chooseRow(Number(rowChoice.value)) } });
  const rowFields = h("div");
  const truth = h("p", { class: "truth-label" });
  const asked = h("div", { class: "panels", "aria-live": "off" });
  const limit = h("input", { type: "number", min: 1, step: 1, value: 100 });
  const start = h("button", { type: "button", on: { click: measure } }, "Measure accuracy");
  const stop = h("button", { type: "button", hidden: true, on: { click: () => measuring.stop() } }, "Stop");
  const measured = h("div", { class: "measured" });
  const said = h("p", { class: "summary", role: "status" });
  const files = h("div", { class: "buttons" });

  const prompt = () => ({ template: template.value, separator: unescaped(separator.value), words });
  const named = () => (source.value ? { task: source.value } : { rows: rows.value });
  const request = () => ({ ...named(), prompt: prompt(), model: context.model.name, demonstrations, calibrate: calibrate.value });
  const failed = error => fill(problem, error.message);

  function insertTab(event) {
    if (event.key !== "Tab" || event.shiftKey || !event.ctrlKey) return;
    event.preventDefault();
    rows.setRangeText("\t", rows.selectionStart, rows.selectionEnd, "end");
    rows.dispatchEvent(new Event("input"));
  }

  // `keep`: the rows were edited; what was written about them stays.
  async function describe(keep = false) {
    pasted.hidden = source.value !== "";
    sessionStorage.setItem("rows", rows.value);
    stopMeasuring();
    await describing.run(async signal => {
      const before = { template: template.value, separator: separator.value, words };
      task = await postJson("/page/task", named(), signal);
      fill(problem);
      template.value = keep && before.template ? before.template : task.template;
      separator.value = keep && before.template ? before.separator : escaped(task.separator);
      words = Object.fromEntries(task.labels.map(label => [label, (keep && before.words[label]) || task.words[label]]));
      limit.value = Math.min(100, task.test.count);
      limit.max = task.test.count;
      drawTask();
      chooseRow(0);
    }, error => {
      failed(error);
      latest.stop();
      task = null;
      [wordFields, candidates, rowChoice, rowFields, truth, shots, asked, files].forEach(each => fill(each));
    });
  }

  function drawTask() {
    demonstrations = [];
    fill(wordFields, task.labels.map(label => {
      const input = h("input", { class: "code", value: words[label], "aria-label": `Label word of ${label}`, on: { input: () => {
        words[label] = input.value;
        edited();
      } } });
      return h("label", { class: "pair" }, h("span", { class: "label-name" }, label), h("span", { "aria-hidden": "true" }, "→"), input);
    }));
    fill(candidates, task.train.rows.map(({ index, row, label }) => h("option", { value: index }, `${label}: ${short(row)}`)));
    fill(rowChoice, task.test.rows.map(({ row, label }, index) => h("option", { value: index }, `${index + 1}. ${label}: ${short(row)}`)));
    drawShots();
  }

  function edited() {
    stopMeasuring();
    fill(files);
    laterExplain();
  }

  function chooseRow(index) {
    if (!task) return;
    at = (index + task.test.rows.length) % task.test.rows.length;
    rowChoice.value = at;
    const { row, label } = task.test.rows[at];
    fill(truth, "its label: ", h("b", null, label));
    fill(rowFields, task.text.map(column => {
      const input = h("textarea", { rows: 2, value: row[column], "data-column": column, on: { input: () => {
        fill(truth, "a text of your own");
        laterExplain();
      } } });
      return field(task.text.length > 1 ? column : "Text", input);
    }));
    explain();
  }

  const currentRow = () => Object.fromEntries([...rowFields.querySelectorAll("textarea")].map(each => [each.dataset.column, each.value]));

  async function explain() {
    if (!task) return;
    await latest.run(async signal => {
      const found = await postJson("/page/task/row", { ...request(), row: currentRow() }, signal);
      fill(problem);
      drawAsked(found);
    }, failed);
  }

  function drawAsked(found) {
    const { row, label } = task.test.rows[at];
    const unchanged = Object.entries(currentRow()).every(([column, text]) => row[column] === text);
    fill(asked, Object.keys(TITLES).map(kind => {
      if (!found[kind]) return h("div", { class: "panel empty" }, h("h3", null, TITLES[kind]), h("p", { class: "under" }, "Add demonstrations: they stand in front of the row, each with its label word."));
      const { tokens, labels, demonstrations: fitted, cut } = found[kind];
      const best = labels.reduce((a, b) => (b.after > a.after ? b : a));
      const calibrated = calibrate.value !== "none";
      const notes = [kind === "in_context" && fitted < demonstrations.length && `${fitted} of ${demonstrations.length} demonstrations fitted into the context.`,
        cut && "The text’s beginning was cut: it is longer than the context."].filter(Boolean);
      return h("div", { class: "panel" },
        h("h3", null, TITLES[kind], h("span", { class: "quiet" }, ` ${count(tokens.length)} tokens`)),
        h("div", { class: "tokens prompt", tabindex: 0, role: "group", "aria-label": `The exact prompt, ${TITLES[kind]}` }, tokenList(tokens), h("span", { class: "ask" }, "?")),
        notes.map(note => h("p", { class: "note" }, note)),
        h("table", { class: "labels" },
          h("thead", null, h("tr", null, h("th", { scope: "col" }, "label"), h("th", { scope: "col" }, "log p"),
            calibrated && [h("th", { scope: "col", title: "p before calibration" }, "p before"), h("th", { scope: "col", title: "what calibration subtracts, in nats" }, "bias")], h("th", { scope: "col" }, calibrated ? "after" : "p"))),
          h("tbody", null, labels.map(each => h("tr", { class: each === best ? "best" : null },
            h("th", { scope: "row" }, h("span", { class: "label-name" }, each.label), unchanged && each.label === label && h("span", { class: "right", role: "img", "aria-label": "its label" }, " ✓"),
              " ", h("span", { class: "token" }, visible(each.word))),
            h("td", null, number(each.log_prob, 2)),
            calibrated && [h("td", null, share(each.before)), h("td", null, number(each.bias, 2))],
            h("td", null, share(each.after)))))));
    }));
    for (const each of asked.querySelectorAll(".tokens")) each.scrollTop = each.scrollHeight; // to the row, after its demonstrations
  }

  const share = p => h("span", { class: "share" }, h("span", { class: "p" }, probability(p)), h("span", { class: "track" }, h("i", { class: "now", style: { "--p": p } })));

  // Demonstrations.

  const rowOf = index => task.train.rows.find(each => each.index === index);

  function drawShots(focus) {
    const button = (title, sign, act, disabled) => h("button", { type: "button", class: "small", "aria-label": title, title, disabled, on: { click: act } }, sign);
    fill(shots, demonstrations.map((index, place) => {
      const { row, label } = rowOf(index);
      const move = to => () => {
        demonstrations.splice(to, 0, ...demonstrations.splice(place, 1));
        changedShots(to);
      };
      const name = `demonstration ${place + 1}, ${label}`;
      return h("li", null, h("div", null, h("span", { class: "label-name" }, label), h("span", { class: "text" }, short(row, 90)),
        button(`Move ${name} up`, "↑", move(place - 1), place === 0),
        button(`Move ${name} down`, "↓", move(place + 1), place === demonstrations.length - 1),
        button(`Remove ${name}`, "✕", () => {
          demonstrations.splice(place, 1);
          changedShots(Math.min(place, demonstrations.length - 1));
        })));
    }));
    if (focus !== undefined) (shots.children[focus]?.querySelector("button:not(:disabled)") ?? candidates).focus();
  }

  function changedShots(focus) {
    drawShots(focus);
    edited();
  }

  function add(index) {
    if (!demonstrations.includes(index)) demonstrations.push(index);
  }

  function addOnePerLabel() {
    if (!task) return;
    for (const label of task.labels) {
      const next = task.train.rows.find(each => each.label === label && !demonstrations.includes(each.index));
      if (next) add(next.index);
    }
    changedShots();
  }

  // Accuracy.

  function stopMeasuring() {
    measuring.stop();
    fill(measured);
    fill(said);
  }

  async function measure() {
    if (!task) return;
    start.hidden = true;
    stop.hidden = false;
    fill(said);
    let last = null;
    await measuring.run(async signal => {
      for await (const found of events("/page/task/accuracy", { ...request(), limit: Number(limit.value) || undefined }, signal)) {
        last = found;
        drawMeasured(found);
      }
      if (last?.ended) fill(said, sentence(last));
    }, failed);
    if (last && !last.ended) fill(said, `Stopped after ${last.done} of ${last.n} rows.`);
    start.hidden = false;
    stop.hidden = true;
  }

  function drawMeasured(found) {
    fill(measured,
      h("p", { class: "quiet" }, `${count(found.done)} of ${count(found.n)} test rows`), h("progress", { max: found.n, value: found.done, "aria-label": "Test rows done" }),
      Object.keys(TITLES).filter(kind => found[kind]).map(kind => {
        const { right, accuracy, low, high } = found[kind];
        return h("div", { class: `interval ${kind === "zero_shot" ? "first" : "second"}` }, h("span", { class: "name" }, TITLES[kind]),
          h("span", { class: "axis" }, h("i", { style: { "--low": low, "--high": high } }), h("b", { style: { "--at": accuracy } })),
          h("span", { class: "figure" }, h("b", null, `${percent(accuracy)} %`), ` (${percent(low)} to ${percent(high)}), ${right} right`));
      }));
  }

  const sentence = ({ n, zero_shot: zero, in_context: shown, difference }) => [
    `On ${count(n)} test rows zero-shot is right on ${percent(zero.accuracy)} % (95 % interval ${percent(zero.low)} to ${percent(zero.high)})`,
    shown && `, in-context with ${demonstrations.length} demonstrations on ${percent(shown.accuracy)} % (${percent(shown.low)} to ${percent(shown.high)})`,
    difference && `; paired difference ${number(100 * difference.value, 1)} points (${number(100 * difference.low, 1)} to ${number(100 * difference.high, 1)}), p = ${difference.p_value.toPrecision(2)}`,
    ".",
  ].filter(Boolean).join("");

  // The task as files.

  async function save() {
    await describing.run(async signal => {
      const { files: found } = await postJson("/page/task/file", { ...named(), prompt: prompt() }, signal);
      fill(problem);
      fill(files, found.map(({ name, text }) => {
        const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
        return h("a", { class: "button", href: url, download: name }, `Download ${name}`);
      }), h("code", null, `chainrule zero-shot MODEL ${found[0].name}`));
      files.querySelector("a").focus();
    }, failed);
  }

  const element = h("section", { class: "tasks" },
    h("h1", null, "Ask for a label"),
    h("p", { class: "under" }, "Zero-shot: the task as a text to be continued; the answer is the most probable label word. In-context: labelled examples stand in front. Nothing is trained."),
    problem,
    h("div", { class: "columns tasks-columns" },
      h("div", { class: "edit" },
        h("h2", null, "The task"),
        field("Task", source), pasted,
        field("Template", template, "{column} is a row’s text, {label} is where the answer goes"),
        field("Separator", separator, "between demonstrations; \\n is a newline"),
        h("h3", null, "Label words"), wordFields,
        h("h3", null, "Demonstrations"), shots,
        h("div", { class: "buttons" }, candidates, h("button", { type: "button", on: { click: () => {
          if (!task) return;
          add(Number(candidates.value));
          changedShots();
        } } }, "Add")),
        h("div", { class: "buttons" },
          h("button", { type: "button", on: { click: addOnePerLabel } }, "Add one of each label"),
          h("button", { type: "button", class: "link", on: { click: () => {
            if (!task) return;
            demonstrations = [];
            changedShots();
          } } }, "Remove all")),
        h("h3", null, "Keep it"),
        h("p", { class: "note" }, "As a file that the command line reads. Demonstrations are drawn there, by --shots."),
        h("div", { class: "buttons" }, h("button", { type: "button", on: { click: save } }, "Make the files")), files),
      h("div", null,
        h("h2", null, "A row, and what the model answers"),
        h("div", { class: "buttons rows" },
          h("button", { type: "button", "aria-label": "Row before", on: { click: () => chooseRow(at - 1) } }, "‹"), rowChoice,
          h("button", { type: "button", "aria-label": "Next row", on: { click: () => chooseRow(at + 1) } }, "›")),
        rowFields, truth,
        field("Calibration", calibrate, "subtracts what the prompt prefers whatever the text is"),
        asked,
        h("h2", null, "Accuracy on the test rows"),
        h("div", { class: "buttons" }, field("Rows", limit), start, stop),
        measured, said)));
  context.onModel(edited);
  return { element, show: () => task || describe(source.value === "") };
}

const short = (row, most = 60) => {
  const text = Object.values(row).join(" / ").replace(/\s+/g, " ");
  return text.length > most ? `${text.slice(0, most)}…` : text;
};
const escaped = text => text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll("\t", "\\t");
const unescaped = text => text.replace(/\\([nt\\])/g, (_, letter) => ({ n: "\n", t: "\t", "\\": "\\" })[letter]);
