// Losses against tokens read, drawn as chainrule/drawing/charts.py draws them. Knows numbers, not what they mean.

import { h, svgDrawing } from "./dom.js";

const NAME_STEP = 18;

function roundStep(span, most) {
  if (span <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(span / most));
  return [1, 2, 5, 10, 20].find(times => span <= most * times * power * (1 + 1e-9)) * power;
}

function logarithmicTicks(low, high, most) {
  let ticks = [];
  for (const times of [[1, 2, 5], [1, 3], [1]]) {
    ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const one of times) if (one * 10 ** power >= low && one * 10 ** power <= high) ticks.push(one * 10 ** power);
    if (ticks.length <= most) break;
  }
  return ticks;
}

export function shortCount(value) {
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) if (value >= size) return `${Number((value / size).toPrecision(3))}${unit}`;
  return String(Number(value.toPrecision(3)));
}

// `lines`: {name, kind (a CSS class of a colour), training and validation: [[tokens, loss], …]}.
export function lossChart(lines, narrow) {
  const [width, height] = narrow ? [420, 320] : [960, 400];
  const box = { left: 46, top: 34, right: width - (narrow ? 16 : 190), bottom: height - 54 };
  const points = lines.flatMap(line => [...line.training, ...line.validation]);
  if (!points.length) return null;
  const [losses, tokens] = [points.map(point => point[1]), points.map(point => Math.max(1, point[0]))];
  const step = roundStep(Math.max(...losses) - Math.min(...losses), 7);
  const low = Math.floor(Math.min(...losses) / step + 1e-9) * step, high = Math.ceil(Math.max(...losses) / step - 1e-9) * step;
  const [first, last] = [Math.log(Math.min(...tokens)), Math.log(Math.max(...tokens))];
  const x = value => box.left + 12 + ((Math.log(Math.max(1, value)) - first) / (last - first || 1)) * (box.right - box.left - 32);
  const y = value => box.bottom - ((value - low) / (high - low || 1)) * (box.bottom - box.top);
  const text = (at, height_, words, anchor) => h("text", { x: at, y: height_, "text-anchor": anchor }, words);
  const drawn = [text(0, box.top - 14, "nats a token", "start"), text((box.left + box.right) / 2, box.bottom + 44, "tokens read", "middle")];
  for (let tick = low; tick <= high + step / 2; tick += step)
    drawn.push(h("path", { class: "grid", d: `M${box.left},${y(tick)}H${box.right}` }), text(box.left - 10, y(tick) + 4, String(Number(tick.toPrecision(6))), "end"));
  for (const tick of logarithmicTicks(Math.exp(first), Math.exp(last), narrow ? 5 : 10)) drawn.push(text(x(tick), box.bottom + 20, shortCount(tick), "middle"));
  const path = series => series.map(([read, loss]) => `${x(read).toFixed(1)},${y(loss).toFixed(1)}`).join(" ");
  const ends = [];
  for (const { name, kind, training, validation } of lines) {
    const group = h("g", { class: kind });
    if (training.length) group.append(h("polyline", { class: "curve thin", points: path(training) }));
    if (validation.length) group.append(h("polyline", { class: "curve", points: path(validation) }));
    for (const [read, loss] of validation)
      group.append(h("circle", { class: "point", cx: x(read), cy: y(loss), r: 4 }, h("title", null, `${name}, validation after ${shortCount(read)} tokens: ${loss.toFixed(4)}`)));
    drawn.push(group);
    const series = validation.length ? validation : training;
    if (series.length) ends.push({ name: `${name.length > 14 ? `…${name.slice(-13)}` : name} ${series.at(-1)[1].toFixed(3)}`, kind, at: y(series.at(-1)[1]) });
  }
  if (!narrow) {
    ends.sort((a, b) => a.at - b.at);
    ends.forEach((end, rank) => (end.height = Math.max(end.at, rank ? ends[rank - 1].height + NAME_STEP : box.top + 6)));
    for (let rank = ends.length - 1, most = box.bottom; rank >= 0; most = ends[rank].height - NAME_STEP, rank--) ends[rank].height = Math.min(ends[rank].height, most);
    for (const { name, kind, at, height: to } of ends)
      drawn.push(h("g", { class: kind }, h("path", { class: "leader", d: `M${box.right - 16},${at}L${box.right + 12},${to}` }), h("text", { class: "name", x: box.right + 17, y: to + 4 }, name)));
  }
  return svgDrawing(width, height, "Loss against tokens read", drawn);
}
