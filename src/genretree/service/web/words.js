// Numbers, nodes and errors in plain words.

export function nodeName(name) {
  return name.replaceAll("_", " ");
}

export function pathName(path) {
  return path.map(nodeName).join(" › ");
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

// As the server counts them: 2 to the 20th bytes.
export function megabytes(bytes) {
  const count = bytes / 2 ** 20;
  return `${count < 10 ? Math.max(0.1, Math.round(10 * count) / 10) : Math.round(count)} MB`;
}

export function duration(seconds) {
  const [count, unit] = seconds >= 7200 ? [seconds / 3600, "hour"] : seconds >= 120 ? [seconds / 60, "minute"] : [seconds, "second"];
  const shown = Math.round(count * 10) / 10;
  return `${shown} ${unit}${shown === 1 ? "" : "s"}`;
}

// How sure one level of a path is.
export function sureness(level) {
  const chance = level.probability;
  const rival = level.top.find((item) => item.label !== level.label);
  if (rival && rival.probability > chance) {
    return `the likeliest within its branch; elsewhere ${nodeName(rival.label)} has ${percent(rival.probability)}`;
  }
  if (chance >= 0.95) return "almost certain";
  if (chance >= 0.8) return "fairly sure";
  if (rival && chance - rival.probability < 0.1) return `hardly ahead of ${nodeName(rival.label)} (${percent(rival.probability)})`;
  if (chance >= 0.6) return "leaning this way";
  return rival ? `a guess; next is ${nodeName(rival.label)} (${percent(rival.probability)})` : "a guess";
}

// How sure the whole path is, in a sentence.
export function verdict(prediction) {
  const levels = prediction.levels;
  const sure = levels.filter((level) => level.probability >= 0.8).length;
  if (sure === levels.length) return "The model is sure of this, all the way down.";
  if (sure > 0) return `The model is sure of ${nodeName(levels[sure - 1].label)}; what lies below is less certain.`;
  if (levels[0].probability >= 0.6) return "The model leans this way, no more.";
  return "The model is torn: take this as a hint.";
}

// What the slices say one by one: "Slice by slice: classical in 10 of 21, electronic in 7."
export function bySlice(timeline) {
  const counts = new Map();
  for (const { path } of timeline) counts.set(path.at(-1), (counts.get(path.at(-1)) ?? 0) + 1);
  const most = [...counts].sort((one, other) => other[1] - one[1]).slice(0, 3);
  if (timeline.length === 1) return "";
  if (counts.size === 1) return `All ${timeline.length} slices of the track say so.`;
  return `Slice by slice: ${most.map(([name, count], place) => `${nodeName(name)} in ${count}${place ? "" : ` of ${timeline.length}`}`).join(", ")}.`;
}

export function odds(logarithm) {
  const times = Math.exp(Math.abs(logarithm));
  const shown = times >= 1000 ? "more than 1000" : times >= 10 ? Math.round(times) : (Math.round(times * 10) / 10);
  return shown === 1 ? "even" : `${shown} to 1 ${logarithm > 0 ? "for" : "against"} it`;
}

export function signed(number) {
  return `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(2)}`;
}

export function question(reason) {
  const others = reason.against.map((path) => nodeName(path.at(-1)));
  const shown = others.length > 3 ? `${others.slice(0, 2).join(", ")} or ${others.length - 2} others` : others.join(", ").replace(/, ([^,]*)$/, " or $1");
  return `Why ${nodeName(reason.node.at(-1))} and not ${shown}?`;
}

const METHODS = { gradcam: "Grad-CAM", "integrated-gradients": "integrated gradients", rollout: "attention rollout" };

export function methodName(method) {
  return METHODS[method] ?? method;
}

export const STAGES = {
  upload: "Sending the file",
  busy: "The server is busy",
  waiting: "Waiting for a turn",
  decoding: "Reading the sound",
  spectra: "Drawing spectrograms",
  network: "Asking the model",
  explaining: "Looking for the reasons",
};

export function stageName(state) {
  if (state.stage === "busy") return `The server is busy; trying again in ${Math.round(state.wait)} s`;
  if (state.stage === "waiting" && state.queue > 0) return `Waiting: ${state.queue} ${state.queue === 1 ? "file" : "files"} ahead`;
  return STAGES[state.stage] ?? "Working";
}

// What went wrong, by the service's kind of error: in words, and what can be done.
const TROUBLE = {
  not_audio: ["This is not a sound file.", "Wav, flac, ogg, opus, mp3, m4a, aac and wma work."],
  unreadable: ["This file can’t be read.", "It may be damaged. Try to play it elsewhere, or export it again."],
  not_found: ["The server no longer has this.", "Results are kept for a while only. Try again."],
  empty: ["This file is empty.", "Perhaps it was not copied to its end."],
  truncated: ["This file is cut off.", "A part of it is missing; copy it or export it again."],
  too_short: ["This is too short.", "There is too little sound to tell a genre. Take a few seconds at least."],
  not_finite: ["This file holds no valid sound.", "Some of its samples are not numbers. Export it again."],
  silence: ["There is nothing to hear.", "The file is silent from beginning to end."],
  too_many_channels: ["This file has too many channels.", "Mix it down to stereo."],
  too_large: ["This file is too large.", "Take a compressed format, or a part of the track."],
  too_long: ["This track is too long.", "Take a part of it."],
  timeout: ["This took too long, and was stopped.", "Try again when the server is less busy, or take a shorter part."],
  crashed: ["This file was too much for the decoder.", "It may be damaged. Turn it into wav or flac and try again."],
  closing: ["The server is going down.", "Try again when it is back."],
  forbidden: ["The server doesn’t allow this.", "Open the page by the address that the server names when it starts."],
  busy: ["The server is busy.", "Too much is waiting there. Try again in a minute."],
  unauthorized: ["The server wants a token.", "Whoever runs it can give you one."],
  cancelled: ["Cancelled.", ""],
  offline: ["The server doesn’t answer.", "See whether genretree serve still runs, and try again."],
};

// Errors that the same file would meet again.
const LASTING = ["not_audio", "unreadable", "empty", "truncated", "too_short", "not_finite", "silence", "too_many_channels", "too_large", "too_long", "crashed"];

export function trouble(error) {
  const [title, help] = TROUBLE[error.kind] ?? ["That didn’t work.", "Try again; if it fails again, the server’s own words may help."];
  return { title, help, lasting: LASTING.includes(error.kind), detail: error.detail || error.title || (error.kind ? "" : String(error.message ?? error)) };
}
