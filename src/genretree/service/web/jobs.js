// A file's way through the service: sent, followed to its end, its pictures fetched, and forgotten there.

import { Problem, asLocal, call, json, listen, upload } from "./api.js";

const PATIENCE = 6; // times a busy server is asked again
const BREAKS = 4; // times a broken stream of events is taken up again

const running = new Set();

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(new DOMException("cancelled", "AbortError")); }, { once: true });
  });
}

// Let a job run, and give its result. `onState` gets { stage, progress, queue }, `wait` (seconds) while the server is busy.
export async function work(file, query, onState, signal) {
  const job = await submit(file, query, onState, signal);
  running.add(job.id);
  try {
    return { ...(await follow(job, onState, signal)), job: job.id };
  } catch (error) {
    forget(job.id);
    throw error;
  } finally {
    running.delete(job.id);
  }
}

async function submit(file, query, onState, signal) {
  const path = `v1/jobs?${new URLSearchParams(query)}`;
  for (let attempt = 1; ; attempt++) {
    try {
      onState({ stage: "upload", progress: 0 });
      return await upload(path, file, (progress) => onState({ stage: "upload", progress }), signal);
    } catch (error) {
      if (error.kind !== "busy" || attempt > PATIENCE) throw error;
      const wait = error.wait ?? Math.min(2 ** attempt, 20);
      onState({ stage: "busy", progress: 0, wait });
      await pause(wait, signal);
    }
  }
}

async function follow(job, onState, signal) {
  for (let breaks = 0; ; breaks++) {
    try {
      for await (const [name, data] of listen(job.links.events, signal)) {
        if (name === "done") return data;
        if (name === "failed") throw new Problem(data, data.status);
        if (name === "progress") onState(data);
      }
    } catch (error) {
      const broken = error.name === "TypeError" || error.kind === "offline";
      if (!broken || breaks >= BREAKS) throw broken ? new Problem({ kind: "offline" }) : error;
    }
    await pause(1, signal);
    const state = await json(job.links.self, { signal });
    if (state.status === "done") return state.result;
    if (state.status === "failed") throw new Problem(state.error, state.error.status);
    if (state.status === "cancelled") throw new Problem({ kind: "cancelled" });
    if (breaks >= BREAKS) throw new Problem({ kind: "offline" });
  }
}

// Take everything an explanation refers to into the page, so that it outlives the job, and let the service forget it.
export async function bringHome(result, signal) {
  const wanted = [result.sound, result.pictures.tree, ...result.pictures.reasons,
    ...result.view.reasons.flatMap((reason) => reason.views.flatMap((view) => [view.grey, view.colour]))];
  const local = Object.fromEntries(await Promise.all(wanted.filter(Boolean).map(async (path) => [path, await asLocal(path, signal)])));
  forget(result.job);
  return {
    sound: local[result.sound] ?? null,
    tree: local[result.pictures.tree],
    pictures: result.pictures.reasons.map((path) => local[path]),
    views: result.view.reasons.map((reason) => ({
      ...reason,
      views: reason.views.map((view) => ({ ...view, grey: local[view.grey], colour: local[view.colour] })),
    })),
  };
}

export function forget(id) {
  call(`v1/jobs/${id}`, { method: "DELETE", keepalive: true }).catch(() => {}); // it would vanish by itself, only later
}

addEventListener("pagehide", () => running.forEach(forget));
