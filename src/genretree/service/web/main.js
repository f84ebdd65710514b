// The page: a file that is dropped, chosen or recorded becomes a track; a model classifies it, and the result is shown.

import { json, setTokenQuestion } from "./api.js";
import { announce } from "./dom.js";
import { setUpDropping } from "./drop.js";
import { makeErrorMessage } from "./parts.js";
import { makePlayer } from "./player.js";
import { setUpRecording } from "./record.js";
import { closeResult, showResult } from "./result.js";
import { Run } from "./runs.js";
import { makeTokenQuestion } from "./token.js";
import { makeList } from "./tracks.js";
import { makeTree } from "./tree.js";
import { describeError, duration, megabytes } from "./words.js";

const $ = (id) => document.getElementById(id);
const result = $("result");
const player = makePlayer($("player"));
const list = makeList($("tracks"), (track) => open(track, true), remove);
const tracks = [];
const early = []; // files added before the models were loaded
let service = null;
let current = null;

function addFiles(files) {
  if (!files.length) {
    announce("No audio files found.");
    return;
  }
  if (!service) {
    early.push(...files);
    return;
  }
  document.body.classList.add("busy");
  const added = [...files].map((file) => {
    const track = { file, runs: new Map() };
    tracks.push(track);
    list.add(track);
    classify(track, service.model);
    return track;
  });
  if (added.length === 1) open(added[0]);
  else announce(`${added.length} files added.`);
}

// Classify a track with a model, unless it has been done.
function classify(track, model) {
  let run = track.runs.get(model.name);
  if (!run) {
    run = new Run(track.file, model, service.limits);
    track.runs.set(model.name, run);
    run.addEventListener("change", () => {
      if (track.run === run) list.refresh(track);
    });
  }
  track.run = run;
  if (run.answer.status === "new") run.classify();
  list.refresh(track);
}

function open(track, focus = false) {
  current = track;
  list.mark(track);
  showResult(result, track, track.run, { player, models: service.models, onModel: selectModel });
  if (!focus) return;
  result.scrollIntoView({ block: "start" });
  $("result-title").focus({ preventScroll: true });
}

// Use another model for the current track and for new ones.
function selectModel(name) {
  service.model = service.models.find((model) => model.name === name);
  $("model").value = name;
  classify(current, service.model);
  open(current);
  result.querySelector(".tools select").focus();
}

function remove(track) {
  for (const run of track.runs.values()) {
    run.cancel();
    run.dispose();
  }
  if (track.url) URL.revokeObjectURL(track.url);
  tracks.splice(tracks.indexOf(track), 1);
  if (track !== current) return;
  current = null;
  closeResult(result, player);
  document.title = "genretree";
  if (tracks.length) open(tracks[0]);
}

async function showModel() {
  const model = service.model;
  const { root } = await json(`v1/tree?${new URLSearchParams({ model: model.name })}`);
  const tree = makeTree(root, { label: "Genres of the model" });
  $("names").replaceChildren(tree.element);
  const levels = model.classes.length > 1 ? ` on ${model.classes.length} levels (${model.classes.join(", ")})` : "";
  $("known").textContent = `${model.name}: ${model.classes.at(-1)} genres${levels}.`;
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
    setUpRecording($("record"), $("recording"), seconds, (file) => addFiles([file]));
    document.body.classList.add("ready");
    await showModel();
  } catch (error) {
    $("trouble").replaceChildren(makeErrorMessage(error, begin));
    const { title, help } = describeError(error);
    announce(`${title} ${help}`);
    if (!error.kind) throw error;
  }
  if (early.length) addFiles(early.splice(0));
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
$("file").addEventListener("change", (event) => {
  if (event.target.files.length) addFiles([...event.target.files]);
  event.target.value = ""; // so that the same file can be chosen again
});
$("model").addEventListener("change", (event) => {
  service.model = service.models.find((model) => model.name === event.target.value);
  showModel();
});
if (!["localhost", "127.0.0.1", "[::1]"].includes(location.hostname)) {
  $("private").textContent = `Files are sent to ${location.hostname}, which serves this page, and nowhere else.`;
}
begin();
