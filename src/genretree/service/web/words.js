// Text for numbers, nodes, stages and errors.

// Names whose written form no rule yields; `genretree.taxonomy.display_name` has the same.
const WRITTEN = { Classic: "Classical", Non_classic: "Non-classical" };

// The name of a node as people write it. Without a name: what the model did not take for music.
export function nodeName(name) {
  if (name === undefined) return "no music";
  const spaced = name
    .replaceAll("_", " ")
    .replace(/\bRnB\b/gi, "R&B")
    .replace(/^non (?=\S)/i, "Non-");
  return WRITTEN[name] ?? (spaced ? spaced[0].toUpperCase() + spaced.slice(1) : spaced);
}

const LEVELS = [
  ["Genre"],
  ["Genre", "Subgenre"],
  ["Branch", "Genre", "Subgenre"],
  ["Branch", "Genre", "Subgenre", "Style"],
];

// The name of a level: its own, unless it only counts the levels (`level_2`, `sec_level`).
export function levelName(name, at, depth) {
  if (!/^(level[ _-]?\d|(fst|sec|thr)_level(_label)?)$/.test(name)) return nodeName(name);
  return LEVELS[depth - 1]?.[at] ?? `Level ${at + 1}`;
}

// A path cut where the model is less sure than `sureness`.
export function surePath(prediction, sureness) {
  const unsure = prediction.levels.findIndex((level) => level.probability < sureness);
  return unsure < 0 ? prediction.path : prediction.path.slice(0, unsure);
}

// Other nodes of a level that the model considers, the most probable first.
export function alternatives(level, taken) {
  return level.top.filter((item) => item.label !== taken && item.probability >= 0.05).slice(0, 2);
}

// A path as people write it; a name that only repeats the one above it is left out (`Classic`, `classical`).
export function pathName(path) {
  const names = path.map(nodeName);
  return names.filter((name, at) => name !== names[at - 1]).join(" › ");
}

export function percent(chance) {
  if (chance > 0.995 && chance < 1) return "> 99\u202f%";
  if (chance < 0.005 && chance > 0) return "< 1\u202f%";
  return `${Math.round(100 * chance)}\u202f%`;
}

export function clock(seconds, tenths = false) {
  const exact = seconds + 1e-3; // a player that was sent to 8 s may stand at 7.99992
  const shown = tenths ? Math.floor(exact * 10) / 10 : Math.floor(exact);
  const rest = (shown % 60).toFixed(tenths ? 1 : 0).padStart(tenths ? 4 : 2, "0");
  return `${Math.floor(shown / 60)}:${rest}`;
}

// Megabytes of 2 ** 20 bytes, as the server counts them.
export function megabytes(bytes) {
  const count = bytes / 2 ** 20;
  return `${count < 10 ? Math.max(0.1, Math.round(10 * count) / 10) : Math.round(count)} MB`;
}

export function duration(seconds) {
  const [count, unit] =
    seconds >= 7200 ? [seconds / 3600, "hour"] : seconds >= 120 ? [seconds / 60, "minute"] : [seconds, "second"];
  const shown = Math.round(count * 10) / 10;
  return `${shown} ${unit}${shown === 1 ? "" : "s"}`;
}

// The confidence in one level of a path.
export function describeConfidence(level) {
  const chance = level.probability;
  const rival = level.top.find((item) => item.label !== level.label);
  if (rival && rival.probability > chance) {
    return `most likely in its branch; in another branch ${nodeName(rival.label)} has ${percent(rival.probability)}`;
  }
  if (chance >= 0.95) return "almost certain";
  if (chance >= 0.8) return "very likely";
  if (rival && chance - rival.probability < 0.1)
    return `barely ahead of ${nodeName(rival.label)} (${percent(rival.probability)})`;
  if (chance >= 0.6) return "likely";
  return rival ? `uncertain; next is ${nodeName(rival.label)} (${percent(rival.probability)})` : "uncertain";
}

// The confidence in the whole path, in a sentence.
// `least` is what the reader asks for; below it, no level is called confident.
export function summariseConfidence(prediction, least) {
  if (prediction.not_music) return "No genre is predicted for it.";
  const levels = prediction.levels;
  const confident = levels.filter((level) => level.probability >= Math.max(0.8, least)).length;
  if (confident === levels.length) return "The model is confident at every level.";
  if (confident > 0)
    return `The model is confident down to ${nodeName(levels[confident - 1].label)}; the levels below are less certain.`;
  if (levels[0].probability >= Math.max(0.6, least)) return "The model is moderately confident.";
  return "The model is uncertain: treat this as a hint.";
}

