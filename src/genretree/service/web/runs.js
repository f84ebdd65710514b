// A run: one track and one model. The prediction comes first; the explanation is requested when the result is opened.

import { Problem, releaseBlobUrl } from "./api.js";
import { downloadResult, follow, releasePreview, runJob } from "./jobs.js";

const MAX_CONCURRENT = 2; // predictions at a time; the others wait in the page
const NODE = " > ";

let working = 0;
const waiting = [];

async function acquireSlot(signal) {
  if (working >= MAX_CONCURRENT) {
    await new Promise((resolve, reject) => {
      waiting.push(resolve);
      signal.addEventListener(
        "abort",
        () => {
          if (!waiting.includes(resolve)) return;
          waiting.splice(waiting.indexOf(resolve), 1);
          reject(new DOMException("cancelled", "AbortError"));
        },
        { once: true },
      );
    });
  } else {
    working++;
  }
}

function releaseSlot() {
  if (waiting.length)
    waiting.shift()(); // hand the slot on
  else working--;
}

// Dispatches "change" when one of its parts changes.
export class Run extends EventTarget {
  constructor(track, model, limits) {
    super();
    this.track = track;
    this.model = model; // as /v1/models describes it
    this.limits = limits;
    this.salvage = false; // use the part of a truncated file that can be decoded
    this.answer = { status: "new" }; // then working, done (prediction, tree, timelines), failed (error) or cancelled
    this.why = { status: "new" }; // the same; done also has sound, tree, json, entries and further questions
  }

  notify() {
    this.dispatchEvent(new Event("change"));
  }

  query(what, more = {}) {
    return { do: what, model: this.model.name, ...(this.salvage ? { salvage: "true" } : {}), ...more };
  }

  async classify() {
    await this.step("answer", async (onState, signal) => {
      const file = this.track.file;
      if (file && this.limits.upload_bytes && file.size > this.limits.upload_bytes)
        throw new Problem({ kind: "too_large" });
      if (file?.size === 0) throw new Problem({ kind: "empty" });
      onState({ stage: "waiting", progress: 0 });
      await acquireSlot(signal);
      try {
        return await this.readAnswer(await runJob(this.track, this.query("predict"), onState, signal), signal);
      } finally {
        releaseSlot();
      }
    });
  }

  async readAnswer({ tree, timelines, tags, cover, seconds, ...prediction }, signal) {
    await this.track.describe({ tags, cover, seconds }, signal);
    return { prediction, tree, timelines };
  }

  async explain() {
    await this.step("why", (onState, signal) =>
      runJob(this.track, this.query("explain"), onState, signal).then((result) => this.readWhy(result, signal)),
    );
  }

  async readWhy(result, signal) {
    return { ...(await this.read(result, signal)), asked: [], question: { status: "new" } };
  }

  // Explain a node against another (default: its siblings) with one of the model's methods.
  async ask(node, against, method) {
    const query = this.query("explain", {
      node: node.join(NODE),
      ...(against ? { against: against.join(NODE) } : {}),
      method,
    });
    await this.askBy((onState, signal) => runJob(this.track, query, onState, signal));
  }

  async askBy(job) {
    await this.step(
      "question",
      async (onState, signal) => {
        const result = await job(onState, signal);
        this.why.asked.push(await this.read(result, signal));
        return {};
      },
      this.why,
    );
  }

  // Take over a job that the server has of this track and model, finished or not.
  async resume(job) {
    const result = (onState, signal) => follow(job, onState, signal);
    if (job.do === "predict") {
      await this.step("answer", async (onState, signal) => this.readAnswer(await result(onState, signal), signal));
    } else if (job.question.node === null) {
      this.resuming = this.step("why", async (onState, signal) => this.readWhy(await result(onState, signal), signal));
      await this.resuming;
      if (["cancelled", "not_found"].includes(this.why.error?.kind)) await this.explain(); // by the page before a reload
    } else {
      const before = this.resuming;
      this.resuming = (async () => {
        await before;
        if (this.why.status === "done") await this.askBy(result);
      })();
    }
  }

  async read(result, signal) {
    const { view, pictures, sound, ...json } = result;
    const downloaded = await downloadResult(result, signal);
    return {
      ...downloaded,
      json,
      end: view.end,
      unit: result.unit,
      entries: result.reasons.map((reason, at) => ({
        reason,
        view: downloaded.views[at],
        picture: downloaded.pictures[at],
        marks: view.marks,
      })),
    };
  }

  async step(part, action, holder = this) {
    const controller = new AbortController();
    const current = { status: "working", state: { stage: "waiting", progress: 0 }, cancel: () => controller.abort() };
    holder[part] = current;
    this.notify();
    const onState = (state) => {
      current.state = state;
      this.notify();
    };
    try {
      holder[part] = { status: "done", ...(await action(onState, controller.signal)) };
    } catch (error) {
      holder[part] = controller.signal.aborted ? { status: "cancelled" } : { status: "failed", error };
      if (!controller.signal.aborted && !(error instanceof Problem)) console.error(error);
    }
    this.notify();
    releasePreview(current.state.preview);
  }

  // Release the browser's copies of pictures and audio.
  dispose() {
    for (const explanation of [this.why, ...(this.why.asked ?? [])]) {
      const views =
        explanation.entries?.flatMap((entry) => [
          entry.picture,
          ...entry.view.views.flatMap((view) => [view.grey, view.colour]),
        ]) ?? [];
      for (const url of [explanation.sound, explanation.tree, ...views]) if (url) releaseBlobUrl(url);
    }
  }

  cancel() {
    for (const part of [this.answer, this.why, this.why.question]) part?.cancel?.();
  }
}

// The progress of a job including its upload, in [0, 1].
export function overall({ stage, progress = 0 }) {
  if (stage === "upload") return 0.15 * progress;
  return stage === "busy" ? 0 : 0.15 + 0.85 * progress;
}
