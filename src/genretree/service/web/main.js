// The page: a file that is dropped, chosen or recorded becomes a track; a model classifies it, and the result is shown.
// The address names what is shown: ?track=ID one track, ?compare=ID,ID two, nothing all tracks. An ID is that of the
// job that keeps the track's file on the server, so that a reload, the back button and a link find it again.

import { json, setTokenQuestion } from "./api.js";
import { closeComparison, showComparison } from "./compare.js";
import { announce } from "./dom.js";
import { audioFiles, setUpDropping } from "./drop.js";
import { makeErrorMessage } from "./parts.js";
import { makePlayer } from "./player.js";
import { setUpRecording } from "./record.js";
import { closeResult, showResult } from "./result.js";
import { makeTokenQuestion } from "./token.js";
import { restoreTrack, Track } from "./track.js";
import { makeTracks } from "./tracks.js";
import { makeTree } from "./tree.js";
import { describeError, duration, levelName, megabytes } from "./words.js";

const $ = (id) => document.getElementById(id);
const STORED = "genretree.tracks"; // ids of the tracks of all tabs
const player = makePlayer($("player"));
const tracks = [];
let known = []; // stored ids that this tab has seen: its tracks, and those that it has removed
const early = []; // files added before the models were loaded
let service = null;
let current = null;
let pending = 0; // the frame in which the table is updated

const list = makeTracks($("tracks"), tracks, {
  onOpen: (track) => go(address(track)),
  onRemove: (track) => remove([track]),
  onRemoveAll: () => remove([...tracks]),
  onCompare: (...pair) => go(`?compare=${pair.map((track) => track.key).join(",")}`),
  href: (track) => address(track),
});

const address = (track) => {
  const model =
    service && track.run.model !== service.models[0] ? `&model=${encodeURIComponent(track.run.model.name)}` : "";
  return `?track=${track.key}${model}`;
};

function addFiles(files) {
  if (!files.length) {
    announce("No audio files found.");
    return;
  }
  if (!service) {
    early.push(...files);
    return;
  }
  const added = [...files].map((file) => {
    const track = new Track({ name: file.name, file });
    addTrack(track);
    classify(track, service.model);
    return track;
  });
  if (added.length === 1) return go(address(added[0]));
  announce(`${added.length} files added.`);
  go("./");
}

function addTrack(track) {
  tracks.push(track);
  let key = track.key;
  track.addEventListener("change", () => {
    if (track.key !== key && tracks.includes(track)) {
      if (current === track) history.replaceState(null, "", address(track));
      key = track.key;
      store();
    }
    refresh();
  });
  store();
}

function readStored() {
  try {
    return JSON.parse(localStorage.getItem(STORED) ?? "[]");
  } catch {
    return []; // written by something else
  }
}

// Store the ids of this tab's tracks, and leave those that other tabs have added.
function store() {
  const own = tracks.map((track) => track.job).filter(Boolean);
  known = [...new Set([...known, ...own])];
  const ids = [...readStored().filter((id) => !known.includes(id)), ...own];
  if (ids.length) localStorage.setItem(STORED, JSON.stringify(ids));
  else localStorage.removeItem(STORED);
}

// Update the table, at most once a frame.
function refresh() {
  if (pending) return;
  pending = requestAnimationFrame(() => {
    pending = 0;
    if (!$("tracks").hidden) list.update();
  });
}

// Classify a track with a model, unless it has been done.
function classify(track, model) {
  track.run = track.runOf(model, service.limits);
  if (track.run.answer.status === "new") track.run.classify();
  refresh();
}

function go(url) {
  history.pushState(null, "", url);
  show(true);
}

// Show what the address names.
function show(focus = false) {
  const query = new URLSearchParams(location.search);
  const find = (key) => tracks.find((track) => track.key === key || track.local === key);
  const track = find(query.get("track"));
  const pair = (query.get("compare") ?? "")
    .split(",")
    .map(find)
    .filter((item) => item?.run.answer.status === "done");
  document.body.classList.toggle("busy", tracks.length > 0);
  current = track ?? null;
  $("tracks").hidden = Boolean(track) || pair.length === 2 || !tracks.length;
  if (track) {
    const model = service.models.find((item) => item.name === query.get("model"));
    if (model && model !== track.run.model) classify(track, model);
    open(track);
  } else closeResult($("result"), player);
  if (pair.length === 2 && !track)
    showComparison($("compare"), pair, { href: address, onOpen: (item) => go(address(item)), onBack: back });
  else closeComparison($("compare"));
  if (!$("tracks").hidden) list.update();
  if (!track) document.title = "genretree";
  if (!focus) return;
  scrollTo({ top: 0, behavior: "instant" });
  const heading = ["#result-title", "#compare-title", "#tracks:not([hidden]) h2", "#main"];
  heading
    .map((selector) => document.querySelector(selector))
    .find(Boolean)
    .focus({ preventScroll: true });
}

function back(event) {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  go("./");
}

function open(track) {
  showResult($("result"), track, {
    player,
    models: service.models,
    corrections: service.corrections,
    onModel: selectModel,
    onRemove: () => remove([track]),
    onBack: back,
  });
}

