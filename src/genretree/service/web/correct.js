// "No, this is ...": the right genre of a track, which the service keeps for the next training.

import { json } from "./api.js";
import { announce, h } from "./dom.js";
import { makeErrorMessage } from "./parts.js";
import { nodeName, pathName } from "./words.js";

const JOINED = " > ";

// `nodes` are those of the model's tree, as { path }.
export function makeCorrection(track, nodes) {
  const paths = nodes.map((node) => node.path);
  const isLeaf = (path) =>
    !paths.some((other) => other.length > path.length && path.every((name, at) => name === other[at]));
  const groups = new Map();
  for (const path of paths.filter(isLeaf)) {
    const above = path.length > 1 ? pathName(path.slice(0, -1)) : "";
    groups.set(above, [...(groups.get(above) ?? []), path]);
  }
  const options = [...groups].map(([above, leaves]) => {
    const items = leaves.map((path) => h("option", { value: path.join(JOINED) }, nodeName(path.at(-1))));
    return above ? h("optgroup", { label: above }, items) : items;
  });
  const genre = h(
    "select",
    { "aria-label": "The right genre", required: true },
    h("option", { value: "" }, "choose a genre"),
    options,
  );
  const outcome = h("div", { class: "outcome" });
  const form = h(
    "form",
    { class: "correct" },
    h("span", {}, "No, this is"),
    genre,
    h("button", { type: "submit" }, "Save"),
    outcome,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    await send("POST", `?${new URLSearchParams({ genre: genre.value })}`, () => {
      track.correction = genre.value;
    });
  });

  async function send(method, query, then) {
    try {
      await json(`v1/jobs/${track.job}/correction${query}`, { method });
      then();
      show();
    } catch (error) {
      outcome.replaceChildren(makeErrorMessage(error));
    }
  }

  function show() {
    if (!track.correction) {
      outcome.replaceChildren();
      return;
    }
    genre.value = track.correction;
    const undo = h("button", { type: "button", class: "quiet" }, "Undo");
    undo.addEventListener("click", () =>
      send("DELETE", "", () => {
        track.correction = null;
        genre.value = "";
        genre.focus();
      }),
    );
    const words = `Saved as ${pathName(track.correction.split(JOINED))}; the next training can learn from it.`;
    outcome.replaceChildren(h("p", {}, words, " ", undo));
    announce(words);
  }

  show();
  return form;
}
