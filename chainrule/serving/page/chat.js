// A chat with a model that has a template, streamed from /v1/chat/completions.

import { events, Latest } from "./api.js";
import { field, fill, h } from "./dom.js";

export function chat(context) {
  const latest = new Latest();
  let messages = [];
  const log = h("div", { class: "messages", role: "log", "aria-label": "Conversation", tabindex: 0 });
  const input = h("textarea", { rows: 3, on: { keydown: event => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  } } });
  const sendButton = h("button", { type: "submit" }, "Send");
  const stopButton = h("button", { type: "button", hidden: true, on: { click: () => latest.stop() } }, "Stop");
  const newButton = h("button", { type: "button", class: "link", on: { click: () => {
    latest.stop();
    messages = []; // an answer that is under way still ends in the old ones
    fill(log);
    input.focus();
  } } }, "New conversation");
  const system = h("textarea", { rows: 2 });
  const temperature = h("input", { type: "number", value: 0.7, min: 0, max: 2, step: 0.1 });
  const tokens = h("input", { type: "number", value: 256, min: 1, step: 1 });
  const problem = h("p", { class: "problem", role: "alert" });

  const model = () => (context.model.chat ? context.model : context.about.models.find(each => each.chat));

  function show(role, text) {
    const content = h("div", { class: "content" }, text);
    log.append(h("div", { class: `message ${role}` }, h("p", { class: "role" }, role === "user" ? "you" : model().name), content));
    log.scrollTop = log.scrollHeight;
    return content;
  }

  async function send() {
    const text = input.value.trim();
    if (!text || latest.running) return;
    input.value = "";
    fill(problem);
    const own = messages;
    own.push({ role: "user", content: text });
    show("user", text);
    const content = show("assistant", "");
    let answer = "", ended = false;
    sendButton.hidden = true;
    stopButton.hidden = false;
    log.setAttribute("aria-busy", "true");
    await latest.run(async signal => {
      const asked = system.value.trim() ? [{ role: "system", content: system.value.trim() }, ...own] : own;
      const body = {
        model: model().name, messages: asked, stream: true, temperature: Number(temperature.value), max_tokens: Number(tokens.value),
      };
      for await (const { choices } of events("/v1/chat/completions", body, signal)) {
        const [choice] = choices;
        if (!choice) continue;
        answer += choice.delta?.content ?? "";
        content.textContent = answer;
        ended ||= Boolean(choice.finish_reason);
        log.scrollTop = log.scrollHeight;
        if (choice.finish_reason === "length") content.append(h("span", { class: "note" }, " (the limit of tokens)"));
      }
    }, error => fill(problem, error.message));
    if (!ended) content.append(h("span", { class: "note" }, answer ? " (not complete)" : "(no answer)"));
    if (answer) own.push({ role: "assistant", content: answer });
    else own.pop();
    sendButton.hidden = false;
    stopButton.hidden = true;
    log.removeAttribute("aria-busy");
    input.focus();
  }

  const element = h("section", { class: "chat" },
    h("h1", null, "Chat"),
    h("p", { class: "under" }, "The model’s template writes each message between marks of turns, and the model continues the text: a chat is still next words."),
    log, problem,
    h("form", { on: { submit: event => {
      event.preventDefault();
      send();
    } } }, field("Message", input, "Enter sends, Shift+Enter begins a line"), h("div", { class: "buttons" }, sendButton, stopButton, newButton)),
    h("details", null, h("summary", null, "Settings"),
      field("System message", system), h("div", { class: "row" }, field("Temperature τ", temperature), field("At most tokens", tokens))));
  return { element, show: () => input.focus() };
}
