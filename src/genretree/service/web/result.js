// The result of a track: prediction, tree, timeline and explanation.

import { makeCorrection } from "./correct.js";
import { announce, h, icon } from "./dom.js";
import { colourNodes, makeLanes, makeProbabilities, makeRibbon, timeMarks } from "./lanes.js";
import { button, makeErrorMessage, makeNote, makeProgress, makeStages, playOnDemand } from "./parts.js";
import { sharePage, sharePicture } from "./share.js";
import { makeSureness, onSureness, sureness } from "./sureness.js";
import { makeTree, nest } from "./tree.js";
import { makeLegend, makePreview, makeWhy } from "./why.js";
import {
  alternatives,
  clock,
  describeConfidence,
  describeError,
  levelName,
  methodName,
  nodeName,
  pathName,
  percent,
  question,
  stageName,
  summariseConfidence,
  summariseSlices,
  surePath,
} from "./words.js";

let leave = new AbortController(); // removes the listeners of the previous result
let playing = null; // the track in the player

// Show the run of a track in `box`. `onModel(name)` is called when the user selects another model, `onRemove()` when the
// track is to be removed; `onBack` leads to all tracks.
export function showResult(box, track, { player, models, corrections, onModel, onRemove, onBack }) {
  const { run } = track;
  leave.abort();
  leave = new AbortController();
  box.hidden = false;
  if (playing !== track) {
    playing = null;
    player.close();
    document.title = `${track.title} · genretree`;
  }
  const title = h("h2", { id: "result-title", tabindex: "-1" }, track.title);
  const artist = h("p", { class: "soft artist" });
  const song = h("div", { class: "song" }, h("div", {}, title, artist));
  const tools = h(
    "div",
    { class: "tools" },
    makeModelSelect(run, models, onModel),
    button("Remove", onRemove, { kind: "quiet", "aria-label": `Remove ${track.title}` }),
  );
  const body = h("div", { class: "body" });
  box.replaceChildren(
    h("nav", { class: "back", "aria-label": "Tracks" }, h("a", { href: "./", onclick: onBack }, "← All tracks")),
    h("header", { class: "head" }, song, tools),
    body,
  );

  const parts = { player, track, run, body, tools, corrections, models, stage: null };
  const update = () => {
    title.textContent = track.title;
    artist.textContent = [track.artist, track.tags.album, track.title === track.name ? "" : track.name]
      .filter(Boolean)
      .join(" · ");
    if (track.cover && !song.querySelector("img"))
      song.prepend(h("img", { class: "cover", src: track.cover, alt: "", width: 64, height: 64 }));
    const stage = run.answer.status;
    if (stage !== parts.stage) {
      parts.stage = stage;
      begin(parts);
    }
    parts.follow?.();
  };
  run.addEventListener("change", update, { signal: leave.signal });
  update();
}

export function closeResult(box, player) {
  leave.abort();
  playing = null;
  player.close();
  box.hidden = true;
  box.replaceChildren();
}

function makeModelSelect(run, models, onModel) {
  if (models.length === 1) return h("p", { class: "soft" }, `Model: ${run.model.name}`);
  return h(
    "label",
    {},
    h("span", {}, "Model"),
    h(
      "select",
      { onchange: (event) => onModel(event.target.value) },
      models.map((model) => h("option", { value: model.name, selected: model === run.model }, model.name)),
    ),
  );
}

function begin(parts) {
  const { run, body, track } = parts;
  parts.follow = null;
  if (run.answer.status === "working") {
    const progress = makeProgress(`Progress of ${track.name}`, () => run.answer.cancel());
    const stages = makeStages();
    body.replaceChildren(h("div", { class: "stand" }, progress.element, stages.element));
    let announced = "";
    parts.follow = () => {
      progress.update(run.answer.state);
      stages.update(run.answer.state);
      if (stageName(run.answer.state) !== announced) {
        announced = stageName(run.answer.state);
        announce(announced);
      }
    };
  } else if (run.answer.status === "failed") {
    body.replaceChildren(
      makeErrorMessage(
        run.answer.error,
        () => run.classify(),
        () => {
          run.salvage = true;
          run.classify();
        },
      ),
    );
    const { title, help } = describeError(run.answer.error);
    announce(`${title} ${help}`);
  } else if (run.answer.status === "cancelled") {
    body.replaceChildren(makeNote("Cancelled.", "Start again", () => run.classify()));
    announce("Cancelled.");
  } else if (run.answer.status === "done") {
    if (playing !== track) {
      playing = track;
      loadAudio(parts);
    }
    showAnswer(parts);
    if (run.why.status === "new" && isExplained(run)) run.explain();
  }
}

