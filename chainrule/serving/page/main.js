// The page: its views, the model that they ask, and the line that says when the server does not answer.

import { connection, getJson, ServerError, ConnectionError, setKey, watch } from "./api.js";
import { chainRule } from "./chain_rule.js";
import { chat } from "./chat.js";
import { count, fill, h } from "./dom.js";
import { nextWord } from "./next_word.js";
import { runs } from "./runs.js";
import { tasks } from "./tasks.js";

const VIEWS = {
  next: { title: "Next word", make: nextWord, wanted: about => about.models.length },
  chain: { title: "Chain rule", make: chainRule, wanted: about => about.models.some(model => !model.mask) },
  tasks: { title: "Tasks", make: tasks, wanted: about => about.models.length || (about.tasks.length && about.classifiers.length) },
  runs: { title: "Runs and reports", make: runs, wanted: about => about.runs },
  chat: { title: "Chat", make: chat, wanted: about => about.models.some(model => model.chat) },
};
const [main, nav, select, facts, line] = ["view", "views", "model", "facts", "connection"].map(id => document.getElementById(id));

connection.addEventListener("lost", () => fill(line, h("p", null,
  h("b", null, "The server does not answer."), " What is shown here stays; nothing new can be computed. Is ",
  h("code", null, "chainrule serve"), " still running? Trying again …")));
connection.addEventListener("found", () => {
  fill(line, h("p", { class: "found" }, "The server answers again."));
  setTimeout(() => fill(line), 4000);
  if (!main.hasChildNodes()) start();
});
connection.addEventListener("key", () => {
  const input = h("input", { type: "password", autocomplete: "off", required: true });
  fill(line, h("form", { on: { submit: event => {
    event.preventDefault();
    setKey(input.value);
    location.reload();
  } } }, h("label", null, "This server wants its API key ", input), h("button", null, "Use it")));
});

async function start() {
  let about;
  try {
    about = await getJson("/page/about");
  } catch (error) {
    if (!(error instanceof ServerError || error instanceof ConnectionError)) throw error;
    return;
  }
  const listeners = [];
  const context = {
    about,
    get model() {
      return about.models.find(model => model.name === select.value);
    },
    onModel: listener => listeners.push(listener),
  };
  fill(select, about.models.map(model => h("option", { value: model.name }, model.name)));
  document.getElementById("model-choice").hidden = about.models.length < 2;
  const describe = () => {
    const { family, parameters, context: length, vocabulary_size: V, name } = context.model;
    fill(facts, [[name], [millions(parameters), "parameters"], [count(V), "tokens"], [count(length), "context"], [family]]
      .map(([value, what]) => h("span", null, h("b", null, value), what && ` ${what}`)));
  };
  select.addEventListener("change", () => {
    describe();
    listeners.forEach(listener => listener());
  });
  if (about.models.length) describe();

  const names = Object.keys(VIEWS).filter(name => VIEWS[name].wanted(about));
  const links = Object.fromEntries(names.map(name => [name, h("a", { href: `#${name}` }, VIEWS[name].title)]));
  fill(nav, Object.values(links));
  const made = {};
  let current = null;
  const show = () => {
    const asked = location.hash.slice(1);
    if (asked === "view") return; // the link that skips the navigation
    const name = names.includes(asked) ? asked : names[0];
    if (name === undefined) fill(main, h("p", { class: "under" }, "No language model is served, no task with a classifier, and no folder of runs: there is nothing to look at here."));
    if (name === current || name === undefined) return;
    made[current]?.hide?.();
    current = name;
    made[name] ??= VIEWS[name].make(context);
    fill(main, made[name].element);
    made[name].show?.();
    document.title = `${VIEWS[name].title} · chainrule`;
    for (const [other, link] of Object.entries(links)) {
      if (other === name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  };
  addEventListener("hashchange", show);
  show();
}

const millions = n => n >= 1e9 ? `${(n / 1e9).toPrecision(3)}B` : n >= 1e6 ? `${(n / 1e6).toPrecision(3)}M` : count(n);

start();
watch();
