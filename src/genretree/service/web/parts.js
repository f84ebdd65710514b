// Progress bars, error messages and notes.

import { fetchBlobUrl } from "./api.js";
import { h, icon } from "./dom.js";
import { overall } from "./runs.js";
import { describeError, STAGES, stageName } from "./words.js";

const PREDICTION_STAGES = ["upload", "waiting", "decoding", "spectra", "network"];

export function button(words, onclick, { sign = null, kind = "", ...props } = {}) {
  return h("button", { type: "button", class: kind, onclick, ...props }, sign && icon(sign), h("span", {}, words));
}

// A button that fetches audio and gives way to its player; `props` are those of the player.
export function playOnDemand(path, words, label, props = {}) {
  const start = h("button", { type: "button", class: "quiet" }, icon("play"), words);
  start.onclick = async () => {
    start.disabled = true;
    try {
      const audio = h("audio", { controls: true, src: await fetchBlobUrl(path), ...props });
      audio.setAttribute("aria-label", label);
      start.replaceWith(audio);
      await audio.play();
    } catch {
      start.replaceWith(h("span", { class: "soft" }, " can’t be played"));
    }
  };
  return start;
}

// A progress bar with the stage's name and a cancel button. Returns { element, update }.
export function makeProgress(label, onCancel) {
  const bar = h("progress", { max: 1, "aria-label": label });
  const words = h("span", { class: "stage" });
  const element = h(
    "div",
    { class: "progress" },
    h("div", {}, words, bar),
    button("Cancel", onCancel, { kind: "quiet" }),
  );
  const update = (state) => {
    bar.value = Math.max(bar.value, overall(state));
    words.textContent = `${stageName(state)}\u00a0…`;
  };
  return { element, update };
}

// The list of stages up to the prediction.
export function makeStages() {
  const items = PREDICTION_STAGES.map((stage) => h("li", {}, STAGES[stage]));
  const update = ({ stage }) => {
    const at = PREDICTION_STAGES.indexOf(stage === "busy" ? "upload" : stage);
    items.forEach((item, place) => {
      item.classList.toggle("done", place < at);
      if (place === at) item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
    });
  };
  return { element: h("ol", { class: "stages" }, items), update };
}

// `onSalvage` uses the part of a truncated file that can be decoded.
export function makeErrorMessage(error, onRetry = null, onSalvage = null) {
  const { title, help, detail, permanent } = describeError(error);
  return h(
    "div",
    { class: "trouble", role: "group", "aria-label": "Error" },
    h("p", { class: "title" }, title),
    help && h("p", {}, help),
    detail && h("p", { class: "detail" }, detail),
    onSalvage && error.kind === "truncated" && button("Use the readable part", onSalvage, { kind: "main" }),
    onRetry &&
      (permanent
        ? button("Choose another file", () => document.getElementById("file").click(), { sign: "file" })
        : button("Try again", onRetry, { sign: "again" })),
  );
}

// A message with a button, such as after cancelling.
export function makeNote(words, action, onAction) {
  return h("div", { class: "note" }, h("p", {}, words), button(action, onAction, { sign: "again" }));
}
