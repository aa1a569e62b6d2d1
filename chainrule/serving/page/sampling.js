// Sliders for τ, top-k, top-p and min-p, each with a field for an exact value. Knows numbers, no model.

import { fill, h } from "./dom.js";

const KS = [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1000, 2000, 5000, Infinity];

// One row: `stops` are the slider's values, `off` the one that changes nothing.
function control({ name, symbol, hint, stops, off, text }, changed) {
  let value = off;
  const nearest = wanted => stops.reduce((best, stop, index) => Math.abs(stop - wanted) < Math.abs(stops[best] - wanted) ? index : best, 0);
  const index = wanted => (wanted === Infinity ? stops.length - 1 : nearest(wanted));
  const id = `control-${name}`;
  const slider = h("input", { type: "range", id, min: 0, max: stops.length - 1, step: 1, value: index(off), "aria-describedby": `${id}-hint` });
  const exact = h("input", { type: "number", step: "any", min: 0, "aria-label": `${name}, exact value`, placeholder: "off" });
  const show = fromSlider => {
    slider.setAttribute("aria-valuetext", text(value));
    if (fromSlider) exact.value = Number.isFinite(value) ? value : "";
    row.classList.toggle("on", value !== off);
  };
  slider.addEventListener("input", () => {
    value = stops[slider.value];
    show(true);
    changed();
  });
  exact.addEventListener("input", () => {
    const typed = exact.value === "" ? off : Number(exact.value);
    if (!(typed >= (name === "top-k" ? 1 : 0)) || (name.endsWith("p") && typed > 1) || (name === "top-p" && typed === 0)) {
      exact.setAttribute("aria-invalid", "true");
      return;
    }
    exact.removeAttribute("aria-invalid");
    value = name === "top-k" && Number.isFinite(typed) ? Math.round(typed) : typed;
    slider.value = index(value);
    show(false);
    changed();
  });
  const row = h("div", { class: "control" }, h("label", { for: id }, symbol), slider, exact, h("small", { id: `${id}-hint` }, hint));
  show(true);
  return {
    row, value: () => value, isOff: () => value === off,
    reset: () => {
      value = off;
      slider.value = index(off);
      exact.removeAttribute("aria-invalid");
      show(true);
    },
  };
}

const steps = (low, high, n) => Array.from({ length: n + 1 }, (_, index) => Number((low + (index * (high - low)) / n).toFixed(4)));

export function samplingControls(changed) {
  const all = {
    temperature: control({
      name: "temperature", symbol: "τ", hint: "divides the logits: 0 is the most probable token, above 1 flattens",
      stops: steps(0, 2, 100), off: 1, text: value => `τ ${value}`,
    }, changed),
    topK: control({
      name: "top-k", symbol: "top-k", hint: "keep the k most probable", stops: KS, off: Infinity,
      text: value => (value === Infinity ? "all tokens" : `${value} tokens`),
    }, changed),
    topP: control({
      name: "top-p", symbol: "top-p", hint: "keep the fewest that sum to p", stops: steps(0.01, 1, 99), off: 1,
      text: value => (value === 1 ? "off" : String(value)),
    }, changed),
    minP: control({
      name: "min-p", symbol: "min-p", hint: "keep those at least so probable, relative to the first", stops: steps(0, 1, 100), off: 0,
      text: value => (value === 0 ? "off" : String(value)),
    }, changed),
  };
  const reset = h("button", { type: "button", class: "link", on: { click: () => {
    Object.values(all).forEach(each => each.reset());
    changed();
  } } }, "Back to p itself");
  const element = h("div", { class: "controls" });
  fill(element, Object.values(all).map(each => each.row), reset);
  const value = name => (all[name].isOff() ? null : all[name].value());
  return {
    element,
    values: () => ({ temperature: all.temperature.value(), topK: value("topK"), topP: value("topP"), minP: value("minP") }),
    changed: () => Object.values(all).some(each => !each.isOff()),
  };
}
