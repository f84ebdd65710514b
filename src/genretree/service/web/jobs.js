// Jobs of the service: upload a file or use a kept one, follow the progress, download the result.

import { call, fetchBlobUrl, json, Problem, readEvents, releaseBlobUrl, upload } from "./api.js";

const MAX_RETRIES = 6; // retries while the server is busy
const MAX_RECONNECTS = 4; // reconnections of a broken event stream

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        reject(new DOMException("cancelled", "AbortError"));
      },
      { once: true },
    );
  });
}

const running = new Set(); // ids of explanations

// Run a job on a track and return its result. `onState` gets { stage, progress, queue }, and `wait` (seconds) while the
// server is busy.
export async function runJob(track, query, onState, signal) {
  const job = await submit(track, query, onState, signal);
  if (job.do === "explain") running.add(job.id);
  try {
    return await follow(job, onState, signal);
  } catch (error) {
    if (signal.aborted) {
      deleteJob(job.id);
      if (track.job === job.id) track.setJob(null);
    }
    throw error;
  } finally {
    running.delete(job.id);
  }
}

// The first job of a track uploads its file, which the server keeps for the others.
async function submit(track, query, onState, signal) {
  for (let attempt = 1; ; attempt++) {
    try {
      return (await submitKept(track, query, onState, signal)) ?? (await submitUpload(track, query, onState, signal));
    } catch (error) {
      if (error.kind !== "busy" || attempt > MAX_RETRIES) throw error;
      const wait = error.wait ?? Math.min(2 ** attempt, 20);
      onState({ stage: "busy", progress: 0, wait });
      await pause(wait, signal);
    }
  }
}

async function submitKept(track, query, onState, signal) {
  if (!track.job) return null;
  onState({ stage: "waiting", progress: 0 });
  try {
    return await json(`v1/jobs?${new URLSearchParams({ ...query, of: track.job })}`, { method: "POST", signal });
  } catch (error) {
    if (error.kind !== "not_found" || !track.file) throw error;
    track.setJob(null); // expired
    return null;
  }
}

async function submitUpload(track, query, onState, signal) {
  if (!track.file) throw new Problem({ kind: "not_found" });
  onState({ stage: "upload", progress: 0 });
  const path = `v1/jobs?${new URLSearchParams({ ...query, keep: "true" })}`;
  const job = await upload(path, track.file, (progress) => onState({ stage: "upload", progress }), signal);
  track.setJob(job.id);
  return job;
}

// Wait for the result of a job. The state of an explanation gets a `preview` (reasons, unit, view) on the way.
export async function follow(job, onState, signal) {
  const state = {};
  for (let reconnects = 0; ; reconnects++) {
    try {
      for await (const [name, data] of readEvents(job.links.events, signal)) {
        if (name === "done") return data;
        if (name === "failed") throw new Problem(data, data.status);
        if (name === "progress") Object.assign(state, data);
        if (name === "preview" && job.question.node === null)
          state.preview = await downloadPreview(data, signal).catch(() => null);
        onState({ ...state });
      }
    } catch (error) {
      const broken = error.name === "TypeError" || error.kind === "offline";
      if (!broken || reconnects >= MAX_RECONNECTS) throw broken ? new Problem({ kind: "offline" }) : error;
    }
    await pause(1, signal);
    const now = await json(job.links.self, { signal });
    if (now.status === "done") return now.result;
    if (now.status === "failed") throw new Problem(now.error, now.error.status);
    if (now.status === "cancelled") throw new Problem({ kind: "cancelled" });
    if (reconnects >= MAX_RECONNECTS) throw new Problem({ kind: "offline" });
  }
}

async function downloadPreview(preview, signal) {
  const views = preview.view.reasons.flatMap((reason) => reason.views);
  await Promise.all(
    views.map(async (view) => {
      view.grey = await fetchBlobUrl(view.grey, signal);
      view.colour = await fetchBlobUrl(view.colour, signal);
    }),
  );
  return preview;
}

// Release the browser's copies of the pictures of a preview.
export function releasePreview(preview) {
  for (const view of preview?.view.reasons.flatMap((reason) => reason.views) ?? []) {
    releaseBlobUrl(view.grey);
    releaseBlobUrl(view.colour);
  }
}

// Download everything an explanation refers to, so that it outlives the job.
export async function downloadResult(result, signal) {
  const paths = [
    result.sound,
    result.pictures.tree,
    ...result.pictures.reasons,
    ...result.view.reasons.flatMap((reason) => reason.views.flatMap((view) => [view.grey, view.colour])),
  ];
  const local = Object.fromEntries(
    await Promise.all(paths.filter(Boolean).map(async (path) => [path, await fetchBlobUrl(path, signal)])),
  );
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

// Delete a job and all that use its file.
export function deleteJob(id) {
  call(`v1/jobs/${id}`, { method: "DELETE", keepalive: true }).catch(() => {}); // otherwise it expires later
}

// Explanations take long, and a closed page would keep others waiting. A reloaded page asks again.
addEventListener("pagehide", () => running.forEach(deleteJob));