// Use another model for the current track and for new ones.
function selectModel(name) {
  service.model = service.models.find((model) => model.name === name);
  $("model").value = name;
  classify(current, service.model);
  history.replaceState(null, "", address(current));
  open(current);
  $("result").querySelector(".tools select").focus();
}

function remove(removed) {
  for (const track of removed) {
    tracks.splice(tracks.indexOf(track), 1);
    track.remove();
  }
  store();
  announce(removed.length === 1 ? `${removed[0].title} removed.` : `${removed.length} tracks removed.`);
  history.replaceState(null, "", "./");
  show(true);
}

// Find the tracks of this browser and of the address on the server again.
async function restore() {
  const query = new URLSearchParams(location.search);
  const asked = [query.get("track"), ...(query.get("compare") ?? "").split(",")].filter(Boolean);
  const stored = readStored();
  const ids = [...new Set([...stored, ...asked])].filter((id) => /^[\w-]{8,64}$/.test(id) && !id.startsWith("new-"));
  known = ids;
  const found = await Promise.allSettled(ids.map((id) => restoreTrack(id, service.models, service.limits)));
  found.forEach(({ value, reason }, at) => {
    if (value?.run && !tracks.some((track) => track.job === value.job)) addTrack(value);
    else if (asked.includes(ids[at]) && reason) $("trouble").replaceChildren(makeErrorMessage(reason));
  });
  if (asked.length === 1 && found.length && query.get("track")) {
    const value = found[ids.indexOf(query.get("track"))]?.value;
    if (value && value.job !== query.get("track")) history.replaceState(null, "", address(value));
  }
}

async function showModel() {
  const model = service.model;
  const { root } = await json(`v1/tree?${new URLSearchParams({ model: model.name })}`);
  const tree = makeTree(root, { label: "Genres of the model" });
  $("names").replaceChildren(tree.element);
  const depth = model.classes.length;
  const counts = model.classes.map((count, at) => `${count} at the level “${levelName(model.levels[at], at, depth)}”`);
  $("known").textContent =
    `${model.name}: ${model.classes.at(-1)} genres${depth > 1 ? ` (${counts.join(", ")})` : ""}.`;
}

async function begin() {
  $("trouble").replaceChildren();
  try {
    service = await json("v1/models");
    service.model = service.models.find((model) => model.default) ?? service.models[0];
    const { upload_bytes: bytes, seconds } = service.limits;
    $("limits").textContent =
      `Wav, flac, ogg, mp3 and more${bytes ? `, up to ${megabytes(bytes)}` : ""}${seconds ? ` and ${duration(seconds)} each` : ""}.`;
    $("model").replaceChildren(
      ...service.models.map((model) => new Option(model.name, model.name, false, model === service.model)),
    );
    $("choice").hidden = service.models.length < 2;
    setUpRecording($("record"), $("recording"), { maxSeconds: seconds, model: () => service.model }, (file) =>
      addFiles([file]),
    );
    $("example").hidden = false;
    await restore();
    document.body.classList.add("ready");
    show();
    await showModel();
  } catch (error) {
    $("trouble").replaceChildren(makeErrorMessage(error, begin));
    const { title, help } = describeError(error);
    announce(`${title} ${help}`);
    if (!error.kind) throw error;
  }
  if (early.length) addFiles(early.splice(0));
}

async function addExample() {
  const response = await fetch(new URL("static/example.ogg", document.baseURI));
  addFiles([new File([await response.blob()], "Example.ogg", { type: "audio/ogg" })]);
}

function setUpTheme() {
  const stored = localStorage.getItem("genretree.theme") ?? "system";
  for (const button of document.querySelectorAll("input[name=theme]")) {
    button.checked = button.value === stored;
    button.addEventListener("change", () => {
      localStorage.setItem("genretree.theme", button.value);
      if (button.value === "system") delete document.documentElement.dataset.theme;
      else document.documentElement.dataset.theme = button.value;
    });
  }
}

setUpTheme();
setUpDropping($("dropping"), addFiles);
setTokenQuestion(makeTokenQuestion($("token")));
for (const id of ["file", "folder"]) {
  $(id).addEventListener("change", (event) => {
    if (event.target.files.length) addFiles(id === "file" ? [...event.target.files] : audioFiles(event.target.files));
    event.target.value = ""; // so that the same file can be chosen again
  });
}
$("example").addEventListener("click", addExample);
$("model").addEventListener("change", (event) => {
  service.model = service.models.find((model) => model.name === event.target.value);
  showModel();
});
addEventListener("popstate", () => service && show(true));
// Files that are not uploaded yet would be lost.
addEventListener("beforeunload", (event) => {
  if (tracks.some((track) => track.file && !track.job && track.run.answer.status === "working")) event.preventDefault();
});
if (!["localhost", "127.0.0.1", "[::1]"].includes(location.hostname)) {
  $("private").textContent = `Files are sent to ${location.hostname}, which serves this page, and nowhere else.`;
}
begin();
