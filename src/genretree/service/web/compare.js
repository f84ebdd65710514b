// Two tracks next to each other.

import { h } from "./dom.js";
import { makeAnswer } from "./result.js";
import { makeSureness, onSureness } from "./sureness.js";
import { nodeName, pathName, percent } from "./words.js";

const MIN_PROBABILITY = 0.03; // of a genre in the table, for one of the two

let leave = new AbortController();

export function showComparison(box, pair, { href, onOpen, onBack }) {
  leave.abort();
  leave = new AbortController();
  const answers = pair.map((track) => makeAnswer(track.run.answer.prediction, track.run));
  onSureness(() => answers.forEach((answer) => answer.update()), leave.signal);
  box.hidden = false;
  box.replaceChildren(
    h("nav", { class: "back", "aria-label": "Tracks" }, h("a", { href: "./", onclick: onBack }, "← All tracks")),
    h("h2", { id: "compare-title", tabindex: "-1" }, `${pair[0].title} and ${pair[1].title}`),
    h(
      "div",
      { class: "pair" },
      pair.map((track, at) =>
        h(
          "section",
          { "aria-label": track.title },
          h(
            "h3",
            {},
            h(
              "a",
              {
                href: href(track),
                onclick: (event) => {
                  event.preventDefault();
                  onOpen(track);
                },
              },
              track.title,
            ),
          ),
          h("p", { class: "soft" }, track.artist),
          answers[at].element,
        ),
      ),
    ),
    makeSureness(leave.signal),
    table(pair),
  );
}

export function closeComparison(box) {
  leave.abort();
  box.hidden = true;
  box.replaceChildren();
}

// The genres of the tree that either may be, with both probabilities.
function table(pair) {
  const chances = pair.map(
    (track) => new Map(track.run.answer.tree.map((item) => [JSON.stringify(item.path), item.probability])),
  );
  const keys = [...new Set(chances.flatMap((map) => [...map.keys()]))].filter((key) =>
    chances.some((map) => (map.get(key) ?? 0) >= MIN_PROBABILITY),
  );
  return h(
    "table",
    { class: "both" },
    h("caption", {}, `Genres of at least ${percent(MIN_PROBABILITY)}`),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col" }, "Genre"),
        pair.map((track) => h("th", { scope: "col" }, track.title)),
      ),
    ),
    h(
      "tbody",
      {},
      keys.map((key) => {
        const path = JSON.parse(key);
        return h(
          "tr",
          {},
          h("th", { scope: "row", class: `deep-${path.length}`, title: pathName(path) }, nodeName(path.at(-1))),
          chances.map((map) =>
            h(
              "td",
              {},
              percent(map.get(key) ?? 0),
              h("span", { class: "gauge", "aria-hidden": "true", style: { "--p": map.get(key) ?? 0 } }),
            ),
          ),
        );
      }),
    ),
  );
}
