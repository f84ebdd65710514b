// All tracks: the tree with the tracks on its branches, and a table to sort, filter, group, compare and download.

import { h, icon } from "./dom.js";
import { button } from "./parts.js";
import { overall } from "./runs.js";
import { makeSureness, onSureness, sureness } from "./sureness.js";
import { makeTree } from "./tree.js";
import { clock, describeError, levelName, nodeName, pathName, percent, stageName, surePath } from "./words.js";

const MAX_NAMED = 40; // of more tracks, the tree names only the first at each node, and counts the others
const MAX_ON_A_BRANCH = 4;
const collator = new Intl.Collator(undefined, { numeric: true });

// The path of a track as far as the model is sure, and the probability of its last node; of the best first node if the
// model is sure of none. Null while there is none.
function result(track) {
  const { status, prediction } = track.run.answer;
  if (status !== "done") return null;
  const path = prediction.not_music ? [] : surePath(prediction, sureness());
  const end = prediction.levels[Math.max(0, path.length - 1)];
  return { prediction, path, probability: prediction.not_music ? 0 : (end?.probability ?? 0) };
}

// Whether the path of a track goes through a node.
export function isOnBranch(track, branch) {
  const path = result(track)?.path ?? [];
  return branch.every((name, at) => path[at] === name);
}

function hasWords(track, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const own = `${track.title} ${track.name} ${track.artist} ${track.tags.album ?? ""} ${pathText(track)}`.toLowerCase();
  return words.every((word) => own.includes(word));
}

function pathText(track) {
  const { status, state, error } = track.run.answer;
  if (status === "working") return stageName(state);
  if (status === "failed") return describeError(error).title;
  if (status === "cancelled") return "Cancelled";
  if (status !== "done") return "Waiting";
  const { prediction, path } = result(track);
  if (prediction.not_music) return `Not music: ${prediction.not_music.type}`;
  return path.length ? pathName(path) : "Not sure of any genre";
}

const COLUMNS = [
  { key: "title", name: "Title", value: (track) => track.title },
  { key: "artist", name: "Artist", value: (track) => track.artist },
  { key: "path", name: "Genre path", value: pathText },
  { key: "sureness", name: "Sureness", value: (track) => result(track)?.probability ?? -1, first: -1 },
  { key: "length", name: "Length", value: (track) => track.seconds ?? -1 },
];

