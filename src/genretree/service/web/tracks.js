// The list of tracks, shown when there is more than one.

import { h, icon } from "./dom.js";
import { overall } from "./runs.js";
import { describeError, pathName, percent, stageName } from "./words.js";

// `onOpen(track)` and `onRemove(track)` are called by the buttons. Returns { add, refresh, mark }.
export function makeList(section, onOpen, onRemove) {
  const list = section.querySelector("ol");
  const rows = new Map();

  function add(track) {
    const state = h("span", { class: "state" });
    const bar = h("progress", { max: 1, "aria-label": `Progress of ${track.file.name}` });
    const open = h(
      "button",
      { type: "button", class: "open", onclick: () => onOpen(track) },
      h("span", { class: "name" }, track.file.name),
      state,
    );
    const remove = h(
      "button",
      { type: "button", class: "quiet round", "aria-label": `Remove ${track.file.name}`, onclick: () => drop(track) },
      icon("close"),
    );
    const row = h("li", {}, open, bar, remove);
    rows.set(track, { row, state, bar, open });
    list.append(row);
    section.hidden = rows.size < 2;
  }

  function drop(track) {
    const { row } = rows.get(track);
    const neighbour = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    rows.delete(track);
    section.hidden = rows.size < 2;
    onRemove(track);
    if (!section.hidden) neighbour?.querySelector("button").focus();
    else document.getElementById("main").focus();
  }

  // Show the state of a track's run in its row.
  function refresh(track) {
    const entry = rows.get(track);
    if (!entry) return;
    const { status, state, prediction, error } = track.run.answer;
    entry.bar.hidden = status !== "working";
    entry.row.dataset.status = status;
    if (status === "working") {
      entry.bar.value = overall(state);
      entry.state.textContent = stageName(state);
    } else if (status === "done") {
      const last = prediction.levels[prediction.path.length - 1];
      entry.state.replaceChildren(
        prediction.path.length ? h("b", {}, pathName(prediction.path)) : "no confident level",
        last ? ` ${percent(last.probability)}` : "",
      );
    } else if (status === "failed") {
      entry.state.textContent = describeError(error).title;
    } else if (status === "cancelled") {
      entry.state.textContent = "Cancelled";
    }
  }

  function mark(track) {
    for (const [other, { row, open }] of rows) {
      row.classList.toggle("current", other === track);
      if (other === track) open.setAttribute("aria-current", "true");
      else open.removeAttribute("aria-current");
    }
  }

  return { add, refresh, mark };
}
