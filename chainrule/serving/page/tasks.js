// Tasks: a template, label words and demonstrations to edit; a row, and what each predictor answers; how good the answers
// to the test rows are, while they are counted.

import { events, Latest, postJson } from "./api.js";
import { field, fill, h, later } from "./dom.js";
import { drawAnswers, drawFigures, inWords, sentence } from "./task_answers.js";

const PASTED = "a wonderful film\tpositive\ndull and far too long\tnegative\nI laughed and cried\tpositive\na waste of an evening\tnegative\nthe actors are superb\tpositive\nthe plot makes no sense\tnegative\nbeautiful to look at\tpositive\nI left after an hour\tnegative\none of the best this year\tpositive\nnothing in it works\tnegative";
const CALIBRATIONS = { none: "no calibration", "content-free": "calibrated on content-free texts", train: "calibrated on training texts" };
const EXPECTED = { classification: "its label: ", free: "the expected answer: ", multilabel: "its labels: ", regression: "its number: " };

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
  const classifier = h("select", { on: { change: edited } });
  const classifiers = field("Finetuned classifier", classifier, "trained for such a task; it answers the same rows");
  const asked = h("div", { class: "panels" });
  const told = h("p", { class: "unseen", role: "status" });
  const limit = h("input", { type: "number", min: 1, step: 1, value: 100 });
  const start = h("button", { type: "button", on: { click: measure } }, "Measure");
  const stop = h("button", { type: "button", hidden: true, on: { click: () => measuring.stop() } }, "Stop");
  const measured = h("div", { class: "measured" });
  const said = h("p", { class: "summary", role: "status" });
  const files = h("div", { class: "buttons" });

  const prompt = () => ({ template: template.value, separator: unescaped(separator.value), words });
  const named = () => (source.value ? { task: source.value } : { rows: rows.value });
  const calibratedBy = () => (task?.kind === "classification" ? calibrate.value : "none"); // of others the choice is hidden
  const request = () => ({ ...named(), prompt: prompt(), model: context.model?.name, demonstrations, calibrate: calibratedBy(), classifier: classifier.value || undefined });
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
      [wordFields, candidates, rowChoice, rowFields, truth, shots, asked, told, files].forEach(each => fill(each));
    });
  }

  function drawTask() {
    demonstrations = [];
    const free = task.kind === "free", asksModel = task.prompted && context.model;
    promptParts.forEach(each => { each.hidden = !asksModel; });
    [wordsTitle, wordFields, calibration, perLabel].forEach(each => { each.hidden = !asksModel || free; });
    fill(unprompted, !task.prompted && `A prompt can ask for one label or a free answer; of ${task.kind === "regression" ? "numbers" : "several labels at once"} only a finetuned classifier can be asked.`,
      task.prompted && !context.model && "No language model is served: a finetuned classifier answers.");
    fill(classifier, task.classifiers.map(name => h("option", { value: name }, name)), task.classifiers.length && asksModel ? h("option", { value: "" }, "none") : null);
    classifiers.hidden = !task.classifiers.length;
    fill(wordFields, task.labels.map(label => {
      const input = h("input", { class: "code", value: words[label], "aria-label": `Label word of ${label}`, on: { input: () => {
        words[label] = input.value;
        edited();
      } } });
      return h("label", { class: "pair" }, h("span", { class: "label-name" }, label), h("span", { "aria-hidden": "true" }, "→"), input);
    }));
    const listed = (row, label) => task.kind === "classification" ? `${label}: ${short(row)}` : `${short(row)} → ${short({ label })}`;
    fill(candidates, task.train.rows.map(({ index, row, label }) => h("option", { value: index }, listed(row, label))));
    fill(rowChoice, task.test.rows.map(({ row, label }, index) => h("option", { value: index }, `${index + 1}. ${listed(row, label)}`)));
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
    fill(truth, EXPECTED[task.kind], h("b", null, label));
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
    const shown = { task, expected: unchanged ? label : null, demonstrations: demonstrations.length, calibrated: calibratedBy() !== "none" };
    drawAnswers(asked, found, shown);
    fill(told, inWords(found, shown));
  }

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
        drawFigures(measured, found);
      }
      if (last?.ended) fill(said, sentence(last, demonstrations.length));
    }, failed);
    if (last && !last.ended) fill(said, `Stopped after ${last.done} of ${last.n} rows.`);
    start.hidden = false;
    stop.hidden = true;
  }

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

  const promptPart = (...children) => h("div", null, children);
  const wordsTitle = h("h3", null, "Label words"), unprompted = h("p", { class: "note" });
  const perLabel = h("button", { type: "button", on: { click: addOnePerLabel } }, "Add one of each label");
  const calibration = field("Calibration", calibrate, "subtracts what the prompt prefers whatever the text is");
  const promptParts = [
    promptPart(field("Template", template, "{column} is a row’s text, {label} is where the answer goes"),
      field("Separator", separator, "between demonstrations; \\n is a newline"), wordsTitle, wordFields,
      h("h3", null, "Demonstrations"), shots,
      h("div", { class: "buttons" }, candidates, h("button", { type: "button", on: { click: () => {
        if (!task) return;
        add(Number(candidates.value));
        const next = task.train.rows.find(each => !demonstrations.includes(each.index));
        if (next) candidates.value = next.index;
        changedShots();
      } } }, "Add")),
      h("div", { class: "buttons" }, perLabel,
        h("button", { type: "button", class: "link", on: { click: () => {
          if (!task) return;
          demonstrations = [];
          changedShots();
        } } }, "Remove all"))),
    promptPart(h("h3", null, "Keep it"),
      h("p", { class: "note" }, "As a file that the command line reads. Demonstrations are drawn there, by --shots."),
      h("div", { class: "buttons" }, h("button", { type: "button", on: { click: save } }, "Make the files")), files),
  ];
  const element = h("section", { class: "tasks" },
    h("h1", null, "Ask for an answer"),
    h("p", { class: "under" }, "Zero-shot: the task as a text to be continued; the answer is the most probable label word, or what the model writes. In-context: labelled examples stand in front. Nothing is trained."),
    problem,
    h("div", { class: "columns tasks-columns" },
      h("div", { class: "edit" },
        h("h2", null, "The task"),
        field("Task", source), pasted, unprompted, classifiers, promptParts),
      h("div", null,
        h("h2", null, "A row, and what the model answers"),
        h("div", { class: "buttons rows" },
          h("button", { type: "button", "aria-label": "Row before", on: { click: () => chooseRow(at - 1) } }, "‹"), rowChoice,
          h("button", { type: "button", "aria-label": "Next row", on: { click: () => chooseRow(at + 1) } }, "›")),
        rowFields, truth,
        calibration,
        asked, told,
        h("h2", null, "On the test rows"),
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
