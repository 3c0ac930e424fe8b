// Small drawings of what has just happened, the newest at the right.

import { svg } from "./dom.js";

const WIDTH = 240;
const HEIGHT = 48;

/** Draw numbers as a line over a field; `most` is how many the field has room for. */
export function line(values, most, label) {
  const top = Math.max(1, ...values);
  const step = WIDTH / (most - 1);
  const first = WIDTH - step * (values.length - 1);
  const points = values.map((value, index) => [first + index * step, HEIGHT - 2 - (value / top) * (HEIGHT - 6)]);
  const path = points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L");
  const parts = [svg("title", {}, label)];
  if (points.length > 1) {
    parts.push(svg("path", { class: "field", d: `M${first.toFixed(1)} ${HEIGHT}L${path}L${WIDTH} ${HEIGHT}Z` }));
    parts.push(svg("path", { class: "line", d: `M${path}` }));
  }
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot", role: "img", preserveAspectRatio: "none" }, ...parts);
}

/** Draw shares from 0 to 1 as bars, one for each of the last moments. */
export function bars(shares, most, label) {
  const step = WIDTH / most;
  const first = WIDTH - step * shares.length;
  const rects = shares.map((share, index) => {
    const height = Math.max(1, share * 20);
    const place = { x: (first + index * step).toFixed(1), y: (20 - height).toFixed(1) };
    return svg("rect", { ...place, width: (step * 0.8).toFixed(1), height: height.toFixed(1), class: "bar" });
  });
  const shape = { viewBox: `0 0 ${WIDTH} 20`, class: "bars", role: "img", preserveAspectRatio: "none" };
  return svg("svg", shape, svg("title", {}, label), ...rects);
}