// `handlers`: onOpen(track), onRemove(track), onRemoveAll(), onCompare(track, other), href(track). Returns { update }.
export function makeTracks(section, tracks, { onOpen, onRemove, onRemoveAll, onCompare, href }) {
  const order = { key: null, way: 1 };
  const chosen = new Set(); // to compare
  let branch = null; // path of the node whose tracks alone are shown
  const title = section.querySelector("h2");
  const overview = h("div", { class: "overview" });
  const filter = h("input", {
    type: "search",
    placeholder: "Title, artist or genre",
    "aria-label": "Filter the tracks",
  });
  const group = h("select", { "aria-label": "Group by" });
  const compare = button("Compare two", () => onCompare(...chosen), { title: "Choose two tracks in the table" });
  const count = h("p", { class: "soft", role: "status" });
  const head = h("thead");
  const body = h("tbody");
  const links = new Map();
  section.append(
    overview,
    h(
      "div",
      { class: "controls" },
      filter,
      h("label", {}, h("span", {}, "Group by"), group),
      compare,
      button("CSV", () => save("tracks.csv", "text/csv", asCsv(tracks)), { sign: "down", kind: "quiet" }),
      button("JSON", () => save("tracks.json", "application/json", asJson(tracks)), { sign: "down", kind: "quiet" }),
      button("Remove all", onRemoveAll, { kind: "quiet" }),
    ),
    makeSureness(),
    count,
    h("table", { class: "tracks" }, h("caption", { class: "visually-hidden" }, "Tracks"), head, body),
  );
  filter.addEventListener("input", () => {
    branch = null;
    update();
  });
  group.addEventListener("change", update);
  onSureness(update);

  function header() {
    const cells = COLUMNS.map(({ key, name, first = 1 }) => {
      const on = order.key === key;
      const sort = () => {
        order.way = on ? -order.way : first;
        order.key = key;
        update();
        head.querySelector(`.${key} button`).focus();
      };
      return h(
        "th",
        { scope: "col", class: key, "aria-sort": on ? (order.way > 0 ? "ascending" : "descending") : null },
        h("button", { type: "button", class: "sort", onclick: sort }, name),
      );
    });
    head.replaceChildren(h("tr", {}, h("td", { class: "choose" }), cells, h("td", { class: "remove" })));
  }

  function offerLevels() {
    const levels = tracks.map((track) => result(track)?.prediction.levels ?? []).find((list) => list.length) ?? [];
    if (group.options.length === levels.length + 1) return;
    const value = group.value;
    group.replaceChildren(
      new Option("nothing", ""),
      ...levels.map((level, at) => new Option(levelName(level.name, at, levels.length).toLowerCase(), String(at))),
    );
    group.value = value;
    if (group.selectedIndex < 0) group.value = "";
  }

  function row(track) {
    const { status, state } = track.run.answer;
    const done = result(track);
    const choose = h("input", {
      type: "checkbox",
      "aria-label": `Compare ${track.title}`,
      disabled: !done,
      checked: chosen.has(track),
      onchange: (event) => {
        if (event.target.checked) chosen.add(track);
        else chosen.delete(track);
        if (chosen.size > 2) chosen.delete([...chosen][0]);
        update();
        document.getElementById(event.target.id)?.focus();
      },
      id: `choose-${track.local}`,
    });
    return h(
      "tr",
      { dataset: { status } },
      h("td", { class: "choose" }, choose),
      h(
        "th",
        { scope: "row", class: "title" },
        h(
          "a",
          { href: href(track), onclick: (event) => follow(event, track) },
          track.cover ? h("img", { class: "cover", src: track.cover, alt: "", width: 36, height: 36 }) : null,
          h("span", {}, track.title, h("span", { class: "by" }, track.artist)),
        ),
      ),
      h("td", { class: "artist" }, track.artist),
      h(
        "td",
        { class: "path" },
        pathText(track),
        status === "working" &&
          h("progress", { max: 1, value: overall(state), "aria-label": `Progress of ${track.title}` }),
      ),
      h(
        "td",
        { class: "sureness" },
        done?.path.length > 0 && [
          percent(done.probability),
          h("span", { class: "gauge", "aria-hidden": "true", style: { "--p": done.probability } }),
        ],
      ),
      h("td", { class: "length" }, track.seconds ? clock(track.seconds) : ""),
      h(
        "td",
        { class: "remove" },
        h(
          "button",
          {
            type: "button",
            class: "quiet round",
            "aria-label": `Remove ${track.title}`,
            onclick: () => onRemove(track),
          },
          icon("close"),
        ),
      ),
    );
  }

  function follow(event, track) {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    onOpen(track);
  }

  function shownTracks() {
    const shown = tracks.filter((track) => (branch ? isOnBranch(track, branch) : hasWords(track, filter.value)));
    const column = COLUMNS.find(({ key }) => key === order.key);
    if (!column) return shown;
    const compareBy = (one, other) => {
      const [a, b] = [column.value(one), column.value(other)];
      return order.way * (typeof a === "number" ? a - b : collator.compare(a, b));
    };
    return shown.sort(compareBy);
  }

  function grouped(shown) {
    if (group.value === "") return shown.map(row);
    const at = Number(group.value);
    const groups = Map.groupBy
      ? Map.groupBy(shown, (track) => pathName(result(track)?.path.slice(0, at + 1) ?? []))
      : shown.reduce((map, track) => {
          const key = pathName(result(track)?.path.slice(0, at + 1) ?? []);
          return map.set(key, [...(map.get(key) ?? []), track]);
        }, new Map());
    return [...groups]
      .sort(([, one], [, other]) => other.length - one.length)
      .flatMap(([name, members]) => [
        h(
          "tr",
          { class: "group" },
          h(
            "th",
            { colspan: COLUMNS.length + 2, scope: "rowgroup" },
            name || "No genre yet",
            " ",
            h("b", {}, String(members.length)),
          ),
        ),
        ...members.map(row),
      ]);
  }

  function update() {
    const focused = links.size && document.activeElement?.closest?.("tbody") === body ? focusPlace() : null;
    for (const track of chosen) if (!tracks.includes(track)) chosen.delete(track);
    const shown = shownTracks();
    title.textContent = tracks.length === 1 ? "1 track" : `${tracks.length} tracks`;
    header();
    offerLevels();
    body.replaceChildren(...grouped(shown));
    count.textContent = shown.length < tracks.length ? `${shown.length} of ${tracks.length} tracks shown.` : "";
    compare.disabled = chosen.size !== 2;
    links.clear();
    for (const track of shown) links.set(track, true);
    if (focused)
      body.querySelectorAll("tr:not(.group)")[focused[0]]?.querySelectorAll("a, input, button")[focused[1]]?.focus();
    drawTree();
  }

  // Where the focus is in the table, which is built anew when the state of a track changes.
  function focusPlace() {
    const rows = [...body.querySelectorAll("tr:not(.group)")];
    const at = rows.findIndex((line) => line.contains(document.activeElement));
    if (at < 0) return null;
    return [at, [...rows[at].querySelectorAll("a, input, button")].indexOf(document.activeElement)];
  }

  let drawn = "";
  function drawTree() {
    const found = tracks.map((track) => [track, result(track)]).filter(([, item]) => item?.path.length);
    const key = JSON.stringify(found.map(([track, item]) => [track.key, track.title, item.path]));
    if (key === drawn) return;
    drawn = key;
    if (!found.length) return overview.replaceChildren();
    const tree = makeTree(nestTracks(found), { label: "The tracks in the tree" });
    overview.replaceChildren(tree.element);
  }

  // Genres with their number of tracks, and the tracks as their last branches.
  function nestTracks(found) {
    const root = { path: [], children: [], tracks: [] };
    const total = found.length;
    const nodes = new Map([["[]", root]]);
    for (const [track, { path }] of found) {
      for (let cut = 1; cut <= path.length; cut++) {
        const key = JSON.stringify(path.slice(0, cut));
        if (nodes.has(key)) continue;
        const node = { name: path[cut - 1], path: path.slice(0, cut), children: [], tracks: [], n: 0 };
        node.tag = () => genre(node);
        nodes.set(key, node);
        nodes.get(JSON.stringify(path.slice(0, cut - 1))).children.push(node);
      }
      for (let cut = 1; cut <= path.length; cut++) nodes.get(JSON.stringify(path.slice(0, cut))).n++;
      nodes.get(JSON.stringify(path)).tracks.push(track);
    }
    for (const node of nodes.values()) {
      node.share = (node.n ?? total) / total;
      node.children.sort((one, other) => other.n - one.n);
      const named =
        total > MAX_NAMED && node.tracks.length > MAX_ON_A_BRANCH + 1
          ? node.tracks.slice(0, MAX_ON_A_BRANCH)
          : node.tracks;
      for (const track of named) {
        node.children.push({
          name: track.title,
          path: [...node.path, track.key],
          children: [],
          share: 1 / total,
          tag: () => leaf(track),
        });
      }
      const more = node.tracks.length - named.length;
      if (more) {
        node.children.push({
          name: `${more} more`,
          path: [...node.path, "more"],
          children: [],
          share: more / total,
          tag: () => h("span", { class: "soft" }, `${more} more`),
        });
      }
    }
    return root;
  }

  function genre(node) {
    const show = () => {
      filter.value = pathName(node.path);
      branch = node.path; // the text alone would also find "Non-classical" for "Classical"
      update();
      filter.focus();
    };
    return h(
      "button",
      {
        type: "button",
        class: "name genre",
        onclick: show,
        title: "Show only these tracks",
        "aria-label": `${nodeName(node.name)}: ${node.n} ${node.n === 1 ? "track" : "tracks"}; show only these`,
      },
      nodeName(node.name),
      h("span", { class: "chance" }, String(node.n)),
    );
  }

  function leaf(track) {
    return h("a", { class: "name", href: href(track), onclick: (event) => follow(event, track) }, track.title);
  }

  return { update };
}

