// The page: what is dropped, picked or recorded becomes a track; a track is heard by a model and shown.

import { json, setTokenQuestion } from "./api.js";
import { tell } from "./dom.js";
import { setUpDropping } from "./drop.js";
import { makeTrouble } from "./parts.js";
import { makePlayer } from "./player.js";
import { setUpRecording } from "./record.js";
import { closeResult, showResult } from "./result.js";
import { Run } from "./runs.js";
import { makeTokenQuestion } from "./token.js";
import { makeList } from "./tracks.js";
import { makeTree } from "./tree.js";
import { duration, megabytes, trouble } from "./words.js";

const $ = (id) => document.getElementById(id);
const result = $("result");
const player = makePlayer($("player"));
const list = makeList($("tracks"), (track) => open(track, true), remove);
const tracks = [];
const early = []; // files that came before the models were known
let service = null;
let current = null;

function take(files) {
  if (!files.length) {
    tell("There is no sound file in this.");
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
    hear(track, service.chosen);
    return track;
  });
  if (added.length === 1) open(added[0]);
  else tell(`${added.length} files taken.`);
}

// Let a model hear a track, unless it has.
function hear(track, model) {
  let run = track.runs.get(model.name);
  if (!run) {
    run = new Run(track.file, model, service.limits);
    track.runs.set(model.name, run);
    run.addEventListener("change", () => { if (track.run === run) list.refresh(track); });
  }
  track.run = run;
  if (run.answer.status === "new") run.name();
  list.refresh(track);
}

function open(track, asked = false) {
  current = track;
  list.mark(track);
  showResult(result, track, track.run, { player, models: service.models, onModel: choose });
  if (!asked) return;
  result.scrollIntoView({ block: "start" });
  $("result-title").focus({ preventScroll: true });
}

// Another model for the track that is shown, and for those to come.
function choose(name) {
  service.chosen = service.models.find((model) => model.name === name);
  $("model").value = name;
  hear(current, service.chosen);
  open(current);
  result.querySelector(".tools select").focus();
}

function remove(track) {
  for (const run of track.runs.values()) { run.cancel(); run.dispose(); }
  if (track.url) URL.revokeObjectURL(track.url);
  tracks.splice(tracks.indexOf(track), 1);
  if (track !== current) return;
  current = null;
  closeResult(result, player);
  document.title = "genretree";
  if (tracks.length) open(tracks[0]);
}

async function showModel() {
  const model = service.chosen;
  const { root } = await json(`v1/tree?${new URLSearchParams({ model: model.name })}`);
  const tree = makeTree(root, { label: "What the model can name" });
  $("names").replaceChildren(tree.element);
  const levels = model.classes.length > 1 ? ` on ${model.classes.length} levels (${model.classes.join(", ")})` : "";
  $("known").textContent = `${model.name} knows ${model.classes.at(-1)} genres${levels}.`;
}

async function begin() {
  $("trouble").replaceChildren();
  try {
    service = await json("v1/models");
    service.chosen = service.models.find((model) => model.default) ?? service.models[0];
    const { upload_bytes: bytes, seconds } = service.limits;
    $("limits").textContent = `Wav, flac, ogg, mp3 and more${bytes ? `, up to ${megabytes(bytes)}` : ""}${seconds ? ` and ${duration(seconds)} each` : ""}.`;
    $("model").replaceChildren(...service.models.map((model) => new Option(model.name, model.name, false, model === service.chosen)));
    $("choice").hidden = service.models.length < 2;
    setUpRecording($("record"), $("recording"), seconds, (file) => take([file]));
    document.body.classList.add("ready");
    await showModel();
  } catch (error) {
    $("trouble").replaceChildren(makeTrouble(error, begin));
    const { title, help } = trouble(error);
    tell(`${title} ${help}`);
    if (!error.kind) throw error;
  }
  if (early.length) take(early.splice(0));
}

function setUpTheme() {
  const kept = localStorage.getItem("genretree.theme") ?? "system";
  for (const button of document.querySelectorAll("input[name=theme]")) {
    button.checked = button.value === kept;
    button.addEventListener("change", () => {
      localStorage.setItem("genretree.theme", button.value);
      if (button.value === "system") delete document.documentElement.dataset.theme;
      else document.documentElement.dataset.theme = button.value;
    });
  }
}

setUpTheme();
setUpDropping($("dropping"), take);
setTokenQuestion(makeTokenQuestion($("token")));
$("file").addEventListener("change", (event) => {
  if (event.target.files.length) take([...event.target.files]);
  event.target.value = ""; // so that the same file can be picked again
});
$("model").addEventListener("change", (event) => {
  service.chosen = service.models.find((model) => model.name === event.target.value);
  showModel();
});
if (!["localhost", "127.0.0.1", "[::1]"].includes(location.hostname)) {
  $("private").textContent = `What you drop goes to ${location.hostname}, which serves this page, and nowhere else.`;
}
begin();
