// Lanes: pictures and plots on a shared time axis with a shared cursor.

import { h, svg } from "./dom.js";
import { clock, levelName, nodeName, percent } from "./words.js";

const HUES = 8; // colours of nodes off the path, in page.css

// Put lanes on one time axis. A click or drag on them seeks.
export function makeLanes(player, marks, ...lanes) {
  const box = h("div", { class: "lanes" }, lanes, axis(marks), h("div", { class: "cursor" }));
  const go = (event) => {
    const lane = box.querySelector(".lane").getBoundingClientRect();
    player.seek(player.end * Math.max(0, Math.min((event.clientX - lane.left) / lane.width, 1)));
  };
  box.addEventListener("pointerdown", (event) => {
    if (event.button || !event.target.closest(".lane")) return;
    box.setPointerCapture(event.pointerId);
    go(event);
  });
  box.addEventListener("pointermove", (event) => {
    if (box.hasPointerCapture(event.pointerId)) go(event);
  });
  return box;
}

function axis(marks) {
  return h(
    "div",
    { class: "axis", "aria-hidden": "true" },
    marks.map(([place, name]) =>
      h("span", { class: place < 2 ? "first" : place > 98 ? "last" : "", style: { left: `${place}%` } }, name),
    ),
  );
}

// About ten round tick marks, as in the service's explanations.
export function timeMarks(end) {
  const step = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600].find((item) => end / item <= 10) ?? 1800;
  return Array.from({ length: Math.floor(end / step) + 1 }, (_, number) => [
    (100 * number * step) / end,
    clock(number * step),
  ]);
}

function caption(title, ...notes) {
  return h(
    "figcaption",
    {},
    h("b", {}, title),
    notes.filter(Boolean).map((note) => h("span", {}, note)),
  );
}

// A colour for each node: nodes of the predicted path share one, the others get one each in order of appearance.
// The first child seen inherits its parent's colour, so that a branch can be followed down the levels.
export function colourNodes(prediction) {
  const colours = new Map(prediction.path.map((_, at) => [JSON.stringify(prediction.path.slice(0, at + 1)), "on"]));
  const handedDown = new Set(["on"]);
  let next = 0;
  for (const { path } of prediction.timeline) {
    for (let cut = 1; cut <= path.length; cut++) {
      const key = JSON.stringify(path.slice(0, cut));
      if (colours.has(key)) continue;
      const above = cut > 1 ? colours.get(JSON.stringify(path.slice(0, cut - 1))) : "on";
      colours.set(key, handedDown.has(above) ? String(next++ % HUES) : above);
      if (cut > 1) handedDown.add(above);
    }
  }
  return colours;
}

// The predictions of one level over time, with consecutive slices of the same node merged.
function segments(timeline, level) {
  const merged = [];
  for (const { start, end, path } of timeline) {
    const node = path.slice(0, level + 1);
    const last = merged.at(-1);
    if (last && JSON.stringify(last.node) === JSON.stringify(node) && start - last.end < 0.5) last.end = end;
    else merged.push({ node, start, end });
  }
  return merged;
}

// The ribbon of a level: its predicted nodes over time.
export function makeRibbon(prediction, level, end, colours) {
  const parts = segments(prediction.timeline, level);
  const label = parts.map((part) => `${nodeName(part.node.at(-1))} from ${clock(part.start)} to ${clock(part.end)}`);
  const elements = parts.map((part) =>
    h(
      "span",
      {
        class: "segment",
        dataset: { hue: colours.get(JSON.stringify(part.node)) },
        title: `${nodeName(part.node.at(-1))}, ${clock(part.start)} to ${clock(part.end)}`,
        style: { left: `${(100 * part.start) / end}%`, width: `${(100 * (part.end - part.start)) / end}%` },
      },
      h("span", {}, nodeName(part.node.at(-1))),
    ),
  );
  const names = new Map(parts.map((part) => [nodeName(part.node.at(-1)), colours.get(JSON.stringify(part.node))]));
  return h(
    "figure",
    {},
    caption(levelName(prediction.levels[level].name, level, prediction.levels.length)),
    h(
      "div",
      {
        class: "lane ribbon",
        role: "img",
        "aria-label": `${levelName(prediction.levels[level].name, level, prediction.levels.length)} over the track: ${label.join("; ")}`,
      },
      elements,
    ),
    h(
      "p",
      { class: "key", "aria-hidden": "true" },
      [...names].map(([name, hue]) => h("span", {}, h("i", { dataset: { hue } }), name)),
    ),
  );
}

// A node's probability, slice by slice.
export function makeProbabilities(line, slices, end) {
  const best = line.typical[0];
  const name = nodeName(line.node.at(-1));
  const min = Math.min(...line.probabilities);
  const max = Math.max(...line.probabilities);
  const label = `Probability of ${name} over the track: between ${percent(min)} and ${percent(max)}${best ? `, highest from ${clock(best.start)} to ${clock(best.end)}` : ""}`;
  return h(
    "figure",
    {},
    caption(
      `Probability of ${name}`,
      percent(min) === percent(max) ? `${percent(max)} throughout` : `${percent(min)} to ${percent(max)}`,
    ),
    h(
      "div",
      { class: "lane chances", role: "img", "aria-label": label },
      h("span", { class: "tick", style: { top: "0%" } }, percent(1)),
      h("span", { class: "tick", style: { top: "100%" } }, percent(0)),
      svg(
        "svg",
        { viewBox: `0 0 ${end} 1`, preserveAspectRatio: "none", "aria-hidden": "true" },
        line.probabilities.map((chance, place) =>
          svg("rect", {
            x: slices[place].start,
            width: slices[place].end - slices[place].start,
            y: 1 - chance,
            height: Math.max(chance, 0.02),
          }),
        ),
      ),
    ),
  );
}

// A spectrogram with the relevance on top.
export function makePicture(view, words) {
  return h(
    "figure",
    {},
    caption(words.title, words.share, view.range),
    h(
      "div",
      { class: `lane picture ${view.view}` },
      view.ticks.map(([place, name]) =>
        h("span", { class: "tick", "aria-hidden": "true", style: { top: `${place}%` } }, name),
      ),
      h("img", { class: "grey", src: view.grey, alt: words.grey, draggable: "false" }),
      h("img", { class: "colour", src: view.colour, alt: words.colour, draggable: "false" }),
    ),
  );
}