async function loadAudio({ track, run, player }) {
  const end = track.seconds ?? lastSlice(run.answer.prediction);
  try {
    const url = track.sound ?? (await track.audio());
    if (playing === track) player.load(track.sound ?? url, end);
  } catch {
    if (playing === track) player.close(); // the explanation may bring its own copy
  }
}

// Not for models whose inputs have no pictures, and not for what is not music.
const isExplained = (run) => run.model.methods.length > 0 && run.answer.prediction.path.length > 0;

const lastSlice = (prediction) => prediction.timeline.at(-1)?.end ?? 0;

function showAnswer(parts) {
  const { run, body, track } = parts;
  const { prediction, tree } = run.answer;
  const path = surePath(prediction, sureness());
  document.title = `${pathName(path) || "Unsure"}, ${track.title} · genretree`;
  announce(
    `${track.title}: ${prediction.levels
      .slice(0, path.length)
      .map((level) => `${nodeName(level.label)}, ${percent(level.probability)}`)
      .join("; ")}. ${summariseConfidence(prediction, sureness())}`,
  );
  const treeView = makeTree(nest(tree), {
    label: "Tree of genres with probabilities",
    predicted: path,
    onPick: pick,
  });
  const questionForm = makeQuestion(run);
  const explains = isExplained(run);
  const course = h("section", { class: "course", "aria-labelledby": "course-title" });
  const reasons = h("section", { class: "why", "aria-labelledby": "why-title" });
  const answer = makeAnswer(prediction, run);
  function pick(node) {
    treeView.select(node);
    questionForm.take(node);
  }
  treeView.select(path);
  questionForm.take(path.length ? path : prediction.path);
  body.replaceChildren(
    h(
      "div",
      { class: prediction.levels.length > 2 ? "first deep" : "first" },
      h(
        "section",
        { class: "answer", "aria-label": "Prediction" },
        answer.element,
        h(
          "div",
          {},
          makeNotes(prediction, run),
          makeSureness(leave.signal),
          parts.corrections && track.job && prediction.path.length > 0 && makeCorrection(track, tree),
        ),
      ),
      h(
        "section",
        { class: "where", "aria-labelledby": "tree-title" },
        h("h3", { id: "tree-title" }, "In the tree"),
        treeView.element,
        explains && questionForm.element,
      ),
    ),
    course,
    ...(explains ? [reasons] : []),
  );
  onSureness(() => {
    answer.update();
    body.querySelector(".verdict").textContent = verdict(prediction);
    treeView.mark(surePath(prediction, sureness()));
  }, leave.signal);
  showCourse(course, parts, null);
  offerSharing(parts);
  if (explains) followWhy(parts, course, reasons, questionForm);
}

// The path as far as the model is sure of it, with the alternatives; the size of a name follows its probability.
export function makeAnswer(prediction, run) {
  const list = h("ol", { class: "path" });
  const depth = prediction.levels.length;
  function update() {
    const path = surePath(prediction, sureness());
    const shown = prediction.levels.slice(0, path.length);
    const next = prediction.levels[path.length];
    list.replaceChildren(
      ...shown.map((level, at) => {
        const others = alternatives(level, level.label);
        return h(
          "li",
          {
            class: at === path.length - 1 && path.length === prediction.path.length ? "leaf" : "",
            style: { "--p": level.probability },
          },
          h("span", { class: "tier" }, levelName(level.name, at, depth)),
          h("span", { class: "name" }, nodeName(level.label)),
          h(
            "span",
            { class: "measure" },
            h("b", {}, percent(level.probability)),
            " ",
            h("span", {}, describeConfidence(level)),
          ),
          h("span", { class: "gauge", "aria-hidden": "true" }),
          others.length > 0 &&
            h(
              "span",
              { class: "others" },
              "or ",
              others.map((item) => `${nodeName(item.label)} ${percent(item.probability)}`).join(", "),
            ),
        );
      }),
    );
    if (prediction.not_music) {
      const { type, tag, probability } = prediction.not_music;
      list.append(
        h(
          "li",
          { class: "leaf", style: { "--p": probability } },
          h("span", { class: "name" }, `Not music: ${type}`),
          h("span", { class: "measure" }, h("b", {}, percent(probability)), " ", h("span", {}, tag)),
        ),
      );
    } else if (next) list.append(stop(next, path.length, depth));
  }
  update();
  return { element: list, update, run };
}

