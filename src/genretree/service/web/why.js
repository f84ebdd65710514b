// The explanation: for each question, the evidence for and against a node, as pictures and text.

import { announce, h, icon } from "./dom.js";
import { makeLanes, makePicture } from "./lanes.js";
import { playOnDemand } from "./parts.js";
import { clock, nodeName, odds, question, signed } from "./words.js";

const BANDS = 5;
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const capital = (text) => text[0].toUpperCase() + text.slice(1);

let count = 0; // for the ids of tabs and panels

// The questions as tabs. Returns { element, add, showLast }.
export function makeWhy(file, player, onShow) {
  const list = h("div", { role: "tablist", "aria-label": "Questions" });
  const panels = h("div", { class: "panels" });
  const entries = [];

  function show(entry, focus = false) {
    for (const other of entries) {
      const on = other === entry;
      other.tab.setAttribute("aria-selected", String(on));
      other.tab.tabIndex = on ? 0 : -1;
      other.panel.hidden = !on;
    }
    if (focus) entry.tab.focus();
    onShow(entry);
  }

  list.addEventListener("keydown", (event) => {
    const at = entries.findIndex((entry) => entry.tab === event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: entries.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    show(entries[(to + entries.length) % entries.length], true);
  });

  // `reason` is that of the explanation, `view` its pictures, `picture` all in one PNG, `short` the tab's name.
  function add({ reason, view, marks, picture, short }, unit, seen = false) {
    const id = ++count;
    const entry = { reason, picture };
    entry.tab = h(
      "button",
      { type: "button", role: "tab", id: `tab-${id}`, "aria-controls": `panel-${id}`, onclick: () => show(entry) },
      short,
    );
    entry.panel = h(
      "div",
      { role: "tabpanel", id: `panel-${id}`, "aria-labelledby": `tab-${id}`, tabindex: "0" },
      panel(reason, view, marks, unit, file, player),
    );
    entries.push(entry);
    list.append(entry.tab);
    panels.append(entry.panel);
    if (seen || entries.length === 1) show(entry);
    else entry.panel.hidden = true;
    if (seen) announce(`${question(reason)} The explanation is ready.`);
  }

  return { element: h("div", {}, list, panels), add, show: (at) => show(entries[at] ?? entries.at(-1)) };
}

// What a listener can check by ear, before the numbers; absent from explanations of older services.
function sentences(reason, player) {
  const items = (reason.sentences ?? []).map((item) => (typeof item === "string" ? { text: item } : item));
  if (items.length === 0) return h("p", {}, "No kind of sound stands out from the noise of the measurement.");
  return [
    mean(reason.background) >= mean(reason.log_odds) &&
      h(
        "p",
        { class: "caveat" },
        "Without any music the model would be at least as sure, so what follows explains little of its prediction.",
      ),
    h(
      "ul",
      { class: "sentences" },
      items.map((item) =>
        h(
          "li",
          { class: item.aspect === "tags" ? "further" : item.supports === false ? "against" : "for" },
          item.text,
          h("span", { class: "hear" }, hear(item, player)),
        ),
      ),
    ),
  ];
}

// Buttons that repeat the passage of a sentence, whole or only its band, and the measurement that it rests on.
function hear(item, player) {
  const parts = [];
  if (item.passage && item.aspect !== "tags") {
    const { start, end } = item.passage;
    const passage = `${clock(Math.round(start))}–${clock(Math.round(end))}`; // as in the sentence
    const repeat = () => player.playPassage(start, end, true);
    parts.push(h("button", { type: "button", class: "quiet", onclick: repeat }, icon("play"), ` repeat ${passage}`));
    if (item.filtered_clip) {
      const only = playOnDemand(item.filtered_clip, " only this band", `${passage}, only this band`, { loop: true });
      only.addEventListener("click", () => player.pause());
      parts.push(only);
    }
  }
  if (item.relevance !== undefined && item.aspect !== "tags")
    parts.push(h("span", { class: "soft" }, `${signed(item.relevance)} ± ${item.noise.toFixed(2)} log odds`));
  return parts;
}

export function makeLegend() {
  return h(
    "p",
    { class: "legend" },
    h("span", { class: "for" }, "Orange speaks for it"),
    h("span", { class: "against" }, "blue against it"),
  );
}

// A coarse map of one node, while the explanation is being computed.
export function makePreview({ reasons, view }, at, file, player) {
  const reason = reasons[Math.min(at, reasons.length - 1)];
  const name = nodeName(reason.node.at(-1));
  const pictures = makePictures(reason, view.reasons[reasons.indexOf(reason)], new Map(), file, player);
  return h(
    "div",
    { class: "preview" },
    h("p", { class: "soft" }, `A first, coarse map of the evidence for ${name}; the details follow.`),
    makeLegend(),
    makeLanes(player, view.marks, pictures),
  );
}

// The pictures of a node; `shares` has the contribution of each view, by title, as far as it is shown.
function makePictures(reason, view, shares, file, player) {
  return view.views.map((item) =>
    makePicture(item, {
      title: capital(item.title),
      share: shares.has(item.title) ? `${signed(shares.get(item.title))} of the log odds` : "",
      grey: describeGrey(item, file, player.end),
      colour: describeColour(reason, item, nodeName(reason.node.at(-1))),
    }),
  );
}

function panel(reason, view, marks, unit, file, player) {
  const name = nodeName(reason.node.at(-1));
  const shares = new Map(view.shares.map(([title, value]) => [title, value]));
  const pictures = makePictures(reason, view, shares, file, player);
  return [
    h("h3", {}, question(reason)),
    sentences(reason, player),
    h(
      "p",
      { class: "measure" },
      `Averaged over the slices, the odds for ${name} are ${odds(mean(reason.log_odds))} (log odds ${signed(mean(reason.log_odds))}). `,
      `For the background alone they would be ${odds(mean(reason.background))} (${signed(mean(reason.background))}). `,
      "The views account for the difference:",
    ),
    makeLanes(player, marks, pictures),
    h(
      "div",
      { class: "columns" },
      h(
        "div",
        {},
        h("h4", {}, "Contribution of each view"),
        h("p", { class: "soft" }, "In log odds; the contributions sum to the difference above."),
        diverging(view.shares, name),
      ),
      h("div", {}, h("h4", {}, `Bands with the strongest evidence for ${name}`), bands(reason, unit)),
    ),
  ];
}

function describeGrey(item, file, end) {
  const [low, high] = [item.ticks[0]?.[1], item.ticks.at(-1)?.[1]];
  return `${capital(item.title)} of ${file}, ${clock(end)} long, from ${low} at the bottom to ${high} at the top; louder is lighter.`;
}

// Alternative text of the overlay: the strongest rows of this view, and the strongest moments over all views.
function describeColour(reason, item, name) {
  const rows = reason.by_band[item.view];
  const { start, step, relevance } = reason.by_time;
  const phrases = [];
  for (const [word, best] of [
    ["for", Math.max],
    ["against", Math.min],
  ]) {
    const row = best(...rows.relevance);
    const moment = best(...relevance.map((values) => best(...values)));
    if (word === "for" ? row <= 0 : row >= 0) {
      phrases.push(`no row has evidence ${word} ${name} in total`);
      continue;
    }
    const slice = relevance.findIndex((values) => values.includes(moment));
    const at = start[slice] + step * relevance[slice].indexOf(moment);
    phrases.push(
      `strongest evidence ${word} ${name} at ${rows.names[rows.relevance.indexOf(row)]}, and, over all views, at ${clock(at)}`,
    );
  }
  return `Relevance on the ${item.title}: ${phrases.join("; ")}.`;
}

function diverging(shares, name) {
  return h(
    "table",
    { class: "shares" },
    h(
      "tbody",
      {},
      shares.map(([title, value, width]) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, capital(title)),
          h(
            "td",
            { "aria-hidden": "true" },
            h("span", { class: value < 0 ? "bar against" : "bar for", style: { "--long": `${0.46 * width}%` } }),
          ),
          h(
            "td",
            { class: "number" },
            signed(value),
            h("span", { class: "visually-hidden" }, value < 0 ? `, against ${name}` : `, for ${name}`),
          ),
        ),
      ),
    ),
  );
}

function bands(reason, unit) {
  const strongest = reason.bands.filter((band) => band.relevance > 0).slice(0, BANDS);
  if (!strongest.length) return h("p", { class: "soft" }, "No single band is evidence for it.");
  const max = strongest[0].relevance;
  const titles = { mel: "mel", cqt: "constant-Q", chroma: "chroma", mel_16k: "mel at 16 kHz" };
  return [
    h("p", { class: "soft" }, `In ${unit}.`),
    h(
      "ol",
      { class: "bands" },
      strongest.map((band) =>
        h(
          "li",
          {},
          h("b", {}, band.name),
          h("span", { class: "soft" }, titles[band.view] ?? band.view),
          h("span", {
            class: "bar for",
            "aria-hidden": "true",
            style: { "--long": `${(100 * band.relevance) / max}%` },
          }),
        ),
      ),
    ),
  ];
}
