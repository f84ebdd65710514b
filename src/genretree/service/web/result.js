// The result of a track: prediction, tree, timeline and explanation.

import { announce, h, icon } from "./dom.js";
import { colourNodes, makeLanes, makeProbabilities, makeRibbon, timeMarks } from "./lanes.js";
import { makeErrorMessage, makeNote, makeProgress, makeStages } from "./parts.js";
import { makeTree, nest } from "./tree.js";
import { makeWhy } from "./why.js";
import {
  clock,
  describeConfidence,
  describeError,
  methodName,
  nodeName,
  pathName,
  percent,
  question,
  stageName,
  summariseConfidence,
  summariseSlices,
} from "./words.js";

let leave = new AbortController(); // removes the listeners of the previous result
let playing = null; // the track in the player

// Show a run of a track in `box`. `onModel(name)` is called when the user selects another model.
export function showResult(box, track, run, { player, models, onModel }) {
  leave.abort();
  leave = new AbortController();
  box.hidden = false;
  if (playing !== track) {
    playing = null;
    player.close();
    document.title = `${track.file.name} · genretree`;
  }
  const title = h("h2", { id: "result-title", tabindex: "-1" }, track.file.name);
  const tools = h("div", { class: "tools" }, makeModelSelect(run, models, onModel));
  const body = h("div", { class: "body" });
  box.replaceChildren(h("header", { class: "head" }, title, tools), body);

  const parts = { player, track, run, body, tools, stage: null };
  const update = () => {
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
  const { run, body, track, player } = parts;
  parts.follow = null;
  if (run.answer.status === "working") {
    const progress = makeProgress(`Progress of ${track.file.name}`, () => run.answer.cancel());
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
      track.url ??= URL.createObjectURL(track.file);
      player.load(track.sound ?? track.url, lastSlice(run.answer.prediction));
    }
    showAnswer(parts);
    if (run.why.status === "new" && isExplained(run)) run.explain();
  }
}

// Not for models whose inputs have no pictures, and not for what is not music.
const isExplained = (run) => run.model.methods.length > 0 && run.answer.prediction.path.length > 0;

const lastSlice = (prediction) => prediction.timeline.at(-1)?.end ?? 0;

function showAnswer(parts) {
  const { run, body, track } = parts;
  const { prediction, tree } = run.answer;
  document.title = `${pathName(prediction.path)}, ${track.file.name} · genretree`;
  announce(
    `${track.file.name}: ${prediction.levels
      .slice(0, prediction.path.length)
      .map((level) => `${nodeName(level.label)}, ${percent(level.probability)}`)
      .join("; ")}. ${summariseConfidence(prediction)}`,
  );
  const treeView = makeTree(nest(tree), {
    label: "Tree of genres with probabilities",
    predicted: prediction.path,
    onPick: pick,
  });
  const questionForm = makeQuestion(run);
  const explains = isExplained(run);
  const course = h("section", { class: "course", "aria-labelledby": "course-title" });
  const reasons = h("section", { class: "why", "aria-labelledby": "why-title" });
  function pick(path) {
    treeView.select(path);
    questionForm.take(path);
  }
  treeView.select(prediction.path);
  questionForm.take(prediction.path);
  body.replaceChildren(
    h(
      "div",
      { class: prediction.levels.length > 2 ? "first deep" : "first" },
      answer(prediction, run),
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
  showCourse(course, parts, null);
  if (explains) followWhy(parts, course, reasons, questionForm);
}

function answer(prediction, run) {
  const levels = prediction.levels.slice(0, prediction.path.length);
  const notes = [
    prediction.note,
    prediction.padded && "The file is shorter than one slice and was repeated to fill it.",
    !prediction.consistent && "The levels contradict each other: this model predicts each level independently.",
    prediction.training_distance > 1 &&
      "The file is unlike the music that the model was trained on: its probabilities may be too high.",
    run.model.calibrated === false &&
      "This model’s scores are not calibrated: use them as a ranking, not as probabilities.",
  ].filter(Boolean);
  return h(
    "section",
    { class: "answer", "aria-label": "Prediction" },
    h(
      "ol",
      { class: "path" },
      levels.map((level, at) =>
        h(
          "li",
          { class: at === levels.length - 1 && prediction.complete ? "leaf" : "" },
          h("span", { class: "name" }, nodeName(level.label)),
          h(
            "span",
            { class: "measure" },
            h("b", {}, percent(level.probability)),
            " ",
            h("span", {}, describeConfidence(level)),
          ),
          h("span", { class: "gauge", "aria-hidden": "true", style: { "--p": level.probability } }),
        ),
      ),
      prediction.not_music &&
        h(
          "li",
          { class: "leaf" },
          h("span", { class: "name" }, `Not music: ${prediction.not_music.type}`),
          h(
            "span",
            { class: "measure" },
            h("b", {}, percent(prediction.not_music.probability)),
            " ",
            h("span", {}, prediction.not_music.tag),
          ),
        ),
      !prediction.complete &&
        !prediction.not_music &&
        h(
          "li",
          { class: "leaf" },
          h("span", { class: "name" }, "?"),
          h("span", { class: "measure" }, "not confident enough for a deeper level"),
        ),
    ),
    h(
      "div",
      {},
      h("p", { class: "verdict" }, `${summariseConfidence(prediction)} ${summariseSlices(prediction.timeline)}`),
      notes.map((note) => h("p", { class: "caveat" }, note)),
      h(
        "p",
        { class: "soft" },
        `${prediction.slices} ${prediction.slices === 1 ? "slice" : "slices"} scored by ${run.model.name}, ${prediction.runtime}.`,
      ),
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
  const end = explanation?.end ?? lastSlice(prediction);
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
    if (stage === "working") progress.update(run.why.state);
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
  const stem = track.file.name.replace(/\.\w+$/, "");
  const picture = h(
    "a",
    { class: "button quiet", download: `${stem} why.png`, title: "The spectrograms of the current question" },
    "Why (PNG)",
  );
  const why = makeWhy(track.file.name, player, (entry) => {
    picture.href = entry.picture;
  });
  box.replaceChildren(
    h("h3", { id: "why-title" }, "Why?"),
    overlay(parts.body),
    why.element,
    explanation.json.neighbours?.length ? neighbours(explanation.json.neighbours) : "",
  );
  for (const entry of explanation.entries)
    why.add({ ...entry, short: nodeName(entry.reason.node.at(-1)) }, explanation.unit);
  why.showLast();
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
    h(
      "p",
      { class: "legend" },
      h("span", { class: "for" }, "Orange speaks for it"),
      h("span", { class: "against" }, "blue against it"),
    ),
    h("label", {}, box, "Relevance"),
    h("label", {}, h("span", {}, "Strength"), strength),
  );
}

function neighbours(explanation) {
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
            h("td", {}, item.track),
            h("td", {}, pathName(item.genre)),
            h("td", { class: "number" }, item.distance.toFixed(3)),
          ),
        ),
      ),
    ),
  );
}
