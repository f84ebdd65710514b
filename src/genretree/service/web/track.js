// A track: a file of this page, or one that the server keeps; with a run for each model that was used.

import { fetchBlobUrl, json, makeBlobUrl, releaseBlobUrl } from "./api.js";
import { deleteJob } from "./jobs.js";
import { Run } from "./runs.js";

let count = 0;

// Dispatches "change" when its address, tags or a run changes.
export class Track extends EventTarget {
  constructor({ name, file = null, job = null }) {
    super();
    this.name = name;
    this.file = file;
    this.job = job; // id of the job that keeps the file on the server
    this.local = `new-${++count}`; // its key until the job exists
    this.runs = new Map(); // by the model's name
    this.run = null; // that of the current model
    this.tags = {};
    this.cover = null;
    this.seconds = null;
  }

  get key() {
    return this.job ?? this.local;
  }

  get title() {
    return this.tags.title || this.name;
  }

  get artist() {
    return this.tags.artist || "";
  }

  notify() {
    this.dispatchEvent(new Event("change"));
  }

  setJob(id) {
    this.job = id;
    this.notify();
  }

  // The run of a model, as /v1/models describes it.
  runOf(model, limits) {
    let run = this.runs.get(model.name);
    if (!run) {
      run = new Run(this, model, limits);
      this.runs.set(model.name, run);
      run.addEventListener("change", () => this.notify());
    }
    return run;
  }

  // Take tags, cover and duration from the result of a prediction.
  async describe({ tags = {}, cover, seconds }, signal) {
    this.tags = tags;
    this.seconds = seconds ?? null;
    if (cover && !this.cover) this.cover = await fetchBlobUrl(cover, signal).catch(() => null);
  }

  // A blob URL of the file, for the player.
  async audio() {
    this.url ??= this.file ? makeBlobUrl(this.file) : await fetchBlobUrl(`v1/jobs/${this.job}/file`);
    return this.url;
  }

  // Cancel its runs, and delete it on the server.
  remove() {
    for (const run of this.runs.values()) {
      run.cancel();
      run.dispose();
    }
    for (const url of [this.url, this.cover]) if (url) releaseBlobUrl(url);
    if (this.job) deleteJob(this.job);
  }
}

// Build the track of a job that the server still has, with all runs. Throws a Problem if it has expired.
export async function restoreTrack(id, models, limits) {
  const root = await json(`v1/jobs/${id}`);
  if (root.of) return restoreTrack(root.of, models, limits); // the address of a derived job
  const track = new Track({ name: root.file, job: root.id });
  const results = [];
  const derived = await Promise.all(root.derived.map((other) => json(`v1/jobs/${other}`).catch(() => null)));
  for (const job of [root, ...derived.filter(Boolean)]) {
    const model = models.find((item) => item.name === job.model);
    if (!model) continue;
    const run = track.runOf(model, limits);
    track.run ??= run;
    const resumed = run.resume(job);
    if (job.status === "done" && job.do === "predict") results.push(resumed);
  }
  await Promise.all(results);
  return track;
}