function stop(level, at, depth) {
  const name = levelName(level.name, at, depth).toLowerCase();
  return h(
    "li",
    { class: "stop" },
    h("span", { class: "tier" }, levelName(level.name, at, depth)),
    h("span", { class: "measure" }, at ? `Not sure of the ${name}. It could be:` : `Not sure. It could be:`),
    h(
      "ul",
      { class: "could" },
      level.top
        .filter((item, place) => place === 0 || item.probability >= 0.05)
        .slice(0, 4)
        .map((item) =>
          h(
            "li",
            { style: { "--p": item.probability } },
            nodeName(item.label),
            " ",
            h("b", {}, percent(item.probability)),
          ),
        ),
    ),
  );
}

function verdict(prediction) {
  return `${summariseConfidence(prediction, sureness())} ${summariseSlices(prediction.timeline)}`;
}

// How far the file is from the training data; 1 is the 95th percentile of held-out training tracks.
function describeDistance(distance) {
  if (distance === null || distance === undefined) return null; // the model has no reference
  if (distance <= 1)
    return `Distance from the music that the model was trained on: ${distance.toFixed(2)}; up to 1 is usual.`;
  return `The file is unlike the music that the model was trained on (distance ${distance.toFixed(2)}; up to 1 is usual): its probabilities may be too high.`;
}

function makeNotes(prediction, run) {
  const notes = [
    prediction.note,
    prediction.padded && "The file is shorter than one slice and was repeated to fill it.",
    !prediction.consistent && "The levels contradict each other: this model predicts each level independently.",
    describeDistance(prediction.training_distance),
    run.model.calibrated === false &&
      "This model’s scores are not calibrated: use them as a ranking, not as probabilities.",
  ].filter(Boolean);
  return [
    h("p", { class: "verdict" }, verdict(prediction)),
    notes.map((note) => h("p", { class: "caveat" }, note)),
    h(
      "p",
      { class: "soft" },
      `${prediction.slices} ${prediction.slices === 1 ? "slice" : "slices"} scored by ${run.model.name}, ${prediction.runtime}.`,
    ),
  ];
}

// Share the result: its address, a small picture, and one HTML file with everything.
function offerSharing({ track, run, tools, body }) {
  tools.querySelector(".share")?.remove();
  const copy = button(
    "Copy link",
    async () => {
      try {
        await navigator.clipboard.writeText(location.href);
        announce("The link is copied.");
        copy.querySelector("span").textContent = "Copied";
      } catch {
        prompt("Link to this result", location.href);
      }
    },
    { kind: "quiet" },
  );
  tools.append(
    h(
      "div",
      { class: "share", role: "group", "aria-label": "Share" },
      copy,
      button("Picture", () => sharePicture(track, run), {
        kind: "quiet",
        title: "Title, path and tree as a small PNG",
      }),
      button("Page", () => sharePage(track, run, body), { kind: "quiet", title: "This result as one HTML file" }),
    ),
  );
}

// The question "Why [node] and not [others], by [method]?" as a form. Picking a node in the tree sets the first field.
function makeQuestion(run) {
  const nodes = run.answer.tree.map((item) => item.path);
  const below = (one, other) => other.every((name, at) => one[at] === name);
  const option = (path) =>
    h("option", { value: JSON.stringify(path) }, `${"\u2003".repeat(path.length - 1)}${nodeName(path.at(-1))}`);
  const node = h("select", { "aria-label": "Node to explain", onchange: offer }, nodes.map(option));
  const against = h("select", { "aria-label": "Node to contrast with" });
  const method = h(
    "select",
    { "aria-label": "Explanation method" },
    run.model.methods.map((name) => h("option", { value: name }, methodName(name))),
  );
  const send = h("button", { type: "submit" }, "Ask");
  const wait = h("div", { class: "wait" });
  const form = h(
    "form",
    { class: "ask" },
    h("span", {}, "Why"),
    node,
    h("span", {}, "and not"),
    against,
    run.model.methods.length > 1 && [h("span", {}, "by"), method],
    send,
    wait,
  );
  function offer() {
    const path = JSON.parse(node.value);
    const siblings = nodes.filter(
      (other) => other.length === path.length && below(other, path.slice(0, -1)) && other.at(-1) !== path.at(-1),
    );
    const first = siblings.length
      ? `its siblings (${siblings
          .slice(0, 3)
          .map((other) => nodeName(other.at(-1)))
          .join(", ")}${siblings.length > 3 ? ", …" : ""})`
      : "all others";
    against.replaceChildren(
      h("option", { value: "" }, first),
      ...nodes.filter((other) => !below(other, path) && !below(path, other)).map(option),
    );
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (send.getAttribute("aria-disabled") !== "true")
      run.ask(JSON.parse(node.value), against.value ? JSON.parse(against.value) : null, method.value);
  });
  return {
    element: form,
    wait,
    allow(yes) {
      send.setAttribute("aria-disabled", String(!yes));
    }, // `disabled` would lose the focus
    take(path) {
      node.value = JSON.stringify(path.length ? path : nodes[0]);
      offer();
    },
  };
}

