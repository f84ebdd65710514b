// A run: one file heard by one model. First the answer (quick), then, once it is looked at, the reasons.

import { Problem } from "./api.js";
import { bringHome, work } from "./jobs.js";

const AT_ONCE = 2; // answers asked for at a time; the others wait here
const NODE = " > ";

let working = 0;
const waiting = [];

async function turn(signal) {
  if (working >= AT_ONCE) {
    await new Promise((resolve, reject) => {
      waiting.push(resolve);
      signal.addEventListener("abort", () => {
        if (!waiting.includes(resolve)) return;
        waiting.splice(waiting.indexOf(resolve), 1);
        reject(new DOMException("cancelled", "AbortError"));
      }, { once: true });
    });
  } else {
    working++;
  }
}

function giveTurn() {
  if (waiting.length) waiting.shift()(); // the turn is handed on
  else working--;
}

// Fires "change" whenever one of its parts moves on.
export class Run extends EventTarget {
  constructor(file, model, limits) {
    super();
    this.file = file;
    this.model = model; // as /v1/models describes it
    this.limits = limits;
    this.salvage = false; // use what there is of a file that is cut off
    this.answer = { status: "new" }; // then working, done (prediction, tree, timelines), failed (error) or cancelled
    this.why = { status: "new" }; // the same; done with sound, tree, json, entries and what is asked besides
  }

  tell() {
    this.dispatchEvent(new Event("change"));
  }

  query(what, more = {}) {
    return { do: what, model: this.model.name, ...(this.salvage ? { salvage: "true" } : {}), ...more };
  }

  async name() {
    await this.step("answer", async (onState, signal) => {
      if (this.limits.upload_bytes && this.file.size > this.limits.upload_bytes) throw new Problem({ kind: "too_large" });
      if (this.file.size === 0) throw new Problem({ kind: "empty" });
      onState({ stage: "waiting", progress: 0 });
      await turn(signal);
      try {
        const { tree, timelines, job, ...prediction } = await work(this.file, this.query("predict"), onState, signal);
        return { prediction, tree, timelines };
      } finally {
        giveTurn();
      }
    });
  }

  async explain() {
    await this.step("why", async (onState, signal) => {
      const result = await work(this.file, this.query("explain"), onState, signal);
      return { ...(await this.take(result, signal)), asked: [], question: { status: "new" } };
    });
  }

  // Ask why one node and not another (or, without one, its siblings), by one of the model's methods.
  async ask(node, against, method) {
    const query = this.query("explain", { node: node.join(NODE), ...(against ? { against: against.join(NODE) } : {}), method });
    await this.step("question", async (onState, signal) => {
      const result = await work(this.file, query, onState, signal);
      this.why.asked.push(await this.take(result, signal));
      return {};
    }, this.why);
  }

  async take(result, signal) {
    const { view, pictures, sound, job, ...json } = result;
    const home = await bringHome(result, signal);
    return {
      ...home,
      json,
      end: view.end,
      unit: result.unit,
      entries: result.reasons.map((reason, at) => ({ reason, view: home.views[at], picture: home.pictures[at], marks: view.marks })),
    };
  }

  async step(part, action, holder = this) {
    const controller = new AbortController();
    const current = { status: "working", state: { stage: "waiting", progress: 0 }, cancel: () => controller.abort() };
    holder[part] = current;
    this.tell();
    const onState = (state) => { current.state = state; this.tell(); };
    try {
      holder[part] = { status: "done", ...(await action(onState, controller.signal)) };
    } catch (error) {
      holder[part] = controller.signal.aborted ? { status: "cancelled" } : { status: "failed", error };
      if (!controller.signal.aborted && !(error instanceof Problem)) console.error(error);
    }
    this.tell();
  }

  // Give back what the browser holds of pictures and sound.
  dispose() {
    for (const found of [this.why, ...(this.why.asked ?? [])]) {
      const views = found.entries?.flatMap((entry) => [entry.picture, ...entry.view.views.flatMap((view) => [view.grey, view.colour])]) ?? [];
      for (const url of [found.sound, found.tree, ...views]) if (url) URL.revokeObjectURL(url);
    }
  }

  cancel() {
    for (const part of [this.answer, this.why, this.why.question]) part?.cancel?.();
  }
}

// How far a job is, from the first byte sent: 0 to 1.
export function overall({ stage, progress = 0 }) {
  if (stage === "upload") return 0.15 * progress;
  return stage === "busy" ? 0 : 0.15 + 0.85 * progress;
}