function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export function asCsv(tracks) {
  const depth = Math.max(0, ...tracks.map((track) => result(track)?.prediction.levels.length ?? 0));
  const levels = Array.from({ length: depth }, (_, at) => [`level_${at + 1}`, `level_${at + 1}_probability`]).flat();
  const lines = tracks.map((track) => {
    const found = result(track);
    const cells = Array.from({ length: depth }, (_, at) => {
      const level = found?.prediction.levels[at];
      return [level?.label ?? "", level?.probability ?? ""];
    });
    const { status, error } = track.run.answer;
    return [
      track.name,
      track.tags.title ?? "",
      track.artist,
      track.tags.album ?? "",
      track.seconds ?? "",
      found?.path.join(" > ") ?? "",
      ...cells.flat(),
      track.run.model.name,
      status === "failed" ? error.kind : "",
    ];
  });
  const header = ["file", "title", "artist", "album", "seconds", "path", ...levels, "model", "error"];
  return [header, ...lines].map((line) => `${line.map(cell).join(",")}\r\n`).join("");
}

function cell(value) {
  // A spreadsheet runs text that begins like this as a formula.
  const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function asJson(tracks) {
  const rows = tracks.map((track) => {
    const { status, prediction, tree, error } = track.run.answer;
    return {
      file: track.name,
      tags: track.tags,
      seconds: track.seconds,
      model: track.run.model.name,
      ...(status === "done" ? { sure_path: result(track).path, prediction, tree } : {}),
      ...(status === "failed" ? { error: { kind: error.kind, message: error.detail } } : {}),
    };
  });
  return JSON.stringify(rows, null, 1);
}