// The timeline: a ribbon for each level, and the probability of each node of the path.
function showCourse(box, parts, explanation) {
  const { run, player } = parts;
  const { prediction, timelines } = run.answer;
  const end = explanation?.end ?? (parts.track.seconds || lastSlice(prediction));
  const colours = colourNodes(prediction);
  parts.unwatch?.();
  box.replaceChildren(
    h("h3", { id: "course-title" }, "Over the track"),
    h(
      "p",
      { class: "soft" },
      "Click or drag on a plot to seek. ",
      h("span", { class: "keys" }, "Space plays and pauses, the arrow keys seek by 2\u00a0s."),
    ),
    makeLanes(
      player,
      explanation?.entries[0]?.marks ?? timeMarks(end),
      prediction.levels.map((_, level) => makeRibbon(prediction, level, end, colours)),
      timelines.map((line) => makeProbabilities(line, prediction.timeline, end)),
    ),
    h(
      "div",
      { class: "passages" },
      timelines.map((line) => passages(line, player)),
    ),
  );
  parts.unwatch = player.watch((at) => parts.body.style.setProperty("--at", at));
  leave.signal.addEventListener("abort", parts.unwatch);
}

function passages(line, player) {
  const name = nodeName(line.node.at(-1));
  const list = (words, items) =>
    items.length > 0 &&
    h(
      "li",
      {},
      h("span", {}, words),
      items.map((item) =>
        h(
          "button",
          {
            type: "button",
            class: "passage",
            onclick: () => player.playPassage(item.start, item.end),
            "aria-label": `Play ${clock(item.start)} to ${clock(item.end)}, probability of ${name} ${percent(item.probability)}`,
          },
          icon("play"),
          `${clock(item.start)}–${clock(item.end)}`,
          h("span", { class: "soft" }, percent(item.probability)),
        ),
      ),
    );
  return h(
    "div",
    {},
    h("h4", {}, `Passages of ${name}`),
    h("ul", {}, list("Most typical", line.typical), list("Least typical", line.untypical)),
  );
}

function followWhy(parts, course, reasons, questionForm) {
  const { run } = parts;
  let stage = null;
  let asked = null;
  let why = null;
  let progress = null;
  let waits = null;
  let nShown = 0;
  parts.follow = () => {
    if (run.why.status !== stage) {
      stage = run.why.status;
      questionForm.allow(stage === "done");
      if (stage === "working") {
        progress = makeProgress("Progress of the explanation", () => run.why.cancel());
        reasons.replaceChildren(h("h3", { id: "why-title" }, "Why?"), progress.element);
      } else if (stage === "failed")
        reasons.replaceChildren(
          h("h3", { id: "why-title" }, "Why?"),
          makeErrorMessage(run.why.error, () => run.explain()),
        );
      else if (stage === "cancelled")
        reasons.replaceChildren(
          h("h3", { id: "why-title" }, "Why?"),
          makeNote("The explanation was cancelled.", "Explain", () => run.explain()),
        );
      else if (stage === "done") {
        why = showWhy(parts, course, reasons);
        announce("The explanation is ready.");
      }
    }
    if (stage === "working") {
      const { preview } = run.why.state;
      progress.update(run.why.state);
      if (preview && !reasons.querySelector(".preview")) {
        const depth = surePath(run.answer.prediction, sureness()).length;
        announce("A first, coarse map is shown.");
        reasons.append(makePreview(preview, Math.max(0, depth - 1), parts.track.name, parts.player));
      }
    }
    if (stage !== "done") return;
    for (; nShown < run.why.asked.length; nShown++) {
      const { entries, unit, json } = run.why.asked[nShown];
      const by = json.method === run.model.methods[0] ? "" : `, by ${methodName(json.method)}`;
      for (const entry of entries)
        why.add({ ...entry, short: `${question(entry.reason).slice(4, -1)}${by}` }, unit, true);
      offerJson(parts);
      if (questionForm.element.contains(document.activeElement))
        reasons.querySelector("[role=tab][aria-selected=true]").focus();
      reasons.scrollIntoView({ block: "start" });
    }
    if (run.why.question.status !== asked) {
      asked = run.why.question.status;
      questionForm.allow(asked !== "working");
      questionForm.wait.replaceChildren();
      if (asked === "working") {
        waits = makeProgress("Progress of the question", () => run.why.question.cancel());
        questionForm.wait.append(waits.element);
      }
      if (asked === "failed") questionForm.wait.append(makeErrorMessage(run.why.question.error));
    }
    if (asked === "working") waits.update(run.why.question.state);
  };
}

