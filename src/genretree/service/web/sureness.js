// How sure the model must be of a level for the path to go on; remembered by the browser.

import { h } from "./dom.js";
import { percent } from "./words.js";

const KEY = "genretree.sureness";
const stored = localStorage.getItem(KEY);
const changes = new EventTarget();
let value = stored === null || !(stored >= 0 && stored <= 1) ? 0.5 : Number(stored);
let count = 0;

export const sureness = () => value;

// Call `listener` when the value changes.
export function onSureness(listener, signal) {
  changes.addEventListener("change", listener, { signal });
}

// A slider with its meaning in words.
export function makeSureness(signal) {
  const id = `sureness-${++count}`;
  const shown = h("output", { for: id });
  const bar = h("input", { id, type: "range", min: 0, max: 0.95, step: 0.05 });
  const show = () => {
    bar.value = value;
    shown.value = value ? percent(value) : "any";
    bar.setAttribute("aria-valuetext", value ? `at least ${percent(value)}` : "any probability");
  };
  bar.addEventListener("input", () => {
    value = Number(bar.value);
    localStorage.setItem(KEY, value);
    changes.dispatchEvent(new Event("change"));
  });
  onSureness(show, signal);
  show();
  return h(
    "div",
    { class: "sureness" },
    h("label", { for: id }, "Follow the path while the model is this sure:"),
    bar,
    shown,
  );
}
