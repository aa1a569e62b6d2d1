// Runs and reports of a folder: losses while a run trains, asked for every two seconds, and what comparisons found.

import { getJson, Latest } from "./api.js";
import { lossChart, shortCount } from "./charts.js";
import { count, fill, h, number } from "./dom.js";

const EVERY = 2000; // milliseconds
const TRAINING = 30; // a log that grew within so many seconds is of a run that trains
const COLOURS = 6;

export function runs() {
  const latest = new Latest();
  const chart = h("div", { class: "scroll chart" });
  const table = h("tbody");
  const reports = h("div", { class: "reports" });
  const state = h("p", { class: "summary", role: "status" });
  const problem = h("p", { class: "problem", role: "alert" });
  const frame = h("div", { class: "report" });
  const chosen = new Set();
  const known = new Map(); // the curves that were fetched, by the run's name
  let begun = false, isShown = false, timer = 0, drawnReports = "", training = null;

  async function poll() {
    await latest.run(async signal => {
      const found = await getJson("/page/runs", signal);
      if (!begun && found.runs.length) chosen.add(found.runs[0].name);
      begun = true;
      const chosenRuns = found.runs.filter(run => chosen.has(run.name));
      await Promise.all(chosenRuns.filter(outdated).map(async ({ name }) => known.set(name, await getJson(`/page/run/${encodePath(name)}`, signal))));
      fill(problem);
      drawRuns(found.runs, new Map(chosenRuns.map(({ name }) => [name, known.get(name)])));
      drawReports(found.reports);
    }, error => fill(problem, error.message));
    clearTimeout(timer);
    if (isShown) timer = setTimeout(poll, EVERY); // it may have been hidden since the question was sent
  }

  // A log of many steps is read again when a drawing of it would change.
  const outdated = run => {
    const step = known.get(run.name)?.step;
    return step === undefined || run.step < step || run.step >= step * 1.005 || (run.step > step && !trains(run));
  };

  const kind = name => `c${[...chosen].indexOf(name) % COLOURS}`;

  function drawRuns(all, curves) {
    const narrow = matchMedia("(max-width: 700px)").matches;
    fill(chart, lossChart([...curves].map(([name, curve]) => ({ name, kind: kind(name), ...curve })), narrow));
    const focused = document.activeElement?.dataset?.run;
    fill(table, all.map(run => {
      const box = h("input", { type: "checkbox", id: `run-${run.name}`, "data-run": run.name, on: { change: () => {
        if (box.checked) chosen.add(run.name);
        else chosen.delete(run.name);
        poll();
      } } });
      box.checked = chosen.has(run.name);
      const validation = curves.get(run.name)?.validation.at(-1)?.[1];
      return h("tr", { class: box.checked ? kind(run.name) : null },
        h("th", { scope: "row" }, h("label", { for: `run-${run.name}`, class: "method" }, box, ` ${run.name}`)),
        h("td", null, run.steps ? `${count(run.step)} of ${count(run.steps)}` : count(run.step)),
        h("td", null, shortCount(run.tokens)), h("td", null, run.loss === null ? "" : number(run.loss)),
        h("td", null, validation === undefined ? "" : number(validation)),
        h("td", null, run.tokens_per_second === null ? "" : count(Math.round(run.tokens_per_second))),
        h("td", null, trains(run) ? h("b", { class: "right" }, "trains") : ago(run.seconds_ago)));
    }));
    if (focused !== undefined) [...table.querySelectorAll("input")].find(each => each.dataset.run === focused)?.focus();
    const now = all.filter(trains).map(run => run.name).join(", ");
    if (now !== training) fill(state, all.length ? (now ? `Training now: ${now}.` : "No run trains now.") : "There is no run in this folder.");
    training = now;
  }

  function drawReports(found) {
    const now = JSON.stringify(found.map(({ name, link, advice }) => [name, link, advice]));
    if (now === drawnReports) return;
    drawnReports = now;
    fill(reports, found.length ? found.map(report => h("article", null,
      h("h3", null, report.name), h("p", { class: "advice" }, report.advice || "No advice could be read."),
      h("p", { class: "facts" }, [report.task, report.n && `${count(report.n)} test items`, report.model].filter(Boolean).map(fact => h("span", null, fact))),
      h("button", { type: "button", on: { click: () => open(report) } }, "Open the report")))
      : h("p", { class: "under" }, "There is no report in this folder: chainrule compare writes one."));
  }

  // A frame and a new tab can send no API key: the server signs the link where there is one.
  function open({ name, link }) {
    fill(frame, h("iframe", { src: link, title: `Report ${name}`, sandbox: "allow-scripts" }), h("a", { href: link, target: "_blank", rel: "noopener" }, "Open it alone"));
    frame.scrollIntoView({ block: "start" });
  }

  const head = ["run", "step", "tokens", "loss", "validation", "tokens/s", ""];
  const element = h("section", { class: "runs" },
    h("h1", null, "Runs and reports"),
    h("p", { class: "equation" }, "loss(θ) = − ", h("sup", null, "1"), "⁄", h("sub", null, h("i", null, "T")), " Σ", h("sub", null, h("i", null, "t")), " log ", h("i", null, "p"), h("sub", null, "θ"), "(", h("i", null, "x"), h("sub", null, h("i", null, "t")), " | ⊥, ", h("i", null, "x"), h("sub", null, "1"), ", …, ", h("i", null, "x"), h("sub", null, [h("i", null, "t"), "−1"]), ")", h("small", null, "notes 14.8")),
    h("p", { class: "under" }, "Mean loss in nats a token against tokens read: thin on training text, thick with dots on validation text."),
    problem, state, chart,
    h("div", { class: "scroll" }, h("table", null, h("thead", null, h("tr", null, head.map(name => h("th", { scope: "col" }, name)))), table)),
    h("h2", null, "Reports of compare"), reports, frame);
  return {
    element,
    show: () => {
      isShown = true;
      return poll();
    },
    hide: () => {
      isShown = false;
      latest.stop();
      clearTimeout(timer);
    },
  };
}

const trains = run => run.seconds_ago < TRAINING && !(run.steps && run.step >= run.steps);

const encodePath = name => name.split("/").map(encodeURIComponent).join("/");

function ago(seconds) {
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
  return `${Math.floor(seconds)} s ago`;
}