function showWhy(parts, course, box) {
  const { run, player, track, tools } = parts;
  const explanation = run.why;
  if (explanation.sound && track.sound !== explanation.sound) {
    track.sound = explanation.sound;
    player.replace(explanation.sound, explanation.end);
  }
  player.setEnd(explanation.end);
  showCourse(course, parts, explanation);
  const stem = track.name.replace(/\.\w+$/, "");
  const picture = h(
    "a",
    { class: "button quiet", download: `${stem} why.png`, title: "The spectrograms of the current question" },
    "Why (PNG)",
  );
  const why = makeWhy(track.name, player, (entry) => {
    picture.href = entry.picture;
  });
  box.replaceChildren(
    h("h3", { id: "why-title" }, "Why?"),
    overlay(parts.body),
    why.element,
    explanation.json.neighbours?.length ? neighbours(explanation.json.neighbours, run.model.name) : "",
  );
  for (const entry of explanation.entries)
    why.add({ ...entry, short: nodeName(entry.reason.node.at(-1)) }, explanation.unit);
  why.show(Math.max(0, surePath(run.answer.prediction, sureness()).length - 1));
  tools.querySelector(".downloads")?.remove();
  tools.append(
    h(
      "div",
      { class: "downloads", role: "group", "aria-label": "Download" },
      icon("down"),
      h(
        "a",
        { class: "button quiet json", download: `${stem}.json`, title: "The explanation, with all further questions" },
        "JSON",
      ),
      h(
        "a",
        {
          class: "button quiet",
          download: `${stem} tree.png`,
          href: explanation.tree,
          title: "The tree, as a picture",
        },
        "Tree (PNG)",
      ),
      picture,
    ),
  );
  offerJson(parts);
  return why;
}

// Offer the explanation and all further questions as a JSON file.
function offerJson({ run, track, tools }) {
  const { json, asked } = run.why;
  const questions = asked.map(({ json: { method, unit, reasons } }) => ({ method, unit, reasons }));
  if (track.json) URL.revokeObjectURL(track.json);
  track.json = URL.createObjectURL(
    new Blob([JSON.stringify({ ...json, questions }, null, 1)], { type: "application/json" }),
  );
  tools.querySelector(".json").href = track.json;
}

// Controls of the relevance overlay: on or off, and its opacity.
function overlay(body) {
  const box = h("input", { type: "checkbox", checked: true, id: "overlay" });
  const strength = h("input", { type: "range", min: 0, max: 1, step: 0.05, value: 1, id: "strength" });
  const apply = () => {
    body.style.setProperty("--overlay", box.checked ? strength.value : 0);
    strength.disabled = !box.checked;
    strength.setAttribute("aria-valuetext", percent(Number(strength.value)));
  };
  for (const control of [box, strength]) control.addEventListener("input", apply);
  apply();
  return h(
    "div",
    { class: "overlay" },
    makeLegend(),
    h("label", {}, box, "Relevance"),
    h("label", {}, h("span", {}, "Strength"), strength),
  );
}

// A training track by artist and title; its path is the hint.
function nearName(item) {
  if (!item.title) return item.track;
  return h("span", { title: item.track }, item.artist ? `${item.artist}: ${item.title}` : item.title);
}

function playNear(item, model) {
  const start = playOnDemand(
    `v1/music?${new URLSearchParams({ track: item.track, model })}`,
    "",
    item.title ?? item.track,
  );
  start.setAttribute("aria-label", `Play ${item.title ?? item.track}`);
  return start;
}

function neighbours(explanation, model) {
  return h(
    "section",
    { class: "near", "aria-labelledby": "near-title" },
    h("h3", { id: "near-title" }, "Nearest training tracks"),
    h(
      "p",
      { class: "soft" },
      "By the cosine distance of the model’s embeddings: 0 is the same direction, 1 is unrelated.",
    ),
    h(
      "table",
      {},
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["Track", "Genre", "Distance"].map((word) => h("th", { scope: "col" }, word)),
        ),
      ),
      h(
        "tbody",
        {},
        explanation.map((item) =>
          h(
            "tr",
            {},
            h("td", {}, nearName(item), item.playable && playNear(item, model)),
            h("td", {}, pathName(item.genre)),
            h("td", { class: "number" }, item.distance.toFixed(3)),
          ),
        ),
      ),
    ),
  );
}
