// Small parts that the list of tracks and the result share: progress and errors.

import { h, icon } from "./dom.js";
import { overall } from "./runs.js";
import { STAGES, stageName, trouble } from "./words.js";

const ANSWERING = ["upload", "waiting", "decoding", "spectra", "network"];

export function button(words, onclick, { sign = null, kind = "", ...props } = {}) {
  return h("button", { type: "button", class: kind, onclick, ...props }, sign && icon(sign), h("span", {}, words));
}

// A bar with the stage's name and a way to stop. Gives { element, update }.
export function makeProgress(label, onCancel) {
  const bar = h("progress", { max: 1, "aria-label": label });
  const words = h("span", { class: "stage" });
  const element = h("div", { class: "progress" }, h("div", {}, words, bar), button("Cancel", onCancel, { kind: "quiet" }));
  const update = (state) => {
    bar.value = Math.max(bar.value, overall(state));
    words.textContent = `${stageName(state)}\u00a0…`;
  };
  return { element, update };
}

// The stages that lead to an answer, one after the other.
export function makeStages() {
  const items = ANSWERING.map((stage) => h("li", {}, STAGES[stage]));
  const update = ({ stage }) => {
    const at = ANSWERING.indexOf(stage === "busy" ? "upload" : stage);
    items.forEach((item, place) => {
      item.classList.toggle("done", place < at);
      if (place === at) item.setAttribute("aria-current", "step"); else item.removeAttribute("aria-current");
    });
  };
  return { element: h("ol", { class: "stages" }, items), update };
}

// `onSalvage` uses what there is of a file that is cut off.
export function makeTrouble(error, onRetry = null, onSalvage = null) {
  const { title, help, detail, lasting } = trouble(error);
  return h("div", { class: "trouble", role: "group", "aria-label": "Error" },
    h("p", { class: "title" }, title), help && h("p", {}, help),
    detail && h("p", { class: "detail" }, detail),
    onSalvage && error.kind === "truncated" && button("Use what there is", onSalvage, { kind: "main" }),
    onRetry && (lasting
      ? button("Choose another file", () => document.getElementById("file").click(), { sign: "file" })
      : button("Try again", onRetry, { sign: "again" })));
}

// A message that one can take up again: after cancelling, say.
export function makeNote(words, action, onAction) {
  return h("div", { class: "note" }, h("p", {}, words), button(action, onAction, { sign: "again" }));
}