// The predictions of single slices: "By slice: classical in 10 of 21, electronic in 7."
export function summariseSlices(timeline) {
  const counts = new Map();
  for (const { path } of timeline) counts.set(path.at(-1), (counts.get(path.at(-1)) ?? 0) + 1);
  const commonest = [...counts].sort((one, other) => other[1] - one[1]).slice(0, 3);
  if (timeline.length === 1) return "";
  if (counts.size === 1) return `All ${timeline.length} slices agree.`;
  return `By slice: ${commonest.map(([name, count], place) => `${nodeName(name)} in ${count}${place ? "" : ` of ${timeline.length}`}`).join(", ")}.`;
}

export function odds(logarithm) {
  const times = Math.exp(Math.abs(logarithm));
  const shown = times >= 1000 ? "more than 1000" : times >= 10 ? Math.round(times) : Math.round(times * 10) / 10;
  return shown === 1 ? "even" : `${shown} to 1 ${logarithm > 0 ? "for" : "against"} it`;
}

export function signed(number) {
  return `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(2)}`;
}

export function question(reason) {
  const others = reason.against.map((path) => nodeName(path.at(-1)));
  const shown =
    others.length > 3
      ? `${others.slice(0, 2).join(", ")} or ${others.length - 2} others`
      : others.join(", ").replace(/, ([^,]*)$/, " or $1");
  return `Why ${nodeName(reason.node.at(-1))} and not ${shown}?`;
}

const METHODS = { gradcam: "Grad-CAM", "integrated-gradients": "integrated gradients", rollout: "attention rollout" };

export function methodName(method) {
  return METHODS[method] ?? method;
}

export const STAGES = {
  upload: "Uploading",
  busy: "Server busy",
  waiting: "Waiting in the queue",
  decoding: "Decoding",
  spectra: "Computing spectrograms",
  network: "Running the model",
  explaining: "Computing the explanation",
};

export function stageName(state) {
  if (state.stage === "busy") return `Server busy; retrying in ${Math.round(state.wait)} s`;
  if (state.stage === "waiting" && state.queue > 0)
    return `Waiting: ${state.queue} ${state.queue === 1 ? "file" : "files"} ahead`;
  return STAGES[state.stage] ?? "Working";
}

// For each of the service's error kinds: what is wrong, and what to do.
const ERRORS = {
  not_audio: ["This is not an audio file.", "Supported formats include wav, flac, ogg, opus, mp3, m4a, aac and wma."],
  unreadable: ["This file can’t be read.", "It may be damaged. Try to play it in another program, or export it again."],
  not_found: ["The server no longer has this result.", "Results expire after some time. Try again."],
  empty: ["This file is empty.", "The copy may be incomplete. Copy it again."],
  truncated: ["This file is truncated.", "Copy or export it again, or use the part that can be decoded."],
  too_short: ["This file is too short.", "Use a file of at least a few seconds."],
  not_finite: ["This file contains invalid samples.", "Some samples are NaN or infinite. Export the file again."],
  silence: ["This file is silent.", "Use a file that contains music."],
  too_many_channels: ["This file has too many channels.", "Mix it down to stereo."],
  too_large: ["This file is too large.", "Use a compressed format, or a part of the track."],
  too_long: ["This track is too long.", "Use a part of it."],
  timeout: ["Processing took too long and was stopped.", "Try again later, or use a shorter part of the track."],
  crashed: ["The decoder failed on this file.", "It may be damaged. Convert it to wav or flac and try again."],
  closing: ["The server is shutting down.", "Try again when it has restarted."],
  forbidden: ["The server doesn’t allow this.", "Open the page at the address that the server prints at its start."],
  busy: ["The server is busy.", "Its queue is full. Try again in a minute."],
  unauthorized: ["The server requires an access token.", "Ask whoever runs the server for one."],
  cancelled: ["Cancelled.", ""],
  offline: ["The server doesn’t respond.", "Check that genretree serve is running, and try again."],
};

// Errors that occur again with the same file.
const PERMANENT = [
  "not_audio",
  "unreadable",
  "empty",
  "truncated",
  "too_short",
  "not_finite",
  "silence",
  "too_many_channels",
  "too_large",
  "too_long",
  "crashed",
];

export function describeError(error) {
  const [title, help] = ERRORS[error.kind] ?? [
    "Something went wrong.",
    "Try again. If it fails again, the message below may help.",
  ];
  return {
    title,
    help,
    permanent: PERMANENT.includes(error.kind),
    detail: error.detail || error.title || (error.kind ? "" : String(error.message ?? error)),
  };
}
